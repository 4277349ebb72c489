"""Linear layers by oneDNN on processors where MKL, which torch asks for them, is slow.

On AMD's processors MKL's float32 product reaches less than half of oneDNN's: measured on an EPYC
with AVX-512, 6.3 ms against 2.8 for [512, 384] x [384, 1536], and the same forward and backward.
torch has both, and asks oneDNN for convolutions already. The two agree to rounding.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Weights of a layer from which on it is worth it: an element of a smaller one is in the cache
# whoever asks for it, and oneDNN takes 10 microseconds more for a call. The number of rows must not
# decide: answers would depend on the chunks.
LEAST_WEIGHTS = 2**16
SLOW_UNDER_MKL = ("AuthenticAMD", "HygonGenuine")


def linear_layers(module: nn.Module | None, inputs: Tensor) -> AbstractContextManager[Any]:
    """While it lasts, linear layers of a module go the faster way on float32 CPU tensors.

    Only slopes of first order, and with respect to what goes into the layers, can be taken of what
    was asked meanwhile.

    Args:
        module: whose layers they are; nothing is done for None, or one without large layers.
        inputs: of the module.
    """
    fits = inputs.device.type == "cpu" and inputs.dtype == torch.float32
    if module is None or not fits or not onednn_is_faster():
        return nullcontext()
    if module not in _has_large_layers:
        _has_large_layers[module] = any(
            w.dim() == 2 and w.numel() >= LEAST_WEIGHTS for w in module.parameters()
        )
    # Watching costs every operation of the model some microseconds.
    return _OneDnnLayers() if _has_large_layers[module] else nullcontext()


_has_large_layers: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this is a processor where it is, and a torch that has what it takes."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return _vendor() in SLOW_UNDER_MKL


class _OneDnnLayers(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.linear:
            layer = _layer(*args, **(kwargs or {}))
            if layer is not None:
                return layer
        return func(*args, **(kwargs or {}))


def _layer(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """What the layer gives; None where it is better left to torch."""
    given = (input, weight) if bias is None else (input, weight, bias)
    plain = all(
        type(t) in (Tensor, torch.nn.Parameter)
        and t.device.type == "cpu"
        and t.dtype == torch.float32
        and t.layout == torch.strided
        for t in given
    )
    if not plain or weight.dim() != 2 or weight.numel() < LEAST_WEIGHTS or input.numel() == 0:
        return None
    if torch.is_grad_enabled() and input.requires_grad:
        result: Tensor = _Linear.apply(input, weight, bias)
        return result
    return _product(input, weight, bias)


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = input.reshape(-1, input.shape[-1])
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found.reshape(*input.shape[:-1], weight.shape[0])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight.detach()
        return _product(input.detach(), ctx.weight, None if bias is None else bias.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        if torch._C._functorch.is_batchedtensor(slope):  # several targets side by side
            return slope @ ctx.weight, None, None
        return _product(slope, ctx.weight.t(), None), None, None


def _vendor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(named, "")

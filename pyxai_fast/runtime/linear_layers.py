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
    """While it lasts, large linear layers of a module go the faster way on float32 CPU tensors.

    What a model does besides a plain forward pass is left to torch: function transforms, forward
    mode, autocast, checkpoints, weights that are computed. Slopes with respect to the layers' own
    weights cannot be taken of what was asked meanwhile.

    Args:
        module: whose layers they are; nothing is done for None, or one without large layers.
        inputs: of the module.
    """
    fits = inputs.device.type == "cpu" and inputs.dtype == torch.float32
    if module is None or not fits or not onednn_is_faster():
        return nullcontext()
    if module not in _known_modules:
        large = any(w.dim() == 2 and w.numel() >= LEAST_WEIGHTS for w in module.parameters())
        attends = any(isinstance(part, nn.MultiheadAttention) for part in module.modules())
        _known_modules[module] = large, attends
    # Watching costs every operation of the model some microseconds, and torch's fused attention,
    # which it has where nothing is differentiated, does not stand it.
    large, attends = _known_modules[module]
    watch = large and (torch.is_grad_enabled() or not attends)
    return _OneDnnLayers() if watch else nullcontext()


# Whether a module has large layers, and whether it has torch's own attention.
_known_modules: weakref.WeakKeyDictionary[nn.Module, tuple[bool, bool]] = (
    weakref.WeakKeyDictionary()
)


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this is a processor where it is, and a torch that has what it takes."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return False
    # None of these is promised by torch.
    needed = (
        (torch.ops.mkldnn, "_linear_pointwise"),
        (torch._C._functorch, "maybe_current_level"),
        (torch._C._functorch, "is_batchedtensor"),
        (torch.autograd.forward_ad, "_current_level"),
        (torch._C._autograd, "_top_saved_tensors_default_hooks"),
    )
    return all(hasattr(place, name) for place, name in needed) and _vendor() in SLOW_UNDER_MKL


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
        type(t) in (Tensor, nn.Parameter)
        and t.device.type == "cpu"
        and t.dtype == torch.float32
        and t.layout == torch.strided
        for t in given
    )
    if not plain or weight.dim() != 2 or weight.numel() < LEAST_WEIGHTS or input.numel() == 0:
        return None
    if _is_transformed():
        return None
    if not torch.is_grad_enabled():
        return _product(input, weight, bias)
    if any(t.grad_fn is not None for t in given[1:]):
        return None
    if input.requires_grad:
        result: Tensor = _Linear.apply(
            input, weight.detach(), bias if bias is None else bias.detach()
        )
        return result
    return None if any(t.requires_grad for t in given) else _product(input, weight, bias)


def _is_transformed() -> bool:
    """Whether something else than a plain forward pass with autograd is going on."""
    return (
        torch._C._functorch.maybe_current_level() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
        or torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
    )


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = input.reshape(-1, input.shape[-1])
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found.reshape(*input.shape[:-1], weight.shape[0])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(input.detach(), weight, bias)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        # Several targets side by side, or slopes that are differentiated themselves.
        if torch.is_grad_enabled() or torch._C._functorch.is_batchedtensor(slope):
            return slope @ weight, None, None
        return _product(slope, weight.t(), None), None, None


def _vendor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(named, "")

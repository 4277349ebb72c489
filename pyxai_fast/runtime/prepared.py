"""A model made ready to be asked often: in low precision, compiled, in static shapes."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_map_only

from ..errors import ArgumentError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# By this, gradients are larger on their way back through a float16 network: its smallest normal
# number is 6e-5, and slopes of pixels are often smaller. A power of two changes no digit.
FLOAT16_SCALE = 2.0**8


class Prepared:
    """A model that answers as the original does, but for the rounding of its network.

    Made by `prepare`. Inputs and outputs keep their types; points are rounded on their way into the
    network, and slopes come back as wide as the points are.

    Attributes:
        exact: the original, which is asked for scores that are reported.
        network: what answers, in low precision where that was asked for.
        precision: "fp32", "bf16" or "fp16".
        compiled: whether torch.compile runs the network. It then sees few numbers of rows, powers
            of two; what is missing is filled up with repetitions of the last row.
    """

    def __init__(self, exact: Callable[..., Any], network: Any, precision: str, compiled: bool):
        self.exact = exact
        self.network = network
        self.precision = precision
        self.compiled = compiled
        self._dtype = None if precision == "fp32" else PRECISIONS[precision]
        # CUDA graphs write answers and slopes where they wrote those of the call before.
        self._overwrites = compiled and _on_gpu(network)
        self._run = _compiled(network) if compiled else network
        self._sizes = _sizes_of(network)

    def takes(self, dtype: torch.dtype) -> torch.dtype:
        """The type that inputs of this type may as well be written in: what the network takes, but
        for float16, whose slopes are scaled on their way to wider inputs."""
        return torch.bfloat16 if self.precision == "bf16" and dtype.is_floating_point else dtype

    def __repr__(self) -> str:
        return f"Prepared({type(self.exact).__name__}, {self.precision}, compiled={self.compiled})"

    def __call__(self, *args: Any) -> Any:
        rows = args[0].shape[0]
        # What is watched op by op cannot run compiled.
        static = self.compiled and rows > 0 and _get_current_dispatch_mode() is None
        full = self._sizes.rows(args[0], rows) if static else rows
        args = tuple(_filled(arg, rows, full) for arg in args)
        if self._dtype is not None:
            args = tuple(self._narrowed(arg) for arg in args)
        if static and self._overwrites:
            for arg in args:
                if isinstance(arg, Tensor) and arg.requires_grad:
                    arg.register_hook(torch.clone)
        answer = (self._run if static else self.network)(*args)
        if static and self._overwrites:
            answer = _mapped(torch.clone, answer)
        if full != rows:
            answer = _mapped(lambda t: t[:rows] if t.shape[:1] == (full,) else t, answer)
        return answer if self._dtype is None else _mapped(self._widened, answer)

    def _narrowed(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if self.precision == "fp16" and value.requires_grad:
            value = value * 1.0  # a tensor of our own, which may have a hook
            value.register_hook(lambda slope: slope / FLOAT16_SCALE)
        return value.to(self._dtype)

    def _widened(self, value: Tensor) -> Tensor:
        if value.dtype != self._dtype:
            return value
        value = value.float()
        if self.precision == "fp16" and value.requires_grad:
            value.register_hook(lambda slope: slope * FLOAT16_SCALE)
        return value


def prepare(model: Any, *, precision: str = "fp32", compile: bool = False) -> Any:
    """A model made ready to be explained often; any method takes it in the model's place.

    ``explain(..., precision="bf16")`` does the same. A network in low precision is a copy, kept as
    long as the model is and made again when its weights have changed. Its batch normalisations stay
    in float32. Points are rounded once on their way in; the sums of slopes along a path stay in
    float64, so that what is lost is what the network itself loses: at most u = 2^-8 (bf16) or 2^-11
    (fp16) of each attribution for a linear model, and about u for each layer that rounds for
    others. Scores that are reported, and the completeness gap, are those of the original: the gap
    shows what precision has cost.

    Args:
        model: a torch module; for compile=True any function of tensors that torch.compile takes.
        precision: "fp32", "bf16" or "fp16".
        compile: run it by torch.compile, on a GPU as CUDA graphs. The first calls take as long as
            compiling does.

    Returns:
        The model itself where nothing is to be done, else a Prepared.

    Raises:
        ArgumentError: naming the argument, what it must be and what it is.

    Example:
        >>> import torch, pyxai_fast
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
        >>> fast = pyxai_fast.prepare(model, precision="bf16")
        >>> pyxai_fast.IntegratedGradients(fast).attribute(torch.rand(2, 3, 2, 2), target=0).dtype
        torch.float32
    """
    if precision not in PRECISIONS:
        raise ArgumentError(
            f"prepare: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}"
        )
    if precision == "fp32" and not compile:
        return model
    if isinstance(model, Prepared):
        raise ArgumentError(f"prepare: model must not be prepared already, got {model!r}")
    network = model
    if precision != "fp32":
        if not isinstance(model, nn.Module):
            raise ArgumentError(
                "prepare: model must be a torch module to run in another precision, got "
                f"{type(model).__name__}"
            )
        network = _copy_in(model, PRECISIONS[precision])
    return Prepared(model, network, precision, compile)


# Rows that are computed for one that is asked, at most, rather than to compile for another number.
MOST_FILLED = 8


class StaticSizes:
    """The numbers of rows that a network has been compiled for."""

    def __init__(self) -> None:
        self._compiled: dict[Any, set[int]] = {}

    def rows(self, inputs: Tensor, rows: int) -> int:
        """How many are to be asked in place of `rows` rows of such inputs: the least number that
        there is, or a power of two."""
        sizes = self._compiled.setdefault((inputs.shape[1:], inputs.dtype), set())
        wanted = 1 << max(0, rows - 1).bit_length()
        there = [size for size in sizes if wanted <= size <= MOST_FILLED * rows]
        chosen = min(there, default=wanted)
        sizes.add(chosen)
        return chosen


_static_sizes: weakref.WeakKeyDictionary[nn.Module, StaticSizes] = weakref.WeakKeyDictionary()


def _sizes_of(network: Any) -> StaticSizes:
    if not isinstance(network, nn.Module):
        return StaticSizes()
    return _static_sizes.setdefault(network, StaticSizes())


# Copies in low precision: of each model, by type, with what tells whether weights have changed.
_copies: weakref.WeakKeyDictionary[nn.Module, dict[torch.dtype, tuple[Any, nn.Module]]] = (
    weakref.WeakKeyDictionary()
)


def _copy_in(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    known = _copies.setdefault(model, {})
    state = _state_of(model)
    if dtype not in known or known[dtype][0] != state:
        known[dtype] = state, _narrow(model, dtype)
    return known[dtype][1]


def _state_of(model: nn.Module) -> Any:
    tensors = (*model.parameters(), *model.buffers())
    modes = tuple(part.training for part in model.modules())
    return tuple((t.data_ptr(), t._version if not t.is_inference() else 0) for t in tensors), modes


def _narrow(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    narrow = copy.deepcopy(model).requires_grad_(False)
    # Mean and variance are differences of what the layer sees: they keep their digits.
    kept = [part for part in narrow.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    before = [{name: t.clone() for name, t in part.state_dict().items()} for part in kept]
    # Convolutions in low precision want channels last, also where inputs have a single channel and
    # their own format says nothing: measured, a third to a half of the time on three networks.
    narrow.to(dtype)
    narrow.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part, state in zip(kept, before, strict=True):
        part.float().load_state_dict(state)
    return narrow


def _compiled(network: Any) -> Callable[..., Any]:
    mode = "reduce-overhead" if _on_gpu(network) else None
    run: Callable[..., Any] = torch.compile(network, dynamic=False, mode=mode)
    return run


def _on_gpu(network: Any) -> bool:
    return isinstance(network, nn.Module) and any(w.is_cuda for w in network.parameters())


def _filled(value: Any, rows: int, wanted: int) -> Any:
    if not isinstance(value, Tensor) or value.shape[:1] != (rows,) or wanted == rows:
        return value
    return torch.cat([value, value[-1:].expand(wanted - rows, *value.shape[1:])])


def _mapped(function: Callable[[Tensor], Tensor], answer: Any) -> Any:
    """The answer with a function of each of its tensors, whatever holds them."""
    return (
        function(answer) if isinstance(answer, Tensor) else tree_map_only(Tensor, function, answer)
    )

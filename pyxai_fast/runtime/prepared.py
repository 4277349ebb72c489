"""A model made ready to be asked often: in low precision, compiled, in static shapes."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import ArgumentError, check_bool, is_one_of
from .inference import outside_inference_mode

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# By this, slopes are larger on their way back through a float16 network: its smallest normal number
# is 6e-5, and slopes of pixels are often smaller. A power of two changes no digit.
FLOAT16_SCALE = 2.0**8
# Layers whose weights are stored as their operations take them. Of these very types: another may
# do something else with its weights first.
NARROWED = (
    nn.Linear, NonDynamicallyQuantizableLinear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
# Values of each weight that are looked at to see whether it has changed.
LOOKED_AT = 16


class Prepared:
    """A model that answers as the original does, but for the rounding of its network.

    Made by `prepare`. Inputs are given, and slopes come back, as to the original.

    Attributes:
        exact: the original, which is asked for scores that are reported.
        module: the module that answers; None for a function.
        precision: "fp32", "bf16" or "fp16".
        compiled: whether torch.compile runs the network. It then sees numbers of rows that are
            powers of two alone; what is missing is filled up with repetitions of the last row.
    """

    def __init__(self, exact: Callable[..., Any], precision: str, compiled: bool) -> None:
        self.exact = exact
        self.precision = precision
        self.compiled = compiled
        self.module: nn.Module | None = None
        self.refresh()

    def refresh(self) -> None:
        """Follows changes of the original since: new weights, other parts."""
        owner = getattr(self.exact, "__self__", self.exact)
        module = owner if isinstance(owner, nn.Module) else None
        run: Callable[..., Any] = self.exact
        if module is not None and self.precision != "fp32":
            narrow = _copy_in(module, PRECISIONS[self.precision])
            if narrow is self.module:
                return
            run = narrow if module is self.exact else getattr(narrow, self.exact.__name__)
            module = narrow
        elif self.module is not None:
            return
        self.module, self._eager = module, run
        # CUDA graphs write answers and slopes where they wrote those of the call before.
        self._overwrites = self.compiled and _on_gpu(module)
        self._run = _compiled(run, self._overwrites) if self.compiled else run

    def __repr__(self) -> str:
        name = getattr(self.exact, "__name__", type(self.exact).__name__)
        return f"Prepared({name}, {self.precision}, compiled={self.compiled})"

    def takes(self, inputs: Tensor) -> torch.dtype:
        """The type that such inputs may as well be written in: pictures in bfloat16, which the
        network rounds to anyway."""
        narrows = self.precision == "bf16" and inputs.dim() == 4
        return torch.bfloat16 if narrows and inputs.dtype == torch.float32 else inputs.dtype

    @property
    def slope_scale(self) -> float:
        """What a score is to be multiplied by before slopes are taken, and slopes divided by."""
        return FLOAT16_SCALE if self.precision == "fp16" else 1.0

    def __call__(self, *args: Any) -> Any:
        return self.ask(args)

    def ask(
        self, inputs: Sequence[Any], args: Sequence[Any] = (), by_row: Sequence[bool] = ()
    ) -> Any:
        """What the network answers to rows of inputs [R, ...].

        Args:
            args: that go along.
            by_row: of each of these, whether it has rows as the inputs do.
        """
        rows = inputs[0].shape[0]
        # What is watched op by op cannot run compiled.
        static = self.compiled and rows > 0 and _get_current_dispatch_mode() is None
        full = static_rows(rows) if static else rows
        if full != rows:
            inputs = [_filled(value, full) for value in inputs]
            args = [
                _filled(value, full) if has else value
                for value, has in zip(args, by_row, strict=True)
            ]
        if static and self._overwrites:
            for value in inputs:
                if isinstance(value, Tensor) and value.requires_grad:
                    value.register_hook(torch.clone)
        answer = self._asked(self._run if static else self._eager, (*inputs, *args))
        if not static:
            return answer
        _check_cut(answer)
        if self._overwrites:
            answer = tree_map_only(Tensor, torch.clone, answer)
        if full == rows:
            return answer
        return tree_map_only(Tensor, lambda t: t[:rows] if t.shape[:1] == (full,) else t, answer)

    def _asked(self, run: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            with self._rounding(args[0].device.type):
                return run(*args)
        except RuntimeError as error:
            # `x.view` of feature maps needs filters that make contiguous ones.
            if "view size is not compatible" not in str(error) or not _made_contiguous(self.module):
                raise
        with self._rounding(args[0].device.type):
            return run(*args)

    def _rounding(self, device: str) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        # Without its cache, whose copies of weights would outlive a change of theirs.
        return torch.autocast(device, PRECISIONS[self.precision], cache_enabled=False)


@outside_inference_mode
def prepare(model: Any, *, precision: str = "fp32", compile: bool = False) -> Any:
    """A model made ready to be explained often; any method takes it in the model's place.

    ``explain(..., precision="bf16")`` does the same. In low precision the model runs under
    torch.autocast: convolutions and matrix products in the lower type, all else as wide as torch
    deems necessary. The weights of its linear layers and convolutions are stored in that type
    beside the original ones, once for each model, and made again when those have changed; nothing
    else is copied. Sums of slopes along a path stay in float64, so that what is lost is what the
    network itself loses: at most 2u of each attribution for a linear model, whose inputs and
    weights are rounded, with u = 2^-9 (bf16) or 2^-12 (fp16), and about u for each layer, forward
    and backward, for others. Scores that are reported, and the completeness gap, are those of the
    original: the gap shows what precision has cost.

    Args:
        model: a torch module with float32 weights; for compile=True any function of tensors that
            torch.compile takes.
        precision: "fp32", "bf16" or "fp16". What exceeds float16's 65504 becomes infinite. A
            processor without units for a type is slower in it.
        compile: run it by torch.compile, on a GPU as CUDA graphs. The first calls take as long as
            compiling does; on a CPU that is seldom made up for.

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
    if not is_one_of(precision, PRECISIONS):
        raise ArgumentError(
            f"prepare: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}"
        )
    check_bool("prepare", "compile", compile)
    if precision == "fp32" and not compile:
        return model
    if isinstance(model, Prepared):
        raise ArgumentError(f"prepare: model must not be prepared already, got {model!r}")
    owner = getattr(model, "__self__", model)
    if precision != "fp32":
        if not isinstance(owner, nn.Module) or not (owner is model or inspect.ismethod(model)):
            raise ArgumentError(
                "prepare: model must be a torch module to run in another precision, got "
                f"{type(model).__name__}"
            )
        wide = [w.dtype for w in owner.parameters() if w.is_floating_point()]
        if any(dtype != torch.float32 for dtype in wide):
            raise ArgumentError(
                "prepare: model must have float32 weights to run in another precision, got "
                f"{', '.join(sorted({str(dtype) for dtype in wide}))}"
            )
    elif not isinstance(owner, nn.Module) and not inspect.isroutine(model):
        raise ArgumentError(
            f"prepare: model must be a torch module or a function to be compiled, got "
            f"{type(model).__name__}"
        )
    return Prepared(model, precision, compile)


def static_rows(rows: int) -> int:
    """The number of rows that a compiled network is asked in place of `rows`: a power of two."""
    return 1 << max(0, rows - 1).bit_length()


# Copies in low precision: of each model, by type, with what tells whether it has changed.
_copies: weakref.WeakKeyDictionary[nn.Module, dict[torch.dtype, tuple[Any, nn.Module]]] = (
    weakref.WeakKeyDictionary()
)


def _copy_in(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    known = _copies.setdefault(model, {})
    state = _state_of(model)
    if dtype not in known or known[dtype][0] != state:
        known[dtype] = state, _narrow(model, dtype)
    return known[dtype][1]


def _narrow(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with weights of its layers in another type, and everything else its own."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        narrow = copy.deepcopy(model, dict(shared))
    except Exception as error:
        raise ArgumentError(
            "prepare: model must be one that copy.deepcopy can copy to run in another precision, "
            f"got {type(model).__name__}, for which it raises {error}"
        ) from error
    for part in _layers(narrow):
        weight = part.get_parameter("weight").detach()
        # Convolutions in low precision want channels last, also where inputs have a single channel
        # and their own format says nothing: a third to a half of the time was measured.
        layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
        _store(part, weight.to(dtype, memory_format=layout))
    return narrow


def _layers(module: nn.Module) -> list[nn.Module]:
    """Those whose weights are stored in another type."""
    return [part for part in module.modules() if type(part) in NARROWED]


def _store(layer: nn.Module, weight: Tensor) -> None:
    layer.weight = nn.Parameter(weight, requires_grad=False)


def _made_contiguous(module: nn.Module | None) -> bool:
    """Lays filters of a copy in low precision as usual; whether there were any others."""
    found = False
    for layer in _layers(module) if module is not None else ():
        weight = layer.get_parameter("weight")
        if weight.dtype in (torch.bfloat16, torch.float16) and not weight.is_contiguous():
            _store(layer, weight.detach().contiguous())
            found = True
    return found


def _state_of(model: nn.Module) -> Any:
    """Equal as long as nothing of a model changed that its copy does not share."""
    parts = []
    for part in model.modules():
        settings = tuple(
            (name, value)
            for name, value in vars(part).items()
            if value is None or isinstance(value, (bool, int, float, str))
        )
        hooks = (tuple(part._forward_hooks), tuple(part._forward_pre_hooks))
        parts.append((id(part), type(part), settings, hooks))
    weights = [layer.get_parameter("weight").detach() for layer in _layers(model)]
    tensors = (*model.parameters(), *model.buffers())
    versions = tuple((id(t), t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
    # What was written behind autograd's back has no version.
    looked = [w.flatten()[:: max(1, w.numel() // LOOKED_AT)].float() for w in weights if w.numel()]
    seen = tuple(torch.cat([w.to(looked[0].device) for w in looked]).tolist()) if looked else ()
    return tuple(parts), versions, seen


def _compiled(run: Callable[..., Any], as_graphs: bool) -> Callable[..., Any]:
    mode = "reduce-overhead" if as_graphs else None
    compiled: Callable[..., Any] = torch.compile(run, dynamic=False, mode=mode)
    return compiled


def _on_gpu(module: nn.Module | None) -> bool:
    return module is not None and any(w.is_cuda for w in module.parameters())


def _filled(value: Any, rows: int) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return torch.cat([value, value[-1:].expand(rows - value.shape[0], *value.shape[1:])])


def _check_cut(answer: Any) -> None:
    """Refuses an answer from which filled rows could not be taken away."""
    for leaf in tree_leaves(answer):
        if not isinstance(leaf, (Tensor, bool, int, float, str, type(None))):
            raise ArgumentError(
                "prepare: a model that is compiled must answer with tensors, or with tuples, lists "
                f"or dicts of them, got {type(leaf).__name__}"
            )

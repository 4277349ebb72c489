"""Integrated Gradients as ours and as its peers have it, each in the forms that may be its best."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import captum.attr
import torch
from guided_contenders import pair_module
from ig_contenders import forward_backward
from torch import Tensor, nn

from pyxai_fast import IntegratedGradients, prepare
from pyxai_fast.paths.quadrature import quadrature
from pyxai_fast.runtime.cost import Cost

OURS, CAPTUM = "ours", "captum"
PAIR, ZENNIT, SHAP = "PAIR saliency", "zennit", "shap"
TOLERANCE, COMPILED = "tolerance", "compiled"
# Of captum's: weights and inputs in the memory format in which they come.
AS_CALLED = "as called"
AUTOCAST = "autocast "
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

Call = Callable[[], Tensor]
Nodes = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Contender:
    """A way to Integrated Gradients.

    Attributes:
        peer: whose it is.
        precision: "fp32", "bf16" or "fp16"; "autocast bf16" where torch's autocast chooses it layer
            by layer.
        variant: of ours: "tolerance" finds the steps itself, "compiled" runs torch.compile. Of
            captum's: "as called" is without a memory format chosen by hand.
        layout: the memory format of the weights and the inputs that it is given. Ours is always
            given contiguous ones.
        rows: that go through the model at once; "" where it chooses itself.
    """

    peer: str
    precision: str = "fp32"
    variant: str = ""
    layout: str = ""
    rows: int = 0

    @property
    def group(self) -> str:
        """Of these the best counts."""
        return ", ".join(filter(None, (self.peer, self.precision, self.variant)))

    @property
    def form(self) -> str:
        """What tells it from the others of its group."""
        rows = f"{self.rows} rows" if self.rows else ""
        return ", ".join(filter(None, (self.layout, rows)))

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.group, self.form)))


def contenders(
    batch: int, pictures: bool, precisions: Iterable[str], compiled: Iterable[str], most_rows: int
) -> list[Contender]:
    """All forms. Peers are given several numbers of rows and, for pictures, both layouts.

    Args:
        batch, pictures: inputs, and whether they are pictures.
        precisions, compiled: those of ours; captum's low ones are autocast's.
        most_rows: that a peer is given at once, unless the batch has more.
    """
    layouts = list(FORMATS) if pictures else ["contiguous"]
    rows = [batch * steps for steps in (1, 2, 4, 8) if steps == 1 or batch * steps <= most_rows]
    low = [precision for precision in precisions if precision != "fp32"]
    found = [
        Contender(OURS, precision, variant)
        for precision in precisions
        for variant in ("", TOLERANCE, *([COMPILED] if precision in compiled else []))
    ]
    found += [
        Contender(
            CAPTUM, precision, AS_CALLED * (pictures and layout == "contiguous"), layout, count
        )
        for precision in ("fp32", *(AUTOCAST + name for name in low))
        for layout in layouts
        for count in rows
    ]
    if pair_module() is not None:
        found += [Contender(PAIR, "fp32", "", layouts[-1], count) for count in (8, 32)]
    if zennit_module() is not None:
        found += [Contender(ZENNIT, "fp32", "", layout) for layout in layouts]
    if importlib.util.find_spec("shap") is not None:
        found += [Contender(SHAP, "fp32", "", layouts[-1], count) for count in (8, 50)]
    return found


# --- the rules that each has ---------------------------------------------------------------------


def with_ends(n: int) -> Nodes:
    """PAIR's: n nodes from end to end, each with the same weight."""
    return torch.linspace(0, 1, n, dtype=torch.float64), torch.full((n,), 1 / n).double()


def _rule(name: str) -> Callable[[int], Nodes]:
    return functools.partial(quadrature, name)


CAPTUMS = ("gausslegendre", "riemann_middle", "riemann_trapezoid", "riemann_left", "riemann_right")
RULES: dict[str, dict[str, Callable[[int], Nodes]]] = {
    # The same, so that a lucky rule is lucky for both.
    OURS: {name: _rule(name) for name in CAPTUMS},
    CAPTUM: {name: _rule(name) for name in CAPTUMS},
    PAIR: {"both ends in full": with_ends},
    ZENNIT: {"riemann_right": _rule("riemann_right")},
}


# --- calls ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What is to be explained, and how finely."""

    model: nn.Module
    inputs: Tensor
    target: Tensor
    rule: str = "gausslegendre"
    n_steps: int = 1
    tolerance: float | None = None

    def laid_out(self, layout: str) -> tuple[nn.Module, Tensor]:
        """Weights and inputs in a memory format."""
        if layout in ("", "contiguous") or self.inputs.dim() != 4:
            return self.model, self.inputs
        inputs = self.inputs.contiguous(memory_format=torch.channels_last)
        return in_channels_last(self.model), inputs


@functools.lru_cache(maxsize=1)
def in_channels_last(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to(memory_format=torch.channels_last)


def made(contender: Contender, task: Task, cost: Cost | None = None) -> Call:
    """The call to be measured, with an object of its method made once; `cost` is of ours."""
    model, inputs = task.laid_out(contender.layout)
    steps, target = task.n_steps, task.target
    if contender.peer == OURS:
        ours = IntegratedGradients(_ours(contender, model))
        how: dict[str, Any] = {"n_steps": steps, "method": task.rule}
        if contender.variant == TOLERANCE:
            how = {"n_steps": steps, "tolerance": task.tolerance}
        return lambda: ours.attribute(inputs, target=target, cost=cost, **how)
    if contender.peer == CAPTUM:
        theirs = captum.attr.IntegratedGradients(model)

        def run() -> Tensor:
            with autocast(contender, inputs.device):
                found: Tensor = theirs.attribute(
                    inputs,
                    target=target,
                    n_steps=steps,
                    method=task.rule,
                    internal_batch_size=contender.rows,
                )
            return found

        return run
    if contender.peer == PAIR:
        return lambda: _pair(model, inputs, target, steps, contender.rows)
    if contender.peer == ZENNIT:
        return lambda: _zennit(model, inputs, target, steps)
    return _shap(model, inputs, target, steps, contender.rows)


def slopes(contender: Contender, task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """The gradient of rows with targets, in the contender's precision."""
    if contender.peer == OURS:
        model = _ours(contender, task.model)
    else:
        model, _ = task.laid_out("channels_last")

    def run(rows: Tensor, target: Tensor) -> Tensor:
        if rows.dim() == 4:
            rows = rows.contiguous(memory_format=torch.channels_last)
        with autocast(contender, rows.device):
            return forward_backward(model, rows, target)

    return run


def autocast(contender: Contender, device: torch.device) -> AbstractContextManager[Any]:
    if not contender.precision.startswith(AUTOCAST):
        return contextlib.nullcontext()
    return torch.autocast(device.type, TYPES[contender.precision.removeprefix(AUTOCAST)])


def _ours(contender: Contender, model: nn.Module) -> Any:
    return prepare(model, precision=contender.precision, compile=contender.variant == COMPILED)


def _pair(model: nn.Module, inputs: Tensor, target: Tensor, n_steps: int, rows: int) -> Tensor:
    """PAIR's own call, which takes one input, and arrays on the host."""
    saliency, found = pair_module("integrated_gradients"), []
    method = saliency.IntegratedGradients()
    for image, one in zip(inputs.cpu(), target, strict=True):

        def gradients(points: Any, one: Tensor = one, **_: Any) -> dict[str, Any]:
            points = torch.from_numpy(points).to(inputs)
            if points.dim() == 4:
                points = points.contiguous(memory_format=torch.channels_last)
            grads = forward_backward(model, points, one.expand(len(points)))
            return {saliency.INPUT_OUTPUT_GRADIENTS: grads.cpu().numpy()}

        mask = method.GetMask(image.numpy(), gradients, x_steps=n_steps, batch_size=rows)
        found.append(torch.from_numpy(mask))
    return torch.stack(found)


def _zennit(model: nn.Module, inputs: Tensor, target: Tensor, n_steps: int) -> Tensor:
    """zennit's own call: the whole batch at each of its steps."""

    def of_target(output: Tensor) -> Tensor:
        return torch.zeros_like(output).scatter_(1, target[:, None], 1.0)

    method = zennit_module().IntegratedGradients(model, attr_output=of_target, n_iter=n_steps)
    with method:
        _, found = method(inputs)
    return torch.as_tensor(found)


def _shap(model: nn.Module, inputs: Tensor, target: Tensor, n_steps: int, rows: int) -> Call:
    """Expected gradients with black as the only reference; of each input its target's score alone,
    as shap would explain every class in turn."""
    import shap

    score = OfOneClass(model)
    black = torch.zeros_like(inputs[:1])
    explainer = shap.GradientExplainer(score, black, batch_size=rows)

    def run() -> Tensor:
        found = []
        for image, one in zip(inputs, target, strict=True):
            score.index = int(one)
            values = explainer.shap_values(image[None], nsamples=n_steps, rseed=0)
            found.append(torch.from_numpy(values[..., 0]))
        return torch.cat(found)

    return run


class OfOneClass(nn.Module):
    """A model's score of one class, [N, 1]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.index = 0

    def forward(self, rows: Tensor) -> Tensor:
        scores: Tensor = self.model(rows)
        return scores[:, self.index : self.index + 1]


# What zennit asks torchvision for.
_ASKED = {"resnet": ("Bottleneck", "BasicBlock")}


@functools.cache
def zennit_module() -> Any:
    """zennit.attribution, or None.

    zennit needs torchvision, of whose networks it knows the blocks by type. Where torchvision is
    missing, types that nothing is an instance of stand in for them: the networks here are others.
    """
    if importlib.util.find_spec("zennit") is None:
        return None
    with contextlib.ExitStack() as after:
        if importlib.util.find_spec("torchvision") is None:
            for name, module in _no_torchvision().items():
                sys.modules[name] = module
                after.callback(sys.modules.pop, name, None)
        return importlib.import_module("zennit.attribution")


def _no_torchvision() -> dict[str, types.ModuleType]:
    found = {name: types.ModuleType(name) for name in ("torchvision", "torchvision.models")}
    for module, names in _ASKED.items():
        name = f"torchvision.models.{module}"
        found[name] = types.ModuleType(name)
        for kind in names:
            setattr(found[name], kind, type(kind, (nn.Module,), {}))
    return found

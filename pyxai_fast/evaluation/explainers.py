"""What makes the maps that are compared: methods by name, functions of the user's, controls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import ArgumentError
from ..explanation import Explanation
from ..front_door import check_options, explain, gradient_of
from ..models.black_box import BlackBox
from ..models.preprocessing import Preprocessing
from .budget import options_of, scaled
from .controls import CONTROLS, Control


@dataclass(frozen=True)
class Maps:
    """Maps of a batch.

    Attributes:
        attributions: [B, C, H, W] or [B, 1, H, W].
        gradients, queries: rows that the model was asked; None where nobody counted.
        seconds: that they took.
        gap: [B], of completeness, relative to the difference of the scores; None where none is
            promised.
    """

    attributions: Tensor
    gradients: int | None
    queries: int | None
    seconds: float
    gap: Tensor | None = None


# From pixels [B, C, H, W], classes [B] and the numbers of the pictures.
MakeMaps = Callable[[Tensor, Tensor, Sequence[int]], Maps]


@dataclass(frozen=True)
class Explainer:
    """One of the methods of a comparison.

    Attributes:
        label: what it is called.
        maps: makes its maps.
        settings: that the maps depend on, fit for JSON.
        note: what is to be said of its budget.
        rehearse: as `maps`, with as little as can be asked; None where that is `maps` itself.
    """

    label: str
    maps: MakeMaps
    settings: dict[str, Any] = field(default_factory=dict)
    note: str | None = None
    rehearse: MakeMaps | None = None


# Called as fn(model, inputs, target), the target int64 [B]; returns attributions of the inputs.
Function = Callable[[Any, Tensor, Tensor], Any]
Methods = str | Function | Sequence[str | Function] | Mapping[str, Mapping[str, Any] | Function]


def listed(methods: Methods) -> dict[str, tuple[str, dict[str, Any]] | Function]:
    """Labels, and what is meant: the name of a method and its options, or a function.

    Raises:
        ArgumentError: two have one label, or one that is a control's.
        TypeError: what is neither.
    """
    if isinstance(methods, str) or callable(methods):
        methods = [methods]
    if not isinstance(methods, Iterable) or isinstance(methods, Tensor):
        raise TypeError(
            f"evaluate: methods must be names, options or functions, got {type(methods).__name__}"
        )
    found: dict[str, tuple[str, dict[str, Any]] | Function] = {}
    pairs = methods.items() if isinstance(methods, Mapping) else ((_name(m), m) for m in methods)
    for label, asked in pairs:
        if label in CONTROLS:
            if isinstance(asked, str):  # it is there anyway
                continue
            raise ArgumentError(
                f"evaluate: methods must not be called {' or '.join(CONTROLS)}, as the controls "
                f"are, got {label!r}"
            )
        if label in found:
            raise ArgumentError(
                f"evaluate: methods must have a name each, got {label!r} twice; give a dict of "
                "names"
            )
        if isinstance(asked, str):
            found[label] = asked, {}
        elif isinstance(asked, Mapping):
            options = dict(asked)
            method = options.pop("method", label)
            if not isinstance(method, str):
                raise TypeError(
                    f"evaluate: methods must give the name of a method, got {method!r} for "
                    f"{label!r}"
                )
            found[label] = method, options
        elif callable(asked):
            found[label] = asked
        else:
            raise TypeError(
                "evaluate: methods must be names, options or functions, got "
                f"{type(asked).__name__} for {label!r}"
            )
    if not found:
        raise ArgumentError("evaluate: methods must name at least one, got none")
    return found


def _name(method: Any) -> str:
    return method if isinstance(method, str) else getattr(method, "__name__", repr(method))


def by_name(
    model: Any,
    label: str,
    method: str,
    options: Mapping[str, Any],
    *,
    budget: int | None = None,
    seed: int = 0,
    **common: Any,
) -> Explainer:
    """A method of pyxai_fast.

    Args:
        model: as metrics ask it.
        options: of `explain`, of this method alone.
        budget: evaluations for each map, see `scaled`.
        seed: of methods that draw, where the options name none.
        common: further options of `explain`.
    """
    own = dict(options)
    gradient = own.pop("gradient", None)
    output = own.pop("output", common.pop("output", None))
    baselines = own.pop("baselines", None)
    check_options(method, own, output=output)
    gradient_of(gradient)
    note = None
    if budget is not None:
        fitted = scaled(method, own | ({} if gradient is None else {"gradient": gradient}), budget)
        own = {name: value for name, value in fitted.options.items() if name != "gradient"}
        note = fitted.note
    if "seed" in options_of(method):
        own.setdefault("seed", seed)

    def maps(pixels: Tensor, target: Tensor, numbers: Sequence[int]) -> Maps:
        return maps_of(
            explain(
                model,
                pixels,
                method=method,
                target=target,
                baselines=baselines,
                gradient=gradient,
                output=output,
                numbers=numbers,
                **common,
                **own,
            )
        )

    told = {"gradient": gradient, "output": output, "baselines": baselines}
    settings = {"method": method, **own, **{k: v for k, v in told.items() if v is not None}}
    return Explainer(label, maps, settings, note)


def by_function(
    model: Any, label: str, function: Function, preprocessing: Preprocessing | None
) -> Explainer:
    """A function of the user's: of the model, or where there is a preprocessing of one that takes
    pixels; what it asks is counted where the model is a torch module or a BlackBox."""
    asked = model if preprocessing is None else FromPixels(model, preprocessing)

    def maps(pixels: Tensor, target: Tensor, numbers: Sequence[int]) -> Maps:
        started = time.perf_counter()
        with _counted(model) as count:
            made = function(asked, pixels, target)
        seconds = time.perf_counter() - started
        return Maps(_maps_like(label, made, pixels), count.gradients, count.queries, seconds)

    return Explainer(label, maps, {"function": _name(function)})


def control(label: str, seed: int) -> Explainer:
    """Maps that know nothing of the model."""
    make: Control = CONTROLS[label]

    def maps(pixels: Tensor, target: Tensor, numbers: Sequence[int]) -> Maps:
        started = time.perf_counter()
        made = make(pixels, numbers, seed)
        return Maps(made, 0, 0, time.perf_counter() - started)

    return Explainer(label, maps, {"control": True})


def maps_of(explanation: Explanation) -> Maps:
    """What an explanation has of a batch of pictures."""
    attributions, cost = explanation.attributions, explanation.cost
    assert isinstance(attributions, Tensor)
    gap = None
    if explanation.delta is not None:
        delta = explanation.delta.double()
        rise = attributions.double().flatten(1).sum(1) - delta
        gap = delta.abs() / rise.abs()
    return Maps(attributions, cost.gradients, cost.queries, cost.seconds, gap)


class FromPixels(nn.Module):
    """A model of model inputs as one of pixels."""

    def __init__(self, model: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model, self.preprocessing = model, preprocessing

    def forward(self, pixels: Tensor) -> Any:
        return self.model(self.preprocessing.normalise(pixels))


@dataclass
class _Count:
    gradients: int | None = None
    queries: int | None = None


@contextmanager
def _counted(model: Any) -> Iterator[_Count]:
    """Counts the rows that a model is asked: as gradients those whose inputs need one, and those
    through whose answers one is taken, such as that of a layer inside; others as queries."""
    count = _Count()
    if isinstance(model, BlackBox):
        before = model.queries
        yield count
        count.gradients, count.queries = 0, model.queries - before
        return
    if not isinstance(model, nn.Module):
        yield count
        return
    gradients = queries = 0

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal gradients, queries
        rows = len(inputs[0]) if inputs and isinstance(inputs[0], Tensor) else 1
        if torch.is_grad_enabled() and inputs and getattr(inputs[0], "requires_grad", False):
            gradients += rows
            return
        queries += rows
        asked = [rows]

        def take(gradient: Tensor) -> None:
            nonlocal gradients, queries
            while asked:  # once, however many gradients are taken of the same answers
                moved = asked.pop()
                gradients, queries = gradients + moved, queries - moved

        # Weights that can be trained have a graph, whether anybody follows it or not.
        for answer in tree_leaves(output):
            if isinstance(answer, Tensor) and answer.requires_grad:
                answer.register_hook(take)

    hook = model.register_forward_hook(add)
    try:
        yield count
    finally:
        hook.remove()
        count.gradients, count.queries = gradients, queries


def _maps_like(label: str, made: Any, pixels: Tensor) -> Tensor:
    """What a function gave, as [B, C, H, W] or [B, 1, H, W]."""
    if isinstance(made, tuple) and len(made) == 1:
        made = made[0]
    try:
        maps = torch.as_tensor(made).detach().to(pixels.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"evaluate: {label} must return a tensor or an array, got {type(made).__name__}"
        ) from error
    batch, _, height, width = pixels.shape
    if list(maps.shape) == [batch, height, width]:
        maps = maps[:, None]
    if list(maps.shape) not in (list(pixels.shape), [batch, 1, height, width]):
        raise ArgumentError(
            f"evaluate: {label} must return attributions {list(pixels.shape)}, or without "
            f"channels, got {list(maps.shape)}"
        )
    return maps if maps.is_floating_point() else maps.float()

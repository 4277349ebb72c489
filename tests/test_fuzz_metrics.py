"""Whatever a metric is asked to judge: a number for each input, or one clear error of its own.

A call begins as one that fits, and then some of its arguments are replaced by what people give by
mistake. Whichever it is, the model, tensors and torch's own state stay as they were.
"""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_fuzz_explain import FLOATS, MISTAKES, OTHERS, Watched, laid, nothing_changes
from torch import Tensor, nn

from pyxai_fast import Preprocessing, metrics
from pyxai_fast.metrics import Curve, InformationCurve
from pyxai_fast.metrics.asked import Asked

OF_MAPS = ("complexity", "heat", "sparseness")
OF_MASKS = ("best_iou", "energy_inside", "iou", "iou_area", "pointing_game")
OF_MODELS = (
    "completeness_gap", "counterfactual_quality", "deletion", "diffid", "faithfulness_correlation",
    "infidelity", "insertion", "performance_information", "road",
)  # fmt: skip
OF_METHODS = ("geometric_ensemble", "max_sensitivity", "model_perturbation", "mprt")
ALL = (*OF_MAPS, *OF_MASKS, *OF_MODELS, *OF_METHODS)
# Their numbers may be NaN, or infinite, of numbers that are not: as their docstrings say.
MAY_BE_NAN = {"completeness_gap", "faithfulness_correlation", "model_perturbation", "mprt",
              "performance_information"}  # fmt: skip
SHAPES = ((5,), (1, 8, 8), (3, 8, 8), (2, 4, 6), (1, 1, 1), (1,), (2, 3, 2, 2))
PICTURES = ((1, 8, 8), (3, 8, 8), (1, 2, 3))

Given = dict[str, Any]


class Learnt(Watched):
    """With weights that can be forgotten, and nothing that changes as it is copied."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(dtype)
        self.last = nn.Linear(3, 3, dtype=dtype).eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        scores: Tensor = self.last(super().forward(*inputs))
        return scores


def model_of(dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Learnt(dtype)


def size_of_weights(model: nn.Module) -> Tensor:
    total: Tensor = sum((w.double().square().sum() for w in model.parameters()), torch.zeros(()))
    return total


def gradient(*given: Any) -> Tensor:
    """For explain(inputs) and explain(model, inputs, target)."""
    inputs: Tensor = given[0] if len(given) == 1 else given[1]
    return inputs.detach().float().sin()


def inside(shape: tuple[int, ...]) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(shape[0], -1)[:, 0] = True
    return mask


@st.composite
def fitting(draw: st.DrawFn, names: tuple[str, ...] = ALL) -> tuple[str, Given]:
    """A metric, and arguments that fit it."""
    name = draw(st.sampled_from(names))
    of_pictures = name in ("road", "performance_information")
    shape = draw(st.sampled_from(PICTURES if of_pictures else SHAPES))
    batch, dtype = draw(st.sampled_from([3, 1])), draw(st.sampled_from(FLOATS))
    if name in OF_METHODS and not dtype.itemsize > 2:
        dtype = torch.float32
    size = (batch, *shape)
    attributions = laid(draw, size, draw(st.sampled_from(FLOATS)), 3)
    if len(shape) == 3 and draw(st.booleans()):
        attributions = attributions.detach().contiguous(memory_format=torch.channels_last)
    if name in OF_MAPS:
        return name, {"attributions": attributions}
    if name in OF_MASKS:
        without = size if len(shape) < 2 else (batch, *shape[1:])
        return name, {
            "attributions": attributions,
            "mask": inside(draw(st.sampled_from([size, without]))),
        }
    inputs = laid(draw, size, dtype, 1)
    asked: Given = {"model": model_of(dtype), "inputs": inputs}
    if name in OF_METHODS:
        if name == "geometric_ensemble":
            asked |= {"loss": size_of_weights, "n_models": 3, "rise": 10.0}
        if name == "max_sensitivity":
            asked["n_samples"] = 2
        if name == "model_perturbation":
            asked["levels"] = (0.0, 0.3)
        if name in ("model_perturbation", "mprt"):
            asked["similarities"] = draw(st.sampled_from(["spearman", ("ssim", "hog")]))
        asked["explain"] = draw(st.sampled_from(["saliency", "input_x_gradient", gradient]))
        if name == "max_sensitivity" and asked["explain"] is gradient:
            del asked["model"]  # is for methods by name
        return name, asked
    if name == "counterfactual_quality":
        return name, asked | {"counterfactuals": laid(draw, size, dtype, 4), "target": 1}
    asked["attributions"] = attributions
    if name == "faithfulness_correlation":
        asked |= {"subset_size": 1, "n_runs": 5}
    if name == "performance_information":
        pytest.importorskip("scipy", reason="SciPy is not installed")
        asked |= {"inputs": inputs.detach().sigmoid(), "n_points": 6, "thresholds": (0.2, 0.6)}
    if name == "infidelity":
        asked["n_samples"] = 3
    if name == "insertion" and len(shape) != 3:
        asked["baselines"] = 0.0  # only pictures can be blurred
    return name, asked


# --- what is given by mistake, or seldom ----------------------------------------------------------

OPTIONS: dict[str, list[Any]] = {
    "target": [None, 0, -1, 2, 99, [0, 1, 2], [0], torch.tensor([2, 0, 1]), (1,), 2**70, -(2**63)],
    "baselines": [0, 0.5, "blur", "white", torch.ones(1), torch.ones(3, 1, 8, 8), torch.ones(7)],
    "output": ["logit", "prob", "logprob", "margin", "score"],
    "internal_batch_size": [None, 1, 2, 100, 0],
    "numbers": [None, [5, 6, 7], [0], range(3), [2**32]],
    "seed": [0, 3, 2**63, -1, 2**70],
    "preprocessing": [None, Preprocessing((0.5,), (0.25,), channels=1)],
    "select_output": [None, lambda outputs: outputs, lambda outputs: outputs[:, 0], "logits"],
    "n_steps": [1, 3, 33, 1000, 0, -2],
    "ratios": [(0.5,), (1e-9, 1 - 1e-9), (0.9, 0.1), (), [[0.5]], torch.linspace(0.1, 0.9, 5)],
    "noise": [0, 0.5, torch.ones(2, 1, 5), torch.ones(2, 3, 1, 8, 8), torch.ones(0, 1, 5)],
    "relative": [True, False],
    "n_runs": [1, 2, 7],
    "subset_size": [1, 2, 10**6, 0],
    "subsets": [None, torch.zeros(4, 1, 1, dtype=torch.int64), torch.tensor([[[0, 1]], [[1, 0]]]),
                torch.full((2, 1, 1), 10**9), torch.zeros(2, 1, 0, dtype=torch.int64)],
    "perturbations": [0.0, 0.1, torch.ones(2, 1, 5), torch.ones(2, 3, 1, 8, 8),
                      lambda rows: (rows, rows), lambda rows: (rows,), lambda rows: 3],
    "n_samples": [1, 4, 0],
    "normalise": [True, False],
    "normalised": [True, False],
    "changed_by": [0, 0.1, -1],
    "start": [0, 0.3, 1, torch.ones(1, 8, 8, dtype=torch.bool), torch.ones(1, 8, 8)],
    "min_prediction": [0, 0.8, 2],
    "monotone": [True, False],
    "n_points": [1, 30, 0],
    "threshold": [0, 0.5, 1, 10**30, 10**400],
    "tolerance": [0, 0.5, 3, 10**30],
    "radius": [0, 0.1],
    "norm": [1, 2, 3.5, float("inf"), 0.5],
    "levels": [(0,), (), (0.1, -1), (float("inf"),), np.array([0.1, 0.2]), torch.tensor([0.1])],
    "n_draws": [1, 2, 0],
    "similarities": ["spearman", "ssim", "hog", (), ("spearman", "ssim"), "cosine"],
    "order": ["top_down", "bottom_up", "independent", "random"],
    "n_models": [1, 2, 0],
    "spread": [0, 0.5, -1],
    "rise": [0, 1.0, -1],
    "loss": [size_of_weights, lambda model: 0.5, lambda model: torch.zeros(2), lambda model: "x"],
    "explain": ["saliency", "input_x_gradient", "rise", "saliencey", gradient, lambda *_: 3,
                lambda *_: torch.zeros(3, 5), lambda *_: (torch.zeros(3, 5),), lambda *_: "map"],
}  # fmt: skip
OPTIONS |= {"fractions": OPTIONS["ratios"], "thresholds": OPTIONS["ratios"]}
TENSORS = ("attributions", "counterfactuals", "inputs", "mask")


def arguments_of(name: str) -> set[str]:
    """Those that a metric has, with those of `Asked` where it passes them on."""
    named = inspect.signature(getattr(metrics, name)).parameters
    found = {n for n, p in named.items() if p.kind is not p.VAR_KEYWORD}
    if "asking" in named:
        found |= set(inspect.signature(Asked.__init__).parameters) - {"self", "op", "cost"}
    return found - {"output"} if name == "counterfactual_quality" else found


def held(value: Any) -> bool:
    """Whether it is a tensor whose numbers can be looked at."""
    return isinstance(value, Tensor) and not (value.is_meta or value.is_sparse)


def with_odd_numbers(draw: st.DrawFn, values: Any) -> Any:
    """The first number, or all of them, are none, infinite, nothing, or large."""
    if not held(values) or not values.is_floating_point() or not values.numel():
        return values
    flat = values.detach().flatten().clone()
    odd = draw(st.sampled_from([torch.nan, torch.inf, -torch.inf, 0.0, 1e4]))
    flat[: draw(st.sampled_from([1, len(flat)]))] = odd
    return flat.view(values.shape)


@st.composite
def mistaken(draw: st.DrawFn) -> tuple[str, Given]:
    """The same with a few arguments replaced or added."""
    name, asked = draw(fitting())
    known = arguments_of(name)
    for _ in range(draw(st.integers(1, 2))):
        argument = draw(st.sampled_from(sorted(known)))
        kind = draw(st.sampled_from(["mistake", "likely", "likely", "likely"]))
        if kind == "mistake" or (argument not in OPTIONS and argument not in TENSORS):
            # len and classes can be called, and then say themselves what they miss.
            asked[argument] = draw(st.sampled_from([m for m in MISTAKES if not callable(m)]))
        elif argument in OPTIONS:
            asked[argument] = draw(st.sampled_from(OPTIONS[argument]))
        else:
            shape, batch = draw(st.sampled_from(SHAPES)), draw(st.sampled_from([0, 1, 3]))
            values = laid(draw, (batch, *shape), draw(st.sampled_from(FLOATS + OTHERS)), 2)
            if argument in asked and draw(st.booleans()):
                values = with_odd_numbers(draw, asked[argument])
            asked[argument] = values
    return name, asked


# --- what comes of it -----------------------------------------------------------------------------


def answer(name: str, asked: Given) -> Any:
    """What a metric gives; None where it refuses, in its own name or, of a method that it asks by
    name, in that one's."""
    model = asked.get("model")
    watched = model if isinstance(model, nn.Module) else nn.Module()
    with nothing_changes(watched, *filter(held, asked.values())), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return getattr(metrics, name)(**asked)
        except (TypeError, ValueError) as error:
            speaker = r"\w+" if isinstance(asked.get("explain"), str) else f"({name}|model)"
            told = f"{type(error).__name__}: {error}"
            assert re.match(rf"{speaker}: .*\bmust\b", str(error), re.DOTALL), told
            return None


def batch_of(asked: Given) -> int:
    return len(asked["inputs"] if "inputs" in asked else asked["attributions"])


def can_be_finite(asked: Given) -> bool:
    """Whether no number that was given is beyond halves, as sums of large ones may be."""
    numbers: list[Any] = []
    for given_ in asked.values():
        if isinstance(given_, Tensor) and given_.is_floating_point():
            if not bool((given_.detach().abs() < 100).all()):
                return False
        elif isinstance(given_, (int, float)):
            numbers.append(given_)
    return all(abs(float(n)) < 100 for n in numbers)


def check(name: str, asked: Given, found: Any) -> None:
    """The shapes and types that docstrings give, and numbers."""
    batch, finite = batch_of(asked), can_be_finite(asked) and name not in MAY_BE_NAN

    def is_number(values: Tensor, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        assert values.shape == shape and values.dtype == dtype, (values.shape, values.dtype)
        assert not values.requires_grad
        assert not finite or bool(values.isfinite().all()), values

    def is_curve(curve: Curve) -> None:
        steps = len(curve.fractions)
        assert curve.fractions.shape == (steps,) and curve.fractions.dtype == torch.float64
        assert bool((curve.fractions.diff() > 0).all())
        is_number(curve.scores, steps, batch)
        is_number(curve.area, batch)

    if name == "heat":
        is_number(found, *asked["attributions"].shape)
        assert float(found.min()) >= 0 and float(found.max()) <= 1
    elif name in ("deletion", "insertion"):
        is_curve(found)
    elif name == "road":
        is_curve(found.most_first)
        is_curve(found.least_first)
    elif name == "performance_information":
        for curve in (found.sic, found.aic):
            assert isinstance(curve, InformationCurve)
            is_curve(curve)
            assert curve.used.shape == (batch,)
            assert bool(curve.scores[:, curve.used].isfinite().all())
    elif name == "counterfactual_quality":
        assert found.flipped.shape == (batch,) and found.flipped.dtype == torch.bool
        for part in ("confidence", "confidence_before", "l1", "l2", "changed"):
            is_number(getattr(found, part), batch)
    elif name == "geometric_ensemble":
        count = asked.get("n_models")
        assert found.attributions.shape[0] == found.target.shape[0] == batch
        assert found.standard_error.shape == found.attributions.shape
        assert found.losses.shape == found.kept.shape == (count,)
    elif name in ("model_perturbation", "mprt"):
        parts = found.similarity if name == "mprt" else {
            n: v for n in ("spearman", "ssim", "hog", "logit_change", "unchanged")
            if (v := getattr(found, n)) is not None
        }  # fmt: skip
        steps = len(found.layers if name == "mprt" else found.levels)
        for values in parts.values():
            assert values.shape == (steps, batch) and values.dtype == np.float64
    else:
        is_number(found, batch)


# --- the properties -------------------------------------------------------------------------------


def test_every_metric_is_asked() -> None:
    functions = {n for n in metrics.__all__ if inspect.isfunction(getattr(metrics, n))}
    assert set(ALL) == functions


@pytest.mark.parametrize("name", ALL)
def test_a_call_that_fits_is_answered(name: str) -> None:
    @given(call=fitting((name,)))
    @settings(max_examples=15)
    def ask(call: tuple[str, Given]) -> None:
        _, asked = call
        found = answer(name, asked)
        assert found is not None
        check(name, asked, found)

    ask()


@given(call=mistaken())
@settings(max_examples=400)
def test_a_mistake_is_told_in_words_or_makes_no_difference(call: tuple[str, Given]) -> None:
    name, asked = call
    assume(asked.get("seed", 0) is not None)  # which is drawn from torch's own numbers
    found = answer(name, asked)
    if found is not None:
        check(name, asked, found)

"""Comparisons find the method that is right, keep budgets, and say what is noise."""

from __future__ import annotations

import csv
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_cases import SeesCheckers, checkers, inside, masks, pictures
from largest_tensor import LargestTensor
from nets import conv_net
from torch import Tensor, nn

from pyxai_fast import BlackBox, LikelihoodRatio, Preprocessing, explain
from pyxai_fast.demo.data import load_digits
from pyxai_fast.demo.model import load_demo_model
from pyxai_fast.evaluation import METRICS, Comparison, evaluate, table
from pyxai_fast.evaluation.budget import options_of, scaled
from pyxai_fast.evaluation.controls import CONTROLS, random_maps
from pyxai_fast.evaluation.entries import Entry, Spent
from pyxai_fast.evaluation.rows_file import RowsFile
from pyxai_fast.evaluation.statistics import FEWEST, Judged, costs, difference_of, judged
from pyxai_fast.metrics import bootstrap, infidelity
from pyxai_fast.metrics.bootstrap import RESAMPLES, band_of, mean_of
from pyxai_fast.runtime.progress import Progress, Silence

pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn")
pytest.importorskip("safetensors", reason="the demo's weights are a safetensors file")


def elsewhere(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
    """What the model does not look at."""
    return (~inside()).float().expand(len(inputs), 1, -1, -1)


def other_noise(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
    return torch.rand(inputs.shape, generator=torch.Generator().manual_seed(11))


@pytest.fixture(scope="module")
def truth() -> Comparison:
    """A method that is right, one that is wrong, and noise."""
    return evaluate(
        SeesCheckers(),
        pictures(24),
        {"right": {"method": "input_x_gradient"}, "wrong": elsewhere, "noise": other_noise},
        ("insertion", "deletion", "road", "pointing_game", "iou_area", "energy_inside"),
        masks=masks(24),
    )


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return load_digits("test")[0][::45][:8]


@pytest.fixture(scope="module")
def of_digits(digits: Tensor) -> Comparison:
    return evaluate(
        load_demo_model(),
        digits,
        {"integrated_gradients": {"n_steps": 10}, "saliency": {}, "lime": {"n_queries": 40}},
        signed="both",
        batch_size=5,
    )


# ---------------------------------------------------------------- which method is right


@pytest.mark.parametrize("metric", ["insertion", "deletion", "road", "pointing_game", "iou_area"])
def test_the_method_that_knows_what_the_model_looks_at_wins(truth: Comparison, metric: str) -> None:
    right, wrong = truth.result("right", metric), truth.result("wrong", metric)
    assert right.minus["random"].verdict == "better"
    assert "best" not in right.minus  # it is the best itself
    assert wrong.minus["first"].verdict == "worse" and wrong.minus["best"].to == "right"
    low, high = (right.minus["random"].mean[end] for end in ("low", "high"))
    assert low > 0 if METRICS[metric].large_is_good else high < 0


def test_noise_is_never_better_than_what_is_right(truth: Comparison) -> None:
    for line in truth.results:
        if line.method == "noise" and not METRICS[line.metric].part:
            assert line.minus["first"].verdict == "worse", line


def test_noise_is_told_from_noise_as_seldom_as_intervals_promise() -> None:
    """Of intervals of 95 % one in twenty leaves out 0."""

    def noise(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return lambda model, inputs, target: torch.rand(inputs.shape, generator=generator)

    methods = {f"noise {seed}": noise(seed) for seed in range(60)}
    found = evaluate(SeesCheckers(), pictures(30), methods, "deletion")
    told = [line.minus["random"].told for line in found.results if line.method in methods]
    assert len(told) == 60 and 0 < sum(told) <= 9


def test_a_known_mask_gives_known_figures(truth: Comparison) -> None:
    assert truth.result("right", "energy_inside").mean == {"mean": 1, "low": 1, "high": 1}
    assert truth.result("wrong", "energy_inside").mean["mean"] == 0
    assert truth.result("right", "pointing_game").mean["mean"] == 1
    # Of noise what is inside is inside by its area.
    area = float(inside().double().mean())
    assert truth.result("noise", "energy_inside").mean["mean"] == pytest.approx(area, rel=0.1)


def test_the_known_curve_of_deletion_is_found(truth: Comparison) -> None:
    """The bright half of the pixels inside speaks for the class, the dark half against it, and the
    first step takes the bright half and a few that are not seen."""
    (entry, *_) = [e for e in truth.entries if (e.method, e.metric) == ("right", "deletion")]
    assert entry.curve[0][0] == 0 and entry.curve[-1][0] == 1 and len(entry.curve) == 29
    dark = float(pictures(24)[entry.picture][(checkers() < 0)[0]].sum())
    assert entry.curve[1][1] == pytest.approx(1 / (1 + math.exp(0.3 * dark)), abs=1e-5)
    assert entry.value == pytest.approx(_area(entry), rel=1e-5)


def test_what_goes_becomes_0_whatever_that_is_to_the_model() -> None:
    """Black is what it is for pixels, and these are not."""
    inputs = 10 * pictures(3) - 5

    class Sums(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.flatten(1).sum(1) / 100 + 1
            return torch.stack([total, 0 * total], 1)

    found = evaluate(Sums(), inputs, "saliency", "deletion", target=0)
    ends = [entry.curve[-1][1] for entry in found.entries]
    assert ends == pytest.approx([1 / (1 + math.exp(-1))] * len(ends), abs=1e-5)
    for name in ("deletion", "faithfulness_correlation"):
        assert "become 0 (black, where pixels are in [0, 1])" in METRICS[name].meaning


def _area(entry: Entry) -> float:
    (x, y) = (
        torch.tensor(values, dtype=torch.float64) for values in zip(*entry.curve, strict=True)
    )
    return float(torch.trapezoid(y, x))


def test_integrated_gradients_win_on_digits_and_controls_do_not(of_digits: Comparison) -> None:
    found = of_digits.result("integrated_gradients", "deletion", "signed")
    assert found.minus["random"].better is True
    assert of_digits.result("random", "deletion", "signed").minus["first"].better is False
    # A digit, blurred a little, is a digit.
    assert "insertion (signed) tells little here: the class keeps 100 %" in repr(of_digits)
    assert "deletion (signed) tells little" not in repr(of_digits)
    assert of_digits.methods == ["integrated_gradients", "saliency", "lime", "random", "centre"]


def test_peers_are_compared_as_functions(digits: Tensor) -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")

    def theirs(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
        maps: Tensor = captum.IntegratedGradients(model).attribute(inputs, target=target, n_steps=8)
        return maps

    methods = {"ours": {"method": "integrated_gradients", "n_steps": 8}, "theirs": theirs}
    found = evaluate(load_demo_model(), digits, methods, "deletion")
    difference = found.result("theirs", "deletion").minus["first"]
    assert abs(difference.mean["mean"]) < 1e-4 and difference.verdict == "no different"
    assert found.costs["theirs"].gradients == found.costs["ours"].gradients == 8


# ---------------------------------------------------------------- one rule for all methods


def test_all_methods_explain_the_same_class_of_the_same_pictures(digits: Tensor) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def watching(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
        seen.append((inputs, target))
        return inputs

    model = load_demo_model()
    evaluate(model, digits, watching, "deletion", batch_size=3)
    evaluate(model, digits, watching, "deletion", target=4)
    evaluate(model, digits, watching, "deletion", target=list(range(8)), batch_size=3)
    assert torch.equal(torch.cat([inputs for inputs, _ in seen[:3]]), digits)
    assert torch.equal(torch.cat([target for _, target in seen[:3]]), model(digits).argmax(1))
    assert seen[3][1].tolist() == [4] * 8
    assert torch.cat([target for _, target in seen[4:]]).tolist() == list(range(8))


def test_functions_of_a_model_with_preprocessing_get_one_of_pixels() -> None:
    inputs, scaled_by = pictures(6), Preprocessing(mean=(0.5,), std=(0.25,), channels=1)

    class Rescaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return SeesCheckers()(x * 0.25 + 0.5)

    def slopes(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
        inputs = inputs.clone().requires_grad_()
        model(inputs).gather(1, target[:, None]).sum().backward()
        assert inputs.grad is not None
        return inputs.grad

    plain = evaluate(SeesCheckers(), inputs, slopes, "deletion")
    found = evaluate(Rescaled(), inputs, slopes, "deletion", preprocessing=scaled_by)
    for one, other in zip(plain.entries, found.entries, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-5)
    assert found.costs["slopes"].gradients == 1 and found.costs["slopes"].queries == 0


def test_gradients_of_layers_inside_are_counted_and_answers_are_not() -> None:
    """A model that can be trained keeps a graph in either case."""
    model, inputs = conv_net(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def grad_cam(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = model[2].register_forward_hook(lambda module, given, made: seen.append(made))
        scores = model(inputs).gather(1, target[:, None])
        hook.remove()
        (slopes,) = torch.autograd.grad(scores.sum(), seen)
        cam = (slopes.mean((2, 3), keepdim=True) * seen[0]).sum(1, keepdim=True).relu()
        return nn.functional.interpolate(cam, inputs.shape[2:], mode="bilinear")

    def answers(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
        assert model(inputs).requires_grad
        return inputs

    def both(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
        return answers(model, inputs, target) + grad_cam(model, inputs, target)

    found = evaluate(model, inputs, [grad_cam, answers, both], "sparseness", batch_size=3)
    spent = {name: (cost.gradients, cost.queries) for name, cost in found.costs.items()}
    assert spent["grad_cam"] == (1, 0)
    assert spent["answers"] == (0, 1)
    assert spent["both"] == (1, 1)


def test_sizes_rank_maps_of_either_sign_alike(digits: Tensor) -> None:
    def negative(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
        return -inputs - 0.1

    def positive(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
        return inputs + 0.1

    found = evaluate(load_demo_model(), digits, [positive, negative], "deletion", signed="both")
    by_size = [found.result(name, "deletion", "absolute") for name in ("positive", "negative")]
    signed = [found.result(name, "deletion", "signed") for name in ("positive", "negative")]
    assert by_size[0].mean == by_size[1].mean == signed[0].mean
    assert signed[1].minus["first"].verdict == "worse"
    only = evaluate(load_demo_model(), digits, [positive, negative], "deletion", signed=False)
    assert only.result("negative", "deletion").mean == by_size[1].mean
    assert {entry.order for entry in only.entries} == {"absolute"}


def test_results_do_not_depend_on_the_batches(digits: Tensor) -> None:
    methods = {"smooth_grad": {"n_samples": 6}, "rise": {"n_queries": 30}}
    # All that draw numbers of their own, and one that does not.
    metrics = ("deletion", "road", "faithfulness_correlation", "infidelity", "max_sensitivity")
    one, other = (
        evaluate(load_demo_model(), digits, methods, metrics, seed=3, batch_size=size)
        for size in (8, 3)
    )
    for a, b in zip(*(sorted(each.entries, key=_place) for each in (one, other)), strict=True):
        assert (a.picture, a.method, a.target) == (b.picture, b.method, b.target)
        assert a.value == pytest.approx(b.value, abs=1e-4, nan_ok=True)


def _place(entry: Entry) -> tuple[str, str, int]:
    return entry.method, entry.metric, entry.picture


@pytest.mark.parametrize("output", ["logit", "prob", "margin", None])
def test_infidelity_is_of_the_score_that_is_explained(digits: Tensor, output: str | None) -> None:
    model = load_demo_model()
    found = evaluate(model, digits, {"saliency": {"abs": False}}, "infidelity", output=output)
    kind = output or "logit"
    target = model(digits).argmax(1)
    slopes = explain(model, digits, method="saliency", abs=False, output=kind).attributions
    expected = infidelity(model, digits, slopes, target, normalise=True, output=kind)
    mine = [entry.value for entry in found.entries if entry.method == "saliency"]
    assert mine == pytest.approx(expected.tolist(), rel=1e-4)


def test_controls_are_not_praised_for_never_changing(digits: Tensor) -> None:
    found = evaluate(load_demo_model(), digits, "saliency", "max_sensitivity")
    best = found.result("saliency", "max_sensitivity")
    assert best.mean is not None and best.mean["mean"] > 0 and not best.minus
    assert found.result("random", "max_sensitivity").mean is None
    assert "| random" in found.table() and "saliency is not shown" not in found.table()


def test_maps_that_are_not_finite_count_for_nothing(digits: Tensor) -> None:
    def broken(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
        maps = inputs.clone()
        maps[2, 0, 0, 0] = math.nan
        return maps

    found = evaluate(load_demo_model(), digits, broken, ("deletion", "sparseness"))
    line = found.result("broken", "deletion")
    assert line.pictures == line.minus["random"].pictures == 7
    assert [e.picture for e in found.entries if math.isnan(e.value)] == [2, 2]


class Overflows(SeesCheckers):
    """Answers NaN, as half precision may, to a picture with a white corner and much black."""

    def forward(self, x: Tensor) -> Tensor:
        white, black = x[:, 0, 0, 0] == 1, (x == 0).flatten(1).double().mean(1) > 0.5
        return super().forward(x).masked_fill((white & black)[:, None], math.nan)


def corner_last(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
    maps = torch.ones_like(inputs)
    maps[:, :, 0, 0] = 0
    return maps


def some_overflow(overflow: slice) -> Comparison:
    inputs = pictures(8)
    inputs[:, :, 0, 0] = 0.5
    inputs[overflow, :, 0, 0] = 1
    return evaluate(Overflows(), inputs, corner_last, "deletion")


def test_one_answer_that_is_not_finite_leaves_its_picture_out(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    found = some_overflow(slice(2, 3))
    mine = [entry for entry in found.entries if entry.method == "corner_last"]
    assert [len(entry.curve) for entry in mine] == [29, 29, 0, 29, 29, 29, 29, 29]
    assert [math.isnan(entry.value) for entry in mine] == [n == 2 for n in range(8)]
    assert found.result("corner_last", "deletion").pictures == 7
    assert (found.save(tmp_path) / "curves.png").exists()
    # Rows that an earlier version wrote have what was finite of such a curve.
    ragged = [
        replace(entry, curve=((0.0, 0.5),)) if math.isnan(entry.value) else entry
        for entry in found.entries
    ]
    assert replace(found, entries=ragged).figures.keys() == found.figures.keys()


def test_a_method_without_any_curve_is_left_out_of_the_figure() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    (legend,) = some_overflow(slice(None)).figures["curves"].legends
    assert [text.get_text() for text in legend.get_texts()] == ["random"]


def test_pictures_without_a_mask_count_where_none_is_needed() -> None:
    some = masks(8).clone()
    some[3] = False
    found = evaluate(SeesCheckers(), pictures(8), "saliency", "deletion", masks=some)
    assert found.result("saliency", "iou").pictures == 7
    assert found.result("saliency", "deletion").pictures == 8


def test_metrics_that_share_what_the_model_answers_ask_once(digits: Tensor) -> None:
    both = evaluate(load_demo_model(), digits, "saliency", "road")
    alone = evaluate(load_demo_model(), digits, "saliency", "road_most_first")
    assert [one.judged for one in both.spent] == [one.judged for one in alone.spent]
    road = both.result("saliency", "road").mean["mean"]
    least, most = (both.result("saliency", f"road_{end}_first").mean for end in ("least", "most"))
    assert road == pytest.approx(least["mean"] - most["mean"], abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_judges_digits(digits: Tensor, name: str) -> None:
    if name in ("sic", "aic"):
        pytest.importorskip("scipy", reason="SciPy is not installed")
    where = torch.zeros(4, 32, 32, dtype=torch.bool)
    where[:, 8:24, 8:24] = True
    methods = {"integrated_gradients": {"n_steps": 6}}
    found = evaluate(load_demo_model(), digits[:4], methods, name, masks=where)
    line = found.result("integrated_gradients", name)
    assert line.mean is not None and line.pictures >= 1
    assert METRICS[name].meaning and METRICS[name].good in found.markdown()


def test_the_completeness_gap_is_of_methods_that_promise_it(digits: Tensor) -> None:
    methods = {"integrated_gradients": {"n_steps": 40}, "saliency": {}}
    found = evaluate(load_demo_model(), digits, methods, "completeness_gap")
    assert found.result("integrated_gradients", "completeness_gap").mean["mean"] < 1e-3
    assert found.result("saliency", "completeness_gap").mean is None
    assert "Not known of saliency, random, centre." in found.markdown()


# ---------------------------------------------------------------- budgets

BUDGET = 24
BY_GRADIENTS = (
    "integrated_gradients", "guided_ig", "blur_ig", "smooth_grad", "expected_gradients",
    "stick_breaking_ig", "geometrically_guided_ig",
)  # fmt: skip
BY_QUERIES = ("kernel_shap", "lime", "rise", "dax")


def test_equal_budgets_are_kept_to_the_count(digits: Tensor) -> None:
    methods = {name: {} for name in (*BY_GRADIENTS, *BY_QUERIES)}
    methods["expected_gradients"] = {"baselines": digits}
    some = digits[:3]
    found = evaluate(load_demo_model(), some, methods, "sparseness", budget=BUDGET)
    spent = {one.method: one for one in found.spent}
    assert {spent[name].gradients for name in BY_GRADIENTS} == {BUDGET * 3}
    assert {spent[name].gradients for name in BY_QUERIES} == {0}
    # Besides, each picture is looked at once: which class is it?
    assert {spent[name].queries for name in BY_QUERIES} == {BUDGET * 3 + 3}
    assert found.about["notes"] == {} and found.about["budget"] == BUDGET
    assert spent["random"].gradients == spent["random"].queries == 0


def test_what_cannot_be_scaled_is_said(digits: Tensor) -> None:
    methods = ["saliency", "integrated_gradients"]
    found = evaluate(load_demo_model(), digits[:2], methods, "sparseness", budget=9)
    assert found.about["notes"] == {"saliency": "asks the model once, not 9"}
    assert "saliency: asks the model once, not 9." in repr(found)


@pytest.mark.parametrize(
    ("method", "options", "budget", "asks"),
    [
        ("integrated_gradients", {}, 7, 7),
        ("stick_breaking_ig", {}, 60, 60),
        ("stick_breaking_ig", {"n_paths": 7}, 60, 56),
        ("stick_breaking_ig", {}, 31, 31),
        ("diffusion_ig", {"path_model": "demo"}, 200, 200),
        ("geometrically_guided_ig", {}, 100, 100),
        ("geometrically_guided_ig", {"n_steps": 9}, 100, 100),
        ("geometrically_guided_ig", {"n_ascent": 7}, 100, 98),
        ("kernel_shap", {}, 300, 300),
        ("freemcg", {}, 301, 301),
        ("freemcg", {"levels": (10, 20)}, 100, 99),
        ("saliency", {"gradient": LikelihoodRatio(n_samples=40)}, 100, 40),
        ("integrated_gradients", {"gradient": LikelihoodRatio(n_samples=40)}, 100, 80),
    ],
)
def test_scaled_options_ask_as_often_as_they_say(
    method: str, options: dict[str, Any], budget: int, asks: int
) -> None:
    found = scaled(method, options, budget)
    assert found.asks == asks
    assert (found.note is None) == (asks == budget)
    made = found.options
    assert set(made) <= options_of(method)
    count = made.get("n_queries") or made.get("n_samples") or 1
    if "n_steps" in made:
        starts = made["n_steps"] + ("n_ascent" in made)
        count = starts * made.get("n_paths", 1) * made.get("n_ascent", 1)
    if "n_particles" in made:
        count = made["n_particles"] * len(made.get("levels", (1, 2, 3))) + 1
    each = getattr(made.get("gradient"), "evaluations", 1)
    assert count * each == asks


@pytest.mark.parametrize(
    ("method", "options", "budget", "message"),
    [
        ("integrated_gradients", {"n_steps": 9}, 10, "must not be given together with n_steps"),
        ("lime", {}, 2, "must be at least 3 for lime, got 2"),
        ("freemcg", {}, 6, "must be at least 7 for freemcg, of 3 levels"),
        ("stick_breaking_ig", {"n_paths": 40}, 10, "must be at least 40 with these options"),
        ("saliency", {"gradient": LikelihoodRatio(n_samples=40)}, 10, "must be at least 40"),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused(
    method: str, options: dict[str, Any], budget: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"budget: {message}"):
        scaled(method, options, budget)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("geometrically_guided_ig", {"n_ascent": 0}, "n_ascent must be an integer >= 1, got 0"),
        ("geometrically_guided_ig", {"n_steps": -1}, "n_steps must be an integer >= 1, got -1"),
        ("geometrically_guided_ig", {"first_point": "a"}, "first_point must be an integer >= 0"),
        ("geometrically_guided_ig", {"n_steps": 3, "first_point": 4}, "first_point must be at mo"),
        ("stick_breaking_ig", {"n_steps": 0}, "n_steps must be an integer >= 1, got 0"),
        ("stick_breaking_ig", {"n_paths": "abc"}, "n_paths must be an integer >= 1, got 'abc'"),
        ("freemcg", {"levels": []}, r"levels must be different integers, at least one, got \[\]"),
        ("freemcg", {"levels": 5}, "levels must be different integers, at least one, got 5"),
        ("freemcg", {"n_particles": "a"}, "n_particles must be an integer >= 1, got 'a'"),
    ],
)
def test_counts_that_make_no_sense_are_named_before_they_divide_a_budget(
    method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"{method}: {message}"):
        scaled(method, options, 40)


def test_a_model_that_only_answers_is_asked_no_more_than_it_must(digits: Tensor) -> None:
    model = load_demo_model()
    box = BlackBox(lambda x: model(x))
    found = evaluate(box, digits[:2], {"lime": {}}, "deletion", budget=30)
    (spent, *controls) = found.spent
    assert spent.queries == 2 * 30 + 2
    asked = spent.queries + sum(one.judged for one in (spent, *controls))
    assert box.queries == asked + 2  # to see what is predicted


# ---------------------------------------------------------------- what is noise


def entries_of(values: dict[str, list[float]], metric: str = "insertion") -> list[Entry]:
    return [
        Entry(number, method, metric, "signed", str(number), 0, value)
        for method, found in values.items()
        for number, value in enumerate(found)
    ]


def test_rounding_is_no_difference() -> None:
    one = {number: 0.25 + number for number in range(12)}
    rounded = {number: value * (1 + 1e-7) for number, value in one.items()}
    better = {number: value * (1 + 1e-3) for number, value in one.items()}
    same = difference_of(rounded, one, "one", True)
    assert same is not None and same.verdict == "no different" and same.mean["mean"] == 0
    found = difference_of(better, one, "one", True)
    assert found is not None and found.verdict == "better"
    assert difference_of(one, {20: 1.0}, "one", True) is None


def test_differences_are_paired() -> None:
    """A difference that is the same for all pictures has no interval, however much they differ."""
    first = [float(n % 7) for n in range(20)]
    shifted = [value - 0.25 for value in first]
    lines = judged(entries_of({"a": first, "random": shifted}), ["a", "random"])
    assert lines[0].minus["random"].mean == {"mean": 0.25, "low": 0.25, "high": 0.25}
    assert lines[0].minus["random"].verdict == "better"
    assert lines[1].minus["first"].verdict == "worse"
    assert lines[0].mean["high"] - lines[0].mean["low"] > 1


@pytest.mark.parametrize(
    ("metric", "verdict"),
    [("insertion", "better"), ("deletion", "worse"), ("complexity", "higher")],
)
def test_which_way_is_good_is_the_metrics(metric: str, verdict: str) -> None:
    values = {"a": [1.0 + n / 10 for n in range(9)], "random": [n / 10 for n in range(9)]}
    (line, _) = judged(entries_of(values, metric), ["a", "random"])
    assert line.minus["random"].verdict == verdict
    assert line.minus["random"].better is {"better": True, "worse": False}.get(verdict)


def test_few_pictures_tell_nothing() -> None:
    values = {"a": [1.0] * (FEWEST - 1), "random": [0.0] * (FEWEST - 1)}
    (line, _) = judged(entries_of(values), ["a", "random"])
    assert line.minus["random"].verdict == "too few pictures to tell"
    assert line.minus["random"].better is None


def test_only_pictures_with_both_values_are_compared() -> None:
    values = {"a": [1.0, math.nan, 3.0, 4.0], "random": [0.0, 1.0, math.nan, 3.5]}
    (line, _) = judged(entries_of(values), ["a", "random"])
    assert (line.pictures, line.minus["random"].pictures) == (3, 2)
    assert line.mean["mean"] == pytest.approx(8 / 3)
    assert line.minus["random"].mean["mean"] == pytest.approx(0.75)


def easy_and_hard() -> list[Judged]:
    """`all` does well on 6 easy pictures and badly on 14; the others are known of easy ones."""
    values = {
        "all": [0.9 + n / 1000 for n in range(6)] + [0.1] * 14,
        "easy": [0.8] * 6 + [math.nan] * 14,
        "two": [math.nan] * 4 + [1.0] * 2 + [math.nan] * 14,
        "random": [0.3] * 20,
    }
    return judged(entries_of(values), list(values))


def test_the_best_is_chosen_on_pictures_that_all_have() -> None:
    every, easy, two, noise = easy_and_hard()
    assert every.mean["mean"] < easy.mean["mean"] < two.mean["mean"]
    assert [line.best for line in (every, easy, two, noise)] == [True, False, False, False]
    assert (easy.minus["best"].to, easy.minus["best"].verdict) == ("all", "worse")
    # On the easy pictures: on all of them they would hardly differ.
    assert noise.minus["best"].pictures == 6 and noise.minus["best"].verdict == "worse"
    assert "best" not in two.minus and two.minus["first"].verdict == "too few pictures to tell"
    apart = judged(
        entries_of({"a": [1.0] * 7 + [math.nan] * 7, "b": [math.nan] * 7 + [2.0] * 7}), "ab"
    )
    assert not any(line.best or line.minus for line in apart)


def marks(lines: list[Judged]) -> list[str]:
    """What stands behind each method's mean."""
    rows = [line.split("|")[2] for line in table.headline(lines, {}).splitlines()[2:]]
    return [row.removesuffix(" ")[-1] for row in rows]


def test_what_cannot_be_told_from_the_best_is_not_called_alike() -> None:
    assert marks(easy_and_hard()) == ["*", " ", "?", " "]
    (best, few, _) = table.legend(easy_and_hard())
    assert best.endswith("seems better than it is.") and few.startswith("? fewer than 6 ")
    same = {"a": [0.5 + n % 3 for n in range(9)], "random": [0.5 + n % 4 for n in range(9)]}
    lines = judged(entries_of(same), list(same))
    assert marks(lines) == ["\u2248", "*"]
    assert any(text.startswith("\u2248 no different") for text in table.legend(lines))
    assert not any("?" in text for text in table.legend(lines))
    short = {name: values[: FEWEST - 1] for name, values in same.items()}
    lines = judged(entries_of(short), list(short))
    assert marks(lines) == ["?", "*"]
    assert not any("\u2248" in text for text in table.legend(lines))


def test_each_pair_is_one_interval_and_the_best_is_chosen_by_looking() -> None:
    names = [*(f"m{n}" for n in range(6)), "random", "centre"]
    generator = torch.Generator().manual_seed(3)
    entries = [
        entry
        for metric in ("insertion", "deletion")
        for entry in entries_of(
            {name: torch.rand(9, generator=generator).tolist() for name in names}, metric
        )
    ]
    said = " ".join(table.findings(judged(entries, names), {}))
    # Seven to random maps, seven to the first, one of which is the same.
    assert "to random and to m0 are 26 intervals" in said
    assert "about 5 in 100 leave out 0. Of those to the best (*) more do." in said


def test_the_bootstrap_is_that_of_its_definition() -> None:
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    values = torch.randn(30, generator=torch.Generator().manual_seed(5)).double()
    draws = torch.randint(30, (RESAMPLES, 30), generator=torch.Generator().manual_seed(0))
    student, normal = stats.t(29), stats.norm()
    tail = normal.cdf((30 / 29) ** 0.5 * student.ppf(0.025))
    low, high = values[draws].mean(1).quantile(torch.tensor([tail, 1 - tail]).double())
    found = mean_of(values)
    assert found["mean"] == float(values.mean())
    assert found["low"] == pytest.approx(float(low), abs=1e-12)
    assert found["high"] == pytest.approx(float(high), abs=1e-12)
    curves = torch.stack([values, 2 * values, values.square()], 1)
    for point, band in enumerate(zip(*band_of(curves), strict=True)):
        one = mean_of(curves[:, point])
        wanted = [one["mean"], one["low"], one["high"]]
        assert [float(v) for v in band] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("count", [6, 8, 25])
def test_of_noise_five_in_a_hundred_intervals_leave_0_out(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    found = [mean_of(torch.randn(count, generator=generator)) for _ in range(600)]
    outside = sum(not one["low"] <= 0 <= one["high"] for one in found)
    assert 0.03 * 600 < outside < 0.075 * 600


def test_one_picture_is_its_own_interval() -> None:
    assert mean_of(torch.tensor([0.25])) == dict.fromkeys(("mean", "low", "high"), 0.25)


def test_blocks_of_resamples_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(53, generator=torch.Generator().manual_seed(5)).double()
    curves = torch.stack([values, values.square()], 1)
    whole, band = mean_of(values, seed=3), band_of(curves, seed=3)
    monkeypatch.setattr(bootstrap, "KEPT", 0)
    for rows in (1300, 7):
        monkeypatch.setattr(bootstrap, "BLOCK", 53 * rows)
        assert mean_of(values, seed=3) == whole
        for one, other in zip(band_of(curves, seed=3), band, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-15)


def test_intervals_of_many_pictures_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "BLOCK", 2**19)
    values = torch.zeros(2000)
    with LargestTensor() as largest:
        mean_of(values)
        band_of(values[:, None])
    assert largest.bytes <= 8 * bootstrap.BLOCK


def test_what_was_not_counted_is_not_known() -> None:
    batches = [Spent(0, "f", 4, None, None, 2.0, 0), Spent(4, "f", 2, None, None, 1.0, 0)]
    (cost,) = costs(batches).values()
    assert (cost.gradients, cost.queries, cost.seconds) == (None, None, 0.5)


# ---------------------------------------------------------------- controls


def test_controls_depend_on_the_picture_s_number_alone() -> None:
    pixels = torch.rand(4, 3, 20, 30)
    whole = random_maps(pixels, [5, 6, 7, 8], 1)
    assert whole.shape == (4, 1, 20, 30) and float(whole.min()) >= 0 and float(whole.max()) <= 1
    assert float(whole.mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(random_maps(pixels[:2], [7, 8], 1), whole[2:])
    assert not torch.equal(random_maps(pixels, [5, 6, 7, 8], 2), whole)
    assert len(set(map(float, whole.sum((1, 2, 3))))) == 4


def test_the_centre_is_symmetric_and_hottest_in_the_middle() -> None:
    maps = CONTROLS["centre"](torch.rand(2, 3, 9, 15), [0, 1], 0)
    assert maps.shape == (2, 1, 9, 15)
    torch.testing.assert_close(maps, maps.flip(2, 3))
    assert int(maps[0].argmax()) == 4 * 15 + 7


# ---------------------------------------------------------------- what is written


def test_all_that_was_found_is_written(of_digits: Comparison, tmp_path: Path) -> None:
    folder = of_digits.save(tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    figures = {"curves.png", "dots.png", "maps.png"}
    assert names == {"maps.csv", "costs.csv", "summary.csv", "summary.json", "summary.md"} | figures
    with (folder / "maps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 5 * 5 * 2  # road has two parts; both orders
    found = json.loads((folder / "summary.json").read_text())
    assert found["orders"] == ["signed", "absolute"] and found["versions"]["pyxai_fast"]
    assert found["methods"]["integrated_gradients"]["n_steps"] == 10
    assert len(found["results"]) == 5 * 5 * 2
    with (folder / "summary.csv").open(newline="") as file:
        (line, *_) = csv.DictReader(file)
    assert line["than_random"] == found["results"][0]["minus_random"]["verdict"]
    from PIL import Image

    for name in figures:
        drawn = np.asarray(Image.open(folder / name).convert("L"))
        assert drawn.shape[0] > 300 and len(np.unique(drawn)) > 10


def test_entries_are_read_as_they_were_written(of_digits: Comparison) -> None:
    for entry in of_digits.entries:
        assert Entry.of(entry.row) == entry
    for spent in of_digits.spent:
        assert Spent.of(spent.row) == spent
    unknown = Entry(3, "a", "iou", "signed", "a,b\n.png", 1, math.nan)
    assert Entry.of(unknown.row).row == unknown.row


def test_the_table_says_what_is_good_and_what_is_noise(truth: Comparison) -> None:
    said = repr(truth)
    assert "24 pictures, SeesCheckers. Explained is the class that the model predicts" in said
    (head,) = [line for line in said.splitlines() if line.startswith("| method")]
    assert "insertion \u2191" in head and "deletion \u2193" in head and "road most" not in head
    (right,) = [line for line in said.splitlines() if line.startswith("| right")]
    assert right.count("*") == 6
    (noise,) = [line for line in said.splitlines() if line.startswith("- noise is not shown")]
    assert "deletion" in noise
    assert not [line for line in said.splitlines() if line.startswith("- right is not shown")]
    text = truth.markdown()
    assert "## deletion: small is good" in text and "## insertion: large is good" in text
    assert "better, -0." in text.split("## deletion")[1].split("## ")[0]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (None, "the class that the model predicts"),
        (1, "class 1"),
        (torch.tensor(1), "class 1"),
        ([1, 0, 1], "each picture's own target"),
        (torch.tensor([1, 0, 1]), "each picture's own target"),
    ],
)
def test_the_table_says_what_is_explained(target: Any, said: str) -> None:
    found = evaluate(SeesCheckers(), pictures(3), "saliency", "sparseness", target=target)
    assert f"Explained is {said}; judged" in repr(found)


def test_figures_are_drawn_of_what_there_is(of_digits: Comparison, truth: Comparison) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert set(of_digits.figures) == {"dots", "curves", "maps"}
    curves = of_digits.figures["curves"]
    assert [axis.get_title() for axis in curves.axes if axis.get_title()] == [
        f"{name} ({order}): {good}"
        for name, good in (
            ("insertion", "large is good"),
            ("deletion", "small is good"),
            ("road most first", "small is good"),
            ("road least first", "large is good"),
        )
        for order in ("signed", "absolute")
    ]
    (legend,) = curves.legends
    assert [text.get_text() for text in legend.get_texts()][-2:] == ["random", "centre"]
    only = evaluate(SeesCheckers(), pictures(2), "saliency", "sparseness")
    assert set(only.figures) == {"dots", "maps"}
    only.plot()


def test_rows_go_on_where_they_ended(tmp_path: Path) -> None:
    path, head = tmp_path / "rows.csv", ("key", "value")
    rows = [(str(n), f"v{n},\n") for n in range(6)]
    whole = RowsFile(path, head)
    for row in rows:
        whole.add([row])
    bytes_ = path.read_bytes()
    # Cut anywhere: within a row, between rows, within the head.
    for cut in range(0, len(bytes_), 3):
        path.write_bytes(bytes_[:cut])
        again = RowsFile(path, head)
        for row in rows:
            if again.comes([row[:1]]) and again.rows[int(row[0])] == row:
                again.skip(1)
            else:
                again.add([row])
        assert path.read_bytes() == bytes_


def test_rows_that_are_not_the_next_are_replaced(tmp_path: Path) -> None:
    path, head = tmp_path / "rows.csv", ("key", "value")
    RowsFile(path, head).add([("1", "a"), ("2", "b"), ("3", "c")])
    again = RowsFile(path, head)
    assert again.comes([("1",)]) and not again.comes([("1",), ("9",)])
    again.skip(1)
    again.add([("9", "z")])
    assert path.read_text() == "key,value\n1,a\n9,z\n"
    RowsFile(path, ("other", "columns")).add([("5", "q")])
    assert path.read_text() == "other,columns\n5,q\n"


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"methods": "integrated_gradient"}, ValueError, "did you mean integrated_gradients"),
        ({"methods": {"saliency": {"n_steps": 3}}}, TypeError, "options of saliency must be among"),
        ({"methods": []}, ValueError, "methods must name at least one, got none"),
        ({"methods": {"random": elsewhere}}, ValueError, "must not be called random or centre"),
        ({"methods": 5}, TypeError, "methods must be names, options or functions, got int"),
        (
            {"methods": {"a": {"method": ["x"]}}},
            TypeError,
            r"name of a method, got \['x'\]",
        ),
        ({"methods": {"a": 3}}, TypeError, "names, options or functions, got int for 'a'"),
        ({"methods": [elsewhere, elsewhere]}, ValueError, "got 'elsewhere' twice"),
        ({"metrics": "insertoin"}, ValueError, "'insertoin'; did you mean insertion"),
        ({"metrics": 5}, TypeError, "evaluate: metrics must be names, got int"),
        ({"metrics": [["deletion"]]}, ValueError, r"metrics must be among .* got \['deletion'\]"),
        ({"metrics": "iou"}, ValueError, "masks must be given for iou"),
        ({"inputs": torch.rand(3, 8)}, ValueError, r"floating-point \[B, C, H, W\]"),
        ({"inputs": [1]}, TypeError, "inputs must be a tensor, got list"),
        ({"masks": torch.ones(2, 5, 5).bool()}, ValueError, "masks must be"),
        ({"masks": torch.ones(2, 32, 32)}, TypeError, "masks must be a tensor of bool"),
        ({"signed": "no"}, ValueError, "signed must be True, False or 'both', got 'no'"),
        ({"target": [1, 2, 3]}, ValueError, "one for each of 2 inputs"),
        ({"target": "a"}, TypeError, "evaluate: target must be a class, .* got 'a'"),
        ({"target": 7}, ValueError, "target must be from 0 to 1"),
        ({"budget": "a"}, ValueError, "evaluate: budget must be an integer >= 1, got 'a'"),
        (
            {"methods": {"saliency": {"gradient": "freemcg"}}},
            ValueError,
            "gradient must be an instance where it needs a prior",
        ),
        (
            {"methods": {"saliency": {"gradient": "freemcg"}}, "budget": 9},
            ValueError,
            "gradient must be an instance where it needs a prior",
        ),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1"),
        ({"names": ["a"]}, ValueError, "names must be one for each of 2 inputs, got 1"),
        ({"methods": lambda m, x, t: x[:, :, :4]}, ValueError, "must return attributions"),
        ({"model": 5}, TypeError, "model must be callable, got int"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    changed: dict[str, Any], kind: type[Exception], message: str
) -> None:
    call: dict[str, Any] = {"model": SeesCheckers(), "inputs": pictures(2), "methods": "saliency"}
    with pytest.raises(kind, match=message):
        evaluate(**(call | changed))


@pytest.mark.parametrize("metric", ["sic", "aic"])
def test_what_a_metric_cannot_judge_is_refused_before_any_map_is_made(metric: str) -> None:
    pytest.importorskip("scipy", reason="SciPy is not installed")
    with pytest.raises(ValueError, match=rf"evaluate: {metric}: inputs must be pixels in \[0, 1\]"):
        evaluate(SeesCheckers(), 2 * pictures(2), never, ("deletion", metric))


def test_a_package_that_a_metric_misses_is_told_before_any_map_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    with pytest.raises(ImportError, match="evaluate: sic: SciPy is needed"):
        evaluate(SeesCheckers(), pictures(2), never, ("deletion", "sic"))


def never(model: Any, inputs: Tensor, target: Tensor) -> Tensor:
    raise AssertionError("a map is made")


@pytest.mark.parametrize("changed", [{"names": ["a"]}, {"names": 5}, {"target": [1, 2, 3]}])
def test_what_is_refused_has_no_progress_bar(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def opening(*arguments: Any) -> Progress:
        opened.append(arguments)
        return Silence()

    monkeypatch.setattr("pyxai_fast.evaluation.front_door.job_progress", opening)
    with pytest.raises((TypeError, ValueError), match="one for each of 2 inputs"):
        evaluate(SeesCheckers(), pictures(2), "saliency", progress=True, **changed)
    assert not opened


def test_a_result_that_there_is_not_is_refused(of_digits: Comparison) -> None:
    with pytest.raises(ValueError, match="order says which"):
        of_digits.result("saliency", "insertion")
    with pytest.raises(ValueError, match="got 'nobody' and 'insertion'"):
        of_digits.result("nobody", "insertion")

"""Whatever `evaluate` is asked to compare, and whatever lies in a folder of masks: a table, masks,
or one clear error."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import damages, png
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_fuzz_explain import FLOATS, MISTAKES, OTHERS, laid, nothing_changes
from test_fuzz_metrics import Given, gradient, held, inside, model_of, with_odd_numbers
from torch import nn

from pyxai_fast import Preprocessing
from pyxai_fast.errors import ArgumentError
from pyxai_fast.evaluation import METRICS, Comparison, evaluate
from pyxai_fast.evaluation.controls import CONTROLS
from pyxai_fast.evaluation.mask_folder import MaskFolder

SIZES = ((1, 8, 8), (3, 8, 8), (1, 1, 1), (2, 3, 5))
PROMPT = ("deletion", "diffid", "complexity", "sparseness", "completeness_gap", "insertion")

# What is given in the place of an argument, besides what nobody means.
OPTIONS: dict[str, list[Any]] = {
    "methods": ["saliency", ["saliency", "input_x_gradient"], ["saliency", "saliency"], gradient,
                {"a": gradient, "saliency": {}}, {"a": {"method": "saliency", "nonsense": 1}},
                {"a": {}}, {"saliency": {"abs": "yes"}}, "saliencey", "random", {"random": {}}, [],
                {"ig": {"method": "integrated_gradients", "n_steps": 2}}, lambda *_: "map",
                lambda model, x, target: x[:, :, 0], lambda model, x, target: x * torch.nan],
    "metrics": [*PROMPT, PROMPT, "iou", ("pointing_game", "iou"), "delete", (), ("deletion", 3),
                "sic", "infidelity"],
    "target": [None, 0, 2, -1, 99, [0, 1, 2], [0], torch.tensor([2, 0, 1]), 2**70, [[0], [1], [2]]],
    "masks": [None, inside((3, 8, 8)), inside((3, 1, 8, 8)), inside((1, 8, 8)),
              torch.zeros(3, 8, 8, dtype=torch.bool), torch.ones(3, 8, 8)],
    "preprocessing": [None, Preprocessing((0.5,), (0.25,), channels=1)],
    "seed": [0, 3, 2**63, -1, 2**70],
    "budget": [None, 1, 5, 0, -3],
    "signed": [True, False, "both", "neither"],
    "output": [None, "logit", "prob", "logprob", "margin", "score"],
    "select_output": [None, lambda outputs: outputs, lambda outputs: outputs[:, 0]],
    "class_names": [None, ["a", "b", "c"], ["a"]],
    "names": [None, ["x", "y", "z"], ["x"]],
    "batch_size": [1, 2, 100, 0],
    "precision": ["fp32", "bf16", "fp64"],
}  # fmt: skip


@st.composite
def fitting(draw: st.DrawFn) -> Given:
    size = (draw(st.sampled_from([3, 1])), *draw(st.sampled_from(SIZES)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    asked: Given = {
        "model": model_of(dtype),
        "inputs": laid(draw, size, dtype, 1),
        "methods": draw(st.sampled_from(["saliency", gradient, {"input_x_gradient": {}}])),
        "metrics": draw(st.sampled_from(["deletion", ("diffid", "complexity")])),
    }
    if draw(st.booleans()):
        asked["masks"] = inside((size[0], *size[2:]))
    return asked


@st.composite
def mistaken(draw: st.DrawFn) -> Given:
    """The same with an argument or two replaced."""
    asked = draw(fitting())
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted({*OPTIONS, "inputs", "model"})))
        if name in OPTIONS and draw(st.integers(0, 2)):
            asked[name] = draw(st.sampled_from(OPTIONS[name]))
        elif name == "inputs" and draw(st.booleans()):
            size = (draw(st.sampled_from([0, 1, 3])), *draw(st.sampled_from([*SIZES, (5,)])))
            values = laid(draw, size, draw(st.sampled_from(FLOATS + OTHERS)), 2)
            asked[name] = draw(st.sampled_from([values, asked[name]]))
            if asked[name] is not values:
                asked[name] = with_odd_numbers(draw, asked[name])
        else:
            asked[name] = draw(st.sampled_from([m for m in MISTAKES if not callable(m)]))
    return asked


def comparison(asked: Given) -> Comparison | None:
    """What comes of it; None where it is refused in words, by `evaluate` or by what it asks."""
    model = asked["model"] if isinstance(asked["model"], nn.Module) else nn.Module()
    with nothing_changes(model, *filter(held, asked.values())), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return evaluate(**asked)
        except (TypeError, ValueError) as error:
            told = f"{type(error).__name__}: {error}"
            assert re.match(r"[\w ]+: .*\bmust\b", str(error), re.DOTALL), told
            return None


def check(asked: Given, found: Comparison) -> None:
    """There is a figure for each picture, method, metric and order."""
    count = len(asked["inputs"])
    judged = {entry.metric for entry in found.entries}
    assert judged <= set(METRICS) and set(found.methods[-len(CONTROLS) :]) == set(CONTROLS)
    keys = [(e.picture, e.method, e.metric, e.order) for e in found.entries]
    assert len(set(keys)) == len(keys)
    assert {key[:3] for key in keys} == {
        (number, method, metric)
        for number in range(count)
        for method in found.methods
        for metric in judged
    }
    assert not any(math.isinf(entry.value) for entry in found.entries)
    assert repr(found)


@given(asked=fitting())
@settings(max_examples=25)
def test_a_comparison_that_fits_has_a_figure_for_each(asked: Given) -> None:
    found = comparison(asked)
    assert found is not None
    check(asked, found)


@given(asked=mistaken())
@settings(max_examples=150)
def test_a_mistake_is_told_in_words_or_makes_no_difference(asked: Given) -> None:
    assume(asked.get("seed", 0) is not None)  # which is drawn from torch's own numbers
    found = comparison(asked)
    if found is not None:
        check(asked, found)


# --- folders of masks -----------------------------------------------------------------------------

GREY = Preprocessing(channels=1)
WHITE = png(8, 6, b"".join(b"\0" + b"\xff" * 8 for _ in range(6)))


@given(data=st.data())
@settings(max_examples=120)
def test_damaged_masks_are_masks_or_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("masks")
    (folder / "x.png").write_bytes(data.draw(damages(WHITE)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masks = MaskFolder(folder)
        assert masks.fingerprint(["x.png", "y.png"])["count"] == 1
        try:
            mask = masks.read("x.png", GREY, (6, 8))
        except ArgumentError as error:
            assert re.match(r"evaluate: masks must be [^\n]*x\.png[^\n]*$", str(error)), error
        else:
            assert mask.dtype == torch.bool and mask.shape == (1, 6, 8)


ENTRIES = (
    "x.png", "x.jpg", "y.PNG", ".hidden.png", "notes.txt", "z.png", "no suffix", "in/x.png",
)  # fmt: skip


@given(
    names=st.lists(st.sampled_from(ENTRIES), unique=True),
    folders=st.sets(st.sampled_from(ENTRIES), max_size=2),
)
@settings(max_examples=60)
def test_any_folder_is_masks_or_one_line(
    names: list[str], folders: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("masks")
    for name in names:
        path: Path = folder / name
        path.parent.mkdir(exist_ok=True)
        if name in folders:
            path.mkdir()
        else:
            path.write_bytes(WHITE)
    try:
        masks = MaskFolder(folder)
        masks.check(names)
        masks.fingerprint(names)
        found = [masks.read(name, GREY, (6, 8)) for name in names]
    except ArgumentError as error:
        assert re.match(r"evaluate: masks must [^\n]*, got [^\n]*$", str(error)), error
    else:
        assert all(mask.shape == (1, 6, 8) for mask in found)
        assert not masks.has("elsewhere/w.png")
        assert not bool(masks.read("w.png", GREY, (6, 8)).any())

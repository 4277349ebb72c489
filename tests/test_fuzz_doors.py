"""Whatever goes through the doors to other packages: arrays of the right shape, or one clear
error."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fuzz_explain import MISTAKES, laid
from test_fuzz_metrics import model_of
from torch import Tensor

from pyxai_fast import Preprocessing, Targets, explain
from pyxai_fast.doors import pair
from pyxai_fast.doors.captum import picture
from pyxai_fast.doors.pair import call_model_function, from_call_model_function
from pyxai_fast.doors.shap import shap_explanation

SHAPES = ((5,), (1, 8, 8), (3, 8, 8), (2, 4, 6), (1, 1, 1))
# Those that cannot be called: of others Python says itself what they miss.
NOTHING = [mistake for mistake in MISTAKES if not callable(mistake)]


def told(call: Callable[[], Any]) -> Any:
    """What a call gives; None where it is refused in words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except (TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
            assert re.match(r"\w+: .*\bmust\b", str(error), re.DOTALL), said
            return None


@st.composite
def explanations(draw: st.DrawFn) -> Any:
    """Of tables and pictures, in every type of numbers; seldom something else."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(NOTHING))
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(
        st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
    )  # fmt: skip
    inputs = laid(draw, (draw(st.sampled_from([1, 3])), *shape), dtype, 1)
    target = draw(st.sampled_from([0, None, Targets(0, 2)]))
    method = draw(st.sampled_from(["saliency", "integrated_gradients"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explain(model_of(dtype), inputs, method=method, target=target)


@given(explanation=explanations(), row=st.sampled_from([0, 0, 2, -1, *NOTHING]))
@settings(max_examples=80)
def test_captum_draws_a_picture_or_is_told(explanation: Any, row: Any) -> None:
    found = told(lambda: picture(explanation, row))
    if found is not None:
        attributions, pixels = found
        _, channels, height, width = explanation.inputs.shape
        assert attributions.shape == (height, width, channels) and attributions.dtype == np.float32
        assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8


@given(explanation=explanations())
@settings(max_examples=40)
def test_shap_has_the_same_numbers_or_is_told(explanation: Any) -> None:
    pytest.importorskip("shap", reason="shap is not installed")
    found = told(lambda: shap_explanation(explanation))
    if found is not None:
        assert found.values.size == explanation.attributions.numel()
        assert np.isfinite(found.values).all()
        total = float(explanation.attributions.double().sum())
        assert float(found.values.astype(np.float64).sum()) == pytest.approx(total, abs=1e-6)


ARRAYS: list[Any] = [
    np.ones((2, 8, 8, 1), np.float32), np.ones((2, 5)), np.ones((1, 8, 8, 3), np.uint8),
    np.ones((0, 5)), np.full((2, 5), np.nan), [[0.1, 0.2]], [np.ones(3), np.ones(3)],
    [np.ones(3), np.ones(2)], np.array(["a"]), np.ones((2, 5), bool), np.ones((2, 5), complex),
]  # fmt: skip
OPTIONS: dict[str, list[Any]] = {
    "target": [0, 2, None, 99, [0, 1]],
    "layer": [None, "last", "lost", *NOTHING],
    "channels": ["last", "first", "middle", *NOTHING],
    "output": ["logit", "prob", "score", *NOTHING],
    "select_output": [None, lambda outputs: outputs, *NOTHING],
    "preprocessing": [None, Preprocessing(channels=3), *NOTHING],
}


@given(
    options=st.dictionaries(st.sampled_from(sorted(OPTIONS)), st.integers(0, 10**6), max_size=2),
    batch=st.sampled_from([*ARRAYS, *ARRAYS, *NOTHING]),
    keys=st.sampled_from([None, pair.KEYS[:1], pair.KEYS[:2], pair.KEYS, ["else"], *NOTHING]),
)
@settings(max_examples=150)
def test_pair_is_answered_or_told(options: dict[str, int], batch: Any, keys: Any) -> None:
    chosen = {name: OPTIONS[name][place % len(OPTIONS[name])] for name, place in options.items()}

    def ask() -> Any:
        call = call_model_function(model_of(torch.float32), **{"target": 0, **chosen})
        return call(batch, expected_keys=keys)

    answer = told(ask)
    if answer is not None:
        assert set(answer) <= set(pair.KEYS)
        for key in pair.KEYS[:2]:
            if key in answer:
                shape = np.shape(batch)
                assert answer[key].shape == (
                    shape if key == pair.INPUT_OUTPUT_GRADIENTS else shape[:1]
                )


def answers(values: Any, slopes: Any) -> Callable[..., Any]:
    def function(x: Any, call_model_args: Any = None, expected_keys: Any = None) -> Any:
        return {pair.OUTPUT_LAYER_VALUES: values, pair.INPUT_OUTPUT_GRADIENTS: slopes}

    return function


@given(
    values=st.sampled_from([np.ones(3), np.ones((3, 1)), np.ones(2), *NOTHING]),
    slopes=st.sampled_from([np.ones((3, 5)), np.ones((3, 4)), np.ones((3, 5), int), *NOTHING]),
)
@settings(max_examples=80)
def test_what_pairs_functions_answer_is_used_or_told(values: Any, slopes: Any) -> None:
    score = from_call_model_function(answers(values, slopes))
    found = told(lambda: explain(score, torch.rand(3, 5), method="saliency", abs=False))
    if found is not None:
        maps = found.attributions
        assert isinstance(maps, Tensor) and maps.shape == (3, 5)

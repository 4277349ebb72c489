"""Quantus's metrics ask our methods as they ask any."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from nets import Linear, conv_net, mlp

from pyxai_fast import METHODS, explain
from pyxai_fast.doors.quantus import quantus_explain


def pictures(batch: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.random((batch, 3, 12, 12)).astype(np.float32), np.arange(batch) % 5


def table(batch: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(batch, 6)).astype(np.float32), np.arange(batch) % 3


# ---------------------------------------------------------------- the call


def test_arrays_go_in_and_the_attributions_of_explain_come_out() -> None:
    x, y = pictures()
    found = quantus_explain(conv_net(), x, y, n_steps=7)
    expected = explain(conv_net(), torch.from_numpy(x), target=torch.from_numpy(y), n_steps=7)
    assert found.dtype == np.float32 and found.shape == x.shape
    np.testing.assert_array_equal(found, expected.attributions.numpy())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_asked_by_its_name(name: str) -> None:
    x, y = table(2)
    brief = {"n_queries": 30} if name in ("dax", "student_gradient", "lime", "rise") else {}
    found = quantus_explain(mlp(), x, y, method=name, **brief)
    assert found.shape == x.shape and np.isfinite(found).all()


def test_numbers_of_any_type_become_those_of_the_model() -> None:
    x, y = table()
    found = quantus_explain(mlp(), x.astype(np.float64), list(y), method="saliency")
    np.testing.assert_array_equal(found, quantus_explain(mlp(), x, y, method="saliency"))
    double = quantus_explain(mlp().double(), x, torch.from_numpy(y), method="saliency")
    assert double.dtype == np.float64
    one = quantus_explain(mlp(), x, np.int64(2), method="saliency")
    np.testing.assert_array_equal(one, quantus_explain(mlp(), x, [2] * 4, method="saliency"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attributions_of_half_precision_models_are_float32(dtype: torch.dtype) -> None:
    x, y = pictures()
    model = conv_net().to(dtype)
    maps = explain(
        model, torch.from_numpy(x).to(dtype), target=torch.from_numpy(y), method="saliency"
    ).attributions
    found = quantus_explain(model, x, y, method="saliency")
    assert found.dtype == np.float32 and maps.dtype == dtype
    np.testing.assert_array_equal(found, maps.float().numpy())
    # Channels are added up in float32 too.
    summed = quantus_explain(model, x, y, method="saliency", channels="abs_sum")
    np.testing.assert_array_equal(summed, maps.float().abs().sum(1, keepdim=True).numpy())


def test_targets_that_are_not_given_are_predicted() -> None:
    x, _ = table()
    predicted = mlp()(torch.from_numpy(x)).argmax(1)
    found = quantus_explain(mlp(), x, None, method="saliency")
    np.testing.assert_array_equal(found, quantus_explain(mlp(), x, predicted, method="saliency"))


def test_channels_are_made_one_in_three_ways() -> None:
    x, y = pictures()
    ask = functools.partial(quantus_explain, conv_net(), x, y, method="input_x_gradient")
    maps = ask()
    for channels, expected in (
        ("signed_sum", maps.sum(1, keepdims=True)),
        ("abs_sum", np.abs(maps).sum(1, keepdims=True)),
        ("max_abs", np.abs(maps).max(1, keepdims=True)),
    ):
        np.testing.assert_allclose(ask(channels=channels), expected, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="channels must be None or one of signed_sum"):
        ask(channels="mean")
    with pytest.raises(ValueError, match="channels must be None for inputs without channels"):
        quantus_explain(mlp(), *table(), method="saliency", channels="abs_sum")


def test_baselines_may_be_arrays() -> None:
    x, y = table()
    baselines = np.full((1, 6), 0.3)
    found = quantus_explain(Linear(6), x, y, baselines=baselines, n_steps=2)
    weight = Linear(6).weight.detach().numpy()[y]
    np.testing.assert_allclose(found, weight * (x - 0.3), rtol=1e-4, atol=1e-6)


def test_the_model_is_moved_and_put_into_eval_mode(device: torch.device) -> None:
    x, y = table()
    model = torch.nn.Sequential(mlp(), torch.nn.Dropout(0.5)).train()
    found = quantus_explain(model, x, y, method="saliency", device=device)
    assert not model.training and next(model.parameters()).device.type == device.type
    np.testing.assert_allclose(
        found, quantus_explain(mlp(), x, y, method="saliency"), rtol=1e-5, atol=1e-7
    )


def test_options_that_a_method_does_not_have_are_named() -> None:
    with pytest.raises(TypeError, match=r"options of saliency must be among.*got xai_lib"):
        quantus_explain(mlp(), *table(), method="saliency", xai_lib="captum")


# ---------------------------------------------------------------- Quantus itself


@pytest.fixture(scope="module")
def quantus() -> Any:
    return pytest.importorskip("quantus", reason="quantus is not installed")


SAME = {
    "InputXGradient": {"method": "input_x_gradient"},
    "Saliency": {"method": "saliency"},
    "Gradient": {"method": "saliency", "abs": False},
}


@pytest.mark.parametrize("name", sorted(SAME))
def test_quantuss_own_explanations_are_the_same(quantus: Any, name: str) -> None:
    pytest.importorskip("captum", reason="captum is not installed")
    x, y = pictures()
    theirs = quantus.explain(conv_net(), x, y, method=name, xai_lib="captum")
    ours = quantus_explain(conv_net(), x, y, channels="signed_sum", **SAME[name])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def metrics_of(quantus: Any) -> dict[str, Any]:
    quiet = {"disable_warnings": True, "display_progressbar": False}
    return {
        "max sensitivity": quantus.MaxSensitivity(nr_samples=3, lower_bound=0.05, **quiet),
        "random logit": quantus.RandomLogit(num_classes=5, seed=1, **quiet),
        "sparseness": quantus.Sparseness(**quiet),
        "pixel flipping": quantus.PixelFlipping(features_in_step=24, **quiet),
        "randomisation": quantus.MPRT(seed=1, **quiet),
    }


@pytest.mark.parametrize(
    "name",
    ["max sensitivity", "random logit", "sparseness", "pixel flipping", "randomisation"],
)
def test_metrics_find_what_they_find_with_quantuss_own(quantus: Any, name: str) -> None:
    pytest.importorskip("captum", reason="captum is not installed")
    x, y = pictures()
    found = []
    for explain_func, options in (
        (quantus_explain, {"method": "input_x_gradient", "channels": "signed_sum"}),
        (quantus.explain, {"method": "InputXGradient", "xai_lib": "captum"}),
    ):
        np.random.seed(0)
        torch.manual_seed(0)
        found.append(
            metrics_of(quantus)[name](
                model=conv_net(),
                x_batch=x,
                y_batch=y,
                a_batch=None,
                explain_func=explain_func,
                explain_func_kwargs=options,
                device="cpu",
            )
        )
    ours, theirs = (
        np.array(list(one.values()) if isinstance(one, dict) else one, float) for one in found
    )
    assert ours.size >= 3 and np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_contributions_to_a_linear_model_are_faithful(quantus: Any) -> None:
    """What a subset contributes is what the score loses without it: a correlation of 1."""
    x = np.random.default_rng(0).random((4, 1, 4, 4)).astype(np.float32)
    x[:, :, 0, 0] = 0.0  # Quantus takes the least of the pixels for black
    y = np.array([0, 2, 1, 2])
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=20,
        subset_size=5,
        perturb_baseline="black",
        normalise=False,
        disable_warnings=True,
        return_aggregate=False,
    )
    np.random.seed(0)
    scores = metric(
        model=Linear(16),
        x_batch=x,
        y_batch=y,
        a_batch=None,
        explain_func=quantus_explain,
        explain_func_kwargs={"method": "integrated_gradients", "n_steps": 3},
    )
    np.testing.assert_allclose(scores, np.ones(4), atol=1e-5)


def test_evaluate_compares_methods_by_their_names(quantus: Any) -> None:
    x, y = pictures()
    known = metrics_of(quantus)
    metrics = {name: known[name] for name in ("max sensitivity", "sparseness", "pixel flipping")}
    results = quantus.evaluate(
        metrics=metrics,
        xai_methods={
            "integrated_gradients": functools.partial(quantus_explain, n_steps=5),
            "saliency": quantus_explain,
            "smooth_grad": functools.partial(quantus_explain, n_samples=4, sigma=0.1),
        },
        model=conv_net(),
        x_batch=x,
        y_batch=y,
        agg_func=np.mean,
        explain_func_kwargs={"channels": "abs_sum", "device": "cpu"},
    )
    assert set(results) == {"integrated_gradients", "saliency", "smooth_grad"}
    for scores in results.values():
        assert set(scores) == set(metrics)
        assert all(np.isfinite(value).all() for value in scores.values())
    maps = quantus_explain(conv_net(), x, y, method="saliency", channels="abs_sum")
    alone = metrics_of(quantus)["sparseness"](model=conv_net(), x_batch=x, y_batch=y, a_batch=maps)
    np.testing.assert_allclose(results["saliency"]["sparseness"], np.mean(alone), rtol=1e-5)

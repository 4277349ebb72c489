"""PAIR's methods ask our models, and our methods ask models that PAIR's methods know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nets import Linear, Polynomial, conv_net, mlp
from torch import Tensor, nn

from pyxai_fast import BlackBox, IntegratedGradients, Preprocessing, explain
from pyxai_fast.doors import pair
from pyxai_fast.doors.pair import (
    CONVOLUTION_LAYER_VALUES,
    CONVOLUTION_OUTPUT_GRADIENTS,
    INPUT_OUTPUT_GRADIENTS,
    OUTPUT_LAYER_VALUES,
    call_model_function,
    from_call_model_function,
)
from pyxai_fast.methods import GuidedIG, InputXGradient, KernelShap, Saliency, SmoothGrad


@pytest.fixture(scope="module")
def saliency() -> Any:
    return pytest.importorskip("saliency.core", reason="PAIR's saliency is not installed")


def last(x: Tensor) -> np.ndarray:
    """[C, H, W] as PAIR has pictures."""
    return x.movedim(0, -1).detach().numpy()


def test_keys_are_pairs(saliency: Any) -> None:
    for key in pair.KEYS:
        assert getattr(saliency.base, key) == key


# ---------------------------------------------------------------- PAIR's methods, torch models


def pairs_rule(model: nn.Module, x: Tensor, baseline: Tensor, target: int, n: int) -> Tensor:
    """PAIR's quadrature, the mean of the slopes at i / n, i = 0 ... n, by ours."""
    ours = IntegratedGradients(model)
    before = ours.attribute(x, baseline, target, n_steps=n, method="riemann_left")
    end = ours.attribute(x, baseline, target, n_steps=1, method="riemann_right")
    return (n * before + end) / (n + 1)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_pairs_integrated_gradients_are_ours(saliency: Any, batch_size: int) -> None:
    model = conv_net().double()
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    baseline = torch.full_like(x, 0.2)
    found = saliency.IntegratedGradients().GetMask(
        last(x[0]),
        call_model_function(model, target=3),
        x_baseline=last(baseline[0]),
        x_steps=21,
        batch_size=batch_size,
    )
    expected = last(pairs_rule(model, x, baseline, 3, 20)[0])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_tables_and_contributions_of_linear_models(saliency: Any) -> None:
    model, row = Linear(6), np.linspace(-1, 1, 6)
    found = saliency.IntegratedGradients().GetMask(row, call_model_function(model, 2), x_steps=5)
    np.testing.assert_allclose(found, model.weight[2].detach().numpy() * row, rtol=1e-5)


def test_gradients_and_smooth_gradients(saliency: Any) -> None:
    model, x = conv_net(), torch.rand(1, 3, 8, 8)
    call = call_model_function(model)
    slope = Saliency(model).attribute(x, target=1, abs=False)
    plain = saliency.GradientSaliency().GetMask(last(x[0]), call, {"target": 1})
    np.testing.assert_allclose(plain, last(slope[0]), rtol=1e-5, atol=1e-8)
    smooth = saliency.GradientSaliency().GetSmoothedMask(
        last(x[0]), call, {"target": 1}, stdev_spread=0.0, nsamples=3, magnitude=False
    )
    np.testing.assert_allclose(smooth, last(slope[0]), rtol=1e-5, atol=1e-8)


def test_grad_cam_is_captums(saliency: Any) -> None:
    captum_attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, x = conv_net(), torch.rand(1, 3, 12, 10)
    expected = captum_attr.LayerGradCam(model, model[0]).attribute(
        x, target=1, relu_attributions=True
    )
    for layer in ("0", model[0]):
        call = call_model_function(model, 1, layer=layer)
        found = saliency.GradCam().GetMask(last(x[0]), call, should_resize=False, three_dims=False)
        np.testing.assert_allclose(found, expected[0, 0].detach().numpy(), rtol=1e-4, atol=1e-7)
    assert found.shape == (6, 5) and found.max() > 0
    resized = saliency.GradCam().GetMask(last(x[0]), call)
    assert resized.shape == (12, 10, 3)


def test_xrai_ranks_regions(saliency: Any) -> None:
    model, x = conv_net(), torch.rand(1, 3, 24, 24)
    left = np.zeros((24, 24), bool)
    left[:, :12] = True
    found = saliency.XRAI().GetMask(
        last(x[0]), call_model_function(model, 2), segments=[left, ~left]
    )
    assert found.shape == (24, 24)
    assert len(np.unique(found[:, :12])) == len(np.unique(found[:, 12:])) == 1


def test_occlusion_of_a_linear_model_is_what_was_hidden(saliency: Any) -> None:
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    model = Linear(48).double()
    found = saliency.Occlusion().GetMask(last(x[0]), call_model_function(model, 1), size=4)
    score = model(x)[0, 1].item()
    np.testing.assert_allclose(found, np.full((4, 4, 3), score), rtol=1e-6)


def test_values_and_gradients_of_the_layer_are_those_before_they_are_overwritten() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3)
    model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2)).eval()
    x = torch.rand(2, 3, 8, 8)
    keys = [CONVOLUTION_LAYER_VALUES, CONVOLUTION_OUTPUT_GRADIENTS]
    answer = call_model_function(model, 1)(x.permute(0, 2, 3, 1).numpy(), expected_keys=keys)
    values = conv(x).detach()
    assert set(answer) == set(keys) and (answer[keys[0]] < 0).any()
    np.testing.assert_allclose(
        answer[keys[0]], values.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=1e-6
    )
    weight = model[3].weight[1].detach().reshape(4, 6, 6)
    expected = (weight * (values > 0)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(answer[keys[1]], expected, rtol=1e-5)


def test_only_what_is_expected_is_answered_and_nothing_is_left_behind() -> None:
    model, x = conv_net(), np.random.default_rng(0).random((2, 8, 8, 3))
    call = call_model_function(model, 1)
    assert set(call(x)) == {INPUT_OUTPUT_GRADIENTS, OUTPUT_LAYER_VALUES}
    for key in pair.KEYS:
        assert set(call(x, expected_keys=[key])) == {key}
    assert not any(part._forward_hooks for part in model.modules())
    assert all(weight.grad is None for weight in model.parameters())
    with torch.no_grad():
        again = call(x)
    np.testing.assert_array_equal(again[INPUT_OUTPUT_GRADIENTS], call(x)[INPUT_OUTPUT_GRADIENTS])
    with torch.inference_mode():
        again = call(x)
    np.testing.assert_array_equal(again[INPUT_OUTPUT_GRADIENTS], call(x)[INPUT_OUTPUT_GRADIENTS])


def test_pixels_obey_the_chain_rule() -> None:
    model, x = conv_net(), torch.rand(2, 3, 8, 8)
    scaled = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 0.2))
    call = call_model_function(model, 1, channels="first", output="prob", preprocessing=scaled)
    answer = call(x.numpy())
    ours = Saliency(model, output="prob", preprocessing=scaled)
    expected = ours.attribute(x, target=1, abs=False)
    np.testing.assert_allclose(
        answer[INPUT_OUTPUT_GRADIENTS], expected.numpy(), rtol=1e-4, atol=1e-8
    )
    scores = model(scaled.normalise(x)).softmax(1)[:, 1]
    np.testing.assert_allclose(answer[OUTPUT_LAYER_VALUES], scores.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: call_model_function(mlp(), channels="middle"), "channels must be one of last, f"),
        (lambda: call_model_function(conv_net(), layer="9"), "layer must be one of the model's"),
        (
            lambda: call_model_function(mlp(), 1)(
                np.zeros((1, 6)), expected_keys=[CONVOLUTION_LAYER_VALUES]
            ),
            "layer must be given for a model without convolutions",
        ),
        (
            lambda: call_model_function(mlp(), 1, layer=nn.Tanh())(
                np.zeros((1, 6)), expected_keys=[CONVOLUTION_LAYER_VALUES]
            ),
            "layer must be one that the model runs",
        ),
        (
            lambda: call_model_function(mlp(), 1)(np.zeros((1, 6)), expected_keys=["GRADIENTS"]),
            "expected_keys must be among INPUT_OUTPUT_GRADIENTS",
        ),
        (lambda: call_model_function(mlp())(np.zeros((1, 6))), "a target must be given"),
    ],
)
def test_what_cannot_be_asked_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------- our methods, models behind PAIR


def cubes(x_value_batch: Any, call_model_args: Any = None, expected_keys: Any = None) -> Any:
    """A model without torch: s(x) = sum(w x^3) / 3, whose slope is w x^2."""
    x = np.asarray(x_value_batch)
    weight = (call_model_args or {}).get("weight", 1.0)
    answer = {}
    if OUTPUT_LAYER_VALUES in expected_keys:
        answer[OUTPUT_LAYER_VALUES] = weight * (x**3).reshape(len(x), -1).sum(1) / 3
    if INPUT_OUTPUT_GRADIENTS in expected_keys:
        answer[INPUT_OUTPUT_GRADIENTS] = weight * x**2
    return answer


def test_integrated_gradients_of_a_model_without_torch_are_exact() -> None:
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    made = explain(from_call_model_function(cubes, {"weight": 2.0}), x, n_steps=5)
    torch.testing.assert_close(made.attributions, 2 * x**3 / 3)
    torch.testing.assert_close(made.outputs, 2 * (x**3).sum((1, 2, 3)) / 3)
    assert made.target is None and float(made.delta.abs().max()) < 1e-12


METHODS: list[tuple[Any, dict[str, Any]]] = [
    (IntegratedGradients, {"n_steps": 6, "baselines": 0.1}),
    (Saliency, {}),
    (InputXGradient, {}),
    (SmoothGrad, {"n_samples": 4, "sigma": 0.1}),
    (GuidedIG, {"n_steps": 6}),
]


@pytest.mark.parametrize(
    ("kind", "options"), METHODS, ids=lambda value: getattr(value, "__name__", "")
)
def test_maps_through_pair_are_those_of_the_model_itself(
    kind: Any, options: dict[str, Any]
) -> None:
    model, x = conv_net().double(), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    through = from_call_model_function(call_model_function(model), {"target": 2})
    ours = kind(through).attribute(x, **options)
    direct = kind(model).attribute(x, target=2, **options)
    torch.testing.assert_close(ours, direct, rtol=1e-9, atol=1e-12)


def test_methods_that_only_ask_take_it_as_a_black_box() -> None:
    model, x = Polynomial(5).double(), torch.rand(2, 5, dtype=torch.float64)
    through = from_call_model_function(call_model_function(model, 1))
    options: dict[str, Any] = {"n_queries": 32}
    ours = KernelShap(BlackBox(through, budget=64), output="logit").attribute(x, **options)
    direct = KernelShap(model, output="logit").attribute(x, target=1, **options)
    torch.testing.assert_close(ours, direct)


def test_values_and_slopes_are_asked_for_at_once() -> None:
    asked: list[tuple[int, list[str]]] = []

    def count(batch: Any, call_model_args: Any = None, expected_keys: Any = None) -> Any:
        asked.append((len(batch), list(expected_keys)))
        return cubes(batch, call_model_args, expected_keys)

    model = from_call_model_function(count)
    IntegratedGradients(model).attribute(torch.rand(2, 3), n_steps=4, internal_batch_size=4)
    both = [OUTPUT_LAYER_VALUES, INPUT_OUTPUT_GRADIENTS]
    assert asked == [(4, both), (4, both)]
    asked.clear()
    model(torch.rand(3, 3))
    assert asked == [(3, [OUTPUT_LAYER_VALUES])]


def test_a_function_that_gives_slopes_alone_has_no_scores_but_maps() -> None:
    def slopes(batch: Any, call_model_args: Any = None, expected_keys: Any = None) -> Any:
        return {INPUT_OUTPUT_GRADIENTS: batch**2}

    x = torch.rand(2, 4)
    made = explain(from_call_model_function(slopes, has_values=False), x, n_steps=5)
    torch.testing.assert_close(made.attributions, x**3 / 3)
    assert bool(made.outputs.isnan().all()) and bool(made.delta.isnan().all())
    with pytest.raises(ValueError, match=r"answer OUTPUT_LAYER_VALUES, got INPUT.*has_values=F"):
        explain(from_call_model_function(slopes), x)


def test_answers_of_other_shapes_are_refused() -> None:
    x = torch.rand(2, 3, 4, 5)

    def answers(values: Any, slopes: Any) -> Any:
        return lambda *_, **__: {OUTPUT_LAYER_VALUES: values, INPUT_OUTPUT_GRADIENTS: slopes}

    fits = np.zeros((2, 4, 5, 3))
    with pytest.raises(ValueError, match=r"OUTPUT_LAYER_VALUES must be \[2\].*got \[2, 7\]"):
        explain(from_call_model_function(answers(np.zeros((2, 7)), fits)), x)
    wrong = from_call_model_function(answers(np.zeros((2, 1)), np.zeros((2, 3, 4, 5))))
    with pytest.raises(ValueError, match=r"as the rows.*\[2, 4, 5, 3\], got \[2, 3, 4, 5\]"):
        explain(wrong, x, method="saliency")
    with pytest.raises(TypeError, match="function must be a callable, got dict"):
        from_call_model_function({})  # type: ignore[arg-type]


def test_slopes_that_cannot_be_differentiated_are_not_taken_for_constants() -> None:
    model, x = from_call_model_function(cubes), torch.rand(2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(slope, x.detach() ** 2)
    with pytest.raises(ValueError, match="create_graph must be False"):
        torch.autograd.grad(model(x).sum(), x, create_graph=True)
    with pytest.raises(ValueError, match="create_graph must be False"):
        IntegratedGradients(model).attribute(x, n_steps=2, create_graph=True)

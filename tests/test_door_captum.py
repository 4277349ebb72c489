"""captum's tools take our methods where they take its own, and draw our explanations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nets import Linear, conv_net, mlp
from torch import Tensor, nn

from pyxai_fast import METHODS, IntegratedGradients, Preprocessing, Targets, explain
from pyxai_fast.doors.captum import picture
from pyxai_fast.methods import (
    ExpectedGradients,
    GuidedIG,
    InputXGradient,
    KernelShap,
    Lime,
    Saliency,
    SmoothGrad,
)

captum_attr = pytest.importorskip("captum.attr", reason="captum is not installed")
metrics = pytest.importorskip("captum.metrics", reason="captum is not installed")

# Methods that captum has too, under the same name.
SHARED = (IntegratedGradients, Saliency, InputXGradient, KernelShap, Lime)
GRADIENT = {
    IntegratedGradients: {"n_steps": 7, "baselines": 0.3},
    Saliency: {"abs": False},
    InputXGradient: {},
}


def theirs(kind: type) -> Any:
    return getattr(captum_attr, kind.__name__)


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected.detach(), rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- what captum's Attribution has


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_have_every_public_name_of_captums_attribution(name: str) -> None:
    method = METHODS[name](mlp())
    wanted = {one for one in dir(captum_attr.Attribution(mlp())) if not one.startswith("_")}
    assert wanted - set(dir(method)) == set()
    assert isinstance(method.multiplies_by_inputs, bool)
    assert isinstance(method.has_convergence_delta(), bool)


@pytest.mark.parametrize("kind", SHARED, ids=lambda kind: kind.__name__)
def test_methods_say_of_themselves_what_captums_say(kind: Any) -> None:
    ours, expected = kind(mlp()), theirs(kind)(mlp())
    assert ours.multiplies_by_inputs == expected.multiplies_by_inputs
    assert ours.has_convergence_delta() == expected.has_convergence_delta()
    assert kind.get_name() == theirs(kind).get_name()
    assert GuidedIG.get_name() == "Guided IG"


def test_expected_gradients_say_what_gradient_shap_says() -> None:
    ours, expected = ExpectedGradients(mlp()), captum_attr.GradientShap(mlp())
    assert ours.multiplies_by_inputs == expected.multiplies_by_inputs
    assert ours.has_convergence_delta() == expected.has_convergence_delta()


@pytest.mark.parametrize("baselines", [None, 0.5, "tensor"])
@pytest.mark.parametrize("kind", list(GRADIENT), ids=lambda kind: kind.__name__)
def test_the_gap_of_any_attributions_is_captums(kind: Any, baselines: Any) -> None:
    torch.manual_seed(1)
    inputs, attributions = torch.randn(3, 6), torch.randn(3, 6)
    start: Any = torch.randn(3, 6) if baselines == "tensor" else baselines
    arguments = (attributions, start, inputs)
    ours = kind(mlp()).compute_convergence_delta(*arguments, target=[0, 3, 1])
    close(ours, theirs(kind)(mlp()).compute_convergence_delta(*arguments, target=[0, 3, 1]))


# ---------------------------------------------------------------- NoiseTunnel


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("kind", list(GRADIENT), ids=lambda kind: kind.__name__)
def test_the_noise_tunnel_takes_ours_for_captums(kind: Any, nt_type: str) -> None:
    model, inputs = conv_net().double(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    found = []
    for method in (kind(model), theirs(kind)(model)):
        torch.manual_seed(3)
        tunnel = captum_attr.NoiseTunnel(method)
        assert tunnel.multiplies_by_inputs == method.multiplies_by_inputs
        found.append(
            tunnel.attribute(
                inputs,
                nt_type=nt_type,
                nt_samples=5,
                nt_samples_batch_size=2,  # two batches, and what is left
                stdevs=0.1,
                target=torch.tensor([1, 4]),
                **GRADIENT[kind],
            )
        )
    torch.testing.assert_close(found[0], found[1].detach(), rtol=1e-8, atol=1e-12)
    assert found[0].abs().max() > 0


class Two(nn.Module):
    """Two inputs and an argument that is not explained."""

    def forward(self, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        return torch.stack([(a * weight).sin().sum(1), (a * b).sum(1)], 1)


def test_the_noise_tunnel_takes_tuples_arguments_and_gaps() -> None:
    inputs = torch.rand(2, 3), torch.rand(2, 3)
    found = []
    for method in (IntegratedGradients(Two()), captum_attr.IntegratedGradients(Two())):
        torch.manual_seed(0)
        found.append(
            captum_attr.NoiseTunnel(method).attribute(
                inputs,
                nt_samples=3,
                stdevs=(0.1, 0.2),
                target=[0, 1],
                additional_forward_args=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
                n_steps=9,
                return_convergence_delta=True,
            )
        )
    (ours, delta), (expected, their_delta) = found
    for one, other in zip(ours, expected, strict=True):
        close(one, other)
    close(delta, their_delta)
    assert delta.shape == (6,)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_goes_through_the_noise_tunnel(name: str) -> None:
    brief = {"dax": {"n_queries": 20}, "student_gradient": {"n_queries": 20}}
    model, inputs = mlp(), torch.rand(2, 6)
    method = METHODS[name](model, **{"output": "prob"} if name in ("lime", "rise") else {})
    torch.manual_seed(0)
    maps = captum_attr.NoiseTunnel(method).attribute(
        inputs, nt_samples=2, stdevs=0.1, target=1, **brief.get(name, {})
    )
    assert maps.shape == inputs.shape and bool(maps.isfinite().all())


# ---------------------------------------------------------------- infidelity, sensitivity


def test_infidelity_of_the_gradient_of_a_linear_model_is_zero() -> None:
    """And of a wrong map, the square of what it says too much of what is taken away."""
    model, inputs = Linear(6).double(), torch.rand(4, 6, dtype=torch.float64)
    step = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)

    def taken_away(x: Tensor) -> tuple[Tensor, Tensor]:
        return step.expand(x.shape), x - step

    maps = Saliency(model).attribute(inputs, target=2, abs=False)
    exact = metrics.infidelity(model, taken_away, inputs, maps, target=2)
    torch.testing.assert_close(exact, torch.zeros_like(exact), atol=1e-12, rtol=0)
    wrong = metrics.infidelity(model, taken_away, inputs, maps + 1, target=2)
    torch.testing.assert_close(wrong, torch.full_like(wrong, step.sum().item() ** 2))


def test_infidelity_of_contributions_is_told_that_they_multiply_by_inputs() -> None:
    model, inputs = Linear(6).double(), torch.rand(4, 6, dtype=torch.float64) + 0.5
    method = IntegratedGradients(model)

    @metrics.infidelity_perturb_func_decorator(method.multiplies_by_inputs)
    def perturb(x: Tensor) -> Tensor:
        return 0.9 * x

    maps = method.attribute(inputs, target=1, n_steps=3)
    found = metrics.infidelity(model, perturb, inputs, maps, target=1)
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", list(GRADIENT), ids=lambda kind: kind.__name__)
def test_metrics_give_ours_what_they_give_captums(kind: Any) -> None:
    model, inputs = conv_net(), torch.rand(3, 3, 8, 8)

    def perturb(x: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.05 * torch.randn_like(x)
        return noise, x - noise

    found = []
    for method in (kind(model), theirs(kind)(model)):
        maps = method.attribute(inputs.clone().requires_grad_(), target=2, **GRADIENT[kind])
        torch.manual_seed(5)
        infidelity = metrics.infidelity(
            model, perturb, inputs, maps.detach(), target=2, n_perturb_samples=4
        )
        sensitivity = metrics.sensitivity_max(
            method.attribute,
            inputs.clone().requires_grad_(),
            n_perturb_samples=4,
            max_examples_per_batch=6,
            target=2,
            **GRADIENT[kind],
        )
        found.append((infidelity, sensitivity))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected.detach(), rtol=1e-3, atol=1e-7)
        assert bool((ours > 0).all())


def test_sensitivity_of_contributions_to_a_linear_model_is_known() -> None:
    """The gradient does not move; w * x moves by w * step, over its own size."""
    model, inputs = Linear(4).double(), torch.rand(3, 4, dtype=torch.float64) + 0.2
    step = torch.tensor([0.1, -0.2, 0.3, 0.05], dtype=torch.float64)
    options: dict[str, Any] = {"perturb_func": lambda x: x + step, "target": 1}
    still = metrics.sensitivity_max(Saliency(model).attribute, inputs, **options)
    assert torch.equal(still, torch.zeros_like(still))
    weight = model.weight[1].detach()
    expected = (weight * step).norm() / (weight * inputs).norm(dim=1)
    moved = metrics.sensitivity_max(InputXGradient(model).attribute, inputs, **options)
    torch.testing.assert_close(moved, expected)
    # Shapley values of a linear model are the same, and here all coalitions are asked.
    shap = KernelShap(model, output="logit")
    moved = metrics.sensitivity_max(shap.attribute, inputs, n_queries=16, **options)
    torch.testing.assert_close(moved.double(), expected, rtol=1e-5, atol=0)


def test_sensitivity_falls_with_noise_that_is_averaged() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2)).eval()
    inputs = torch.randn(8, 6)
    torch.manual_seed(0)
    plain = metrics.sensitivity_max(Saliency(model).attribute, inputs, target=0)
    torch.manual_seed(0)
    smooth = metrics.sensitivity_max(
        SmoothGrad(model).attribute, inputs, target=0, n_samples=200, sigma=0.5
    )
    assert smooth.mean() < plain.mean()


# ---------------------------------------------------------------- pictures


@pytest.fixture
def visualization() -> Any:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    return captum_attr.visualization


@pytest.fixture(scope="module")
def explanation() -> Any:
    torch.manual_seed(0)
    scaled = Preprocessing(mean=(0.5,), std=(0.25,))
    return explain(conv_net(), torch.rand(2, 3, 8, 10), n_steps=5, preprocessing=scaled)


def drawn(axes: Any) -> np.ndarray:
    return np.asarray(axes.images[-1].get_array())


def test_a_heat_map_is_the_sum_over_channels(visualization: Any, explanation: Any) -> None:
    maps = explanation.attributions[1]
    for attributions in (maps.permute(1, 2, 0).numpy(), picture(explanation, 1)[0]):
        _, axes = visualization.visualize_image_attr(
            attributions, sign="all", use_pyplot=False, show_colorbar=True
        )
        heat, summed = drawn(axes), maps.sum(0).numpy()
        inside = np.abs(heat) < 1
        scale = heat[inside] / summed[inside]
        np.testing.assert_allclose(scale, scale[0], rtol=1e-4)
        assert scale[0] > 0 and inside.sum() > 40
        np.testing.assert_array_equal(np.sign(heat[~inside]), np.sign(summed[~inside]))


def test_an_explanation_is_drawn_in_every_way_captum_has(
    visualization: Any, explanation: Any
) -> None:
    ways = ["original_image", "heat_map", "blended_heat_map", "masked_image", "alpha_scaling"]
    figure, axes = visualization.visualize_image_attr_multiple(
        *picture(explanation, 0),
        ways,
        ["all", "all", "all", "positive", "absolute_value"],
        use_pyplot=False,
    )
    figure.canvas.draw()
    pixels = np.rint(explanation.inputs[0].permute(1, 2, 0).numpy() * 255)
    np.testing.assert_array_equal(drawn(axes[0]), pixels)
    np.testing.assert_array_equal(drawn(axes[1]), drawn(axes[2]))
    assert drawn(axes[4]).shape == (8, 10, 4)


def test_grey_pictures_of_any_range_are_drawn(visualization: Any) -> None:
    model = conv_net(channels=1)
    made = explain(model, torch.randn(1, 1, 8, 8) * 3, method="saliency")
    attributions, pixels = picture(made)
    assert attributions.shape == (8, 8, 1) and pixels.shape == (8, 8, 3)
    assert pixels.min() == 0 and pixels.max() == 255
    visualization.visualize_image_attr(
        attributions, pixels, "blended_heat_map", use_pyplot=False, sign="positive"
    )


def test_what_is_no_picture_is_refused() -> None:
    made = explain(mlp(), torch.rand(2, 6), method="saliency")
    with pytest.raises(ValueError, match=r"picture: inputs must be \[B, 1 or 3, H, W\], got"):
        picture(made)
    made = explain(conv_net(), torch.rand(2, 3, 8, 8), method="saliency", target=Targets(0, 1))
    with pytest.raises(ValueError, match=r"one target, got 2; pick one: explanation\.for_target"):
        picture(made)
    assert picture(made.for_target(1), 1)[0].shape == (8, 8, 3)
    with pytest.raises(ValueError, match=r"row must be in \[0, 2\), got 2"):
        picture(made.for_target(0), 2)

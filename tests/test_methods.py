"""Saliency, InputXGradient and SmoothGrad."""

from __future__ import annotations

import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial, conv_net, mlp
from torch import Tensor

from pyxai_fast import METHODS, Cost, InputXGradient, Preprocessing, Saliency, SmoothGrad
from pyxai_fast.methods import PerturbationMethod


def gradient(model, inputs: Tensor, target: int) -> Tensor:
    inputs = inputs.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(inputs)[:, target].sum(), inputs)
    return grad


def test_saliency_is_the_absolute_gradient_bit_for_bit() -> None:
    model, inputs = mlp(), torch.randn(3, 6)
    expected = gradient(model, inputs, 2)
    assert_same_bits(Saliency(model).attribute(inputs, target=2), expected.abs())
    assert_same_bits(Saliency(model).attribute(inputs, target=2, abs=False), expected)


def test_input_x_gradient_is_their_product() -> None:
    model, inputs = mlp(), torch.randn(3, 6)
    torch.testing.assert_close(
        InputXGradient(model).attribute(inputs, target=2), inputs * gradient(model, inputs, 2)
    )


@pytest.mark.parametrize("name", ["Saliency", "InputXGradient"])
def test_captum_gives_the_same(name: str) -> None:
    captum_attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model = conv_net()
    inputs = torch.randn(2, 3, 9, 9)
    theirs = getattr(captum_attr, name)(model).attribute(inputs.clone().requires_grad_(), target=1)
    torch.testing.assert_close(METHODS_BY_CLASS[name](model).attribute(inputs, target=1), theirs)


METHODS_BY_CLASS = {kind.__name__: kind for kind in METHODS.values()}


@pytest.mark.parametrize("name", ["Saliency", "InputXGradient"])
def test_half_inputs_give_half_results_as_captums_do(name: str) -> None:
    model = mlp().bfloat16()
    result = METHODS_BY_CLASS[name](model).attribute(torch.randn(2, 6).bfloat16(), target=1)
    assert result.dtype == torch.bfloat16


def test_smooth_grad_of_a_linear_model_is_its_weight() -> None:
    model = Linear(8)
    result = SmoothGrad(model).attribute(torch.randn(3, 8), target=1, n_samples=4, sigma=0.5)
    torch.testing.assert_close(result, model.weight[1].expand(3, 8))


def test_smooth_grad_without_noise_is_the_gradient() -> None:
    model, inputs = mlp(), torch.randn(3, 6)
    result = SmoothGrad(model).attribute(inputs, target=1, n_samples=3, sigma=0.0)
    torch.testing.assert_close(result, gradient(model, inputs, 1))


def test_smooth_grad_of_a_cubic_has_the_mean_that_theory_gives() -> None:
    # d/dx (a x + b x^3) smoothed by N(0, sigma^2) is a + 3 b (x^2 + sigma^2).
    model, inputs, sigma = Polynomial(5), torch.randn(1, 5), 0.3
    result = SmoothGrad(model).attribute(inputs, target=0, n_samples=20_000, sigma=sigma)
    expected = model.a[0] + 3 * model.b[0] * (inputs**2 + sigma**2)
    spread = 3 * model.b[0].abs() * (2 * sigma * inputs.abs() + 2 * sigma**2)
    assert bool(((result - expected).abs() <= 5 * spread / 20_000**0.5).all())


def test_smooth_grad_draws_the_same_noise_for_any_chunk_and_other_noise_for_other_seeds() -> None:
    model, inputs = Polynomial(7), torch.randn(3, 7)
    sg = SmoothGrad(model)
    whole = sg.attribute(inputs, target=1, n_samples=9, seed=3)
    for size in (1, 2, 4, 26):
        chunked = sg.attribute(inputs, target=1, n_samples=9, seed=3, internal_batch_size=size)
        assert_same_bits(chunked, whole)
    assert not torch.equal(sg.attribute(inputs, target=1, n_samples=9, seed=4), whole)


def test_inputs_of_a_tuple_have_noise_of_their_own() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def model(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a.detach().clone(), b.detach().clone()))
        return (a * b).sum(1)

    SmoothGrad(model).attribute((torch.zeros(1, 4), torch.zeros(1, 4)), n_samples=1)
    assert not torch.equal(*seen[0])


@pytest.mark.parametrize("name", ["saliency", "input_x_gradient", "smooth_grad"])
def test_pixels_with_preprocessing_obey_the_chain_rule(name: str) -> None:
    model = conv_net()
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    pixels = torch.rand(2, 3, 8, 8)
    options = {"sigma": 0.1, "n_samples": 3} if name == "smooth_grad" else {}
    inside = METHODS[name](model, preprocessing=preprocessing).attribute(
        pixels, target=1, **options
    )
    outside = METHODS[name](lambda x: model(preprocessing.normalise(x))).attribute(
        pixels, target=1, **options
    )
    torch.testing.assert_close(inside, outside, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", list(METHODS))
def test_cost_counts_what_the_model_was_asked(name: str) -> None:
    rows = []
    net = mlp()

    def model(x: Tensor) -> Tensor:
        rows.append(x.shape[0])
        return net(x)

    cost = Cost()
    METHODS[name](model).attribute(torch.randn(3, 6), target=1, cost=cost)
    asks = issubclass(METHODS[name], PerturbationMethod)
    assert (cost.queries if asks else cost.gradients) == sum(rows)
    assert (cost.gradients if asks else cost.queries) == 0
    assert cost.seconds > 0


def test_a_negative_sigma_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sigma must be a number >= 0, got -1"):
        SmoothGrad(mlp()).attribute(torch.randn(1, 6), target=0, sigma=-1)
    with pytest.raises(ValueError, match="n_samples must be an integer >= 1, got 0"):
        SmoothGrad(mlp()).attribute(torch.randn(1, 6), target=0, n_samples=0)

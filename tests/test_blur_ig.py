"""Blur IG: the blur itself, what attributions add up to, closed forms, and what changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from nets import Linear, conv_net
from torch import Tensor

from pyxai_fast import (
    BlackBox,
    BlurPath,
    Cost,
    IntegratedGradients,
    LikelihoodRatio,
    Preprocessing,
    Targets,
    explain,
)
from pyxai_fast.paths.blur import BOUNDARIES, SCHEDULES

SIZE = 12


def images(count: int = 3, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, SIZE, SIZE + 2, generator=torch.Generator().manual_seed(5))


class Quadratic(torch.nn.Module):
    """1/2 sum a_i x_i^2 + a product of neighbours."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        a = torch.linspace(-1, 2, flat.shape[1], dtype=x.dtype)
        return 0.5 * (a * flat**2).sum(1) + (flat[:, 1:] * flat[:, :-1]).sum(1)


def slow_blur(image: Tensor, sigma: float, boundary: str) -> Tensor:
    """[H, W], pixel by pixel, in both directions at once."""
    radius = int(4 * sigma + 0.5)
    height, width = image.shape
    out = torch.zeros_like(image)

    def inside(i: int, size: int) -> int | None:
        while boundary == "reflect" and not 0 <= i < size:
            i = -1 - i if i < 0 else 2 * size - 1 - i
        return i if 0 <= i < size else None

    weights = {d: math.exp(-0.5 * (d / sigma) ** 2) for d in range(-radius, radius + 1)}
    total = sum(weights.values()) ** 2
    for y in range(height):
        for x in range(width):
            for dy, wy in weights.items():
                for dx, wx in weights.items():
                    i, j = inside(y + dy, height), inside(x + dx, width)
                    if i is not None and j is not None:
                        out[y, x] += wy * wx / total * image[i, j]
    return out


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("sigma", [0.4, 1.3, 4.0])
def test_the_blur_is_a_gaussian_convolution(boundary: str, sigma: float) -> None:
    image = torch.rand(7, 5, dtype=torch.float64)
    found = BlurPath(boundary=boundary).blur(image, sigma)
    torch.testing.assert_close(found, slow_blur(image, sigma, boundary))


def test_scipy_blurs_alike() -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not installed")
    image = torch.rand(20, 30, dtype=torch.float64)
    for boundary, mode in (("zero", "constant"), ("reflect", "reflect")):
        theirs = ndimage.gaussian_filter(image.numpy(), 2.5, mode=mode)
        found = BlurPath(boundary=boundary).blur(image, 2.5)
        torch.testing.assert_close(found, torch.from_numpy(theirs))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sigma_falls_from_the_greatest_to_none(schedule: str) -> None:
    path = BlurPath(7.0, schedule)
    sigmas = [path.sigma(t / 10) for t in range(11)]
    assert sigmas[0] == pytest.approx(7) and sigmas[-1] == 0
    assert sigmas == sorted(sigmas, reverse=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_quadratic_scores_are_complete_in_few_steps(schedule: str) -> None:
    model, x, path = Quadratic(), images().double(), BlurPath(5, schedule)
    attributions, delta = IntegratedGradients(model, path=path).attribute(
        x, n_steps=3, return_convergence_delta=True
    )
    torch.testing.assert_close(delta, torch.zeros_like(delta), rtol=0, atol=1e-12)
    blurred = path.blur(x, 5.0)
    torch.testing.assert_close(attributions.flatten(1).sum(1), model(x) - model(blurred))


def test_a_linear_score_gives_its_weight_times_what_the_blur_takes_away() -> None:
    x, path = images().double(), BlurPath(3.0)
    model = Linear(x[0].numel()).double()
    found = IntegratedGradients(model, path=path).attribute(x, target=1, n_steps=4)
    weight = model.weight[1].detach().reshape(x[0].shape)
    torch.testing.assert_close(found, weight * (x - path.blur(x, 3.0)))


def test_the_gap_shrinks_with_the_square_of_the_steps() -> None:
    model, x = conv_net().double(), images().double()
    gaps = [
        IntegratedGradients(model, path=BlurPath(4, "geometric"))
        .attribute(x, target=2, n_steps=n, return_convergence_delta=True)[1]
        .abs()
        .max()
        for n in (8, 32)
    ]
    assert 0 < float(gaps[1]) < float(gaps[0]) / 8


def test_features_that_the_model_ignores_get_nothing() -> None:
    x = images()
    found = IntegratedGradients(lambda x: x[:, :2].sin().flatten(1).sum(1), path=BlurPath(3))
    attributions = found.attribute(x, n_steps=5)
    assert bool((attributions[:, 2] == 0).all()) and bool((attributions[:, :2] != 0).any())


def test_two_implementations_of_a_function_have_one_map() -> None:
    def one(x: Tensor) -> Tensor:
        return (x.flatten(1).square().sum(1) + 1).log()

    def other(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.log1p((flat.pow(2) / 2).sum(1) + torch.einsum("ri,ri->r", flat, flat) / 2)

    maps = [
        IntegratedGradients(model, path=BlurPath(3)).attribute(images(), n_steps=5)
        for model in (one, other)
    ]
    torch.testing.assert_close(*maps)


def test_symmetric_images_have_symmetric_attributions() -> None:
    x = images(1)
    x = x + x.flip(3)
    found = IntegratedGradients(lambda x: x.square().flatten(1).sum(1).sin(), path=BlurPath(3))
    attributions = found.attribute(x.double(), n_steps=5)
    torch.testing.assert_close(attributions, attributions.flip(3))


def test_chunks_and_batches_change_nothing_but_rounding() -> None:
    model, x = conv_net(), images()
    method = IntegratedGradients(model, path=BlurPath(4), memory_format="contiguous")
    whole = method.attribute(x, target=[0, 1, 2], n_steps=9)
    for rows in (1, 2, 7):
        cost = Cost()
        part = method.attribute(x, target=[0, 1, 2], n_steps=9, internal_batch_size=rows, cost=cost)
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-7)
        assert cost.rows_per_chunk == rows and cost.gradients == 3 * 9
    alone = method.attribute(x[1:2], target=1, n_steps=9)
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-4, atol=1e-7)


def test_pixels_are_blurred_and_explained_in_their_units() -> None:
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    model, x = conv_net().double(), images().double()
    options = {"target": 1, "n_steps": 6, "return_convergence_delta": True}
    path = BlurPath(4)
    inside = IntegratedGradients(model, path=path, preprocessing=preprocessing).attribute(
        x, **options
    )
    outside = IntegratedGradients(lambda x: model(preprocessing.normalise(x)), path=path).attribute(
        x, **options
    )
    torch.testing.assert_close(inside, outside)


def test_several_targets_and_several_inputs_are_explained_together() -> None:
    model, x = conv_net().double(), images().double()
    method = IntegratedGradients(model, path=BlurPath(4))
    both, delta = method.attribute(
        x, target=Targets(2, 4), n_steps=4, return_convergence_delta=True
    )
    assert delta.shape == (3, 2)
    torch.testing.assert_close(both[:, 1], method.attribute(x, target=4, n_steps=4))
    pair = IntegratedGradients(lambda a, b: model(a) + model(b), path=BlurPath(4))
    first, second = pair.attribute((x, x.flip(0)), target=4, n_steps=4)
    torch.testing.assert_close(first, both[:, 1])
    torch.testing.assert_close(second, first.flip(0))


def test_attributions_can_be_trained_on() -> None:
    x = images(1).double().requires_grad_()
    method = IntegratedGradients(conv_net().double(), path=BlurPath(3))
    assert torch.autograd.gradcheck(
        lambda x: method.attribute(x, target=1, n_steps=2, create_graph=True).sum((0, 1, 2)), x
    )


def test_explain_knows_it_by_name_with_black_boxes_too() -> None:
    x = images(2)
    model = Linear(x[0].numel())
    plain = explain(model, x, method="blur_ig", max_sigma=3, n_steps=4, target=1)
    assert plain.method == "blur_ig" and plain.delta is not None
    assert float(plain.delta.abs().max()) < 1e-4
    box = BlackBox(lambda x: model(x).detach())
    gradient = LikelihoodRatio(40, 0.1)
    asked = explain(box, x, method="blur_ig", max_sigma=3, n_steps=4, target=1, gradient=gradient)
    error = (asked.attributions - plain.attributions).abs() / asked.standard_error
    assert float((error > 4).double().mean()) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_sigma": 0}, "max_sigma must be a number > 0, got 0"),
        ({"schedule": "geometrical"}, "schedule must be one of linear, variance, geometric"),
        ({"boundary": "wrap"}, "boundary must be one of zero, reflect, got 'wrap'"),
    ],
)
def test_paths_that_make_no_sense_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlurPath(**options)


def test_calls_that_make_no_sense_are_named() -> None:
    method, x = IntegratedGradients(conv_net(), path=BlurPath()), images()
    with pytest.raises(ValueError, match="baselines must be left alone with BlurPath"):
        method.attribute(x, 0.5, target=0)
    with pytest.raises(ValueError, match="method must be left alone with BlurPath"):
        method.attribute(x, target=0, method="trapezoid")
    with pytest.raises(ValueError, match=r"inputs must be images \[B, ..., H, W\], got \[2, 4\]"):
        method.attribute(torch.rand(2, 4), target=0)
    with pytest.raises(ValueError, match="multiply_by_inputs must be True with a path"):
        IntegratedGradients(conv_net(), False, path=BlurPath())

"""Metrics that other packages have too: the same numbers where both do the same.

captum's run in float64. Quantus makes float32 of what it is given, which is what is left between it
and ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nets import conv_net, mlp
from torch import Tensor, nn

from pyxai_fast import Saliency
from pyxai_fast.metrics import (
    complexity,
    energy_inside,
    faithfulness_correlation,
    infidelity,
    max_sensitivity,
    mprt,
    pointing_game,
    sparseness,
)

RUNS, SUBSET, SAMPLES = 20, 30, 6


def pictures(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, 12, 12, generator=generator, dtype=torch.float64).to(dtype)


def normals(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def gradient(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    return Saliency(model).attribute(inputs, target, abs=False)


# --- captum --------------------------------------------------------------------------------------


class Given:
    """Noise that captum asks for: copies of an example lie together there, and not here."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise.transpose(0, 1).flatten(0, 1)

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.noise, rows - self.noise


@pytest.mark.parametrize("normalise", [False, True])
def test_infidelity_is_captums(normalise: bool) -> None:
    captum = pytest.importorskip("captum.metrics", reason="captum is not installed")
    net, x = conv_net().double(), pictures()
    target, noise = torch.tensor([0, 3, 1]), 0.2 * normals(SAMPLES, *x.shape)
    slopes = gradient(net, x, target) + 0.1 * normals(*x.shape)
    theirs = captum.infidelity(
        net, Given(noise), x, slopes, target=target, n_perturb_samples=SAMPLES, normalize=normalise
    )
    ours = infidelity(net, x, slopes, target, perturbations=noise, normalise=normalise)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)


def test_infidelity_takes_what_captums_decorator_makes() -> None:
    captum = pytest.importorskip("captum.metrics", reason="captum is not installed")
    net, x, base = conv_net().double(), pictures(), 0.25
    shares = gradient(net, x, torch.tensor([2, 2, 2])) * (x - base)
    calls: list[int] = []

    @captum.infidelity_perturb_func_decorator(True)
    def hide(rows: Tensor, baselines: Any = None) -> Tensor:
        calls.append(len(rows))
        # A function of the row alone, so that the order of rows does not matter.
        return torch.where((rows * 1000).frac() < 0.3, 0.0, rows)

    arguments = {"target": 2, "n_perturb_samples": 4}
    theirs = captum.infidelity(net, hide, x, shares, **arguments)
    ours = infidelity(net, x, shares, 2, perturbations=hide, n_samples=4)
    assert len(calls) > 1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)


@pytest.mark.parametrize("norm", [2, 1, float("inf")])
def test_sensitivity_is_captums(norm: float) -> None:
    captum = pytest.importorskip("captum.metrics", reason="captum is not installed")
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    net, x = conv_net().double(), pictures()
    target, noise = torch.tensor([0, 3, 1]), 0.1 * normals(SAMPLES, *x.shape)
    theirs = captum.sensitivity_max(
        attr.Saliency(net).attribute, x, lambda rows: Given(-noise)(rows)[1],
        n_perturb_samples=SAMPLES, norm_ord=norm, target=target,
    )  # fmt: skip
    named = max_sensitivity("saliency", x, model=net, target=target, noise=noise, norm=norm)
    torch.testing.assert_close(named, theirs, rtol=1e-10, atol=0)
    called = max_sensitivity(
        lambda inputs: attr.Saliency(net).attribute(inputs, target), x, noise=noise, norm=norm
    )
    torch.testing.assert_close(called, theirs, rtol=1e-10, atol=0)


# --- Quantus -------------------------------------------------------------------------------------


@pytest.fixture()
def quantus() -> Any:
    return pytest.importorskip("quantus", reason="Quantus is not installed")


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [each.detach().float().numpy() if each.is_floating_point() else each.numpy()
            for each in tensors]  # fmt: skip


@pytest.mark.parametrize("softmax", [False, True])
def test_faithfulness_correlation_is_that_of_quantus(quantus: Any, softmax: bool) -> None:
    net, x = conv_net(), pictures(torch.float32)
    target = torch.tensor([0, 3, 1])
    maps = gradient(net, x, target) * x + 1e-3 * normals(*x.shape).float()
    xs, ys, attributions = arrays(x, target, maps)
    # A baseline by name would draw random numbers between the subsets.
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=RUNS, subset_size=SUBSET, perturb_baseline=0.0, return_aggregate=False,
        disable_warnings=True,
    )  # fmt: skip
    np.random.seed(5)
    theirs = metric(net, xs, ys, attributions, softmax=softmax, channel_first=True)
    np.random.seed(5)
    drawn = [
        [np.random.choice(x[0].numel(), SUBSET, replace=False) for _ in x] for _ in range(RUNS)
    ]
    ours = faithfulness_correlation(
        net, x, maps, target, subsets=torch.from_numpy(np.array(drawn)),
        output="prob" if softmax else "logit",
    )  # fmt: skip
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-4)


def test_sensitivity_is_that_of_quantus(quantus: Any) -> None:
    net, x = conv_net(), pictures(torch.float32)
    target, noise = torch.tensor([0, 3, 1]), 0.1 * normals(SAMPLES, *x.shape).float()
    added = iter(noise.flatten(2).numpy())

    def perturbed(arr: np.ndarray, indices: np.ndarray, **options: Any) -> np.ndarray:
        return arr + next(added)

    def explained(model: nn.Module, inputs: Any, targets: Any, **options: Any) -> np.ndarray:
        return gradient(model, torch.as_tensor(inputs), torch.as_tensor(targets)).numpy()

    xs, ys = arrays(x, target)
    metric = quantus.MaxSensitivity(
        nr_samples=SAMPLES, perturb_func=perturbed, disable_warnings=True
    )
    theirs = metric(net, xs, ys, explain_func=explained, channel_first=True)
    ours = max_sensitivity(lambda inputs: gradient(net, inputs, target), x, noise=noise)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5)


class Forgetting(nn.Linear):
    """A layer that becomes the same whatever torch's random state."""

    def reset_parameters(self) -> None:
        generator = torch.Generator().manual_seed(self.in_features)
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_(0, 0.5, generator=generator)


@pytest.mark.parametrize("order", ["top_down", "bottom_up", "independent"])
def test_randomisation_is_that_of_quantus(quantus: Any, order: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), Forgetting(432, 20), nn.Tanh(), Forgetting(20, 12), nn.Tanh(),
        Forgetting(12, 5),
    ).eval()  # fmt: skip
    for layer in (1, 3, 5):
        nn.init.normal_(net[layer].weight, std=0.3)
    x, target = pictures(torch.float32), torch.tensor([0, 3, 1])

    def explained(model: nn.Module, inputs: Any, targets: Any, **options: Any) -> np.ndarray:
        return gradient(model, torch.as_tensor(inputs), torch.as_tensor(targets)).numpy()

    xs, ys = arrays(x, target)
    metric = quantus.MPRT(layer_order=order, disable_warnings=True)
    theirs = metric(net, xs, ys, explain_func=explained, channel_first=True)
    ours = mprt(net, gradient, x, target, order=order)
    assert ours.layers == tuple(name for name in theirs if name != "original")
    for layer, values in zip(ours.layers, ours.similarity["spearman"], strict=True):
        np.testing.assert_allclose(values, theirs[layer], rtol=0, atol=1e-5)
    assert not np.allclose(ours.similarity["spearman"][0], 1)


def test_complexity_and_sparseness_are_those_of_quantus(quantus: Any) -> None:
    net, maps = mlp(), normals(4, 3, 12, 12)
    xs, ys, attributions = arrays(normals(4, 3, 12, 12), torch.zeros(4).long(), maps)
    maps = torch.from_numpy(attributions)
    for name, ours in (("Complexity", complexity(maps)), ("Sparseness", sparseness(maps))):
        metric = getattr(quantus, name)(disable_warnings=True)
        theirs = metric(net, xs, ys, attributions.copy(), channel_first=True)
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5)


def test_pointing_and_energy_are_those_of_quantus(quantus: Any) -> None:
    net, maps = mlp(), normals(6, 1, 12, 12).abs()
    mask = torch.zeros(6, 1, 12, 12, dtype=torch.bool)
    mask[..., 2:9, 3:10] = True
    xs, ys, attributions, masks = arrays(
        normals(6, 1, 12, 12), torch.zeros(6).long(), maps, mask.float()
    )
    for name, ours in (
        ("PointingGame", pointing_game(maps, mask)),
        ("RelevanceMassAccuracy", energy_inside(maps, mask)),
    ):
        metric = getattr(quantus, name)(disable_warnings=True)
        theirs = metric(net, xs, ys, attributions.copy(), masks, channel_first=True)
        np.testing.assert_allclose(ours.numpy(), np.array(theirs, dtype=float), rtol=1e-5)
    assert 0 < float(pointing_game(maps, mask).mean()) < 1

"""Metrics that change inputs along a ranking say what Quantus says of the same inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyxai_fast.metrics import deletion, road
from pyxai_fast.metrics.imputation import imputed

quantus = pytest.importorskip("quantus", reason="Quantus is not installed")

SIDE = 10


class Net(nn.Module):
    """Two classes of grey pictures, by what is where."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.head = nn.Linear(6 * SIDE * SIDE, 2)

    def forward(self, x: Tensor) -> Tensor:
        return 5 * self.head(self.conv(x).tanh().flatten(1))


@pytest.fixture(scope="module")
def asked() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    net = Net().eval()
    x = torch.rand(12, 1, SIDE, SIDE, generator=generator)
    return net, x, torch.randn(x.shape, generator=generator), net(x).argmax(1)


def said(metric: Any, asked: tuple[nn.Module, Tensor, Tensor, Tensor]) -> Any:
    net, x, maps, target = asked
    return metric(
        model=net, x_batch=x.numpy(), y_batch=target.numpy(), a_batch=maps.numpy(), device="cpu"
    )


@pytest.mark.parametrize("base", [0.0, 0.5])
def test_deletion_is_pixel_flipping(
    base: float, asked: tuple[nn.Module, Tensor, Tensor, Tensor]
) -> None:
    flipping = quantus.PixelFlipping(
        features_in_step=5, normalise=False, perturb_baseline=base, disable_warnings=True
    )
    theirs = np.array(said(flipping, asked)).T
    ours = deletion(*asked, baselines=base, n_steps=20)
    # Theirs leaves the picture itself out.
    np.testing.assert_allclose(ours.scores[1:], theirs, rtol=0, atol=1e-6)


def test_imputed_pixels_are_theirs() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(4, 3, 14, 11, generator=generator, dtype=torch.float64)
    for share in (0.1, 0.5, 0.9, 0.99):
        removed = torch.rand(4, 1, 14, 11, generator=generator) < share
        removed[..., 7, 5] = False  # where nothing is known, they have no solution
        found = imputed(x, removed)
        for one, mask, ours in zip(x, removed[:, 0], found, strict=True):
            theirs = quantus.functions.perturb_func.noisy_linear_imputation(
                arr=one.numpy(), indices=mask.flatten().nonzero()[:, 0].numpy(), noise=0.0
            )
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_road_counts_as_many_right_answers(
    asked: tuple[nn.Module, Tensor, Tensor, Tensor],
) -> None:
    percentages = list(range(5, 100, 10))
    theirs = said(
        quantus.ROAD(percentages=percentages, noise=0.0, normalise=False, disable_warnings=True),
        asked,
    )
    ours = road(*asked, fractions=[p / 100 for p in percentages], noise=0).most_first
    # Of two classes the right one has more than half.
    shares = (ours.scores > 0.5).double().mean(1)
    assert len(set(shares.tolist())) > 2
    np.testing.assert_allclose(shares, [theirs[p] for p in percentages], rtol=0, atol=1e-12)

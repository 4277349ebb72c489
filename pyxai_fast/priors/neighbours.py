"""A prior made of examples: what noise came from is one of them, or between near ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ArgumentError
from .schedule import linear_schedule


class NearestNeighbourPrior:
    """The distribution of a table's rows, for data too few or too irregular for a network.

    The clean input that a noisy one is taken for is the mean of the rows, weighted by how likely
    each is to have become it: ``p(row | y) ~ exp(-|y - sqrt(a) row|^2 / (2 (1 - a)))``, the exact
    posterior of the rows' own distribution. At low noise that is the nearest row.

    Args:
        data: [N, ...], the rows.
        shares: the schedule, [T]; DDPM's linear one by default.

    The prior's space has columns of mean 0 and variance 1; constant columns stay as they are.
    """

    def __init__(self, data: Tensor, shares: Tensor | None = None) -> None:
        if data.dim() < 2 or len(data) < 2 or not data.is_floating_point():
            raise ArgumentError(
                "NearestNeighbourPrior: data must be floating-point rows [N, ...], N > 1, got "
                f"{data.dtype} {list(data.shape)}"
            )
        wide = data.double()
        self.mean = wide.mean(0)
        deviation = wide.std(0)
        self.deviation = torch.where(deviation > 0, deviation, 1.0)
        self.rows = ((wide - self.mean) / self.deviation).flatten(1)
        self._shares = linear_schedule() if shares is None else shares

    @property
    def shares(self) -> Tensor:
        return self._shares

    @property
    def bounds(self) -> None:
        return None

    def predict_noise(self, noisy: Tensor, level: int) -> Tensor:
        share = float(self._shares[level])
        signal, spread = share**0.5, (1 - share) ** 0.5
        y = noisy.double().flatten(1)
        rows = self.rows.to(y.device)
        # |y - s r|^2 = |y|^2 - 2 s y.r + s^2 |r|^2, of which |y|^2 is the same for all rows.
        nearness = (2 * signal * (y @ rows.T) - share * rows.square().sum(1)) / (2 * spread**2)
        clean = nearness.softmax(1) @ rows
        noise: Tensor = (y - signal * clean) / spread
        return noise.reshape(noisy.shape).to(noisy.dtype)

    def encode(self, inputs: Tensor) -> Tensor:
        mean, deviation = self.mean.to(inputs.device), self.deviation.to(inputs.device)
        return ((inputs.double() - mean) / deviation).to(inputs.dtype)

    def decode(self, clean: Tensor) -> Tensor:
        mean, deviation = self.mean.to(clean.device), self.deviation.to(clean.device)
        return (clean.double() * deviation + mean).to(clean.dtype)

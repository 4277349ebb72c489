"""A prior with closed forms: everything is normally distributed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ArgumentError
from .schedule import linear_schedule


class GaussianPrior:
    """Inputs ~ N(mean, covariance), for tables, and where what must come out is known.

    ``E[noise | y] = sqrt(1 - a) (a C + (1 - a) I)^-1 (y - sqrt(a) mean)``, a the share of signal.

    Args:
        mean: [D], or any shape of one input with D elements.
        covariance: [D, D], positive semi-definite: inputs never leave its range. One of low rank is
            a flat manifold.
        shares: the schedule, [T]; DDPM's linear one by default.

    The space is that of the caller.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, shares: Tensor | None = None) -> None:
        features = mean.numel()
        if covariance.shape != (features, features):
            raise ArgumentError(
                f"GaussianPrior: covariance must have shape [{features}, {features}] for a mean of "
                f"{features} elements, got {list(covariance.shape)}"
            )
        self.mean = mean.double()
        variances, self.axes = torch.linalg.eigh(covariance.double())
        if float(variances.min()) < -1e-9 * float(variances.abs().max()):
            raise ArgumentError(
                "GaussianPrior: covariance must be positive semi-definite, got an eigenvalue of "
                f"{float(variances.min()):.3g}"
            )
        self.variances = variances.clamp(min=0)
        self._shares = linear_schedule() if shares is None else shares

    @classmethod
    def fit(cls, data: Tensor, shares: Tensor | None = None) -> GaussianPrior:
        """The prior of a table [N, ...], N > 1."""
        rows = data.double().flatten(1)
        mean = rows.mean(0)
        centred = rows - mean
        covariance = centred.T @ centred / (len(rows) - 1)
        return cls(mean.reshape(data.shape[1:]), covariance, shares)

    @property
    def shares(self) -> Tensor:
        return self._shares

    @property
    def bounds(self) -> None:
        return None

    def predict_noise(self, noisy: Tensor, level: int) -> Tensor:
        if noisy.shape[1:] != self.mean.shape:
            raise ArgumentError(
                f"GaussianPrior: inputs must have shape {['R', *self.mean.shape]}, as the mean has "
                f"it, got {list(noisy.shape)}"
            )
        share = float(self._shares[level])
        mean, axes, variances = (t.to(noisy.device) for t in (self.mean, self.axes, self.variances))
        along = (noisy.double() - share**0.5 * mean).flatten(1) @ axes
        noise: Tensor = (along * ((1 - share) ** 0.5 / (share * variances + 1 - share))) @ axes.T
        return noise.reshape(noisy.shape).to(noisy.dtype)

    def encode(self, inputs: Tensor) -> Tensor:
        return inputs

    def decode(self, clean: Tensor) -> Tensor:
        return clean

"""Means over pictures with confidence intervals."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

RESAMPLES = 5000
LEVEL = 0.95


class Mean(TypedDict):
    """A mean and its interval."""

    mean: float
    low: float
    high: float


def mean_of(values: Tensor, seed: int = 0) -> Mean:
    """The mean of one value for each picture [B], and the percentile bootstrap interval of it.

    Efron, "Bootstrap Methods: Another Look at the Jackknife" (1979). Differences of the same
    pictures are paired when they are taken before they come here.
    """
    values = values.double().cpu()
    low, high = values[_draws(len(values), seed)].mean(1).quantile(_ends())
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def band_of(curves: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of curves [B, S], one for each picture, and its interval at every point.

    The pictures that are drawn are those of `mean_of`.

    Returns:
        mean, low and high, float64 [S].
    """
    curves = curves.double().cpu()
    draws = _draws(len(curves), seed)
    times = torch.zeros(RESAMPLES, len(curves), dtype=torch.float64)
    times.scatter_add_(1, draws, torch.ones_like(times))
    low, high = (times @ curves / len(curves)).quantile(_ends(), dim=0)
    return curves.mean(0), low, high


def _draws(count: int, seed: int) -> Tensor:
    """Pictures, with replacement: int64 [RESAMPLES, count]."""
    return torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed))


def _ends() -> Tensor:
    return torch.tensor([1 - LEVEL, 1 + LEVEL]).double() / 2

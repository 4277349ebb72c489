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
    draws = torch.randint(
        len(values), (RESAMPLES, len(values)), generator=torch.Generator().manual_seed(seed)
    )
    low, high = values[draws].mean(1).quantile(torch.tensor([1 - LEVEL, 1 + LEVEL]).double() / 2)
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}

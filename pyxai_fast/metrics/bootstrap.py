"""Means over pictures with confidence intervals."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import TypedDict

import torch
from torch import Tensor

RESAMPLES = 5000
LEVEL = 0.95
# Numbers that are drawn at once, and that are kept for the next interval over as many pictures.
BLOCK, KEPT = 2**24, 2**22


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
    means = [values[draws].mean(1) for draws in _draws(len(values), seed)]
    low, high = torch.cat(means).quantile(_ends())
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def band_of(curves: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of curves [B, S], one for each picture, and its interval at every point.

    The pictures that are drawn are those of `mean_of`.

    Returns:
        mean, low and high, float64 [S].
    """
    curves = curves.double().cpu()
    means = []
    for draws in _draws(len(curves), seed):
        times = torch.zeros(draws.shape, dtype=torch.float64)
        times.scatter_add_(1, draws, torch.ones_like(times))
        means.append(times @ curves / len(curves))
    low, high = torch.cat(means).quantile(_ends(), dim=0)
    return curves.mean(0), low, high


def _draws(count: int, seed: int) -> Iterable[Tensor]:
    """Pictures, with replacement: int64 [R, count], block by block, RESAMPLES rows in all."""
    return _few_draws(count, seed) if RESAMPLES * count <= KEPT else _blocks(count, seed)


@functools.lru_cache(maxsize=1)
def _few_draws(count: int, seed: int) -> tuple[Tensor, ...]:
    return tuple(_blocks(count, seed))


def _blocks(count: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, BLOCK // max(1, count))
    for start in range(0, RESAMPLES, rows):
        shape = min(rows, RESAMPLES - start), count
        yield torch.randint(count, shape, generator=generator)


def _ends() -> Tensor:
    return torch.tensor([1 - LEVEL, 1 + LEVEL]).double() / 2

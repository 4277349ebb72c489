"""Means over pictures with confidence intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from statistics import NormalDist
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
    """The mean of one value for each picture [B], and the bootstrap interval of it.

    Percentiles (Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979), expanded so that
    the interval is as wide as Student's for few pictures (Hesterberg, "What Teachers Should Know
    about the Bootstrap", 2015, section 3.3). Differences of the same pictures are paired when they
    are taken before they come here.
    """
    values = values.double().cpu()
    means = [values[draws].mean(1) for draws in _draws(len(values), seed)]
    low, high = torch.cat(means).quantile(_ends(len(values)))
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
    low, high = torch.cat(means).quantile(_ends(len(curves)), dim=0)
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


def _ends(count: int) -> Tensor:
    """The percentiles: of a normal number, those that lie where Student's t has its own.

    Percentiles alone are narrow twice: the spread of resampled means is smaller by
    sqrt((n - 1) / n), and the tails are a normal number's. Eight pictures that are nothing but
    noise would leave 0 out in 11 of 100 cases, in place of 5.
    """
    if count < 2:  # all resamples are the same
        return torch.tensor([1 - LEVEL, 1 + LEVEL]).double() / 2
    reach = math.sqrt(count / (count - 1)) * _student_reach(count - 1)
    tail = NormalDist().cdf(-reach)
    return torch.tensor([tail, 1 - tail], dtype=torch.float64)


@functools.lru_cache
def _student_reach(freedom: int) -> float:
    """t of which a Student's number is within -t and t, LEVEL of the time, by bisection."""
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        if _student_within(middle, freedom) < LEVEL:
            low = middle
        else:
            high = middle
    return high


def _student_within(t: float, freedom: int) -> float:
    """How likely a Student's number of whole degrees of freedom is within -t and t.

    Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total

"""From the attributions of many paths of one input to one map.

Only the mean keeps what holds for each path: that attributions add up to the difference of the
scores. Where a statistic is not the mean, it is taken of attributions, feature by feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ArgumentError, is_one_of, near

# Of SPI-P: the share of features whose mean lies above the threshold.
TOP_SHARE = 0.05


class PathStatistic(Protocol):
    """Takes the maps of one path after the other, for the examples of a batch."""

    def take(self, examples: slice, maps: Tensor) -> None:
        """Attributions of one more path, float64 [E, ...]."""
        ...

    def result(self) -> Tensor:
        """One map for each example, [B, ...], when all paths were taken."""
        ...


class Median:
    """Holds every map, float32: memory grows with the paths. Between the middle two of an even
    number."""

    def __init__(self, batch: int, n_paths: int) -> None:
        self._batch, self._n_paths = batch, n_paths
        self._maps: Tensor | None = None
        self._taken = torch.zeros(batch, dtype=torch.long)

    def take(self, examples: slice, maps: Tensor) -> None:
        if self._maps is None:
            shape = (self._n_paths, self._batch, *maps.shape[1:])
            self._maps = torch.zeros(shape, dtype=torch.float32, device=maps.device)
        # Examples of one chunk are at the same path.
        self._maps[int(self._taken[examples][0]), examples] = maps.float()
        self._taken[examples] += 1

    def result(self) -> Tensor:
        assert self._maps is not None
        ordered = self._maps.sort(0).values
        low, high = (self._n_paths - 1) // 2, self._n_paths // 2
        return (ordered[low].double() + ordered[high].double()) / 2


class VarianceWeighted:
    """The mean, in which a path has the inverse of its map's variance over the features as weight:
    paths on which few features take most of the way count less. Kim et al. name a variance-weighted
    mean and leave its weights open."""

    def __init__(self, batch: int, n_paths: int) -> None:
        self._batch = batch
        self._sum: Tensor | None = None
        self._weights: Tensor | None = None
        self._least: Tensor | None = None

    def take(self, examples: slice, maps: Tensor) -> None:
        lead = maps.dim() - 1
        if self._sum is None or self._weights is None or self._least is None:
            self._sum = maps.new_zeros((self._batch, *maps.shape[1:]))
            self._weights = maps.new_zeros((self._batch, *[1] * lead))
            self._least = torch.full_like(self._weights, math.inf)
        variance = maps.flatten(1).var(1, correction=0).reshape(-1, *[1] * lead)
        # A map that is the same everywhere is certain: beside it, no other counts.
        variance = variance.clamp(min=torch.finfo(torch.float64).tiny)
        # Weights are shares of the greatest so far, so that none overflows.
        least = torch.minimum(self._least[examples], variance)
        shrunk, weight = least / self._least[examples], least / variance
        self._sum[examples] = self._sum[examples] * shrunk + weight * maps
        self._weights[examples] = self._weights[examples] * shrunk + weight
        self._least[examples] = least

    def result(self) -> Tensor:
        assert self._sum is not None and self._weights is not None
        return self._sum / self._weights


class ProbabilityOfTop:
    """SPI-P: the probability that a feature's attribution is among the greatest, on a random path.

    P(phi_i > theta) for normal phi_i with the mean and the variance over the paths; theta is the
    quantile of the means that `TOP_SHARE` of the features lie above. Jeon, Jeong and Choi, "Beyond
    Single Path Integrated Gradients for Reliable Input Attribution via Randomized Path Sampling"
    (2023), equations 14 to 16.
    """

    def __init__(self, batch: int, n_paths: int) -> None:
        self._batch = batch
        self._taken = torch.zeros(batch, dtype=torch.float64)
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None

    def take(self, examples: slice, maps: Tensor) -> None:
        if self._mean is None or self._squares is None:
            self._mean = maps.new_zeros((self._batch, *maps.shape[1:]))
            self._squares = torch.zeros_like(self._mean)
        self._taken[examples] += 1
        taken = self._taken[examples].to(maps.device).reshape(-1, *[1] * (maps.dim() - 1))
        away = maps - self._mean[examples]
        self._mean[examples] += away / taken
        self._squares[examples] += away * (maps - self._mean[examples])

    def result(self) -> Tensor:
        assert self._mean is not None and self._squares is not None
        taken = self._taken.to(self._mean.device).reshape(-1, *[1] * (self._mean.dim() - 1))
        deviation = (self._squares / (taken - 1).clamp(min=1)).sqrt()
        threshold = _upper_quantile(self._mean.flatten(1)).reshape_as(taken)
        above = self._mean - threshold
        # Without spread it is known on which side a feature lies.
        sure = torch.where(above > 0, math.inf, -math.inf)
        z = torch.where(deviation > 0, above / deviation, sure)
        return 0.5 * torch.erfc(-z / math.sqrt(2))


def _upper_quantile(values: Tensor) -> Tensor:
    """[B, 1] of [B, D]: the greatest that at least TOP_SHARE of the values lie above."""
    above = min(values.shape[1] - 1, math.ceil(TOP_SHARE * values.shape[1]))
    return values.topk(above + 1, dim=1).values[:, -1:]


# The mean is what the loop's sums are, and needs no statistic.
AGGREGATIONS: dict[str, Callable[[int, int], PathStatistic] | None] = {
    "mean": None,
    "median": Median,
    "variance": VarianceWeighted,
    "probability": ProbabilityOfTop,
}


def check_aggregate(path: str, aggregate: str) -> None:
    if not is_one_of(aggregate, AGGREGATIONS):
        raise ArgumentError(
            f"{path}: aggregate must be one of {', '.join(AGGREGATIONS)}, got {aggregate!r}"
            f"{near(str(aggregate), AGGREGATIONS)}"
        )

"""Numbers at random, from a generator on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..runtime.training import generator_of


class Draws:
    """Uniform and normal numbers for some examples, the same for a seed everywhere.

    Args:
        op: what they are for: another op draws others, from the same seed. Messages name it.
        count: how many examples, at least 1.
        seed: a whole number.
    """

    def __init__(self, op: str, count: int, seed: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ArgumentError(f"{op}: count must be an integer >= 1, got {count!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ArgumentError(f"{op}: seed must be an integer, got {seed!r}")
        self.count = count
        self.generator = generator_of(seed, op)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Float32 [count, *shape]."""
        numbers = torch.rand(self.count, *shape, generator=self.generator)
        return low + (high - low) * numbers

    def normal(self, *shape: int) -> Tensor:
        """Float32 [count, *shape], of variance 1."""
        return torch.randn(self.count, *shape, generator=self.generator)

    def labels(self, n_classes: int) -> Tensor:
        """Int64 [count] below n_classes, each as often but for one, in any order."""
        return torch.randperm(self.count, generator=self.generator) % n_classes


def widened(numbers: Tensor, dims: int) -> Tensor:
    """[B, ...] with so many dimensions of extent 1 at its end."""
    return numbers.reshape(*numbers.shape, *[1] * dims)


def check_extents(op: str, name: str, extents: Sequence[int], least: int) -> None:
    for extent in extents:
        if isinstance(extent, bool) or not isinstance(extent, int) or extent < least:
            raise ArgumentError(f"{op}: {name} must be an integer >= {least}, got {extent!r}")

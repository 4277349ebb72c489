"""What a gradient is to the methods."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..models.score import RowScore


class Gradient(Protocol):
    """Finds (or estimates) the slope of a score at rows of model inputs."""

    needs_autograd: bool
    """Whether the model's own graph is recorded, so that inputs must be ordinary tensors."""

    def __call__(
        self, score: RowScore, points: tuple[Tensor, ...], create_graph: bool = False
    ) -> tuple[Tensor, ...]:
        """d score(points)[r] / d points[r], one tensor [R, ...] for each tensor of points.

        `points` must not be changed; each row's score depends on that row alone.
        """
        ...

"""What a gradient is to the methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..models.score import RowScore


@dataclass(frozen=True)
class Slopes:
    """The slopes of a score at rows of points.

    Attributes:
        values: d score / d points, one tensor [R, ...] for each tensor of points; [R, n, ...] for n
            targets.
        variances: of the values, where they are estimates and the caller asked for it; infinite for
            features of which nothing was learnt.
    """

    values: tuple[Tensor, ...]
    variances: tuple[Tensor, ...] | None = None


class Gradient(Protocol):
    """Finds (or estimates) the slope of a score at rows of points."""

    needs_autograd: bool
    """White box or black box.

    True: the model's own graph is recorded. Points are model inputs, slopes are with respect to
    them, and they are exact.
    False: the model is only asked. Points are in the caller's units, so that perturbations are too;
    the gradient applies the score's affine maps, its slopes are with respect to the points, and
    come with variances.
    """

    @property
    def explains_score(self) -> bool:
        """Whether slopes are those of the score that is asked for, so that a path's integral of
        them is a difference of scores."""
        ...

    @property
    def evaluations(self) -> int:
        """Rows that the model is asked for each point, at most."""
        ...

    def __call__(
        self,
        rows: RowScore,
        points: tuple[Tensor, ...],
        *,
        create_graph: bool = False,
        variances: bool = False,
    ) -> Slopes:
        """d rows(points)[r] / d points[r].

        `points` must not be changed; each row's score depends on that row alone.
        """
        ...

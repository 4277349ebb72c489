"""A score of each input as more and more of a ranking is changed, and the area under it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curve:
    """Scores over shares of the ranked features.

    Attributes:
        fractions: float64 [S], ascending, of the features that are changed.
        scores: float64 [S, B].
    """

    fractions: Tensor
    scores: Tensor

    @property
    def area(self) -> Tensor:
        """[B], by trapezoids, divided by the span of the fractions: a mean score."""
        if len(self.fractions) == 1:
            return self.scores[0]
        fractions = self.fractions.to(self.scores.device)
        span = fractions[-1] - fractions[0]
        return torch.trapezoid(self.scores, fractions, dim=0) / span

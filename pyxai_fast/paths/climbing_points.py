"""Evenly spaced points from baseline to input, from which the score is climbed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.preprocessing import Affine
from ..reference.path import step_of
from .straight_line import StraightTrace


class ClimbingPoints:
    """``baseline + k / n (input - baseline)``, k from `first` to n.

    Args:
        first: k of the first point.
    """

    complete = False

    def __init__(self, first: int = 0) -> None:
        self.first = first

    def start(self, inputs: Tensor, baselines: Tensor) -> Tensor:
        return baselines

    def trace(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        method: str,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> ClimbingTrace:
        last = n_steps - 1 + self.first
        k = torch.arange(self.first, last + 1, dtype=torch.float64)
        ones = torch.ones_like(k)
        return ClimbingTrace(inputs, baselines, k / max(last, 1), ones, affine)


class ClimbingTrace(StraightTrace):
    """Totals are slopes in the caller's units already: the greatest, not sums."""

    def attributions(self, total: Tensor, multiply_by_inputs: bool) -> Tensor:
        if not multiply_by_inputs:
            return total
        return total * step_of(self.inputs, self.baselines, None)

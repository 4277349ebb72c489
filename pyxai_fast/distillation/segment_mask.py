"""The mask of segments: how much of each may be seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# How much faster than the student a mask is learnt.
PACE = 1.5


class SegmentMask(nn.Module):
    """E masks of D segments, each with a weight for each segment.

    At first of every segment one half is seen, so that all that sets them apart is learnt. Weights
    are held in [0, 1] by themselves: a sigmoid that comes near an end by chance hardly leaves it.

    Args:
        count: E.
        segments: D.
    """

    def __init__(self, count: int, segments: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((count, segments), 0.5 / PACE))

    def forward(self) -> Tensor:
        """[E, 1, D] in [0, 1]."""
        return PACE * self.weight[:, None]

    @torch.no_grad()
    def hold(self) -> None:
        """Between 0 and 1, after a step."""
        self.weight.clamp_(0, 1 / PACE)

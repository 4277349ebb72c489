"""The mask generator of tables: from which features are seen to how much of each counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .mask_generator import alike

HIDDEN = 64


class TableMask(nn.Module):
    """E networks of two layers, D - 64 - D with a sigmoid, each with its own weights.

    At first every feature counts one half, so that all that sets masks apart is learnt.

    Args:
        count: E.
        features: D.
    """

    def __init__(self, count: int, features: int) -> None:
        super().__init__()
        first, last = nn.Linear(features, HIDDEN), nn.Linear(HIDDEN, features)
        self.first, self.first_bias = alike(first.weight, count), alike(first.bias, count)
        self.last = alike(torch.zeros_like(last.weight), count)
        self.last_bias = alike(torch.zeros_like(last.bias), count)

    def forward(self, seen: Tensor) -> Tensor:
        """From [E, R, D] to masks of that shape, in (0, 1)."""
        hidden = torch.relu(seen @ self.first.mT + self.first_bias[:, None])
        return (hidden @ self.last.mT + self.last_bias[:, None]).sigmoid()

"""A model of which it is known what it looks at, and its pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIDE = 32
# Away from the centre, where a control looks.
ROWS, COLUMNS = slice(3, 11), slice(20, 28)


def inside() -> Tensor:
    """Where the model looks, bool [1, 1, 32, 32]."""
    mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    mask[..., ROWS, COLUMNS] = True
    return mask


def checkers() -> Tensor:
    """1 and -1 by turns inside, 0 elsewhere: [1, 1, 32, 32]. A blur leaves nothing of it."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return torch.where((x + y) % 2 == 0, 1.0, -1.0)[None, None] * inside()


class SeesCheckers(nn.Module):
    """Class 0 is as likely as the picture has checkers in a corner; the rest is not seen."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.register_buffer("weight", checkers().expand(1, channels, -1, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        found = 0.3 * (x * self.weight).flatten(1).sum(1) / self.weight.shape[1]
        return torch.stack([found, torch.zeros_like(found)], 1)


def pictures(count: int, seed: int = 0) -> Tensor:
    """Noise, with checkers of some contrast in a corner: [count, 1, 32, 32] in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 1, SIDE, SIDE, generator=generator)
    contrast = 0.35 + 0.15 * torch.rand(count, 1, 1, 1, generator=generator)
    return torch.where(inside(), 0.5 + contrast * checkers(), noise)


def masks(count: int) -> Tensor:
    return inside().expand(count, -1, -1, -1)


def load() -> nn.Module:
    """For model specs."""
    return SeesCheckers().eval()

"""The centre of the picture: what a map must beat to show that it found anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Standard deviation, in sides of the picture.
CENTRE_SIGMA = 0.25


def centre_maps(shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """A Gaussian at the centre, where photographers put things: float32 of the shape [B, C, H, W].

    Its standard deviation is a quarter of each side.
    """
    batch, channels, *extents = shape
    down, right = (
        (-0.5 * (torch.linspace(-0.5, 0.5, extent, device=device) / CENTRE_SIGMA) ** 2).exp()
        for extent in extents
    )
    return (down[:, None] * right).expand(batch, channels, -1, -1)

"""Maps that know nothing, to tell what a map that is said to know something is worth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CENTRE_SIGMA = 0.25  # of each side


def random_maps(shape: Sequence[int], seed: int = 0) -> Tensor:
    """A random value in [0, 1] at each place: float32 of the shape."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def centre_maps(shape: Sequence[int]) -> Tensor:
    """A Gaussian at the centre, of a quarter of each side: float32 [B, 1, H, W] of the shape."""
    batch, channels, *extents = shape
    down, right = (
        (-0.5 * (torch.linspace(-0.5, 0.5, extent) / CENTRE_SIGMA).square()).exp()
        for extent in extents
    )
    return (down[:, None] * right).expand(batch, channels, -1, -1)

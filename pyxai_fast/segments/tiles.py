"""Tiles: squares of an image, runs of anything with one dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ArgumentError


def tiles(shape: Sequence[int], size: int | Sequence[int]) -> Tensor:
    """Numbers equal tiles of the features of one example.

    Tiles that do not fit at the ends are smaller. All channels of a pixel are in its tile.

    Args:
        shape: of one example: [D] for tables, [C, ...] with channels first for everything else.
        size: of a tile, in features; one number for every dimension but the channels, or one for
            each.

    Returns:
        int32 [1, D] or [1, 1, ...], from 0, the last dimension counting fastest.

    Example:
        >>> tiles([3, 2, 4], 2)
        tensor([[[[0, 0, 1, 1],
                  [0, 0, 1, 1]]]], dtype=torch.int32)
    """
    shape = list(shape)
    extents = shape if len(shape) == 1 else shape[1:]
    sizes = [size] * len(extents) if isinstance(size, int) else list(size)
    if not extents or len(sizes) != len(extents) or any(s < 1 for s in sizes):
        raise ArgumentError(
            f"tiles: size must be a number >= 1, or one for each of {extents}, got {size!r}"
        )
    number = torch.zeros([], dtype=torch.int32)
    for extent, side in zip(extents, sizes, strict=True):
        along = torch.arange(extent, dtype=torch.int32) // side
        number = number[..., None] * -(-extent // side) + along
    return number[None] if len(shape) == 1 else number[None, None]

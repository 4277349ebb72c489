"""Pictures in hue, saturation and value: what a student must not mistake colours for."""

from __future__ import annotations

import torch
from torch import Tensor

from .views import FULL

# In turns, of the queries of a batch.
SHARES = (3 / 5, 2 / 5)


def in_other_colours(pictures: Tensor, batch: int) -> Tensor:
    """The first queries of every batch in hue, saturation and value: three fifths of them in even
    batches, two fifths in odd ones. The whole input, which is the first of all, is among them.

    Args:
        pictures: [E, R, 3, H, W], from 0 to 255.
        batch: its number.
    """
    count = int(pictures.shape[1] * SHARES[batch % 2])
    return torch.cat([hue_saturation_value(pictures[:, :count]), pictures[:, count:]], 1)


def hue_saturation_value(pictures: Tensor) -> Tensor:
    """[..., 3, H, W] in RGB from 0 to 255 as HSV, each of the three from 0 to 255."""
    red, green, blue = pictures.unbind(-3)
    value, lowest = pictures.amax(-3), pictures.amin(-3)
    span = value - lowest
    safe = torch.where(span > 0, span, 1.0)
    sixths = torch.where(
        value == red,
        (green - blue) / safe % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = torch.where(span > 0, sixths / 6, 0.0) * FULL
    saturation = torch.where(value > 0, span / torch.where(value > 0, value, 1.0), 0.0) * FULL
    return torch.stack([hue, saturation, value], -3)

"""How well maps find what is known to matter: pointing, overlap with a mask, energy inside.

Only what speaks for the class counts: what is negative is taken as 0, and a map without a positive
value is as hot everywhere.

Attributions are floating-point [B, ...] and finite. Masks are bool: shaped as the attributions, or
without their channels, [B, H, W] or [B, 1, H, W], which are added up then. Each must have something
inside. Results are float64 [B] on the attributions' device; large is good. What does not fit raises
a TypeError or ValueError that names the argument, what it must be and what it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import ArgumentError
from .asked import check_size
from .maps import check_maps

THRESHOLD = 0.2
LEVELS = 100


def heat(attributions: Tensor) -> Tensor:
    """What maps say for their class, from 0 to 1: float64, shaped as the attributions.

    Each is divided by its largest value, and 0 where it is negative. A map without a positive value
    is 0.
    """
    check_maps("heat", attributions)
    positive = attributions.detach().double().clamp(min=0)
    top = positive.flatten(1).amax(1).view(-1, *[1] * (positive.dim() - 1))
    return positive / torch.where(top > 0, top, 1.0)


def pointing_game(attributions: Tensor, mask: Tensor, *, tolerance: float = 0) -> Tensor:
    """Whether the hottest place is inside: 0 or 1, and between where several are as hot.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop" (2018).

    Args:
        tolerance: places that are less than so many pixels away from the inside of a mask
            [B, H, W] or [B, 1, H, W] count as inside; 15 is usual in pictures of the size of
            ImageNet's.
    """
    op = "pointing_game"
    check_size(op, "tolerance", tolerance)
    hot, inside = _aligned(op, attributions, mask)
    if tolerance > 0:
        inside = _near(op, mask, tolerance).flatten(1).to(hot.device)
    hottest = hot == hot.amax(1, keepdim=True)
    return (hottest & inside).sum(1) / hottest.sum(1).double()


def iou(attributions: Tensor, mask: Tensor, *, threshold: float = THRESHOLD) -> Tensor:
    """Intersection over union of the mask and what is hotter than a share of the hottest place."""
    op = "iou"
    check_size(op, "threshold", threshold)
    hot, inside = _aligned(op, attributions, mask)
    found = hot > float(threshold)
    return (found & inside).sum(1) / (found | inside).sum(1).double()


def iou_area(attributions: Tensor, mask: Tensor) -> Tensor:
    """The mean of `iou` over the thresholds 0, 0.01, ... 0.99: the area under it."""
    hot, inside = _aligned("iou_area", attributions, mask)
    ranked, overlaps = _overlaps(hot, inside)
    levels = torch.arange(LEVELS, dtype=torch.float64, device=hot.device) / LEVELS
    hotter = torch.searchsorted(-ranked, -levels.expand(len(hot), -1))
    return overlaps.gather(1, hotter).mean(1)


def best_iou(attributions: Tensor, mask: Tensor) -> Tensor:
    """The largest `iou` of any threshold, a negative one too: no increasing change of what is
    positive in a map changes it."""
    hot, inside = _aligned("best_iou", attributions, mask)
    ranked, overlaps = _overlaps(hot, inside)
    # No threshold lies between places that are as hot.
    met = torch.ones_like(overlaps, dtype=torch.bool)
    met[:, 1:-1] = ranked[:, 1:] != ranked[:, :-1]
    return overlaps.where(met, 0.0).amax(1)


def energy_inside(attributions: Tensor, mask: Tensor) -> Tensor:
    """The share of the sum of the heat that is inside: 0 for a map without any.

    Wang et al., "Score-CAM" (2020), section 4.3.
    """
    hot, inside = _aligned("energy_inside", attributions, mask)
    return (hot * inside).sum(1) / hot.sum(1).clamp(min=torch.finfo(hot.dtype).tiny)


def _overlaps(hot: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The heat [B, N] in descending order, and the intersection over union of the mask and the
    first 0, 1, ... N places of this order, [B, N + 1]."""
    ranked, order = hot.sort(1, descending=True)
    both = pad(inside.gather(1, order).cumsum(1), (1, 0)).double()
    count = torch.arange(both.shape[1], device=hot.device)
    return ranked, both / (count + both[:, -1:] - both)


def _near(op: str, mask: Tensor, distance: float) -> Tensor:
    """Whether some place inside is nearer than so many pixels: bool [B, 1, H, W]."""
    if mask.dim() == 3:
        mask = mask[:, None]
    if mask.dim() != 4 or mask.shape[1] != 1:
        raise ArgumentError(
            f"{op}: tolerance must be 0 but for masks [B, H, W] or [B, 1, H, W], got {distance} "
            f"and {list(mask.shape)}"
        )
    height, width = mask.shape[2:]
    distance = min(distance, height + width)  # nothing is farther away
    column = torch.arange(width, device=mask.device)
    squares = torch.arange(width, dtype=torch.float64).square()
    # How many places are inside before each of a row.
    before = pad(mask.long().cumsum(3), (1, 0))
    near = torch.zeros_like(mask)
    for away in range(min(math.ceil(distance), height)):
        # Of the rows so far above and below, the places that the disc covers.
        reach = int((squares + away**2 < distance**2).sum()) - 1
        first, end = (column - reach).clamp(min=0), (column + reach + 1).clamp(max=width)
        met = before[..., end] > before[..., first]
        near[:, :, away:] |= met[:, :, : height - away]
        near[:, :, : height - away] |= met[:, :, away:]
    return near


def _aligned(op: str, attributions: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
    """Heat, float64, and mask, [B, N] both: of the mask's places."""
    check_maps(op, attributions)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{op}: mask must be a tensor of bool, got {got}")
    batch, *features = attributions.shape
    places = features[1:]
    shape = list(mask.shape)
    if shape == [batch, *features] or shape == [batch, 1, *features]:
        values = attributions
    elif places and shape in ([batch, 1, *places], [batch, *places]):
        values = attributions.double().sum(1)
    else:
        raise ArgumentError(
            f"{op}: mask must be shaped as the attributions, {[batch, *features]}, or without "
            f"their channels, got {shape}"
        )
    inside = mask.to(values.device).flatten(1)
    empty = (~inside.any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise ArgumentError(
            f"{op}: mask must have something inside, got nothing in {empty} of {batch}"
        )
    return heat(values).flatten(1), inside

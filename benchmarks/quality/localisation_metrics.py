"""How well a map finds what is known to matter: overlap with a mask, pointing, and energy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

THRESHOLD = 0.2
LEVELS = 100


def heat(values: Tensor) -> Tensor:
    """What a map says for its target, from 0 to 1: float64, shaped as the map.

    Divided by its largest value, and 0 where it is negative. A map without a positive value is 0.
    """
    positive = values.double().clamp(min=0)
    top = positive.max()
    return positive / top if top > 0 else positive


def iou(heat: Tensor, mask: Tensor, threshold: float = THRESHOLD) -> float:
    """Intersection over union of what is hotter than the threshold, and the mask.

    Args:
        heat: in [0, 1], of any shape.
        mask: bool, shaped as the heat.
    """
    return float(_overlaps(heat, mask, torch.tensor([threshold]))[0])


def iou_area(heat: Tensor, mask: Tensor) -> float:
    """The mean of `iou` over the thresholds 0, 0.01, ... 0.99: the area under it."""
    return float(_overlaps(heat, mask, torch.arange(LEVELS) / LEVELS).mean())


def best_iou(heat: Tensor, mask: Tensor) -> float:
    """The largest `iou` of any threshold: no monotone change of the map changes it."""
    return float(_overlaps(heat, mask, torch.cat([heat.unique(), -torch.ones(1)])).max())


def pointing(heat: Tensor, mask: Tensor) -> float:
    """Whether the hottest place is inside: 0 or 1, and between where several are as hot.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop" (2018), without tolerance.
    """
    return float(mask[heat == heat.max()].double().mean())


def energy_inside(heat: Tensor, mask: Tensor) -> float:
    """The share of the sum of the heat that is inside: 0 for a map without any.

    Wang et al., "Score-CAM" (2020), section 4.3.
    """
    return float(heat[mask].sum() / heat.sum().clamp(min=torch.finfo(heat.dtype).tiny))


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "iou": iou,
    "iou_area": iou_area,
    "best_iou": best_iou,
    "pointing": pointing,
    "energy": energy_inside,
}


def judged(heat: Tensor, mask: Tensor) -> dict[str, float]:
    """Every metric of one map; large is good."""
    if heat.shape != mask.shape or not bool(mask.any()):
        raise ValueError(
            f"judged: mask must be of {list(heat.shape)} and not empty, got {list(mask.shape)}, "
            f"{int(mask.sum())} inside"
        )
    return {name: metric(heat, mask) for name, metric in METRICS.items()}


def _overlaps(heat: Tensor, mask: Tensor, thresholds: Tensor) -> Tensor:
    """Intersection over union for each threshold."""
    hot, order = heat.double().flatten().sort()
    inside = mask.flatten()[order].double().flip(0).cumsum(0)
    # How many are hotter, and how many of these are inside.
    count = len(hot) - torch.searchsorted(hot, thresholds.double(), right=True)
    both = torch.cat([inside.new_zeros(1), inside])[count]
    return both / (count + inside[-1] - both)

"""What stands in the place of a segment that is hidden."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, near

SEGMENT_MEAN = "segment_mean"
SEGMENT_GREY = "segment_grey"
KINDS = (SEGMENT_MEAN, SEGMENT_GREY)


def hidden_values(kind: str, inputs: Tensor, segments: Tensor) -> Tensor:
    """Inputs [B, C, ...] with each segment flattened to one value.

    Args:
        kind: "segment_mean", of each channel by itself, as in LIME's code for images;
            "segment_grey", one level for all channels, the mean of theirs.
        segments: int [B or 1, 1 or C, ...].

    Returns:
        Shaped as the inputs, in their type.
    """
    if kind not in KINDS:
        raise ArgumentError(
            f"baselines: baselines must be a number, a tensor, or one of {', '.join(KINDS)}, got "
            f"{kind!r}{near(kind, KINDS)}"
        )
    if inputs.dim() < 3:
        raise ArgumentError(
            f"baselines: baselines must be numbers for inputs {list(inputs.shape)}, whose "
            "features are segments by themselves: a mean of the data, [1, D]; got none"
        )
    labels = segments.long().expand(inputs.shape).flatten(2)
    values = inputs.double().flatten(2)
    if kind == SEGMENT_GREY:
        values = values.mean(1, keepdim=True).expand_as(values)
    count = int(labels.max()) + 1 if labels.numel() else 0
    sums = torch.zeros(*values.shape[:2], count, dtype=torch.float64, device=inputs.device)
    sizes = torch.zeros_like(sums)
    sums.scatter_add_(2, labels, values)
    sizes.scatter_add_(2, labels, torch.ones_like(values))
    means = (sums / sizes.clamp(min=1)).gather(2, labels)
    return means.reshape(inputs.shape).to(inputs.dtype)


def as_hidden(baselines: Any, inputs: Tensor, segments: Tensor, default: str) -> Any:
    """Baselines with a name of a kind made into values; None is the default, and 0 for tables,
    whose features have nothing to be the mean of."""
    if baselines is None:
        baselines = default if inputs.dim() > 2 else 0.0
    return hidden_values(baselines, inputs, segments) if isinstance(baselines, str) else baselines

"""Model inputs chosen, feature by feature, from two sources: what the mask and rank ops share."""

from __future__ import annotations

import torch
from torch import Tensor

from .path import by_channel, compute_dtype


def select(
    mask: Tensor,
    chosen: Tensor,
    other: Tensor,
    inputs: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    dtype: torch.dtype | None,
    memory_format: torch.memory_format | None,
) -> Tensor:
    """`chosen` where the mask [S, 1 or B, 1 or C, ...] is set, else `other`; both as model inputs.

    The affine map and the rounding are elementwise, so they go before the choice.
    """
    compute = compute_dtype(inputs.dtype)

    def model_input(values: Tensor) -> Tensor:
        values = values.to(compute)
        if scale is not None and shift is not None:
            values = values * by_channel(scale, inputs, compute)
            values = values + by_channel(shift, inputs, compute)
        return values.to(dtype or inputs.dtype)

    values = torch.where(mask, model_input(chosen), model_input(other))
    return (
        values.expand(mask.shape[0], *inputs.shape)
        .flatten(0, 1)
        .contiguous(memory_format=memory_format or torch.contiguous_format)
    )

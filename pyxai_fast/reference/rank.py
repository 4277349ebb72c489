"""The first features of a ranking replaced: images of insertion and deletion.

Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models"
(2018), section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .select import select


def ranks_of(attributions: Tensor, descending: bool = True) -> Tensor:
    flat = attributions.reshape(attributions.shape[0], attributions.shape[1:].numel())
    order = flat.argsort(dim=1, descending=descending, stable=True)
    ranks = torch.empty(flat.shape, dtype=torch.int32, device=flat.device)
    places = torch.arange(flat.shape[1], dtype=torch.int32, device=flat.device)
    return ranks.scatter_(1, order, places.expand_as(ranks)).reshape(attributions.shape)


def below_steps(ranks: Tensor, steps: Tensor) -> Tensor:
    """Whether each rank is below each step: [S, 1 or B, 1 or C, ...]."""
    missing = ranks.dim() + 1 - steps.dim()
    return ranks < steps.reshape(*steps.shape, *([1] * missing))


def rank_mask(
    inputs: Tensor,
    base: Tensor,
    ranks: Tensor,
    steps: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    below = below_steps(ranks, steps)
    return select(below, base, inputs, inputs, scale, shift, dtype, memory_format)


def rank_mask_out(
    inputs: Tensor,
    base: Tensor,
    ranks: Tensor,
    steps: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    out: Tensor,
) -> None:
    out.copy_(rank_mask(inputs, base, ranks, steps, scale, shift, out.dtype))

"""Segments kept or replaced by coalitions, and inputs blended with masks."""

from __future__ import annotations

import torch
from torch import Tensor

from .path import compute_dtype, memory_format_of
from .select import select

WORD = 32  # segments per word of a coalition


def pack_coalitions(kept: Tensor) -> Tensor:
    segments = kept.shape[-1]
    words = -(-segments // WORD)
    padded = torch.nn.functional.pad(kept, (0, words * WORD - segments))
    bits = torch.arange(WORD, dtype=torch.int32, device=kept.device)
    # Bit 31 is the sign: shifted into place, and the sum of different bits does not overflow.
    values = padded.unflatten(-1, (words, WORD)).to(torch.int32).bitwise_left_shift(bits)
    packed: Tensor = values.sum(-1, dtype=torch.int32)
    return packed


def unpack_coalitions(words: Tensor, n_segments: int) -> Tensor:
    bits = torch.arange(WORD, dtype=torch.int32, device=words.device)
    kept = (words[..., None] >> bits & 1).to(torch.bool)
    return kept.flatten(-2)[..., :n_segments]


def kept_by_coalitions(segments: Tensor, coalitions: Tensor) -> Tensor:
    """Whether each coalition keeps each feature: [S, 1 or B, 1 or C, ...]."""
    known = WORD * coalitions.shape[-1]
    # A segment that the words do not know reads one more column, of False.
    kept = torch.nn.functional.pad(unpack_coalitions(coalitions, known), (0, 1))
    columns = torch.where((segments >= 0) & (segments < known), segments, known).long()
    if coalitions.dim() == 2:
        return kept[:, columns]
    steps, batch = coalitions.shape[:2]
    columns = columns.expand(batch, *columns.shape[1:])
    flat = columns.flatten(1) if columns.dim() > 1 else columns[:, None]
    return kept.gather(2, flat.expand(steps, -1, -1)).reshape(steps, *columns.shape)


def mask_segments(
    inputs: Tensor,
    segments: Tensor,
    coalitions: Tensor,
    fill: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    kept = kept_by_coalitions(segments, coalitions)
    return select(kept, inputs, fill, inputs, scale, shift, dtype, memory_format)


def mask_segments_out(
    inputs: Tensor,
    segments: Tensor,
    coalitions: Tensor,
    fill: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    out: Tensor,
) -> None:
    out.copy_(mask_segments(inputs, segments, coalitions, fill, scale, shift, out.dtype))


def mask_blend(inputs: Tensor, masks: Tensor) -> Tensor:
    """[2 * N, ...]: all products with the masks, then all products with 1 - masks."""
    compute = compute_dtype(inputs.dtype)
    values, masks = inputs.to(compute), masks.to(compute)
    blended = torch.cat([values * masks, values * (1 - masks)])
    return blended.to(inputs.dtype).contiguous(memory_format=memory_format_of(inputs))


def mask_blend_out(inputs: Tensor, masks: Tensor, *, out: Tensor) -> None:
    out.copy_(mask_blend(inputs, masks))

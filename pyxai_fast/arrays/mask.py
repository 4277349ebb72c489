"""The mask ops: segments of inputs kept or replaced, and inputs blended with masks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .checks import (
    Array,
    check_written,
    common_dtype,
    float_dtype,
    readable,
    readable_or_none,
    readable_rows,
    thread_count,
    whole,
)
from .native_module import native

WORD = 32


def pack_coalitions(kept: Array) -> Array:
    """bool [..., n_segments] as int32 [..., ceil(n_segments / 32)]: 32 segments to a word.

    Raises:
        TypeError: kept is no array of bool.
    """
    if not isinstance(kept, np.ndarray) or kept.dtype != np.bool_:
        got = kept.dtype if isinstance(kept, np.ndarray) else type(kept).__name__
        raise TypeError(f"pack_coalitions: kept must be a bool array, got {got}")
    words = -(-kept.shape[-1] // WORD)
    padded = np.zeros((*kept.shape[:-1], words * WORD), np.bool_)
    padded[..., : kept.shape[-1]] = kept
    octets = np.packbits(padded, axis=-1, bitorder="little")
    packed: Array = octets.view("<i4").astype(np.int32, copy=False)
    return packed


def unpack_coalitions(words: Array, n_segments: int) -> Array:
    """int32 words as bool [..., n_segments]: what `pack_coalitions` packed."""
    words = whole("unpack_coalitions", "words", words)
    bits: Array = words[..., None] >> np.arange(WORD, dtype=words.dtype) & 1
    kept: Array = bits.astype(np.bool_).reshape(*words.shape[:-1], words.shape[-1] * WORD)
    return kept[..., :n_segments]


def mask_segments(
    inputs: Array,
    segments: Array,
    coalitions: Array,
    fill: Array | float,
    *,
    scale: Array | None = None,
    shift: Array | None = None,
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
    n_threads: int = 1,
) -> Array:
    """Inputs with the segments outside of each coalition replaced: see
    `pyxai_fast.ops.mask_segments`.

    ``out[s * B + b] = (inputs[b] where coalitions[s, b] keeps segments[b], else fill[b]) * scale``
    ``+ shift``

    Returns:
        [S * B, ...], the coalitions outermost; `out` when it is given.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a shape, layout or combination that does not fit.
    """
    op = "mask_segments"
    inputs, other = readable(op, "inputs", inputs), readable_rows(op, "fill", fill)
    wanted = inputs.dtype if dtype is None else float_dtype(op, dtype)
    args = (
        inputs.astype(common_dtype(inputs, other), copy=False), whole(op, "segments", segments),
        whole(op, "coalitions", coalitions), other, readable_or_none(op, "scale", scale),
        readable_or_none(op, "shift", shift),
    )  # fmt: skip
    threads = thread_count(op, n_threads)
    if out is not None:
        check_written(op, "out", out)
        native.ops.mask_segments_out(threads, *args, out)
        return out
    masked: Array = native.ops.mask_segments(threads, *args, wanted, None)
    return masked


def mask_blend(
    inputs: Array, masks: Array, *, out: Array | None = None, n_threads: int = 1
) -> Array:
    """inputs * masks and inputs * (1 - masks), [2, N, C, ...]: see `pyxai_fast.ops.mask_blend`.

    Raises:
        TypeError: an argument that is no floating-point array.
        ValueError: a shape or layout that does not fit.
    """
    op = "mask_blend"
    args = readable(op, "inputs", inputs), readable(op, "masks", masks)
    threads = thread_count(op, n_threads)
    if out is not None:
        check_written(op, "out", out)
        if out.shape != (2, *args[0].shape) or not out.flags.c_contiguous:
            raise ValueError(
                f"{op}: out must be contiguous of shape {[2, *args[0].shape]}, got "
                f"{list(out.shape)}"
            )
        merged = out.reshape(math.prod(out.shape[:2]), *out.shape[2:])
        native.ops.mask_blend_out(threads, *args, merged)
        return out
    blended: Array = native.ops.mask_blend(threads, *args)
    return blended.reshape(2, *args[0].shape)

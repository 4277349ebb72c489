"""The rank op: the images of the insertion and deletion metrics, from one sort."""

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


def ranks_of(attributions: Array, descending: bool = True) -> Array:
    """The place of every feature in the order of its attribution, int32: 0 comes first.

    One stable sort for each example; NaN counts as the largest value.

    Raises:
        TypeError: attributions are no floating-point array.
        ValueError: they have no dimension of examples.
    """
    attributions = readable("ranks_of", "attributions", attributions)
    if attributions.ndim == 0:
        raise ValueError("ranks_of: attributions must have shape [B, ...], got a scalar")
    features = math.prod(attributions.shape[1:])
    flat = attributions.reshape(len(attributions), features)
    # Backwards, so that equal attributions keep their order where the largest come first.
    order = np.argsort(flat[:, ::-1] if descending else flat, axis=1, kind="stable")
    if descending:
        order = flat.shape[1] - 1 - order[:, ::-1]
    ranks = np.empty(flat.shape, np.int32)
    places = np.broadcast_to(np.arange(flat.shape[1], dtype=np.int32), flat.shape)
    np.put_along_axis(ranks, order, places, axis=1)
    return ranks.reshape(attributions.shape)


def rank_mask(
    inputs: Array,
    base: Array | float,
    ranks: Array,
    steps: Array,
    *,
    scale: Array | None = None,
    shift: Array | None = None,
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
    n_threads: int = 1,
) -> Array:
    """Inputs with the first features of a ranking replaced: see `pyxai_fast.ops.rank_mask`.

    ``out[s * B + b] = (base[b] where ranks[b] < steps[s, b] else inputs[b]) * scale + shift``

    Returns:
        [S * B, ...], the steps outermost; `out` when it is given.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a shape, layout or combination that does not fit.
    """
    op = "rank_mask"
    inputs, other = readable(op, "inputs", inputs), readable_rows(op, "base", base)
    wanted = inputs.dtype if dtype is None else float_dtype(op, dtype)
    args = (
        inputs.astype(common_dtype(inputs, other), copy=False), other, whole(op, "ranks", ranks),
        whole(op, "steps", steps).astype(np.int64, copy=False),
        readable_or_none(op, "scale", scale), readable_or_none(op, "shift", shift),
    )  # fmt: skip
    threads = thread_count(op, n_threads)
    if out is not None:
        check_written(op, "out", out)
        native.ops.rank_mask_out(threads, *args, out)
        return out
    masked: Array = native.ops.rank_mask(threads, *args, wanted, None)
    return masked

"""Uphill steps that keep the best gradient, in one pass."""

from __future__ import annotations

import numpy as np

from .checks import Array, check_written, readable, readable_or_none, readable_rows, thread_count
from .native_module import native


def ascend_max(
    points: Array,
    grads: Array,
    step_sizes: Array | float,
    best: Array,
    *,
    scale: Array | None = None,
    absolute: bool = False,
    n_threads: int = 1,
) -> None:
    """Moves points uphill and keeps the largest gradients, both in place: see
    `pyxai_fast.ops.ascend_max`.

    Raises:
        TypeError: an argument that is no floating-point array (or number, for step_sizes).
        ValueError: a shape or layout that does not fit.
    """
    op = "ascend_max"
    check_written(op, "points", points)
    check_written(op, "best", best)
    steps = readable_rows(op, "step_sizes", step_sizes)
    native.ops.ascend_max(
        thread_count(op, n_threads), points, readable(op, "grads", grads),
        steps.astype(np.float64, copy=False), best, readable_or_none(op, "scale", scale), absolute,
    )  # fmt: skip

"""Stick-breaking paths: points, and gradients contracted with increments that are drawn again."""

from __future__ import annotations

from typing import Literal

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
    whole_or_none,
)
from .native_module import native


def dirichlet_points(
    inputs: Array,
    baselines: Array | float,
    key: Array,
    *,
    concentration: float,
    n_steps: int,
    first_step: int = 0,
    count: int | None = None,
    n_paths: int = 1,
    first_path: int = 0,
    position: float = 0.5,
    per: Literal["feature", "pixel"] = "feature",
    examples: Array | None = None,
    scale: Array | None = None,
    shift: Array | None = None,
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
    n_threads: int = 1,
) -> Array:
    """Points of random stick-breaking paths: see `pyxai_fast.ops.dirichlet_points`.

    Returns:
        [count * n_paths * B, ...], the steps outermost, then the paths; `out` when it is given.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a shape, layout, range or combination that does not fit.
    """
    op = "dirichlet_points"
    inputs, starts = readable(op, "inputs", inputs), readable_rows(op, "baselines", baselines)
    wanted = inputs.dtype if dtype is None else float_dtype(op, dtype)
    args = (
        inputs.astype(common_dtype(inputs, starts), copy=False), starts, whole(op, "key", key),
        whole_or_none(op, "examples", examples), float(concentration), n_steps, first_step,
        n_steps - first_step if count is None else count, n_paths, first_path, float(position),
        _is_per_pixel(op, per), readable_or_none(op, "scale", scale),
        readable_or_none(op, "shift", shift),
    )  # fmt: skip
    threads = thread_count(op, n_threads)
    if out is not None:
        check_written(op, "out", out)
        native.ops.dirichlet_points_out(threads, *args, out)
        return out
    points: Array = native.ops.dirichlet_points(threads, *args, wanted, None)
    return points


def dirichlet_accumulate(
    grads: Array,
    key: Array,
    *,
    concentration: float,
    n_steps: int,
    first_step: int = 0,
    count: int | None = None,
    n_paths: int = 1,
    first_path: int = 0,
    per: Literal["feature", "pixel"] = "feature",
    examples: Array | None = None,
    inputs: Array | None = None,
    baselines: Array | float | None = None,
    scale: Array | None = None,
    total: Array | None = None,
    n_threads: int = 1,
) -> Array:
    """Gradients at the points of stick-breaking paths, contracted with the paths' increments: see
    `pyxai_fast.ops.dirichlet_accumulate`.

    Returns:
        [n_paths * B, ...]: float32, or float64 for float64 gradients; `total` when it is given.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a shape, layout, range or combination that does not fit.
    """
    op = "dirichlet_accumulate"
    path = (
        readable(op, "grads", grads), whole(op, "key", key),
        whole_or_none(op, "examples", examples), float(concentration), n_steps, first_step,
        n_steps - first_step if count is None else count, n_paths, first_path,
        _is_per_pixel(op, per),
    )  # fmt: skip
    threads = thread_count(op, n_threads)
    if total is not None:
        if inputs is not None or baselines is not None or scale is not None:
            raise ValueError(f"{op}: total must come without inputs, baselines and scale, got both")
        check_written(op, "total", total)
        native.ops.dirichlet_accumulate_out(threads, *path, total)
        return total
    ends = readable_or_none(op, "inputs", inputs)
    starts = None if baselines is None else readable_rows(op, "baselines", baselines)
    if ends is not None and starts is not None:
        ends = ends.astype(common_dtype(ends, starts), copy=False)
    result: Array = native.ops.dirichlet_accumulate(
        threads, *path, ends, starts, readable_or_none(op, "scale", scale)
    )
    return result


def _is_per_pixel(op: str, per: str) -> bool:
    if per not in ("feature", "pixel"):
        raise ValueError(f"{op}: per must be 'feature' or 'pixel', got {per!r}")
    return per == "pixel"

"""The path ops: points of straight paths as model inputs, gradients contracted back.

Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017), equation 3.
"""

from __future__ import annotations

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
)
from .native_module import native


def path_points(
    inputs: Array,
    baselines: Array | float,
    alphas: Array,
    *,
    scale: Array | None = None,
    shift: Array | None = None,
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
    n_threads: int = 1,
) -> Array:
    """Points of the straight paths from `baselines` to `inputs`, ready to be fed to a model.

    Sundararajan et al. (2017), the argument of F in equation 3.

    ``points[s * B + b] = (baselines[b] + alphas[s, b] * (inputs[b] - baselines[b])) * scale``
    ``+ shift``

    Args:
        inputs: [B, ...], float16, bfloat16, float32 or float64.
        baselines: in the units of the inputs: a number, or an array shaped [], [1, ...] or
            [B, ...].
        alphas: [S] positions on the path, or [S, B] to give each example its own; 0 is the
            baseline, 1 the input. Rounded once to the type computed in.
        scale, shift: [C], one value for each of the inputs' channels (dimension 1), given together:
            an affine map applied in the same pass, such as the normalisation of pixels.
        dtype: of the points; the inputs' by default. Computed in float32 (float64 for float64
            inputs) and rounded once.
        out: [S * B, ...], contiguous or with the strides of channels_last, written instead of a new
            array; it fixes the dtype. It must not overlap what is read.
        n_threads: at most so many threads; small work takes fewer.

    Returns:
        [S * B, ...], the steps outermost.

    Raises:
        TypeError: an argument that is no floating-point array (or number, for baselines).
        ValueError: a shape, layout or combination that does not fit. Messages name the argument,
            what it must be, and what was got.
    """
    op = "path_points"
    inputs = readable(op, "inputs", inputs)
    starts = readable_rows(op, "baselines", baselines)
    alphas = readable(op, "alphas", alphas)
    scale = readable_or_none(op, "scale", scale)
    shift = readable_or_none(op, "shift", shift)
    threads = thread_count(op, n_threads)
    wanted = inputs.dtype if dtype is None else float_dtype(op, dtype)
    inputs = inputs.astype(common_dtype(inputs, starts), copy=False)
    if out is not None:
        check_written(op, "out", out)
        native.ops.path_points_out(threads, inputs, starts, alphas, scale, shift, out)
        return out
    points: Array = native.ops.path_points(
        threads, inputs, starts, alphas, scale, shift, wanted, None
    )
    return points


def path_accumulate(
    grads: Array,
    weights: Array,
    inputs: Array | None = None,
    baselines: Array | float | None = None,
    *,
    scale: Array | None = None,
    total: Array | None = None,
    n_threads: int = 1,
) -> Array:
    """Gradients at the points of a path, contracted to one value per feature.

    Sundararajan et al. (2017), equation 3.

    ``sum[b] = sum over s of weights[s, b] * grads[s * B + b]``, and with `inputs` and `baselines`
    the attributions ``sum[b] * (inputs[b] - baselines[b]) * scale``.

    Sums are float64 and add the steps in their order, so any split of the steps into chunks, any
    number of threads and every instruction set give the same bits.

    Args:
        grads: [S * B, ...], the steps outermost, as `path_points` lays them out; float16, bfloat16,
            float32 or float64.
        weights: [S], or [S, B] to give each example its own quadrature.
        inputs, baselines: the ends of the paths, as given to `path_points`; both or neither.
        scale: [C], as given to `path_points` (gradients are taken behind the affine map).
        total: float64 [B, ...]: continue this sum in place, and return it, instead of starting one;
            without inputs, baselines and scale.
        n_threads: at most so many threads; small work takes fewer.

    Returns:
        [B, ...]: float32, or float64 for float64 gradients, in the gradients' order of memory;
        `total` when it is given.

    Raises:
        TypeError: an argument that is no floating-point array (or number, for baselines).
        ValueError: a shape, layout or combination that does not fit. Messages name the argument,
            what it must be, and what was got.
    """
    op = "path_accumulate"
    grads = readable(op, "grads", grads)
    weights = readable(op, "weights", weights)
    inputs = readable_or_none(op, "inputs", inputs)
    starts = None if baselines is None else readable_rows(op, "baselines", baselines)
    scale = readable_or_none(op, "scale", scale)
    threads = thread_count(op, n_threads)
    if total is not None:
        if inputs is not None or starts is not None or scale is not None:
            raise ValueError(f"{op}: total must come without inputs, baselines and scale, got both")
        check_written(op, "total", total)
        native.ops.path_accumulate_out(threads, grads, weights, total)
        return total
    if inputs is not None and starts is not None:
        inputs = inputs.astype(common_dtype(inputs, starts), copy=False)
    attributions: Array = native.ops.path_accumulate(threads, grads, weights, inputs, starts, scale)
    return attributions

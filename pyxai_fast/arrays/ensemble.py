"""The ensemble ops: particles around explained inputs, contracted and transformed."""

from __future__ import annotations

import numpy as np

from .checks import (
    Array,
    check_written,
    readable,
    readable_rows,
    thread_count,
)
from .native_module import native


def ensemble_contract(
    particles: Array, weights: Array, center: Array | float | None = None, *, n_threads: int = 1
) -> tuple[Array, Array]:
    """Weighted sums of centred particles [B, K, ...], and their variance: see
    `pyxai_fast.ops.ensemble_contract`.

    Returns:
        The contraction, [B, ...] for weights [B, K] and [B, n, ...] for [B, K, n], and the
        population variance [B, ...]; float32, or float64 for float64 particles.

    Raises:
        TypeError: an argument that is no floating-point array (or number, for center).
        ValueError: a shape or layout that does not fit.
    """
    op = "ensemble_contract"
    merged, batch, _ = _merged(op, "particles", particles)
    weights = readable(op, "weights", weights)
    if weights.ndim not in (2, 3) or weights.shape[:2] != particles.shape[:2]:
        raise ValueError(
            f"{op}: weights must have shape {list(particles.shape[:2])} or "
            f"{[*particles.shape[:2], 'n']}, got {list(weights.shape)}"
        )
    contraction, variance = native.ops.ensemble_contract(
        thread_count(op, n_threads), merged, weights if weights.ndim == 3 else weights[:, :, None],
        _rows(op, "center", center, particles),
    )  # fmt: skip
    if weights.ndim == 3:
        contraction = contraction.reshape(batch, weights.shape[2], *contraction.shape[1:])
    return contraction, variance


def ensemble_moments(
    particles: Array, center: Array | float | None = None, *, n_threads: int = 1
) -> tuple[Array, Array]:
    """Mean and population variance of the particles [B, K, ...] of each example.

    Raises:
        TypeError, ValueError: as `ensemble_contract`.
    """
    op = "ensemble_moments"
    merged, _, count = _merged(op, "particles", particles)
    mean, variance = native.ops.ensemble_moments(
        thread_count(op, n_threads), merged, count, _rows(op, "center", center, particles)
    )
    return mean, variance


def ensemble_transform(
    particles: Array,
    matrix: Array,
    center: Array | float | None = None,
    taper: Array | float | None = None,
    *,
    add_particles: bool = True,
    out: Array | None = None,
    n_threads: int = 1,
) -> Array:
    """Each particle moved by a combination of its ensemble, matrix [B, K, K]: see
    `pyxai_fast.ops.ensemble_transform`. Here ensembles of any size run the kernel.

    Returns:
        [B, K, ...] of the particles' type; `out` when it is given.

    Raises:
        TypeError, ValueError: as `ensemble_contract`.
    """
    op = "ensemble_transform"
    merged, batch, count = _merged(op, "particles", particles)
    args = (
        merged, readable(op, "matrix", matrix), _rows(op, "center", center, particles),
        _rows(op, "taper", taper, particles), add_particles,
    )  # fmt: skip
    threads = thread_count(op, n_threads)
    if out is not None:
        check_written(op, "out", out)
        if out.shape != particles.shape or not out.flags.c_contiguous:
            raise ValueError(
                f"{op}: out must be contiguous of shape {list(particles.shape)}, got "
                f"{list(out.shape)}"
            )
        native.ops.ensemble_transform_out(threads, *args, out.reshape(merged.shape))
        return out
    moved: Array = native.ops.ensemble_transform(threads, *args)
    return moved.reshape(batch, count, *moved.shape[1:])


def _merged(op: str, name: str, particles: Array) -> tuple[Array, int, int]:
    """[B * K, ...], B and K."""
    particles = readable(op, name, particles)
    if particles.ndim < 2 or particles.shape[1] < 1:
        raise ValueError(f"{op}: {name} must have shape [B, K, ...], got {list(particles.shape)}")
    batch, count = particles.shape[:2]
    return particles.reshape(batch * count, *particles.shape[2:]), batch, count


def _rows(op: str, name: str, value: Array | float | None, particles: Array) -> Array | None:
    """A number or rows [], [1, ...] or [B, ...], in the type computed in."""
    if value is None:
        return None
    compute = np.float64 if particles.dtype == np.float64 else np.float32
    return readable_rows(op, name, value).astype(compute, copy=False)

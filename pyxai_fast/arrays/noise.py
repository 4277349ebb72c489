"""The noise ops: noisy copies of inputs as model inputs, answers contracted with the noise."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .checks import (
    Array,
    check_written,
    float_dtype,
    readable,
    readable_or_none,
    readable_rows,
    thread_count,
    whole,
    whole_or_none,
)
from .native_module import native

STREAMS = 1 << 16


def random_key(seed: int | None = None, stream: int = 0) -> Array:
    """A key for the functions that draw random numbers: int64 [2], a seed and a stream's number.

    Equal keys give the numbers that `pyxai_fast.ops` draws with them. Without a seed, the operating
    system is asked for one.

    Raises:
        ValueError: a seed of more than 64 bits, or a stream not in [0, 65536).
    """
    if seed is None:
        seed = secrets.randbits(64)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"random_key: seed must have at most 64 bits, got {seed}")
    if not 0 <= stream < STREAMS:
        raise ValueError(f"random_key: stream must be in [0, {STREAMS}), got {stream}")
    return np.array([seed - 2**64 if seed >= 2**63 else seed, stream], np.int64)


def perturb(
    inputs: Array,
    n_samples: int,
    sigma: Array | float,
    key: Array,
    *,
    distribution: str = "gaussian",
    antithetic: bool = False,
    first_sample: int = 0,
    examples: Array | None = None,
    mask: Array | None = None,
    blocks: Array | None = None,
    n_blocks: int | None = None,
    active: Array | None = None,
    shared: bool = False,
    keep: float = 1.0,
    clip: tuple[float | None, float | None] | None = None,
    reflect: bool = False,
    scale: Array | None = None,
    shift: Array | None = None,
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
    n_threads: int = 1,
) -> Array:
    """Noisy copies of the inputs, ready to be fed to a model: see `pyxai_fast.ops.perturb`.

    ``points[k * B + b] = clipped(inputs[b] + sigma[b] * mask[b] * noise[k, b]) * scale + shift``

    Returns:
        [K * B, ...], the samples outermost; `out` when it is given.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a shape, layout, range or combination that does not fit.
    """
    op = "perturb"
    inputs = readable(op, "inputs", inputs)
    low, high = (None, None) if clip is None else clip
    args = (
        inputs, int(n_samples), readable_rows(op, "sigma", sigma), whole(op, "key", key),
        distribution, antithetic, first_sample, whole_or_none(op, "examples", examples),
        readable_or_none(op, "mask", mask), *_blocks(op, blocks, n_blocks, active), shared,
        float(keep), low, high, reflect, readable_or_none(op, "scale", scale),
        readable_or_none(op, "shift", shift),
    )  # fmt: skip
    threads = thread_count(op, n_threads)
    if out is not None:
        check_written(op, "out", out)
        native.ops.perturb_out(threads, *args, out)
        return out
    wanted = inputs.dtype if dtype is None else float_dtype(op, dtype)
    points: Array = native.ops.perturb(threads, *args, wanted, None)
    return points


def noise_contract(
    weights: Array,
    shape: Sequence[int] | None,
    key: Array,
    *,
    distribution: str = "gaussian",
    antithetic: bool = False,
    first_sample: int = 0,
    examples: Array | None = None,
    blocks: Array | None = None,
    n_blocks: int | None = None,
    active: Array | None = None,
    keep: float = 1.0,
    squared: bool = False,
    total: Array | None = None,
    n_threads: int = 1,
) -> Array:
    """Weights [B, K] or [B, K, n] of noisy copies, contracted with the noise that `perturb` drew.

    ``sum[b, n] = sum over k of weights[b, k, n] * noise[k, b]``: see
    `pyxai_fast.ops.noise_contract`.

    Returns:
        [B, *shape] or [B, n, *shape]: float32, or float64 for float64 weights; `total` when it is
        given.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a shape, layout, range or combination that does not fit.
    """
    op = "noise_contract"
    weights = readable(op, "weights", weights)
    noise = (
        whole(op, "key", key), distribution, antithetic, first_sample,
        whole_or_none(op, "examples", examples), *_blocks(op, blocks, n_blocks, active),
        float(keep), squared,
    )  # fmt: skip
    threads = thread_count(op, n_threads)
    if total is not None:
        check_written(op, "total", total)
        native.ops.noise_contract_out(threads, weights, *noise, total)
        return total
    if shape is None:
        raise ValueError(f"{op}: shape must be given without total, got None")
    contracted: Array = native.ops.noise_contract(threads, weights, list(shape), *noise)
    return contracted


def _blocks(
    op: str, blocks: Array | None, n_blocks: int | None, active: Array | None
) -> tuple[Array | None, int, Array | None]:
    blocks = whole_or_none(op, "blocks", blocks)
    if blocks is not None and n_blocks is None:
        n_blocks = int(blocks.max()) + 1 if blocks.size else 1
    return blocks, n_blocks or 0, whole_or_none(op, "active", active)

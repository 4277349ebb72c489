"""Stick-breaking paths: points as model inputs, and gradients contracted back.

A path's progress F is a Dirichlet process (Ferguson, "A Bayesian Analysis of Some Nonparametric
Problems", 1973): an interval of length l splits its mass at the middle by a beta of shapes
concentration * l / 2, twice. See csrc/include/pyxai_fast/dirichlet.h for the tree of splits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .path import by_channel, compute_dtype, memory_format_of, step_of
from .random import (
    counter,
    exponential_minus_one,
    natural_log,
    philox,
    square_root,
    squared_sine_of_quarter,
    uniform,
)

STICK_TAG = 2  # see csrc/include/pyxai_fast/philox.h


def symmetric_beta(a: Tensor, b: Tensor, shape: float) -> Tensor:
    """Beta(shape, shape) from two words, float32: Bailey (1994), by way of Student's t."""
    x = 0.0 - natural_log(uniform(a)) * min(1 / shape, 1e30)
    ratio = exponential_minus_one(x.clamp(max=64.0)) * squared_sine_of_quarter(uniform(b))
    half = square_root(ratio / (ratio + 1.0)) * 0.5
    return torch.where(b % 2 == 1, -half, half) + 0.5


def dirichlet_boundaries(
    elements: int,
    examples: Tensor,
    paths: Tensor,
    key: Tensor,
    concentration: float,
    n_steps: int,
    first_step: int,
    count: int,
) -> Tensor:
    """1 + F at the first `count` + 1 boundaries from `first_step` on, [count + 1, P, B, elements].

    Float32 has one spacing in [1, 2], so the differences of boundaries are exact.
    """
    cells = 1 << (n_steps - 1).bit_length()
    block = torch.arange(elements, device=key.device)
    shape = (len(paths), len(examples), elements)
    known = {at: torch.full(shape, 1.0 + at / cells, device=key.device) for at in (0, cells)}

    def boundary(at: int) -> Tensor:
        if at not in known:
            half = at & -at  # the length of each half of the node that is split here, in cells
            low, high = boundary(at - half), boundary(at + half)
            node = (cells + at) // (2 * half)
            counters = counter(
                block, examples[:, None], paths[:, None, None], key, STICK_TAG + node // 2
            )
            words = philox(counters, key[0])[2 * (node % 2) :]
            beta = symmetric_beta(words[0], words[1], concentration * half / cells)
            known[at] = low + beta * (high - low)
        return known[at]

    steps = range(first_step, first_step + count + 1)
    return torch.stack([boundary(step * cells // n_steps) for step in steps])


def boundaries_like(
    features: Tensor,
    key: Tensor,
    examples: Tensor | None,
    concentration: float,
    n_steps: int,
    first_step: int,
    count: int,
    n_paths: int,
    first_path: int,
    per_pixel: bool,
) -> Tensor:
    """The same for inputs [B, ...], as [count + 1, P, B, ...]; per pixel, with one channel."""
    shape = [1, *features.shape[2:]] if per_pixel else features.shape[1:]
    if examples is None:
        examples = torch.arange(features.shape[0], device=key.device)
    boundaries = dirichlet_boundaries(
        torch.Size(shape).numel(),
        examples,
        torch.arange(first_path, first_path + n_paths, device=key.device),
        key,
        concentration,
        n_steps,
        first_step,
        count,
    )
    return boundaries.reshape(*boundaries.shape[:3], *shape)


def dirichlet_points(
    inputs: Tensor,
    baselines: Tensor,
    key: Tensor,
    examples: Tensor | None,
    concentration: float,
    n_steps: int,
    first_step: int,
    count: int,
    n_paths: int,
    first_path: int,
    position: float,
    per_pixel: bool,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    boundaries = boundaries_like(
        inputs,
        key,
        examples,
        concentration,
        n_steps,
        first_step,
        count,
        n_paths,
        first_path,
        per_pixel,
    )
    progress = (boundaries[:-1] - 1.0) + position * boundaries.diff(dim=0)
    compute = compute_dtype(inputs.dtype)
    start = baselines.to(compute)
    points = start + progress.to(compute) * (inputs.to(compute) - start)
    if scale is not None and shift is not None:
        points = points * by_channel(scale, inputs, compute) + by_channel(shift, inputs, compute)
    return (
        points.flatten(0, 2)
        .to(inputs.dtype if dtype is None else dtype)
        .contiguous(memory_format=memory_format or torch.contiguous_format)
    )


def dirichlet_points_out(
    inputs: Tensor,
    baselines: Tensor,
    key: Tensor,
    examples: Tensor | None,
    concentration: float,
    n_steps: int,
    first_step: int,
    count: int,
    n_paths: int,
    first_path: int,
    position: float,
    per_pixel: bool,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    out: Tensor,
) -> None:
    points = dirichlet_points(
        inputs,
        baselines,
        key,
        examples,
        concentration,
        n_steps,
        first_step,
        count,
        n_paths,
        first_path,
        position,
        per_pixel,
        scale,
        shift,
        out.dtype,
    )
    out.copy_(points)


def dirichlet_accumulate_out(
    grads: Tensor,
    key: Tensor,
    examples: Tensor | None,
    concentration: float,
    n_steps: int,
    first_step: int,
    count: int,
    n_paths: int,
    first_path: int,
    per_pixel: bool,
    *,
    total: Tensor,
) -> None:
    boundaries = boundaries_like(
        total.unflatten(0, (n_paths, -1))[0],
        key,
        examples,
        concentration,
        n_steps,
        first_step,
        count,
        n_paths,
        first_path,
        per_pixel,
    )
    # Step by step, and multiplied before it is added: the order of summation is the order of the
    # steps, whatever the chunks, and nothing is fused.
    by_path = total.unflatten(0, (n_paths, -1))
    for increment, grad in zip(
        boundaries.diff(dim=0), grads.unflatten(0, (count, n_paths, -1)), strict=True
    ):
        by_path += increment.to(torch.float64) * grad.to(torch.float64)


def dirichlet_accumulate(
    grads: Tensor,
    key: Tensor,
    examples: Tensor | None,
    concentration: float,
    n_steps: int,
    first_step: int,
    count: int,
    n_paths: int,
    first_path: int,
    per_pixel: bool,
    inputs: Tensor | None = None,
    baselines: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    total = torch.empty(
        (grads.shape[0] // count, *grads.shape[1:]),
        dtype=torch.float64,
        device=grads.device,
        memory_format=memory_format_of(grads),
    ).zero_()
    dirichlet_accumulate_out(
        grads,
        key,
        examples,
        concentration,
        n_steps,
        first_step,
        count,
        n_paths,
        first_path,
        per_pixel,
        total=total,
    )
    if inputs is not None and baselines is not None:
        by_path = total.unflatten(0, (n_paths, -1))
        by_path *= step_of(inputs, baselines, scale)
    return total.to(compute_dtype(grads.dtype))

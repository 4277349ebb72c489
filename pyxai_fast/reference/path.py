"""Straight paths: points as model inputs, and gradients contracted back.

Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017), equation 3.
"""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type a kernel computes in: at least float32, float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def by_step(coefficients: Tensor, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Coefficients [S] or [S, B], shaped to multiply [S, B, ...]."""
    missing = inputs.dim() + 1 - coefficients.dim()
    return coefficients.to(dtype).reshape(*coefficients.shape, *([1] * missing))


def by_channel(constants: Tensor, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Constants [C], shaped to multiply [B, C, ...]."""
    return constants.to(dtype).reshape(-1, *([1] * (inputs.dim() - 2)))


def step_of(inputs: Tensor, baselines: Tensor, scale: Tensor | None = None) -> Tensor:
    """The way from baselines to inputs, as the model sees it: (inputs - baselines) * scale."""
    dtype = compute_dtype(inputs.dtype)
    step = inputs.to(dtype) - baselines.to(dtype)
    return step if scale is None else step * by_channel(scale, inputs, dtype)


def memory_format_of(tensor: Tensor) -> torch.memory_format:
    """The dense format that a tensor has; contiguous where it has none."""
    if tensor.is_contiguous():
        return torch.contiguous_format
    for dims, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.dim() == dims and tensor.is_contiguous(memory_format=memory_format):
            return memory_format
    return torch.contiguous_format


def path_points(
    inputs: Tensor,
    baselines: Tensor,
    alphas: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    compute = compute_dtype(inputs.dtype)
    start = baselines.to(compute)
    points = start + by_step(alphas, inputs, compute) * (inputs.to(compute) - start)
    if scale is not None and shift is not None:
        points = points * by_channel(scale, inputs, compute) + by_channel(shift, inputs, compute)
    return (
        points.flatten(0, 1)
        .to(inputs.dtype if dtype is None else dtype)
        .contiguous(memory_format=memory_format or torch.contiguous_format)
    )


def path_points_out(
    inputs: Tensor,
    baselines: Tensor,
    alphas: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    out: Tensor,
) -> None:
    out.copy_(path_points(inputs, baselines, alphas, scale, shift, out.dtype))


def path_accumulate_out(grads: Tensor, weights: Tensor, *, total: Tensor) -> None:
    steps = weights.shape[0]
    weights = by_step(weights, total, torch.float64)
    # Step by step, and multiplied before it is added: the order of summation is the order of the
    # steps, whatever the chunks, and nothing is fused.
    for weight, grad in zip(weights, grads.unflatten(0, (steps, -1)), strict=True):
        total += weight * grad.to(torch.float64)


def path_accumulate(
    grads: Tensor,
    weights: Tensor,
    inputs: Tensor | None = None,
    baselines: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    shape = (grads.shape[0] // weights.shape[0], *grads.shape[1:])
    total = torch.empty(
        shape, dtype=torch.float64, device=grads.device, memory_format=memory_format_of(grads)
    ).zero_()
    path_accumulate_out(grads, weights, total=total)
    if inputs is not None and baselines is not None:
        total *= step_of(inputs, baselines, scale)
    return total.to(compute_dtype(grads.dtype))

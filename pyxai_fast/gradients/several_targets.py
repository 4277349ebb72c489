"""The slopes of several scores of each row, from one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ..runtime.memory import is_out_of_memory

# Elements of all slopes together up to which, on a CPU, one backward pass with a row for each score
# is faster than one after the other. Measured: a table's network gains up to half, the digits'
# network nothing from there on, and larger ones lose by it, because activations leave the cache.
BATCHED_ELEMENTS = 2**16


def slopes_of_each(values: Tensor, points: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """d values[r, k] / d points[r] for all k, by one batched vector-Jacobian product.

    Args:
        values: [R, n], with a graph, which is kept.
        points: each [R, ...].

    Returns:
        For each tensor of points [R, n, ...], zeros where values do not depend on it; None where
        single passes are to be preferred, or the model has an operation that cannot be batched.
    """
    n = values.shape[1]
    elements = n * sum(point.numel() for point in points)
    if n == 1 or not (values.is_cuda or elements <= BATCHED_ELEMENTS):
        return None
    directions = torch.eye(n, dtype=values.dtype, device=values.device)
    try:
        found = torch.autograd.grad(
            values,
            points,
            directions[:, None].expand(n, *values.shape),
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=True,
        )
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return None
    return tuple(
        point.new_zeros(point.shape[0], n, *point.shape[1:])
        if slopes is None
        else slopes.transpose(0, 1).contiguous()
        for slopes, point in zip(found, points, strict=True)
    )

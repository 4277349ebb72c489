"""The ascend op: a step uphill from many points at once, keeping the best gradient met so far.

The inner step of geometrically guided integrated gradients (GGIG): climb the score from every
point of the straight path, and keep for every feature the greatest gradient, not the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..reference.path import compute_dtype, memory_format_of
from .checks import check_affine, check_batch, check_floating, check_same_device, check_writable
from .registry import define, fake_nothing


def ascend_max(
    points: Tensor,
    grads: Tensor,
    step_sizes: Tensor | float,
    best: Tensor,
    *,
    scale: Tensor | None = None,
    absolute: bool = False,
) -> None:
    """Moves points along their gradients, and keeps the greatest gradient of every feature.

    In one pass, both in place, for s = 0, 1, ... in this order:

    ``g[s, b] = grads[s * B + b] * scale``;
    ``best[b] = max(best[b], g[s, b])``;
    ``points[s * B + b] += step_sizes[s, b] * g[s, b] * scale``.

    Points are model inputs, ``x * scale + shift`` where x is in the caller's units, and `grads` are
    taken by them. Step sizes and `best` are in the caller's units: the gradient by x is ``grads *
    scale``, x moves by the step size times that, and the points by ``scale`` times what x does.
    Without scale the two are the same.

    Gradients count before the points are moved. Where gradients are equal, the first is kept; a
    NaN, once met, stays.

    Args:
        points: [S * B, ...], float16, bfloat16, float32 or float64, contiguous or channels_last;
            moved. Computed in float32 (float64 for float64 points) and rounded once.
        grads: like the points, of their type.
        step_sizes: a number, or a tensor shaped [], [S * B] or [S, B]. 0 moves nothing.
        best: [B, ...], float32, or float64 for float64 points, of the points' memory format;
            updated. Start it at minus infinity, or at 0 with `absolute`.
        scale: [C], as given to the op that made the points.
        absolute: keep the gradient of the greatest magnitude, with its sign, instead of the
            greatest.

    Raises:
        TypeError: an argument that is no floating-point tensor (or number, for step_sizes).
        ValueError: a shape, type, device or memory format that does not fit, or an argument that
            requires grad while derivatives are recorded (the op has none). Messages name the
            argument, what it must be, and what was got.
    """
    op = "ascend_max"
    check_batch(op, "points", points)
    check_batch(op, "grads", grads)
    check_batch(op, "best", best)
    if grads.dtype != points.dtype or grads.shape != points.shape:
        raise ValueError(
            f"{op}: grads must be {points.dtype} {list(points.shape)} as the points are, got "
            f"{grads.dtype} {list(grads.shape)}"
        )
    check_same_device(op, "grads", grads, points)
    check_same_device(op, "best", best, points)
    rows, batch = points.shape[0], best.shape[0]
    whole = rows == 0 if batch == 0 else rows % batch == 0
    wide = compute_dtype(points.dtype)
    if not whole or best.shape[1:] != points.shape[1:] or best.dtype != wide:
        raise ValueError(
            f"{op}: best must be {wide} [B, ...] for points {list(points.shape)} = [S * B, ...], "
            f"got {best.dtype} {list(best.shape)}"
        )
    if not isinstance(step_sizes, Tensor):
        if not isinstance(step_sizes, (int, float)) or isinstance(step_sizes, bool):
            kind = type(step_sizes).__name__
            raise TypeError(f"{op}: step_sizes must be a number or a tensor, got {kind}")
        step_sizes = torch.full((), step_sizes, dtype=torch.float64, device=points.device)
    check_floating(op, "step_sizes", step_sizes)
    check_same_device(op, "step_sizes", step_sizes, points)
    flat = step_sizes.dim() == 1 and len(step_sizes) == rows
    by_step = step_sizes.dim() == 2 and step_sizes.shape[1] == batch and step_sizes.numel() == rows
    if step_sizes.dim() > 0 and not flat and not by_step:
        raise ValueError(
            f"{op}: step_sizes must be a number or have shape [{rows}] or [S, {batch}] for "
            f"{rows} points, got {list(step_sizes.shape)}"
        )
    check_affine(op, points, scale, None)
    check_writable(op, "points", points)
    check_writable(op, "best", best)
    for name, tensor in (("grads", grads), ("step_sizes", step_sizes)):
        if tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{op}: {name} must not require grad, as the op is not differentiable; detach it, "
                "or call within torch.no_grad()"
            )
    if not best.is_contiguous(memory_format=memory_format_of(points)):
        raise ValueError(f"{op}: best must have the memory format of the points, got another")
    torch.ops.pyxai_fast.ascend_max.default(points, grads, step_sizes, best, scale, absolute)


define(
    "ascend_max(Tensor(a!) points, Tensor grads, Tensor step_sizes, Tensor(b!) best, "
    "Tensor? scale=None, bool absolute=False) -> ()",
    reference=reference.ascend_max,
    fake=fake_nothing,
)

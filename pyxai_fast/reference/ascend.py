"""Uphill from many points at once, keeping the best gradient met on the way."""

from __future__ import annotations

from torch import Tensor

from .path import by_channel


def ascend_max(
    points: Tensor,
    grads: Tensor,
    step_sizes: Tensor,
    best: Tensor,
    scale: Tensor | None = None,
    absolute: bool = False,
) -> None:
    batch = best.shape[0]
    if points.numel() == 0:
        return
    steps = points.shape[0] // batch
    sizes = step_sizes.to(best.dtype).expand(steps * batch) if step_sizes.dim() == 0 else step_sizes
    sizes = sizes.to(best.dtype).reshape(steps, batch, *[1] * (points.dim() - 1))
    factor = None if scale is None else by_channel(scale, points, best.dtype)
    by_step = points.unflatten(0, (steps, batch))
    for point, grad, size in zip(by_step, grads.unflatten(0, (steps, batch)), sizes, strict=True):
        grad = grad.to(best.dtype)
        if factor is not None:
            grad = grad * factor
        # Of equal gradients the first is kept, and a NaN for good.
        kept = (grad.abs() <= best.abs()) if absolute else (grad <= best)
        best.copy_(best.where(kept | best.isnan(), grad))
        if factor is not None:
            grad = grad * factor
        point.copy_(point.to(best.dtype) + size * grad)

"""White box: the slope by reverse-mode differentiation of the model."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.score import RowScore
from .gradient import Slopes
from .several_targets import slopes_of_each


class Autograd:
    """The exact gradient, one forward and one backward for each row (and target; those of several
    targets go side by side where that is faster).

    Only the inputs' gradients are computed; weights keep theirs untouched, and `.grad` is never
    written. Tensors that do not influence the score get zeros.
    """

    needs_autograd = True
    explains_score = True
    evaluations = 1

    def __repr__(self) -> str:
        return "Autograd()"

    def __call__(
        self,
        rows: RowScore,
        points: tuple[Tensor, ...],
        *,
        create_graph: bool = False,
        variances: bool = False,
    ) -> Slopes:
        if variances:
            raise ArgumentError(
                "Autograd: a standard error must be asked of a gradient that is an estimate, such "
                "as LikelihoodRatio; this one is exact"
            )
        with torch.enable_grad():
            if not create_graph:
                points = tuple(point.detach().requires_grad_() for point in points)
            else:
                points = tuple(
                    point if point.requires_grad else point.detach().requires_grad_()
                    for point in points
                )
            values = rows(points)
            if not values.requires_grad:
                raise ValueError(
                    "Autograd: the model's output must depend on its inputs through differentiable "
                    "operations, got an output without a graph (is the model run under no_grad, or "
                    "does it use NumPy? gradient=LikelihoodRatio() needs its answers alone)"
                )
            scale = rows.score.slope_scale
            if scale != 1.0:
                values = values * scale
            if values.dim() == 1:
                return _scaled(_slopes(values, points, create_graph, last=True), scale)
            together = None if create_graph else slopes_of_each(values, points)
            if together is not None:
                return _scaled(together, scale)
            each = [
                _slopes(column, points, create_graph, last=position == values.shape[1] - 1)
                for position, column in enumerate(values.unbind(1))
            ]
        stacked = tuple(torch.stack(slopes, 1) for slopes in zip(*each, strict=True))
        return _scaled(stacked, scale)


def _scaled(slopes: tuple[Tensor, ...], scale: float) -> Slopes:
    """Slopes of a score that was multiplied by a power of two."""
    return Slopes(slopes if scale == 1.0 else tuple(slope / scale for slope in slopes))


def _slopes(
    values: Tensor, points: tuple[Tensor, ...], create_graph: bool, last: bool
) -> tuple[Tensor, ...]:
    # The sum, not the mean: every row's own slope, whatever the number of rows.
    grads = torch.autograd.grad(
        values.sum(),
        points,
        retain_graph=create_graph or not last,
        create_graph=create_graph,
        allow_unused=True,
    )
    return tuple(
        torch.zeros_like(point) if grad is None else grad
        for grad, point in zip(grads, points, strict=True)
    )

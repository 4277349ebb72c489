"""White box: the slope by reverse-mode differentiation of the model."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.score import RowScore


class Autograd:
    """The exact gradient, one forward and one backward for each row.

    Only the inputs' gradients are computed; weights keep theirs untouched, and `.grad` is never
    written. Tensors that do not influence the score get zeros.
    """

    needs_autograd = True

    def __call__(
        self, score: RowScore, points: tuple[Tensor, ...], create_graph: bool = False
    ) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            if not create_graph:
                points = tuple(point.detach().requires_grad_() for point in points)
            else:
                points = tuple(
                    point if point.requires_grad else point.detach().requires_grad_()
                    for point in points
                )
            values = score(points)
            if not values.requires_grad:
                raise ValueError(
                    "Autograd: the model's output must depend on its inputs through differentiable "
                    "operations, got an output without a graph (is the model run under no_grad, or "
                    "does it use NumPy?)"
                )
            # The sum, not the mean: every row's own slope, whatever the number of rows.
            grads = torch.autograd.grad(
                values.sum(), points, create_graph=create_graph, allow_unused=True
            )
        return tuple(
            torch.zeros_like(point) if grad is None else grad
            for grad, point in zip(grads, points, strict=True)
        )

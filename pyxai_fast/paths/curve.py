"""Paths that are no straight lines: polygons through given nodes, from a start to the input."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.preprocessing import Affine
from ..reference.path import by_channel, compute_dtype
from .many_paths import Piece
from .straight_line import for_targets


class CurveTrace:
    """A curve gamma cut at times ``t_0 < ... < t_n``; gradients times increments are added up.

    ``sum over m of ds/dx (mid_m) * (gamma(t_m+1) - gamma(t_m))``,
    ``mid_m = (gamma(t_m) + gamma(t_m+1)) / 2``

    The midpoint of the chord, rather than of the curve, makes each step exact for scores that are
    quadratic, and the increments telescope: attributions add up to the difference of the scores of
    gamma(t_n) and gamma(t_0) as far as the midpoint rule goes.

    A kind of curve defines `nodes`.

    Args:
        inputs: [B, ...], in the caller's units.
        times: float64 [n + 1], ascending, from 0 to 1.
        affine: applied to nodes on their way into the model.
    """

    def __init__(self, inputs: Tensor, times: Tensor, affine: Affine | None = None) -> None:
        self.inputs = inputs
        self.times = times
        self.affine = affine
        self.steps = self.n_steps = times.shape[0] - 1
        self._kept: tuple[slice, slice, Tensor] | None = None

    def nodes(self, examples: slice, times: Tensor) -> Tensor:
        """gamma at times [S], in the caller's units: [S, E, ...], in the type to compute in."""
        raise NotImplementedError

    # A curve as one polygon, whose steps can be refined.

    n_paths = 1
    aggregate = "mean"

    def write_points(
        self, piece: Piece, examples: slice, out: Tensor, position: float | None = None
    ) -> None:
        nodes = self._model_nodes(examples, piece.steps)
        place = 0.5 if position is None else position
        out.copy_(torch.lerp(nodes[:-1], nodes[1:], place).flatten(0, 1))

    def add_piece(self, piece: Piece, grads: Tensor, examples: slice, total: Tensor) -> None:
        self.add(grads, examples, piece.steps, total)

    # What the loop asks for.

    def points(
        self, examples: slice, steps: slice, memory_format: torch.memory_format, out: Tensor | None
    ) -> Tensor:
        nodes = self._model_nodes(examples, steps)
        middle = ((nodes[:-1] + nodes[1:]) / 2).flatten(0, 1).to(self.inputs.dtype)
        if out is None:
            return middle.contiguous(memory_format=memory_format)
        return out.copy_(middle)

    def add(self, grads: Tensor, examples: slice, steps: slice, total: Tensor | None) -> Tensor:
        each = grads.unflatten(0, (steps.stop - steps.start, -1))
        # Step by step: the order of summation does not depend on the chunks.
        nodes = self._model_nodes(examples, steps)
        for grad, begin, end in zip(each, nodes[:-1], nodes[1:], strict=True):
            # A product is no more exact than the slope in it: it is the sum that is in float64.
            part = grad * for_targets(end - begin, self.inputs, grad)
            total = part.double() if total is None else total.add_(part)
        assert total is not None
        return total

    def add_variances(
        self, variances: Tensor, examples: slice, steps: slice, total: Tensor
    ) -> None:
        each = variances.unflatten(0, (steps.stop - steps.start, -1))
        for variance, increment in zip(each, self._increments(examples, steps), strict=True):
            square = for_targets(increment.square(), self.inputs, variance)
            # What is multiplied by zero is known, however little its slope is.
            total += torch.where(square > 0, variance.double() * square, 0.0)

    def attributions(self, total: Tensor, multiply_by_inputs: bool) -> Tensor:
        assert multiply_by_inputs  # there is no one way that a mean slope would be multiplied by
        return total

    def _increments(self, examples: slice, steps: slice) -> Tensor:
        nodes = self._model_nodes(examples, steps).double()
        return nodes[1:] - nodes[:-1]

    def _model_nodes(self, examples: slice, steps: slice) -> Tensor:
        """Both ends of each step, [S + 1, E, ...], as the model sees them.

        Kept from where points are made to where gradients at them are added; the last of them is
        the first of the steps that come next.
        """
        kept = self._kept
        if kept is not None and kept[:2] == (examples, steps):
            return kept[2]
        goes_on = kept is not None and kept[0] == examples and kept[1].stop == steps.start
        nodes = self.nodes(examples, self.times[steps.start + goes_on : steps.stop + 1])
        if self.affine is not None:
            dtype = compute_dtype(self.inputs.dtype)
            nodes = nodes * by_channel(self.affine.scale, self.inputs, dtype)
            nodes = nodes + by_channel(self.affine.shift, self.inputs, dtype)
        if kept is not None and goes_on:
            nodes = torch.cat([kept[2][-1:], nodes])
        self._kept = (examples, steps, nodes)
        return nodes

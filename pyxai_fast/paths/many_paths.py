"""Many paths for each example, taken one after the other, and their attributions made one map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.preprocessing import Affine
from ..reference.path import by_channel, step_of
from .aggregation import AGGREGATIONS, PathStatistic
from .straight_line import for_targets


class Piece(NamedTuple):
    """Steps of one path, and where they lie among the steps of a chunk."""

    path: int
    steps: slice
    place: slice


def pieces(steps: slice, n_steps: int) -> Iterator[Piece]:
    """The steps of a chunk, where step s is step s % n_steps of path s // n_steps."""
    first = steps.start
    while first < steps.stop:
        path, begin = divmod(first, n_steps)
        end = min(n_steps, begin + steps.stop - first)
        place = first - steps.start
        yield Piece(path, slice(begin, end), slice(place, place + end - begin))
        first += end - begin


class ManyPathsTrace:
    """Step s of an example is step s % n_steps of its path s // n_steps.

    Totals are sums over all paths for the mean. For another statistic they are those of the path
    that the loop is at, whose attributions the statistic takes when it ends: the maps of all paths
    are never held, but for the median.
    """

    def __init__(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        n_paths: int,
        aggregate: str,
        affine: Affine | None,
    ) -> None:
        self.inputs = inputs
        self.baselines = baselines
        self.n_steps, self.n_paths = n_steps, n_paths
        self.steps = n_paths * n_steps
        self.scale = None if affine is None else affine.scale
        self.shift = None if affine is None else affine.shift
        self.aggregate = aggregate
        self._statistics: list[PathStatistic] = []  # one for each target

    def starts(self, examples: slice) -> Tensor:
        """The examples' baselines, [E, ...] or a common one."""
        per_example = self.baselines.dim() > 0 and self.baselines.shape[0] > 1
        return self.baselines[examples] if per_example else self.baselines

    # What a kind of path defines.

    def write_points(
        self, piece: Piece, examples: slice, out: Tensor, position: float | None = None
    ) -> None:
        """Model inputs [S * E, ...] of a path's steps, straight ones, at a position in each; at the
        path's own by default."""
        raise NotImplementedError

    def add_slopes(self, piece: Piece, grads: Tensor, examples: slice, total: Tensor) -> None:
        """Adds gradients [S * E, ...] times increments to total [E, ...], float64."""
        raise NotImplementedError

    def add_squares(self, piece: Piece, variances: Tensor, examples: slice, total: Tensor) -> None:
        """Adds variances [S * E, ...] times squared increments to total [E, ...], float64."""
        raise NotImplementedError

    def way(self, examples: slice) -> Tensor:
        """What turns sums of slopes into attributions, [E, ...]."""
        return step_of(self.inputs[examples], self.starts(examples), self.scale)

    # What the loop asks for.

    def points(
        self, examples: slice, steps: slice, memory_format: torch.memory_format, out: Tensor | None
    ) -> Tensor:
        if out is None:
            raise ArgumentError(
                "attribute: create_graph must be False with random paths, which are not "
                "differentiated, got True"
            )
        rows = examples.stop - examples.start
        for piece in pieces(steps, self.n_steps):
            place = slice(piece.place.start * rows, piece.place.stop * rows)
            self.write_points(piece, examples, out[place])
        return out

    def add(self, grads: Tensor, examples: slice, steps: slice, total: Tensor | None) -> Tensor:
        assert total is not None  # points are not differentiated
        rows = examples.stop - examples.start
        for piece in pieces(steps, self.n_steps):
            part = grads[piece.place.start * rows : piece.place.stop * rows]
            self.add_piece(piece, part, examples, total)
            if self.aggregate != "mean" and piece.steps.stop == self.n_steps:
                self._take(examples, total)
                total.zero_()
        return total

    def add_piece(self, piece: Piece, grads: Tensor, examples: slice, total: Tensor) -> None:
        """As `add_slopes`, for one target or several."""
        for one, sums in zip(self._each_target(grads), self._each_target(total), strict=True):
            self.add_slopes(piece, one, examples, sums)

    def _take(self, examples: slice, total: Tensor) -> None:
        way = self.way(examples)
        sums = self._each_target(total)
        statistic = AGGREGATIONS[self.aggregate]
        if not self._statistics and statistic is not None:
            self._statistics = [statistic(self.inputs.shape[0], self.n_paths) for _ in sums]
        for taken, one in zip(self._statistics, sums, strict=True):
            taken.take(examples, one * way)

    def add_variances(
        self, variances: Tensor, examples: slice, steps: slice, total: Tensor
    ) -> None:
        rows = examples.stop - examples.start
        for piece in pieces(steps, self.n_steps):
            part = variances[piece.place.start * rows : piece.place.stop * rows]
            for one, sums in zip(self._each_target(part), self._each_target(total), strict=True):
                self.add_squares(piece, one, examples, sums)

    def _each_target(self, slopes: Tensor) -> tuple[Tensor, ...]:
        return (slopes,) if slopes.dim() == self.inputs.dim() else slopes.unbind(1)

    def attributions(self, total: Tensor, multiply_by_inputs: bool) -> Tensor:
        if self.aggregate != "mean" and len(self.inputs):
            results = [statistic.result() for statistic in self._statistics]
            return results[0] if total.dim() == self.inputs.dim() else torch.stack(results, 1)
        total = total / self.n_paths
        if multiply_by_inputs:
            return total * for_targets(self.way(slice(None)), self.inputs, total)
        if self.scale is not None:
            return total * by_channel(self.scale, self.inputs, total.dtype)
        return total

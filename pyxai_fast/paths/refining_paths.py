"""Nested rules within the steps of paths that are straight between their points.

A random path has jumps, so that cutting it into ever shorter steps does not make its quadrature
converge. Its steps are straight: within each the slope is integrated by Fejer's second rules of 1,
3, 7 and 15 nodes, each of which has the nodes of the one before. The first is the midpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import ArgumentError
from .many_paths import Piece, pieces
from .refining import LaterSums

NODES_OF_A_STEP = (1, 3, 7, 15)


def fejer(n: int) -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights, float64 [n]: exact for polynomials up to degree n - 1.

    Waldvogel, "Fast construction of the Fejer and Clenshaw-Curtis quadrature rules" (2006).
    """
    turn = torch.arange(1, n + 1, dtype=torch.float64) * (math.pi / (n + 1))
    odd = torch.arange(1, n + 1, 2, dtype=torch.float64)
    sums = (torch.sin(odd * turn[:, None]) / odd).sum(1)
    return torch.sin(turn / 2) ** 2, 2 * torch.sin(turn) * sums / (n + 1)


class Polygons(Protocol):
    """One or more paths for each of a batch of inputs [B, ...], of straight steps."""

    inputs: Tensor
    n_paths: int
    n_steps: int
    aggregate: str

    def write_points(
        self, piece: Piece, examples: slice, out: Tensor, position: float | None = None
    ) -> None:
        """Model inputs [S * E, ...] of a path's steps, at a position from 0 to 1 in each."""
        ...

    def add_piece(self, piece: Piece, grads: Tensor, examples: slice, total: Tensor) -> None:
        """Adds gradients [S * E, ...] times the steps' increments to total [E, ...], float64."""
        ...

    def attributions(self, total: Tensor, multiply_by_inputs: bool) -> Tensor: ...


class Place(NamedTuple):
    """Steps of one path at the same node of each step, and where they lie in a chunk."""

    node: int
    piece: Piece


class RefiningPaths:
    """What a rule adds to the one before; see RefiningTrace.

    Args:
        paths: of which the steps are refined; its aggregate is the mean.
        level: of NODES_OF_A_STEP.
    """

    def __init__(self, paths: Polygons, level: int) -> None:
        if paths.aggregate != "mean":
            raise ArgumentError(
                "attribute: tolerance must be None with an aggregate that is not the mean, for "
                f"which nothing is complete, got {paths.aggregate!r}"
            )
        self.paths = paths
        own = NODES_OF_A_STEP[level]
        # Every second node was there before, but for the first.
        new = torch.arange(0, own, 2)
        nodes, weights = fejer(own)
        self.nodes: list[float] = nodes[new].tolist()
        self._weights = [weights[new].tolist()]
        for n in NODES_OF_A_STEP[level + 1 :]:
            # Node k of n is node k * (m + 1) / (n + 1) of m, counted from 1.
            same = (new + 1) * ((n + 1) // (own + 1)) - 1
            self._weights.append(fejer(n)[1][same].tolist())
        self.steps = paths.n_paths * len(self.nodes) * paths.n_steps
        self._later = LaterSums(len(self._weights) - 1)

    @property
    def later(self) -> list[Tensor]:
        return self._later.sums

    def _places(self, steps: slice) -> Iterator[Place]:
        for piece in pieces(steps, self.paths.n_steps):
            path, node = divmod(piece.path, len(self.nodes))
            yield Place(node, piece._replace(path=path))

    def points(
        self, examples: slice, steps: slice, memory_format: torch.memory_format, out: Tensor | None
    ) -> Tensor:
        assert out is not None  # a graph that is kept is not refined
        rows = examples.stop - examples.start
        for node, piece in self._places(steps):
            part = out[piece.place.start * rows : piece.place.stop * rows]
            self.paths.write_points(piece, examples, part, self.nodes[node])
        return out

    def add(self, grads: Tensor, examples: slice, steps: slice, total: Tensor | None) -> Tensor:
        assert total is not None
        rows = examples.stop - examples.start
        sums = [total, *self._later.of(self.paths.inputs.shape[0], examples, total)]
        for node, piece in self._places(steps):
            part = grads[piece.place.start * rows : piece.place.stop * rows]
            for weights, one in zip(self._weights, sums, strict=True):
                self.paths.add_piece(piece, part * weights[node], examples, one)
        return total

    def add_variances(
        self, variances: Tensor, examples: slice, steps: slice, total: Tensor
    ) -> None:
        raise ArgumentError("attribute: tolerance must be None with slopes that are estimates")

    def attributions(self, total: Tensor, multiply_by_inputs: bool) -> Tensor:
        return self.paths.attributions(total, multiply_by_inputs)

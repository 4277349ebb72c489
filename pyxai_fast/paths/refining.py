"""Nested rules: each has the nodes of the one before, and about as many again between them.

A gradient at a node belongs to the sum of every rule that has the node, with another weight in
each. The sums of the rules to come are kept, eight bytes a feature each, so that a finer rule needs
the model at its new nodes only, and no gradient is ever held.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..models.preprocessing import Affine
from ..reference.path import memory_format_of
from .path import Trace


class RefiningTrace(Trace, Protocol):
    """The nodes that one rule has and the one before has not.

    Its totals are this rule's sums over these nodes.
    """

    @property
    def later(self) -> list[Tensor]:
        """Sums over these nodes by the rules after this one, [B, ...] or [B, n, ...] each."""
        ...


class Refinable(Protocol):
    """A path that can be integrated by nested rules."""

    def rules(self, n_steps: int) -> list[int]:
        """Gradients that each of the nested rules takes for an input, in all, ascending."""
        ...

    def refining(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        level: int,
        examples: Tensor,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> RefiningTrace:
        """The new nodes of rule `level`. `examples` [B] are the inputs' numbers, where the path is
        random."""
        ...


class LaterSums:
    """Sums [B, ...] by each of the later rules, made when the first gradient shows their shape."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.sums: list[Tensor] = []

    def of(self, batch: int, examples: slice, total: Tensor) -> list[Tensor]:
        if not self.sums:
            shape = (batch, *total.shape[1:])
            layout = memory_format_of(total)
            self.sums = [
                torch.empty(
                    shape, dtype=total.dtype, device=total.device, memory_format=layout
                ).zero_()
                for _ in range(self.count)
            ]
        return [sums[examples] for sums in self.sums]

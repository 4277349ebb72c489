"""What a path is to the methods."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..models.preprocessing import Affine


class Trace(Protocol):
    """One path for each example of a batch of inputs [B, ...], cut into `steps` steps.

    A loop over chunks asks for the points of some steps of some examples, has the model answer,
    and adds the gradients. Steps of one example are added in ascending order, so the sum is the
    same bits for every choice of chunks.
    """

    steps: int

    def points(
        self, examples: slice, steps: slice, memory_format: torch.memory_format, out: Tensor | None
    ) -> Tensor:
        """Model inputs [S * E, ...], steps outermost; written into `out` when it is given.

        Without `out` they are differentiable.
        """
        ...

    def add(self, grads: Tensor, examples: slice, steps: slice, total: Tensor | None) -> Tensor:
        """Adds the contribution of gradients [S * E, ...] to total [E, ...], float64, in place.

        Without a total it returns the contribution alone, differentiable.
        """
        ...

    def add_variances(
        self, variances: Tensor, examples: slice, steps: slice, total: Tensor
    ) -> None:
        """Adds variances of gradients [S * E, ...], independent of each other, as `add` does."""
        ...

    def attributions(self, total: Tensor, multiply_by_inputs: bool) -> Tensor:
        """Totals [B, ...], or [B, n, ...] of n targets, as attributions; without
        multiply_by_inputs, as the mean slope.

        Where totals have variances: linear in the totals, feature by feature.
        """
        ...


class Path(Protocol):
    """A rule that leads from baselines to inputs."""

    complete: bool
    """Whether attributions add up to the difference of the scores of its ends."""

    def start(self, inputs: Tensor, baselines: Tensor) -> Tensor:
        """Where the paths of a batch set out: [], [1, ...] or [B, ...], in the caller's units."""
        ...

    def trace(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        method: str,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> Trace:
        """The paths of a batch: inputs [B, ...], baselines [], [1, ...] or [B, ...].

        `method` names a quadrature rule. `affine` is applied to the points on their way into the
        model. `stream` tells the tensors of a tuple of inputs apart where a path is random.
        """
        ...

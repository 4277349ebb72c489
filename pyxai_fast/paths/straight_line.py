"""The straight line from baseline to input: the path of Integrated Gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from ..models.preprocessing import Affine
from ..reference.path import by_channel, step_of
from .quadrature import quadrature
from .refining import LaterSums

# Of the first of the nested rules. Of fewer nodes a small gap says little of the attributions.
FIRST_INTERVALS = 8


class StraightLine:
    """gamma(t) = baseline + t (input - baseline), integrated by a quadrature rule over t."""

    complete = True

    def __repr__(self) -> str:
        return "StraightLine()"

    def start(self, inputs: Tensor, baselines: Tensor) -> Tensor:
        return baselines

    def trace(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        method: str,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> StraightTrace:
        alphas, weights = quadrature(method, n_steps)
        return StraightTrace(inputs, baselines, alphas, weights, affine)

    def rules(self, n_steps: int) -> list[int]:
        if n_steps < FIRST_INTERVALS + 1:
            raise ArgumentError(
                f"attribute: n_steps must be at least {FIRST_INTERVALS + 1} with a tolerance, got "
                f"{n_steps}"
            )
        nodes = [FIRST_INTERVALS + 1]
        while 2 * nodes[-1] - 1 <= n_steps:
            nodes.append(2 * nodes[-1] - 1)
        return nodes

    def refining(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        level: int,
        examples: Tensor,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> RefiningLine:
        return RefiningLine(inputs, baselines, self.rules(n_steps), level, affine)


class StraightTrace:
    """Straight lines through given nodes: alphas and weights float64 [S]."""

    def __init__(
        self,
        inputs: Tensor,
        baselines: Tensor,
        alphas: Tensor,
        weights: Tensor,
        affine: Affine | None = None,
    ) -> None:
        self.inputs = inputs
        self.baselines = baselines
        self.alphas = alphas.to(inputs.device)
        self.weights = weights.to(inputs.device)
        self.scale = None if affine is None else affine.scale
        self.shift = None if affine is None else affine.shift
        self.steps = alphas.shape[0]

    def starts(self, examples: slice) -> Tensor:
        """The examples' baselines, [E, ...] or a common one."""
        per_example = self.baselines.dim() > 0 and self.baselines.shape[0] > 1
        return self.baselines[examples] if per_example else self.baselines

    def points(
        self, examples: slice, steps: slice, memory_format: torch.memory_format, out: Tensor | None
    ) -> Tensor:
        if out is not None:
            # Brought into the order of the points once, not again for every chunk.
            self.inputs = self.inputs.contiguous(memory_format=memory_format)
            if self.baselines.dim() > 0 and self.baselines.shape[0] > 1:
                self.baselines = self.baselines.contiguous(memory_format=memory_format)
        return ops.path_points(
            self.inputs[examples],
            self.starts(examples),
            self.alphas[steps],
            scale=self.scale,
            shift=self.shift,
            dtype=self.inputs.dtype if out is None else out.dtype,
            memory_format=memory_format,
            out=out,
        )

    def add(self, grads: Tensor, examples: slice, steps: slice, total: Tensor | None) -> Tensor:
        return ops.path_accumulate(grads, self.weights[steps], total=total)

    def add_variances(
        self, variances: Tensor, examples: slice, steps: slice, total: Tensor
    ) -> None:
        ops.path_accumulate(variances, self.weights[steps] ** 2, total=total)

    def attributions(self, total: Tensor, multiply_by_inputs: bool) -> Tensor:
        if multiply_by_inputs:
            return total * for_targets(
                step_of(self.inputs, self.baselines, self.scale), self.inputs, total
            )
        if self.scale is not None:
            return total * by_channel(self.scale, self.inputs, total.dtype)
        return total


class RefiningLine(StraightTrace):
    """What a Clenshaw-Curtis rule adds to the one before; see RefiningTrace.

    Args:
        rules: nodes of each rule, of which `level` is meant.
    """

    def __init__(
        self,
        inputs: Tensor,
        baselines: Tensor,
        rules: list[int],
        level: int,
        affine: Affine | None,
    ) -> None:
        own = rules[level]
        new = torch.arange(own) if level == 0 else torch.arange(1, own, 2)
        alphas, weights = quadrature("clenshaw_curtis", own)
        super().__init__(inputs, baselines, alphas[new], weights[new], affine)
        self._later_weights = [
            quadrature("clenshaw_curtis", n)[1][new * ((n - 1) // (own - 1))].to(inputs.device)
            for n in rules[level + 1 :]
        ]
        self._later = LaterSums(len(self._later_weights))

    @property
    def later(self) -> list[Tensor]:
        return self._later.sums

    def add(self, grads: Tensor, examples: slice, steps: slice, total: Tensor | None) -> Tensor:
        assert total is not None  # a graph that is kept is not refined
        later = self._later.of(self.inputs.shape[0], examples, total)
        for weights, sums in zip(self._later_weights, later, strict=True):
            ops.path_accumulate(grads, weights[steps], total=sums)
        return super().add(grads, examples, steps, total)


def for_targets(values: Tensor, inputs: Tensor, total: Tensor) -> Tensor:
    """Values [B, ...] shaped to multiply totals [B, ...], or [B, n, ...] of several targets."""
    return values.unsqueeze(1) if total.dim() > inputs.dim() else values

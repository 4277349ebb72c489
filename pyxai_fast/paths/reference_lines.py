"""Points of straight lines from many references to an input: one random point of one a sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..models.input_numbers import numbers_of
from ..models.preprocessing import Affine
from ..reference.path import step_of
from ..reference.random import counter, philox
from .straight_line import for_targets

# Of the random numbers; see the streams of the other paths and of the gradients.
STREAM = 2**13 + 2**12


class ReferenceLines:
    """Sample s is ``x' + alpha (x - x')``: x' one of the references, alpha uniform in [0, 1].

    Both are functions of the seed, the sample and the example, so chunks do not change them, and
    the tensors of a tuple of inputs, which belong together, share them.

    Args:
        references: [R, ...] for each tensor of inputs, in the units of the inputs.
        seed: of the draws.
        stratified: alpha of sample s of n is uniform in [s / n, (s + 1) / n].
        spread: squares of the samples' contributions are added up too.
        numbers: of the inputs: those with the same number have the same draws in every batch. 0, 1,
            ... by default.
    """

    complete = False

    def __init__(
        self,
        references: tuple[Tensor, ...],
        seed: int = 0,
        stratified: bool = False,
        spread: bool = False,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.references = references
        self.numbers = numbers
        self.seed, self.stratified, self.spread = seed, stratified, spread

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
    ) -> ReferenceTrace:
        return ReferenceTrace(inputs, self.references[stream], n_steps, self, affine)


class ReferenceTrace:
    """Totals are sums over the samples of slope times way; nothing grows with their number."""

    def __init__(
        self,
        inputs: Tensor,
        references: Tensor,
        n_samples: int,
        law: ReferenceLines,
        affine: Affine | None,
    ) -> None:
        self.inputs, self.references, self.law = inputs, references, law
        self.steps = n_samples
        self.scale = None if affine is None else affine.scale
        self.shift = None if affine is None else affine.shift
        self.key = ops.random_key(law.seed, STREAM, device=inputs.device)
        self.numbers = numbers_of("ReferenceLines", law.numbers, len(inputs)).to(inputs.device)
        self._squares: Tensor | None = None

    def draws(self, examples: slice, steps: slice) -> tuple[Tensor, Tensor]:
        """Positions on the lines, float64 [S, E], and of which references, int64 [S, E]."""
        device = self.inputs.device
        example = self.numbers[examples]
        sample = torch.arange(steps.start, steps.stop, device=device)[:, None]
        first = torch.zeros((), dtype=torch.int64, device=device)
        words = philox(counter(first, example, sample, self.key), self.key[0])
        alphas = (words[0].double() + 0.5) * 2.0**-32
        if self.law.stratified:
            alphas = (sample + alphas) / self.steps
        return alphas, words[1] * self.references.shape[0] >> 32

    def points(
        self, examples: slice, steps: slice, memory_format: torch.memory_format, out: Tensor | None
    ) -> Tensor:
        inputs = self.inputs[examples]
        rows = inputs.shape[0]
        written = []
        for i, (alphas, which) in enumerate(zip(*self.draws(examples, steps), strict=True)):
            written.append(
                ops.path_points(
                    inputs,
                    self.references[which],
                    alphas[None],
                    scale=self.scale,
                    shift=self.shift,
                    dtype=inputs.dtype if out is None else out.dtype,
                    memory_format=memory_format,
                    out=None if out is None else out[i * rows : (i + 1) * rows],
                )
            )
        return torch.cat(written) if out is None else out

    def add(self, grads: Tensor, examples: slice, steps: slice, total: Tensor | None) -> Tensor:
        inputs = self.inputs[examples]
        _, drawn = self.draws(examples, steps)
        # Sample by sample: the order of summation does not depend on the chunks.
        for which, grad in zip(drawn, grads.unflatten(0, (len(drawn), -1)), strict=True):
            way = step_of(inputs, self.references[which], self.scale)
            # A product is no more exact than the slope in it: it is the sums that are in float64.
            part = grad * for_targets(way, inputs, grad)
            if self.law.spread:
                squares = part.detach().double().square()
                self._squares_of(squares)[examples] += squares
            total = part.double() if total is None else total.add_(part)
        assert total is not None
        return total

    def _squares_of(self, part: Tensor) -> Tensor:
        if self._squares is None:
            self._squares = part.new_zeros((self.inputs.shape[0], *part.shape[1:]))
        return self._squares

    def add_variances(
        self, variances: Tensor, examples: slice, steps: slice, total: Tensor
    ) -> None:
        raise AssertionError("the spread of the samples has that of their slopes in it")

    def variances(self, total: Tensor) -> Tensor:
        """Of totals [B, ...], whose samples are independent; infinite for a single sample."""
        if self._squares is None or self.steps < 2:
            return torch.full_like(total, torch.inf)
        around_mean = self._squares - total.detach().square() / self.steps
        return around_mean.clamp_(min=0) * (self.steps / (self.steps - 1))

    def attributions(self, total: Tensor, multiply_by_inputs: bool) -> Tensor:
        return total / self.steps

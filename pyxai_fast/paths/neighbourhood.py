"""Noisy copies of the input: the points of SmoothGrad."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from ..models.input_numbers import numbers_of
from ..models.preprocessing import Affine
from .straight_line import StraightTrace


class GaussianNeighbourhood:
    """n_steps copies x + sigma * noise, noise ~ N(0, 1), each with weight 1 / n_steps.

    Smilkov et al., "SmoothGrad: removing noise by adding noise" (2017), equation 1. The noise is a
    function of the seed, the sample, the example and the feature, so chunks do not change it.

    Args:
        sigma: standard deviation of the noise, in the units of the inputs.
        seed: of the noise.
        numbers: of the inputs: those with the same number have the same noise in every batch. 0, 1,
            ... by default.
    """

    complete = False

    def __init__(self, sigma: float, seed: int = 0, numbers: Sequence[int] | None = None) -> None:
        number = isinstance(sigma, (int, float)) and not isinstance(sigma, bool)
        if not number or not 0 <= sigma < math.inf:
            raise ArgumentError(
                f"GaussianNeighbourhood: sigma must be a number >= 0, got {sigma!r}"
            )
        self.sigma = sigma
        self.seed = seed
        self.numbers = numbers

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
    ) -> NoisyTrace:
        trace = NoisyTrace(inputs, baselines, n_steps, affine, self.sigma, self.seed, stream)
        numbers = numbers_of("GaussianNeighbourhood", self.numbers, len(inputs))
        trace.examples = numbers.to(inputs.device)
        return trace


class NoisyTrace(StraightTrace):
    """Contracted like a straight line all of whose nodes are the input."""

    def __init__(
        self,
        inputs: Tensor,
        baselines: Tensor,
        steps: int,
        affine: Affine | None,
        sigma: float,
        seed: int,
        stream: int,
    ) -> None:
        ones = torch.ones(steps, dtype=torch.float64)
        super().__init__(inputs, baselines, ones, ones / steps, affine)
        self.sigma = torch.full((), sigma, dtype=torch.float64, device=inputs.device)
        self.key = ops.random_key(seed, stream, device=inputs.device)
        self.examples = torch.arange(inputs.shape[0], device=inputs.device)

    def points(
        self, examples: slice, steps: slice, memory_format: torch.memory_format, out: Tensor | None
    ) -> Tensor:
        first, last, _ = steps.indices(self.steps)
        return ops.perturb(
            self.inputs[examples],
            last - first,
            self.sigma,
            self.key,
            first_sample=first,
            examples=self.examples[examples],
            scale=self.scale,
            shift=self.shift,
            memory_format=memory_format,
            out=out,
        )

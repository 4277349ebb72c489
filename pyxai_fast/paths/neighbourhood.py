"""Noisy copies of the input: the points of SmoothGrad."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from .path import Affine
from .straight_line import StraightTrace


class GaussianNeighbourhood:
    """n_steps copies x + sigma * noise, noise ~ N(0, 1), each with weight 1 / n_steps.

    Smilkov et al., "SmoothGrad: removing noise by adding noise" (2017), equation 1. The noise of a
    sample is drawn from (seed, sample, example), so chunks do not change it.

    Args:
        sigma: standard deviation of the noise, in the units of the inputs.
        seed: of the noise.
    """

    def __init__(self, sigma: float, seed: int = 0) -> None:
        if not isinstance(sigma, (int, float)) or not sigma >= 0:
            raise ArgumentError(
                f"GaussianNeighbourhood: sigma must be a number >= 0, got {sigma!r}"
            )
        self.sigma = sigma
        self.seed = seed

    def trace(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        method: str,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> NoisyTrace:
        return NoisyTrace(inputs, baselines, n_steps, affine, self.sigma, self.seed, stream)


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
        self.sigma = sigma
        self.seed = seed
        self.stream = stream

    def _noise(self, step: int, examples: slice) -> Tensor:
        # One generator a sample of an example: its noise depends on nothing but (seed, stream,
        # sample, example), so no chunk draws what another one needs.
        noise = torch.empty(
            self.inputs[examples].shape, dtype=torch.float32, device=self.inputs.device
        )
        generator = torch.Generator(self.inputs.device)
        for row, example in zip(noise, range(examples.start, examples.stop), strict=True):
            state = self.seed
            for part in (self.stream, step, example):
                state = (state * 6_364_136_223_846_793_005 + part + 1) % 2**63
            row.normal_(generator=generator.manual_seed(state))
        return noise

    def points(
        self, examples: slice, steps: slice, memory_format: torch.memory_format, out: Tensor | None
    ) -> Tensor:
        inputs = self.inputs[examples]
        one = self.alphas[:1]
        zero = torch.zeros((), dtype=inputs.dtype, device=inputs.device)
        copies = [
            ops.path_points(
                torch.add(inputs, self._noise(step, examples), alpha=self.sigma),
                zero,
                one,
                scale=self.scale,
                shift=self.shift,
                dtype=inputs.dtype,
                memory_format=memory_format,
                out=None if out is None else out.unflatten(0, (-1, inputs.shape[0]))[position],
            )
            for position, step in enumerate(range(self.steps)[steps])
        ]
        return torch.cat(copies) if out is None else out

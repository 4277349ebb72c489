"""Noisy copies of inputs, and answers contracted with the noise, drawn again by its counter.

Stein's lemma: E[s(x + sigma z)] has the gradient E[s(x + sigma z) z] / sigma for standard normal z.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .path import by_channel, compute_dtype
from .random import KEEP_TAG, normals_of_features, words_in_groups, words_of_features

# Numbers that are drawn at once. Each takes some hundred bytes on the way.
DRAWN_TOGETHER = 2**18
# Of a row at least: a row of few features costs more than its words.
LEAST_WORDS = 64


@dataclass(frozen=True)
class Noise:
    """What is drawn; see csrc/include/pyxai_fast/noise.h for the counters."""

    key: Tensor
    distribution: str = "gaussian"
    antithetic: bool = False
    first_sample: int = 0
    examples: Tensor | None = None
    blocks: Tensor | None = None
    n_blocks: int = 0
    active: Tensor | None = None
    shared: bool = False
    keep: float = 1.0

    def draw(self, first: int, count: int, shape: torch.Size) -> Tensor:
        """The noise of every example for `count` samples, float32 [count, B, ...]."""
        device = self.key.device
        batch, features = shape[0], shape[1:].numel()
        examples = torch.arange(batch, device=device) if self.examples is None else self.examples
        # A row for every sample and example.
        examples = examples.repeat(count)
        samples = torch.arange(first, first + count, device=device).repeat_interleave(batch)
        number = (self.first_sample + samples)[:, None]
        pair, negated = (number // 2, number % 2 == 1) if self.antithetic else (number, None)
        blocks = None
        if self.blocks is not None:
            blocks = self.blocks.expand(shape).reshape(batch, features).long().repeat(count, 1)
            outside = (blocks < 0) | (blocks >= self.n_blocks)
            known = blocks.masked_fill(outside, 0)
        # Hadamard rows come in rounds of as many as it takes to hold all features.
        columns = self.n_blocks if self.shared else features
        rows = 1 << max(columns - 1, 0).bit_length()
        orthogonal = self.distribution == "orthogonal"
        draw, row = (pair // rows, pair % rows) if orthogonal else (pair, 0)
        if self.shared and blocks is not None:
            values = self._values(self.n_blocks, examples, draw, row)
            noise = values.gather(1, known).masked_fill(outside, 0.0)
        else:
            noise = self._values(features, examples, draw, row)
        below = round(self.keep * 2**32)
        if below < 2**32:
            if blocks is None:
                kept = words_of_features(features, examples, pair, self.key, KEEP_TAG) < below
            else:
                words = words_of_features(self.n_blocks, examples, pair, self.key, KEEP_TAG)
                kept = (words.gather(1, known) < below) & ~outside
            noise = noise.where(kept, 0.0)
        if self.active is not None and blocks is not None:
            active = self.active[first : first + count].reshape(count, -1)
            active = active.expand(count, batch).reshape(-1, 1)
            noise = noise.where(blocks == active, 0.0)
        if negated is not None:  # last, as in the kernels: zeros have signs too
            noise = torch.where(negated, -noise, noise)
        return noise.reshape(count, *shape)

    def _values(self, features: int, examples: Tensor, draw: Tensor, row: Tensor | int) -> Tensor:
        if self.distribution == "ones":
            return torch.ones(len(examples), features, device=self.key.device)
        if self.distribution == "gaussian":
            return normals_of_features(features, examples, draw, self.key)
        return signs_of_features(features, examples, draw, row, self.key)


def drawn_together(n_samples: int, shape: torch.Size) -> Iterator[tuple[int, int]]:
    """Samples (first, count) that are drawn at once: the memory needed does not grow with all."""
    words = shape[0] * max(shape[1:].numel(), LEAST_WORDS)
    count = max(1, DRAWN_TOGETHER // max(1, words))
    for first in range(0, n_samples, count):
        yield first, min(count, n_samples - first)


def signs_of_features(
    features: int, examples: Tensor, sample: Tensor | int, row: Tensor | int, key: Tensor
) -> Tensor:
    """+1 or -1 for every feature of every example, float32 [B, features]: random signs, times a row
    of the Hadamard matrix.

    Feature f has bit (f / 16) % 32 of word (f / 512) % 4 of block f / 2048 * 16 + f % 16.
    """
    words = words_in_groups(features, 128, examples, sample, key)
    shifts = torch.arange(32, device=key.device)[:, None]
    bits = (words[:, :, :, None] >> shifts & 1).flatten(1)[:, :features]
    common = torch.arange(features, device=key.device) & row
    for shift in (32, 16, 8, 4, 2, 1):
        common = common ^ common >> shift
    return 1.0 - 2.0 * (bits ^ common & 1).float()


def perturb(
    inputs: Tensor,
    n_samples: int,
    sigma: Tensor,
    key: Tensor,
    distribution: str = "gaussian",
    antithetic: bool = False,
    first_sample: int = 0,
    examples: Tensor | None = None,
    mask: Tensor | None = None,
    blocks: Tensor | None = None,
    n_blocks: int = 0,
    active: Tensor | None = None,
    shared: bool = False,
    keep: float = 1.0,
    low: float | None = None,
    high: float | None = None,
    reflect: bool = False,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    points = torch.empty(
        (n_samples * inputs.shape[0], *inputs.shape[1:]),
        dtype=inputs.dtype if dtype is None else dtype,
        device=inputs.device,
        memory_format=memory_format or torch.contiguous_format,
    )
    perturb_out(
        inputs, n_samples, sigma, key, distribution, antithetic, first_sample, examples, mask,
        blocks, n_blocks, active, shared, keep, low, high, reflect, scale, shift, out=points,
    )  # fmt: skip
    return points


def perturb_out(
    inputs: Tensor,
    n_samples: int,
    sigma: Tensor,
    key: Tensor,
    distribution: str = "gaussian",
    antithetic: bool = False,
    first_sample: int = 0,
    examples: Tensor | None = None,
    mask: Tensor | None = None,
    blocks: Tensor | None = None,
    n_blocks: int = 0,
    active: Tensor | None = None,
    shared: bool = False,
    keep: float = 1.0,
    low: float | None = None,
    high: float | None = None,
    reflect: bool = False,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    out: Tensor,
) -> None:
    noise = Noise(
        key, distribution, antithetic, first_sample, examples, blocks, n_blocks, active, shared,
        keep,
    )  # fmt: skip
    compute = compute_dtype(inputs.dtype)
    start = inputs.to(compute)
    step = sigma.to(compute).reshape(-1, *[1] * (inputs.dim() - 1))
    if mask is not None:
        step = step * mask.to(compute)
    copies = out.unflatten(0, (n_samples, -1)) if out.numel() else out
    for first, count in drawn_together(n_samples if out.numel() else 0, inputs.shape):
        point = start + step * noise.draw(first, count, inputs.shape).to(compute)
        point = into_range(point, low, high, reflect)
        if scale is not None and shift is not None:
            point = point * by_channel(scale, inputs, compute) + by_channel(shift, inputs, compute)
        copies[first : first + count].copy_(point)


def into_range(value: Tensor, low: float | None, high: float | None, reflect: bool) -> Tensor:
    """Mirrored at the ends of the range, or set to them; NaN stays NaN."""
    ends = [None if end is None else torch.tensor(end, dtype=value.dtype) for end in (low, high)]
    bottom, top = (None if end is None else end.to(value.device) for end in ends)
    if reflect and bottom is not None:
        value = torch.where(value < bottom, bottom + bottom - value, value)
    if reflect and top is not None:
        value = torch.where(value > top, top + top - value, value)
    if bottom is not None:
        value = torch.where(value < bottom, bottom, value)
    return value if top is None else torch.where(value > top, top, value)


def noise_contract(
    weights: Tensor,
    shape: list[int],
    key: Tensor,
    distribution: str = "gaussian",
    antithetic: bool = False,
    first_sample: int = 0,
    examples: Tensor | None = None,
    blocks: Tensor | None = None,
    n_blocks: int = 0,
    active: Tensor | None = None,
    keep: float = 1.0,
    squared: bool = False,
) -> Tensor:
    sizes = (weights.shape[0], *weights.shape[2:], *shape)
    total = torch.zeros(sizes, dtype=torch.float64, device=weights.device)
    noise_contract_out(
        weights, key, distribution, antithetic, first_sample, examples, blocks, n_blocks, active,
        keep, squared, total=total,
    )  # fmt: skip
    return total.to(compute_dtype(weights.dtype))


def noise_contract_out(
    weights: Tensor,
    key: Tensor,
    distribution: str = "gaussian",
    antithetic: bool = False,
    first_sample: int = 0,
    examples: Tensor | None = None,
    blocks: Tensor | None = None,
    n_blocks: int = 0,
    active: Tensor | None = None,
    keep: float = 1.0,
    squared: bool = False,
    *,
    total: Tensor,
) -> None:
    noise = Noise(
        key, distribution, antithetic, first_sample, examples, blocks, n_blocks, active, False,
        keep,
    )  # fmt: skip
    targets = weights.dim() - 2  # one dimension of them, or none
    shape = torch.Size((total.shape[0], *total.shape[1 + targets :]))
    for first, count in drawn_together(weights.shape[1] if total.numel() else 0, shape):
        # Added sample by sample, each multiplied before: the order of summation is the samples'.
        for sample, values in enumerate(noise.draw(first, count, shape), first):
            drawn = values.to(torch.float64)
            drawn = drawn.square() if squared else drawn
            weight = weights[:, sample].to(torch.float64)
            weight = weight.reshape(*weight.shape, *[1] * (len(shape) - 1))
            total += weight * (drawn[:, None] if targets else drawn)

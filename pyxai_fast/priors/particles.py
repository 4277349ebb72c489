"""Particles: what noise makes of inputs, and what a prior takes them for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from ..runtime.chunks import Chunk, ChunkPlanner, run_chunks
from ..runtime.cost import Cost
from ..runtime.stopwatch import Stopwatch
from .prior import Prior, is_prior

# What a chunk of particles may make the prior write on a CPU. Nothing of it is kept for a backward
# pass, so it may be more than a chunk of gradients: measured on a UNet at 1x32x32, two threads, a
# row takes 2.1 ms in chunks of 20 (96 MB), 1.8 ms in chunks of 34 and 1.9 ms in one of 100.
DENOISE_CHUNK_BYTES = 192 * 2**20


def check_prior(who: str, prior: Any) -> None:
    """Raises where what is given as a prior is none."""
    if not is_prior(prior):
        raise ArgumentError(
            f"{who}: prior must be one of pyxai_fast.priors, such as "
            f"DiffusionPrior.from_pretrained(name), got {type(prior).__name__}"
        )


class PriorAtWork:
    """A prior, asked in chunks that fit; its time is the watch's "prior".

    Args:
        prior: what is asked.
        cost: where the rows that it denoises are counted.
        watch: what measures the time.
        who: whose errors they are.
    """

    def __init__(self, prior: Prior, cost: Cost, watch: Stopwatch, who: str) -> None:
        self.prior, self.cost, self.watch, self.who = prior, cost, watch, who

    def encode(self, inputs: Tensor) -> Tensor:
        return self._in_chunks(self.prior.encode, inputs, "encode")

    def decode(self, clean: Tensor) -> Tensor:
        return self._in_chunks(self.prior.decode, clean, "decode")

    def predict_noise(self, noisy: Tensor, level: int) -> Tensor:
        """What the prior says, [R, ...], in the type of what it is asked.

        Raises:
            ArgumentError: it says something of another shape, or no numbers.
        """

        def ask(rows: Tensor) -> Tensor:
            noise = self.prior.predict_noise(rows, level)
            if noise.shape != rows.shape:
                raise ArgumentError(
                    f"{self.who}: the prior must predict noise of the shape of its input, "
                    f"{list(rows.shape)}, got {list(noise.shape)}"
                )
            return noise.to(rows.dtype)

        noise = self._in_chunks(ask, noisy, "denoise")
        self.cost.denoised += len(noisy)
        if not bool(noise.isfinite().all()):
            raise ArgumentError(
                f"{self.who}: the prior must predict finite noise, got nan or inf at level {level}"
            )
        return noise

    def denoise(self, noisy: Tensor, noise: Tensor, level: int) -> Tensor:
        """The clean inputs that noisy ones are taken for, within the prior's bounds.

        Tweedie's formula: ``(noisy - sqrt(1 - a) noise) / sqrt(a)``, a the share of signal.
        """
        share = float(self.prior.shares[level])
        return self.bound((noisy - (1 - share) ** 0.5 * noise).div_(share**0.5))

    def bound(self, clean: Tensor) -> Tensor:
        return clean if self.prior.bounds is None else clean.clamp_(*self.prior.bounds)

    def _in_chunks(self, function: Callable[[Tensor], Tensor], rows: Tensor, what: str) -> Tensor:
        parts: dict[int, Tensor] = {}

        def run(chunk: Chunk) -> None:
            with self.watch.part("prior"):
                parts[chunk.examples.start] = function(rows[chunk.examples])

        work = Chunk(slice(0, len(rows)), slice(0, 1))
        planner = ChunkPlanner(self.prior, (rows,), None, what, cpu_bytes=DENOISE_CHUNK_BYTES)
        # Rows and chunks of the cost are those of the model.
        own = Cost()
        with torch.no_grad():
            run_chunks(work, planner, run, own)
        self.cost.out_of_memory += own.out_of_memory
        found = [parts[begin] for begin in sorted(parts)]
        return found[0] if len(found) == 1 else torch.cat(found)


def noised(
    clean: Tensor, share: float, count: int, key: Tensor, examples: Tensor | None = None
) -> Tensor:
    """``sqrt(share) * clean + sqrt(1 - share) * noise``, [count * R, ...], copies outermost.

    The noise of a row is a function of the key and its number in `examples` (its place by default).
    """
    ones = None
    if clean.dim() > 1:
        ones = torch.ones(clean.shape[1], dtype=torch.float64, device=clean.device)
    noisy: Tensor = ops.perturb(
        clean,
        count,
        ((1 - share) / share) ** 0.5,
        key,
        examples=examples,
        scale=None if ones is None else ones * share**0.5,
        shift=None if ones is None else ones * 0,
    )
    return noisy if ones is not None else noisy * share**0.5

"""Particles: what noise makes of inputs, and what a prior takes them for."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from ..runtime.chunks import CPU_CHUNK_BYTES, Chunk, ChunkPlanner, run_chunks
from ..runtime.cost import Cost
from ..runtime.stopwatch import Stopwatch
from .prior import Prior

# What a chunk of particles may make the prior write on a CPU. Nothing of it is kept for a backward
# pass, so it may be more than a chunk of gradients: measured on a UNet at 1x32x32, two threads, a
# row takes 2.1 ms in chunks of 20 (96 MB), 1.8 ms in chunks of 34 and 1.9 ms in one of 100.
DENOISE_CHUNK_BYTES = 2 * CPU_CHUNK_BYTES


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


def predicted_noise(
    prior: Prior, noisy: Tensor, level: int, cost: Cost, watch: Stopwatch, who: str
) -> Tensor:
    """What the prior says, [R, ...], asked in chunks that fit; the time is the watch's "prior".

    Raises:
        ArgumentError: it says something of another shape, or no numbers.
    """
    parts: dict[int, Tensor] = {}

    def run(chunk: Chunk) -> None:
        rows = noisy[chunk.examples]
        with watch.part("prior"):
            noise = prior.predict_noise(rows, level)
        if noise.shape != rows.shape:
            raise ArgumentError(
                f"{who}: the prior must predict noise of the shape of its input, "
                f"{list(rows.shape)}, got {list(noise.shape)}"
            )
        parts[chunk.examples.start] = noise

    work = Chunk(slice(0, len(noisy)), slice(0, 1))
    # What it cost to run the model says nothing of these chunks, and the other way round.
    own = Cost()
    planner = ChunkPlanner(prior, (noisy,), None, "denoise", cpu_bytes=DENOISE_CHUNK_BYTES)
    with torch.no_grad():
        run_chunks(work, planner, run, own)
    cost.denoised += len(noisy)
    cost.out_of_memory += own.out_of_memory
    found = [parts[begin] for begin in sorted(parts)]
    noise = found[0] if len(found) == 1 else torch.cat(found)
    if not bool(noise.isfinite().all()):
        raise ArgumentError(
            f"{who}: the prior must predict finite noise, got nan or inf at level {level}"
        )
    return noise


def denoised(prior: Prior, noisy: Tensor, noise: Tensor, level: int) -> Tensor:
    """The clean inputs that noisy ones are taken for, within the prior's bounds.

    Tweedie's formula: ``(noisy - sqrt(1 - a) noise) / sqrt(a)``, a the share of signal.
    """
    share = float(prior.shares[level])
    found: Tensor = (noisy - (1 - share) ** 0.5 * noise).div_(share**0.5)
    return found if prior.bounds is None else found.clamp_(*prior.bounds)

"""Pictures drawn from a prior, to see what it knows."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..errors import ArgumentError
from .prior import Prior


@torch.no_grad()
def sample(
    prior: Prior,
    shape: tuple[int, ...],
    *,
    n_steps: int = 50,
    eta: float = 1.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Rows drawn from a prior, in the caller's units, float32.

    Song, Meng and Ermon, "Denoising Diffusion Implicit Models" (2021), equations 12 and 16.

    Args:
        prior: any.
        shape: [R, ...], of rows of the prior's space.
        n_steps: levels that are visited, at even distances.
        eta: how much of the noise is drawn anew at each level: 1 as in DDPM, which mends what the
            prior did wrong before, 0 for none.
        seed: of the noise, which is drawn on the CPU.
        device: where the prior is asked.

    Raises:
        ArgumentError: an argument is out of its range.
    """
    count = len(prior.shares)
    if not 1 <= n_steps <= count:
        raise ArgumentError(f"sample: n_steps must be from 1 to {count}, got {n_steps!r}")
    if not 0 <= eta <= 1:
        raise ArgumentError(f"sample: eta must be from 0 to 1, got {eta!r}")
    levels = torch.linspace(count - 1, 0, n_steps, dtype=torch.float64).round().long().tolist()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(shape, generator=generator).to(device)
    for level, after in pairwise((*levels, None)):
        share = float(prior.shares[level])
        noise = prior.predict_noise(rows, level)
        clean = (rows - (1 - share) ** 0.5 * noise) / share**0.5
        if prior.bounds is not None:
            # The noise stays as predicted: what clipping changes would be taken for noise.
            clean = clean.clamp(*prior.bounds)
        if after is None:
            break
        less = float(prior.shares[after])
        new = eta * ((1 - less) / (1 - share) * (1 - share / less)) ** 0.5
        rows = less**0.5 * clean + max(1 - less - new**2, 0.0) ** 0.5 * noise
        rows += new * torch.randn(shape, generator=generator).to(device)
    return prior.decode(clean)

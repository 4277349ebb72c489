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
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Rows drawn from a prior, in the caller's units, float32.

    Song, Meng and Ermon, "Denoising Diffusion Implicit Models" (2021), equation 12 without noise:
    what noise becomes when it is followed down the levels.

    Args:
        prior: any.
        shape: [R, ...], of rows of the prior's space.
        n_steps: levels that are visited, at even distances.
        seed: of the noise at the start, which is drawn on the CPU.
        device: where the prior is asked.

    Raises:
        ArgumentError: n_steps does not fit the prior's levels.
    """
    count = len(prior.shares)
    if not 1 <= n_steps <= count:
        raise ArgumentError(f"sample: n_steps must be from 1 to {count}, got {n_steps!r}")
    levels = torch.linspace(count - 1, 0, n_steps, dtype=torch.float64).round().long().tolist()
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    for level, after in pairwise((*levels, None)):
        share = float(prior.shares[level])
        noise = prior.predict_noise(rows, level)
        clean = (rows - (1 - share) ** 0.5 * noise) / share**0.5
        if prior.bounds is not None:
            clean = clean.clamp(*prior.bounds)
            noise = (rows - share**0.5 * clean) / (1 - share) ** 0.5
        if after is None:
            break
        share = float(prior.shares[after])
        rows = share**0.5 * clean + (1 - share) ** 0.5 * noise
    return prior.decode(clean)

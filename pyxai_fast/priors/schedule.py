"""How much of an input is left at each level of noise."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_schedule(
    n_levels: int = 1000, first_beta: float = 1e-4, last_beta: float = 2e-2
) -> Tensor:
    """The share of signal variance left at each level, [n_levels] float64, falling from 1 to 0.

    The betas are for 1000 levels; with fewer, each takes as much more of the signal.

    Level t mixes ``sqrt(share[t]) * input + sqrt(1 - share[t]) * noise``. Ho, Jain and Abbeel,
    "Denoising Diffusion Probabilistic Models" (2020), section 4.
    """
    betas = torch.linspace(first_beta, last_beta, n_levels, dtype=torch.float64)
    betas = (betas * (1000 / n_levels)).clamp(max=0.999)
    return torch.cumprod(1 - betas, 0)

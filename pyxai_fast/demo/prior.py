"""The demo's prior: a small diffusion network that knows the digits, with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pyxai_fast.priors import DiffusionPrior

PRIOR_PATH = Path(__file__).with_name("digits_prior")


def load_demo_prior(
    *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, **options: Any
) -> DiffusionPrior:
    """The prior of digits [R, 1, 32, 32], trained on the demo's training split alone.

    Args:
        device: of the network.
        dtype: of its weights; None keeps float32.
        options: of DiffusionPrior.

    Raises:
        MissingDependency: diffusers is not installed.
    """
    return DiffusionPrior.from_pretrained(PRIOR_PATH, device=device, dtype=dtype, **options)

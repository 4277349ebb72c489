"""Maps that know nothing, to tell what a map that is said to know something is worth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def uniform_maps(shape: Sequence[int], seed: int = 0) -> Tensor:
    """A random value in [0, 1] at each place: float32 of the shape."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))

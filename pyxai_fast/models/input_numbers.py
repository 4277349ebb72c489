"""The numbers by which random draws tell inputs apart, wherever they stand in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ArgumentError


def numbers_of(name: str, numbers: Sequence[int] | None, batch: int) -> Tensor:
    """The inputs' numbers, int64 [B]; 0, 1, ... by default.

    Raises:
        ArgumentError: they are not one for each, or no integers >= 0.
    """
    if numbers is None:
        return torch.arange(batch)
    given = list(numbers)
    if len(given) != batch:
        raise ArgumentError(
            f"{name}: numbers must be one for each of the {batch} inputs, got {len(given)}"
        )
    if not all(isinstance(n, int) and n >= 0 for n in given):
        raise ArgumentError(f"{name}: numbers must be integers >= 0, got {given[:8]}")
    return torch.tensor(given, dtype=torch.int64)

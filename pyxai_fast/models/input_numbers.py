"""The numbers by which random draws tell inputs apart, wherever they stand in a batch."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ArgumentError


def numbers_of(name: str, numbers: Sequence[int] | None, batch: int) -> Tensor:
    """The inputs' numbers, int64 [B]; 0, 1, ... by default.

    Raises:
        ArgumentError: they are not one for each, or no integers from 0 to 2^32 - 1.
    """
    if numbers is None:
        return torch.arange(batch)
    try:
        given = list(numbers)
    except TypeError as error:
        raise TypeError(
            f"{name}: numbers must be a sequence of integers, got {type(numbers).__name__}"
        ) from error
    if len(given) != batch:
        raise ArgumentError(
            f"{name}: numbers must be one for each of the {batch} inputs, got {len(given)}"
        )
    try:
        whole = [-1 if isinstance(n, bool) else operator.index(n) for n in given]
    except (TypeError, RuntimeError):  # a tensor without numbers is no integer either
        whole = [-1]
    # The counter of the draws has 32 digits for them: others would share their draws.
    if not all(0 <= n < 2**32 for n in whole):
        raise ArgumentError(f"{name}: numbers must be integers from 0 to 2^32 - 1, got {given[:8]}")
    return torch.tensor(whole, dtype=torch.int64)

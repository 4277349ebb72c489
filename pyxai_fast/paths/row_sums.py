"""Sums of rows that no other row's presence changes."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows are summed in blocks of so many features, which no other row's work shares.
BLOCK = 1024


def row_sums(values: Tensor) -> Tensor:
    """Sums of rows [E, D] as float64 [E, 1]; on a CPU with the same bits whatever the other rows.

    A lone row that is summed at once would be split among threads.
    """
    features = values.shape[1]
    whole = features - features % BLOCK
    rest = values[:, whole:].sum(1, keepdim=True, dtype=torch.float64)
    if whole == 0:
        return rest
    blocks = values[:, :whole].unflatten(1, (-1, BLOCK)).sum(2)
    total: Tensor = blocks.double().cumsum(1)[:, -1:] + rest
    return total

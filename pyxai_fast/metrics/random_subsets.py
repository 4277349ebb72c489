"""Random subsets of features, as functions of a counter: the same in any chunks, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..reference.random import counter, philox

WORDS = 4  # that a block of the counter gives


def random_subsets(
    n_features: int, size: int, examples: Tensor, runs: Tensor, key: Tensor
) -> Tensor:
    """Different features for each example and run, each set as likely as any other.

    A subset is the first `size` different numbers of a sequence that the key, the example and the
    run give, so that nothing as long as all features is sorted for a small one. Of more than half
    of the features those are drawn that are left out.

    Args:
        n_features: fewer than 2**31.
        size: from 1 to n_features.
        examples, runs: int64 [B], [S], their numbers in the counter.
        key: int64 [2], from `random_key`.

    Returns:
        int64 [S, B, size].
    """
    shape = (len(runs), len(examples))
    example = examples.repeat(len(runs))[:, None]
    run = runs.repeat_interleave(len(examples))[:, None]
    if 2 * size <= n_features:
        return _first_different(n_features, size, example, run, key).view(*shape, size)
    chosen = torch.ones(len(run), n_features, dtype=torch.bool, device=key.device)
    if size < n_features:
        left_out = _first_different(n_features, n_features - size, example, run, key)
        chosen.scatter_(1, left_out, False)
    return chosen.nonzero()[:, 1].view(*shape, size)


def _first_different(
    n_features: int, size: int, example: Tensor, run: Tensor, key: Tensor
) -> Tensor:
    """int64 [R, size], of at most half of the features, in the order of drawing."""
    # As many as give `size` different ones on average, and some more.
    mean = -n_features * math.log1p(-size / n_features)
    length = math.ceil(mean + 6 * math.sqrt(mean) + 8)
    while True:
        drawn = _sequence(n_features, length, example, run, key)
        # Equal numbers in the order of drawing.
        ordered, place = drawn.sort(stable=True, dim=1)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        new = torch.zeros_like(first).scatter_(1, place, first)
        before = new.cumsum(1)
        if bool((before[:, -1] >= size).all()):
            return drawn[new & (before <= size)].view(-1, size)
        length *= 2


def _sequence(n_features: int, length: int, example: Tensor, run: Tensor, key: Tensor) -> Tensor:
    """Numbers of features, as likely as each other, int64 [R, length]: a longer sequence begins
    with a shorter one."""
    blocks = torch.arange(-(-length // WORDS), device=key.device)
    words = torch.stack(philox(counter(blocks, example, run, key), key[0]), 2).flatten(1)
    return words[:, :length] * n_features >> 32

"""The order in which features are taken from an input, or given to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from .asked import check_count


def pixel_ranks(attributions: Tensor) -> Tensor:
    """Places of pixels, int32 [B, 1, ...]: 0 has the largest sum over channels.

    Of tables [B, D] the places of columns, [B, D]. Equal values keep their order in memory. For the
    order of sizes give the attributions' `abs()`.
    """
    if attributions.dim() > 2:
        # Half precision would overflow, or make unequal sums equal.
        attributions = attributions.sum(1, keepdim=True, dtype=torch.float64)
    return ops.ranks_of(attributions)


def even_fractions(op: str, n_steps: int) -> Tensor:
    """0, 1 / n_steps, ..., 1: float64 [n_steps + 1]."""
    check_count(op, "n_steps", n_steps)
    return torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)


def some_fractions(op: str, name: str, fractions: Sequence[float]) -> Tensor:
    """One or more shares that are named, ascending, between 0 and 1: float64 [S]."""
    try:
        named = torch.as_tensor(fractions, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{op}: {name} must be numbers, got {fractions!r}") from error
    ascending = named.dim() == 1 and len(named) > 0 and bool((named.diff() > 0).all())
    if not ascending or not bool(((named > 0) & (named < 1)).all()):
        raise ArgumentError(
            f"{op}: {name} must be one or more numbers between 0 and 1, ascending, got "
            f"{named.tolist()}"
        )
    return named


def counts_of(fractions: Tensor, ranks: Tensor) -> Tensor:
    """How many of the ranked features each fraction is, int64 [S], on the ranks' device."""
    features = ranks[0].numel()
    return (fractions.double() * features).round().long().to(ranks.device)


def places_between(ranks: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where ranks [B, ...] are in each range [low, high): bool [S, B, ...] for bounds [S]."""
    shape = (-1, *(1 for _ in ranks.shape))
    return (ranks >= low.view(shape)) & (ranks < high.view(shape))


def both_ends(counts: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """The ranges of places of the first so many of a ranking, then of the last so many.

    Returns:
        int64 [2 * S] and [2 * S]: where each range begins, and where it ends.
    """
    features = torch.full_like(counts, ranks[0].numel())
    return torch.cat((torch.zeros_like(counts), features - counts)), torch.cat((counts, features))

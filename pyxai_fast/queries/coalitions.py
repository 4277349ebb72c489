"""Which segments of an input stay: coalitions drawn at random, or all there are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..reference.mask import WORD
from ..reference.random import counter, philox, uniform

# Of random numbers, apart from those of noises, paths and counterfactuals.
STREAM = 2**15 + 2**14 + 2**13 + 2**12
# Of the words that sizes are drawn from; segments have tag 0.
SIZE_TAG = 1
# All of these, and none, come first.
BOUNDS = 2


class Coalitions(NamedTuple):
    """Sets of segments that stay, one for each query of each input.

    Attributes:
        words: int32 [Q, 1 or B, W], as `ops.mask_segments` reads them. Query 0 keeps everything,
            and query 1 nothing.
        weights: float64 [Q, B], of the queries in a sum over all coalitions with the Shapley
            kernel; that of the first two is zero, as theirs is infinite.
        drawn: "bernoulli" or "shapley".
    """

    words: Tensor
    weights: Tensor
    drawn: str


def bernoulli_coalitions(
    n_queries: int, n_segments: Sequence[int], seed: int, device: torch.device | str = "cpu"
) -> Coalitions:
    """Each segment stays with probability one half, in each query by itself.

    Whether segment s stays in query q depends on the seed, s and q alone, so that all inputs share
    the coalitions; those with fewer segments leave bits unread.

    Args:
        n_queries: Q, from 2.
        n_segments: of each input, [B].
    """
    most = max(n_segments, default=0)
    drawn = _words(-(-max(most, 1) // WORD), torch.arange(n_queries), seed)
    # From [0, 2^32) to the int32 of the same bits.
    kept = ops.unpack_coalitions(((drawn ^ 0x80000000) - 0x80000000).int(), most)
    kept[0], kept[1:BOUNDS] = True, False
    weights = torch.zeros(n_queries, len(n_segments), dtype=torch.float64)
    for b, count in enumerate(n_segments):
        # All coalitions are as likely as each other, so that each weighs what the kernel says.
        logs = torch.tensor([-math.inf, *_log_kernel(count), -math.inf], dtype=torch.float64)
        each = logs.exp()[kept[:, :count].sum(1)] if count else weights[:, b]
        weights[:, b] = each / each.sum().clamp(min=torch.finfo(each.dtype).tiny)
    words = ops.pack_coalitions(kept)[:, None]
    return Coalitions(words.to(device), weights.to(device), "bernoulli")


def shapley_coalitions(
    n_queries: int, n_segments: Sequence[int], seed: int, device: torch.device | str = "cpu"
) -> Coalitions:
    """Coalitions as often as the Shapley kernel weighs them, each with its complement.

    Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions" (2017), theorem 2. From
    the smallest and the largest inwards, all coalitions of a size are taken where the queries are
    enough for them to come as often as by chance; sizes are drawn for the rest. Where n_queries
    suffice for all 2^S there are, these are the queries, and no more are asked. An input that needs
    fewer than another of the batch is asked about as a whole again, with weight zero.

    Args: as for `bernoulli_coalitions`.
    """
    sets = {count: _shapley_sets(n_queries, count, seed) for count in sorted(set(n_segments))}
    longest = max((len(kept) for kept, _ in sets.values()), default=0)
    most = max(n_segments, default=0)
    words, weights = {}, {}
    for count, (kept, each) in sets.items():
        padded = torch.zeros(longest, most, dtype=torch.bool)
        padded[:, :count] = True
        padded[: len(kept), :count] = kept
        words[count] = ops.pack_coalitions(padded)
        weights[count] = torch.nn.functional.pad(each, (0, longest - len(each)))
    # All inputs share the words where they have as many segments.
    wanted = list(sets) if len(sets) == 1 else n_segments
    if not len(n_segments):
        return bernoulli_coalitions(n_queries, n_segments, seed, device)._replace(drawn="shapley")
    return Coalitions(
        torch.stack([words[count] for count in wanted], 1).to(device),
        torch.stack([weights[count] for count in n_segments], 1).to(device),
        "shapley",
    )


def _shapley_sets(n_queries: int, n_segments: int, seed: int) -> tuple[Tensor, Tensor]:
    """Coalitions bool [Q, S] and their weights float64 [Q]."""
    whole, left = list(range(1, n_segments)), list[int]()
    if 2**n_segments > n_queries:
        whole, left = _sizes_taken_whole(n_queries - BOUNDS, n_segments)
    share = _share_of_sizes(n_segments)
    kept = [torch.ones(1, n_segments, dtype=torch.bool), torch.zeros(1, n_segments).bool()]
    weights = [torch.zeros(BOUNDS, dtype=torch.float64)]
    for size in whole:
        chosen = torch.tensor(list(itertools.combinations(range(n_segments), size)))
        rows = torch.zeros(len(chosen), n_segments, dtype=torch.bool).scatter_(1, chosen, True)
        kept.append(rows)
        weights.append(torch.full((len(rows),), share[size] / len(rows), dtype=torch.float64))
    drawn = n_queries - sum(len(rows) for rows in kept)
    if left and drawn > 0:
        kept.append(_drawn(drawn, left, [share[k] for k in left], n_segments, seed))
        each = sum(share[k] for k in left) / drawn
        weights.append(torch.full((drawn,), each, dtype=torch.float64))
    return torch.cat(kept), torch.cat(weights)


def _drawn(count: int, sizes: list[int], shares: list[float], n_segments: int, seed: int) -> Tensor:
    """Coalitions of random sizes, every second the complement of the one before."""
    pairs = torch.arange(-(-count // 2))
    cumulative = torch.tensor(list(itertools.accumulate(shares)), dtype=torch.float64)
    draws = uniform(_words(1, pairs, seed, SIZE_TAG)[:, 0]).double() * cumulative[-1]
    found = torch.searchsorted(cumulative, draws).clamp(max=len(sizes) - 1)
    size = torch.tensor(sizes)[found]
    # The first `size` of the segments in a random order.
    ranks = _words(n_segments, pairs, seed).argsort(dim=1, stable=True).argsort(dim=1)
    kept = ranks < size[:, None]
    return torch.stack([kept, ~kept], 1).flatten(0, 1)[:count]


def _sizes_taken_whole(count: int, n_segments: int) -> tuple[list[int], list[int]]:
    """Sizes of which `count` queries take every coalition, and those that are drawn from."""
    share = _share_of_sizes(n_segments)
    whole: list[int] = []
    left = list(range(1, n_segments))
    while left:
        outer = sorted({left[0], left[-1]})
        coalitions = sum(math.comb(n_segments, k) for k in outer)
        expected = count * sum(share[k] for k in outer) / sum(share[k] for k in left)
        if coalitions > expected:
            break
        whole += outer
        left = left[1:-1]
        count -= coalitions
    return whole, left


def _share_of_sizes(n_segments: int) -> list[float]:
    """Of the Shapley kernel's weight, by the size of a coalition; zero for none and all."""
    each = [0.0, *(1.0 / (k * (n_segments - k)) for k in range(1, n_segments)), 0.0]
    total = sum(each) or 1.0
    return [one / total for one in each]


def _log_kernel(n_segments: int) -> list[float]:
    """Of one coalition of each size from 1 to S - 1, up to a constant: largest 0."""
    logs = [
        -math.log(k * (n_segments - k))
        - math.lgamma(n_segments + 1)
        + math.lgamma(k + 1)
        + math.lgamma(n_segments - k + 1)
        for k in range(1, n_segments)
    ]
    return [one - max(logs) for one in logs]


def _words(count: int, samples: Tensor, seed: int, tag: int = 0) -> Tensor:
    """`count` random words for each sample, in [0, 2^32)."""
    key = ops.random_key(seed, STREAM, device=samples.device)
    blocks = torch.arange(-(-count // 4), device=samples.device)
    nobody = torch.zeros_like(blocks)
    drawn = philox(counter(blocks, nobody, samples[:, None], key, tag), key[0])
    return torch.stack(drawn, 2).flatten(1)[:, :count]

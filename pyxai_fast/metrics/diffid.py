"""DiffID: how much better a model does without what a map calls unimportant than without the rest.

Kim, Lee and Choi compare integration paths by it; defined as in the released evaluation of their
MA-GIG.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from .asked import Asked, check_attributions, is_target
from .ranking import both_ends, counts_of, places_between, some_fractions

RATIOS = tuple(k / 10 for k in range(1, 10))


def diffid(
    model: Any,
    inputs: Tensor,
    attributions: Tensor,
    target: Any = None,
    *,
    ratios: Sequence[float] = RATIOS,
    **asking: Any,
) -> Tensor:
    """Of each input, from -1 to 1: large is good.

    Features of all channels rank by the size of their attribution. For each ratio, that share of
    them is replaced by the mean of the features that are kept: the least important for insertion,
    the most important for deletion. Counted is whether the class is still the target, and returned
    is the mean of insertion minus deletion.

    Args:
        model, inputs, target, asking: as in `Asked`.
        attributions: shaped as the inputs; one channel stands for all.
        ratios: of the features that are replaced; at least one feature is kept.

    Returns:
        float64 [B]; NaN where the model answered NaN.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
    """
    op = "diffid"
    asked = Asked(op, model, inputs, target, **asking)
    x = asked.inputs
    sizes = check_attributions(op, attributions, x).abs().expand_as(x)
    ranks = ops.ranks_of(sizes)
    features = ranks[0].numel()
    counts = counts_of(some_fractions(op, "ratios", ratios), ranks).clamp(max=features - 1)
    low, high = both_ends(counts, ranks)

    # Sums of the first k of the ranking, for every k: float64 [B, D + 1].
    ranked = torch.zeros_like(x.flatten(1)).scatter_(1, ranks.flatten(1).long(), x.flatten(1))
    sums = torch.nn.functional.pad(ranked.double().cumsum(1), (1, 0))
    kept = sums[:, -1:] - (sums[:, high] - sums[:, low])
    means = (kept / (features - (high - low))).T  # [2 * S, B]

    def rows(examples: slice, steps: slice) -> Tensor:
        some = x[examples]
        mean = means[steps, examples].to(x.dtype)
        replaced = places_between(ranks[examples], low[steps], high[steps])
        filled = torch.where(replaced, mean.view(*mean.shape, *(1 for _ in some.shape[1:])), some)
        return asked.model_inputs(filled.flatten(0, 1))

    right = asked.scores(len(low), rows, "diffid", read=is_target)
    deleted, inserted = right.chunk(2)
    return (inserted - deleted).mean(0)

"""ROAD: what becomes of a class as pixels are replaced by what their neighbours say.

A black pixel tells a model which pixels were removed; an imputed one hardly does.

Source: Rong, Leemann, Borisov, Kasneci and Kasneci, "A Consistent and Efficient Evaluation Strategy
for Attribution Methods" (2022), section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from .asked import Asked, check_attributions, check_size, random_key
from .curve import Curve
from .imputation import imputed
from .ranking import both_ends, counts_of, pixel_ranks, places_between, some_fractions

# Of the random numbers; see the streams of paths, gradients and queries.
STREAM = 2**15 + 2**13 + 3
FRACTIONS = tuple(k / 10 for k in range(1, 10))


@dataclass(frozen=True)
class Road:
    """What is left of a class without some of the pixels.

    Attributes:
        most_first: without the first of the ranking; a small area is good.
        least_first: without the last of it; a large area is good.
    """

    most_first: Curve
    least_first: Curve


def road(
    model: Any,
    inputs: Tensor,
    attributions: Tensor,
    target: Any = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    noise: float = 0.01,
    seed: int = 0,
    **asking: Any,
) -> Road:
    """The score as the first, and as the last, of a ranking of pixels are imputed.

    Pixels rank by their attribution, summed over channels, with its sign; give `attributions.abs()`
    to rank by size. How pixels are imputed says `imputation.imputed`.

    Args:
        model, inputs, target, asking: as in `Asked`; inputs [B, C, H, W].
        attributions: shaped as the inputs, or with one channel.
        fractions: of the pixels that are removed.
        noise: standard deviation of what is added to imputed pixels, in the units of the inputs.
        seed: of that noise, with the inputs' numbers: counter-based, the same on every device and
            in any chunks.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
    """
    op = "road"
    asked = Asked(op, model, inputs, target, **asking)
    x = asked.inputs
    if x.dim() != 4:
        raise ArgumentError(f"{op}: inputs must be pictures [B, C, H, W], got {list(x.shape)}")
    ranks = pixel_ranks(check_attributions(op, attributions, x))
    shares = some_fractions(op, "fractions", fractions)
    check_size(op, "noise", noise)
    key = random_key(op, seed, STREAM, x.device)
    low, high = both_ends(counts_of(shares, ranks), ranks)

    def rows(examples: slice, steps: slice) -> Tensor:
        removed = places_between(ranks[examples], low[steps], high[steps])
        some = x[examples].expand(len(removed), -1, -1, -1, -1)
        filled = imputed(some.flatten(0, 1), removed.flatten(0, 1))
        if noise:
            drawn = ops.perturb(
                torch.zeros_like(x[examples]), len(removed), noise, key,
                first_sample=steps.start, examples=asked.numbers[examples],
            )  # fmt: skip
            filled = filled + drawn * removed.flatten(0, 1)
        return asked.model_inputs(filled)

    most, least = asked.scores(len(low), rows, "imputed").chunk(2)
    return Road(Curve(shares, most), Curve(shares, least))

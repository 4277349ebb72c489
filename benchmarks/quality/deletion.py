"""Deletion and insertion: what becomes of a class when the pixels of a ranking go, or come.

Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models"
(2018), section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyxai_fast import ops
from pyxai_fast.models.preprocessing import Preprocessing

ROWS = 64

Model = Callable[[Tensor], Tensor]


def softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def as_they_are(scores: Tensor) -> Tensor:
    return scores


def ranking(attributions: Tensor) -> Tensor:
    """Places of pixels, int32 [B, 1, ...]: 0 has the largest absolute value, summed over channels.

    Pixels of equal value keep the order that they have in memory.
    """
    return ops.ranks_of(attributions.abs().sum(1, keepdim=True))


def deletion_curve(
    model: Model,
    inputs: Tensor,
    ranks: Tensor,
    target: Tensor,
    fractions: Tensor,
    preprocessing: Preprocessing | None = None,
    base: Tensor | float = 0.0,
    probabilities: Model = softmax,
) -> Tensor:
    """Probability [S, B] of the target with the first of the ranking replaced by the base.

    Args:
        model: logits [R, n] of model inputs, or what `probabilities` takes.
        inputs: [B, C, ...]; pixels where `preprocessing` is given.
        ranks: int32 [1 or B, 1 or C, ...], as from `ranking`.
        target: int64 [B].
        fractions: [S], in [0, 1], of the ranked features.
        preprocessing: turns pixels into model inputs.
        base: what pixels are replaced by, in the units of the inputs; 0 is black.
        probabilities: of the model's answers [R, n]; `as_they_are` of a model that answers them.
    """
    return _curve(model, inputs, base, ranks, target, fractions, preprocessing, probabilities)


def insertion_curve(
    model: Model,
    inputs: Tensor,
    ranks: Tensor,
    target: Tensor,
    fractions: Tensor,
    preprocessing: Preprocessing | None = None,
    base: Tensor | float = 0.0,
    probabilities: Model = softmax,
) -> Tensor:
    """Probability [S, B] of the target with only the first of the ranking, on the base.

    The arguments are those of `deletion_curve`; the usual base is a blurred picture.
    """
    if not isinstance(base, Tensor):
        base = torch.full((), base, dtype=inputs.dtype, device=inputs.device)
    base = base.expand_as(inputs)
    return _curve(model, base, inputs, ranks, target, fractions, preprocessing, probabilities)


def area(curve: Tensor, fractions: Tensor) -> Tensor:
    """The area under curves [S, ...] over the fractions [S], by trapezoids, divided by their span.

    Deletion: small is good. Insertion: large is good.
    """
    return torch.trapezoid(curve.double(), fractions.double(), dim=0) / (
        fractions[-1] - fractions[0]
    )


def fractions_of(steps: int) -> Tensor:
    """0, 1/steps, ..., 1: float64 [steps + 1]."""
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


@torch.no_grad()
def _curve(
    model: Model,
    inputs: Tensor,
    replaced_by: Tensor | float,
    ranks: Tensor,
    target: Tensor,
    fractions: Tensor,
    preprocessing: Preprocessing | None,
    probabilities: Model,
) -> Tensor:
    features = ranks[0].numel()
    counts = (fractions.double() * features).round().long().to(inputs.device)
    affine = {}
    if preprocessing is not None:
        affine = {
            "scale": preprocessing.scale.to(inputs.device),
            "shift": preprocessing.shift.to(inputs.device),
        }
    at_once = max(1, ROWS // len(inputs))
    parts = []
    for some in counts.split(at_once):
        queries = ops.rank_mask(inputs, replaced_by, ranks, some, **affine)
        answers = torch.cat([model(rows) for rows in queries.split(ROWS)])
        shares = probabilities(answers.double()).reshape(len(some), len(inputs), -1)
        parts.append(shares.gather(2, target.expand(len(some), -1)[..., None])[..., 0])
    return torch.cat(parts)

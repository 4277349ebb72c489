"""What a student is to answer: what the black box answered, on a scale that can be learnt."""

from __future__ import annotations

import torch
from torch import Tensor

# Not to where a sigmoid has no slope.
LEAST = 0.1
# Added to both sides of the odds: answers nearer to 0 or 1 than that differ little. A forest is
# sure at 20 of 20 trees, and a network that says 0.0001 in place of 0.001 may mean nothing by it.
SURE = 3e-3


def prepared(answers: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """Answers [E, Q] in [0, 1], and what differences between them are to be multiplied by, [E].

    Args:
        answers: float64 [E, Q] in [0, 1], of each pair to each query.
        how: as in DistillationRecipe. Of "order" differences stay what they are: shares of the
            queries.
    """
    if how == "log_odds":
        odds = ((answers + SURE) / (1 - answers + SURE)).log()
        return stretched(odds)[0].float(), answers.new_ones(len(answers)).float()
    if how == "order":
        return stretched(in_order(answers))[0].float(), answers.new_ones(len(answers)).float()
    if how == "stretched":
        scaled, span = stretched(answers)
        return scaled.float(), span.float()
    return answers.float(), answers.new_ones(len(answers)).float()


def stretched(answers: Tensor) -> tuple[Tensor, Tensor]:
    """From LEAST to 1 - LEAST, and by how much [E] less they are apart than they were: how quickly
    a mask is learnt does not depend on how much there is to explain. All alike stay alike."""
    low, high = answers.amin(1, keepdim=True), answers.amax(1, keepdim=True)
    span = torch.where(high > low, high - low, 1.0) / (1 - 2 * LEAST)
    return LEAST + (answers - low) / span, span[:, 0]


def in_order(answers: Tensor) -> Tensor:
    """The share of queries that answer less, those that answer the same counting half."""
    answers = answers.contiguous()
    ordered = answers.sort(1).values.contiguous()
    less = torch.searchsorted(ordered, answers)
    no_more = torch.searchsorted(ordered, answers, right=True)
    return (less + no_more).to(answers.dtype) / (2 * answers.shape[1])

"""Shapley values from the answers to some coalitions."""

from __future__ import annotations

import torch
from torch import Tensor

# Of the largest squared singular value: how strongly values may be drawn to equal shares. More
# would leave nothing of what was answered, which is seldom the better map.
PENALTIES = tuple(10.0**power for power in torch.linspace(-6, 0, 25).tolist())
# A penalty is taken for a smaller one only where it is better by more than rounding.
BETTER = 1 - 1e-6


def shapley_values(kept: Tensor, weights: Tensor, scores: Tensor) -> Tensor:
    """The least squares under the Shapley kernel, drawn to equal shares where queries are few.

    Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions" (2017), theorem 2, with
    a ridge: about as many queries as unknowns fit whatever was answered, and solutions are far off.
    The penalty is the one that tells each query best from the others (leave-one-out, for each score
    by itself); none where that is best, and where all coalitions are there.

    Args:
        kept: bool or float64 [Q, S], which segments each query keeps; all, then none, come first.
        weights: float64 [Q], zero for these two.
        scores: float64 [R, Q, n], the answers: R inputs that share the coalitions, n targets.

    Returns:
        float64 [R, n, S], on the scores' device; they add up to the difference of the first two
        scores.
    """
    # A GPU adds what has one index in any order, and a penalty that is chosen by the last bits
    # would change the values from run to run. The systems are small.
    values = _values(kept.cpu(), weights.cpu(), scores.cpu())
    return values.to(scores.device)


def _values(kept: Tensor, weights: Tensor, scores: Tensor) -> Tensor:
    count = kept.shape[1]
    whole, nothing = scores[:, 0], scores[:, 1]
    share = (whole - nothing) / max(count, 1)
    values = share[..., None].repeat(1, 1, count)
    asked = weights > 0
    if count < 2 or not bool(asked.any()):
        return values
    # A query and its complement say the same of values that add up, and a model that is nowhere
    # more than pairs of segments says it without error: they become one equation.
    signs = 2 * kept[asked].double() - 1
    side = signs[:, :1]
    directions, which = torch.unique(signs * side, dim=0, return_inverse=True)
    weight = weights.new_zeros(len(directions)).index_add_(0, which, weights[asked])
    told = (2 * scores[:, asked] - (whole + nothing)[:, None]) * (side * weights[asked, None])
    answers = told.new_zeros(len(told), len(directions), told.shape[2]).index_add_(1, which, told)
    answers = answers / weight[:, None] - directions.sum(1)[:, None] * share[:, None]
    root = weight.sqrt()[:, None]
    more = ridge(
        root * (directions - directions.mean(1, keepdim=True)),
        (root * answers).transpose(0, 1).flatten(1),
        exactly=len(directions) == 2 ** (count - 1) - 1,
    )
    values += (more - more.mean(0)).T.unflatten(0, share.shape)
    return values


def ridge(rows: Tensor, answers: Tensor, *, exactly: bool = False) -> Tensor:
    """Least squares with the penalty that leave-one-out finds best, for each column of answers.

    Allen, "The Relationship between Variable Selection and Data Augmentation and a Method for
    Prediction" (1974): what the others say of a row is its residual over 1 minus its leverage.

    Args:
        rows: float64 [Q, S].
        answers: float64 [Q, n].
        exactly: no penalty; the shortest of the solutions.

    Returns:
        float64 [S, n].
    """
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    there = sizes > sizes[0] * max(rows.shape) * torch.finfo(rows.dtype).eps
    left, sizes, right = left[:, there], sizes[there], right[there]
    along = left.T @ answers
    penalty = answers.new_zeros(answers.shape[1])
    if not exactly:
        least = torch.full_like(penalty, torch.inf)
        none = [0.0] if len(rows) > len(sizes) else []
        for one in [*none, *(float(sizes[:1].square()) * p for p in PENALTIES)]:
            shrunk = sizes.square() / (sizes.square() + one)
            free = 1 - left.square() @ shrunk
            if float(free.min()) < 1e-9:  # nothing is left to tell this row from
                continue
            residual = answers - left @ (shrunk[:, None] * along)
            error = (residual / free[:, None]).square().sum(0)
            better = error < BETTER * least
            penalty, least = torch.where(better, one, penalty), torch.where(better, error, least)
    solved: Tensor = right.T @ (sizes[:, None] / (sizes.square()[:, None] + penalty) * along)
    return solved

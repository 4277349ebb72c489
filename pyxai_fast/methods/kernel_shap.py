"""KernelSHAP: Shapley values by weighted least squares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..queries import Coalitions, Queries, shapley_coalitions
from ..queries.shapley_regression import shapley_values
from .perturbation import PerturbationMethod


class KernelShap(PerturbationMethod):
    """The share of each segment in the difference between the whole input and nothing of it.

    Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions" (2017), theorem 2: the
    least squares, under the Shapley kernel, of which the Shapley values are the solution where all
    coalitions are asked; `n_queries` of 2^S or more ask all of them. Fewer are drawn as often as
    the kernel weighs them, each with its complement. From queries that another method has drawn
    otherwise, each counts by the kernel. Where they are few for so many segments, values are drawn
    towards equal shares, as far as that tells queries that are left out better.

    Values of segments add up to the difference of the scores. (What is painted on the features of
    an input does not: each of them has the value of its whole segment.)

    The constructor's arguments are those of PerturbationMethod.
    """

    reads = ("bernoulli", "shapley")

    def coalitions(
        self, n_queries: int, n_segments: Sequence[int], seed: int, device: torch.device
    ) -> Coalitions:
        return shapley_coalitions(n_queries, n_segments, seed, device)

    def values(self, queries: Queries) -> Tensor:
        kept, scores = queries.kept(), queries.rows()
        found = scores.new_zeros(len(scores), scores.shape[2], kept.shape[2])
        # Inputs with as many segments have the same coalitions.
        for count in sorted(set(queries.n_segments)):
            rows = [row for row, each in enumerate(queries.n_segments) if each == count]
            first = rows[0]
            weights = queries.coalitions.weights[:, first]
            found[rows, :, :count] = shapley_values(kept[first, :, :count], weights, scores[rows])
        return found

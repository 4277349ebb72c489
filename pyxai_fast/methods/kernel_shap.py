"""KernelSHAP: Shapley values by weighted least squares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..queries import Coalitions, Queries, shapley_coalitions
from .perturbation import PerturbationMethod


class KernelShap(PerturbationMethod):
    """The share of each segment in the difference between the whole input and nothing of it.

    Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions" (2017), theorem 2: the
    least squares, under the Shapley kernel, of which the Shapley values are the solution where all
    coalitions are asked; `n_queries` of 2^S or more ask all of them. Fewer are drawn as often as
    the kernel weighs them, each with its complement. From queries that another method has drawn
    otherwise, each counts by the kernel.

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
        kept, scores, exists = queries.kept(), queries.rows(), queries.exists().double()
        whole, nothing = scores[:, :1], scores[:, 1:2]
        weighted = (kept * queries.coalitions.weights.T[..., None]).mT  # [B, S, Q]
        count = kept.shape[2]
        # Least squares under one linear constraint, as a system with a multiplier. Segments that an
        # input does not have are held at 0.
        system = kept.new_zeros(len(kept), count + 1, count + 1)
        system[:, :count, :count] = weighted @ kept + torch.diag_embed(1 - exists)
        system[:, :count, count] = system[:, count, :count] = exists
        right = torch.cat([weighted @ (scores - nothing), whole - nothing], 1)
        # Where there are fewer queries than segments: the shortest of the solutions.
        solved: Tensor = torch.linalg.pinv(system, hermitian=True) @ right
        return (solved[:, :count] * exists[..., None]).mT

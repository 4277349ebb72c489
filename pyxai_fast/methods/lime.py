"""LIME: a linear model of the score near the input."""

from __future__ import annotations

import torch
from torch import Tensor

from ..queries import Queries
from .perturbation import PerturbationMethod

# Of the ridge regression, as in the authors' code.
RIDGE = 1.0


class Lime(PerturbationMethod):
    """Coefficients of a ridge regression of the score on which segments stay.

    Ribeiro, Singh and Guestrin, "Why Should I Trust You?" (2016), section 3; with the weights and
    the penalty of the authors' code for images, and all segments as features.

    The constructor's arguments are those of PerturbationMethod.
    """

    def values(self, queries: Queries) -> Tensor:
        kept, scores, weights = queries.kept(), queries.rows(), queries.proximity()
        # The intercept is not penalised: everything is less its weighted mean.
        share = (weights / weights.sum(1, keepdim=True))[:, None]  # [B, 1, Q]
        rows, away = kept - share @ kept, scores - share @ scores
        weighted = (rows * weights[..., None]).mT
        penalty = RIDGE * torch.eye(kept.shape[2]).to(rows)
        values: Tensor = torch.linalg.solve(weighted @ rows + penalty, weighted @ away)
        return values.mT

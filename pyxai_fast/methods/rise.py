"""RISE: by how much the mean score is higher where a segment stays."""

from __future__ import annotations

from torch import Tensor

from ..queries import Queries
from ..queries.coalitions import BOUNDS
from .perturbation import PerturbationMethod


class Rise(PerturbationMethod):
    """``value_s = mean score of the random coalitions that keep s - mean score of all of them``

    Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models"
    (2018), equation 5, with segments in place of smooth cells, and divided by how often a segment
    did stay, rather than by how often it should have. The second mean is not in the paper: it is
    the same for all segments, and makes what speaks against a class negative.

    The constructor's arguments are those of PerturbationMethod.
    """

    def values(self, queries: Queries) -> Tensor:
        # The whole input and nothing of it are not drawn at random.
        kept, scores = queries.kept()[:, BOUNDS:], queries.rows()[:, BOUNDS:]
        often = kept.sum(1).clamp(min=1)
        means = (scores.mT @ kept) / often[:, None]
        return (means - scores.mean(1)[..., None]) * queries.exists()[:, None]

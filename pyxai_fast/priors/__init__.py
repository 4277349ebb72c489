"""Where inputs lie: priors that know what noise has done to them, for gradients on the manifold."""

from .gaussian import GaussianPrior
from .neighbours import NearestNeighbourPrior
from .prior import Prior
from .schedule import linear_schedule

__all__ = ["GaussianPrior", "NearestNeighbourPrior", "Prior", "linear_schedule"]

"""Where inputs lie: priors that know what noise has done to them, for gradients on the manifold."""

from .diffusion import DiffusionPrior
from .gaussian import GaussianPrior
from .neighbours import NearestNeighbourPrior
from .prior import Prior
from .sampling import sample
from .schedule import linear_schedule

__all__ = [
    "DiffusionPrior",
    "GaussianPrior",
    "NearestNeighbourPrior",
    "Prior",
    "linear_schedule",
    "sample",
]

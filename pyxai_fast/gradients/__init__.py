"""How the slope of the score is found: one class a way."""

from .autograd import Autograd
from .freemcg import FreeMCG
from .gradient import Gradient, Slopes
from .likelihood_ratio import LikelihoodRatio

__all__ = ["GRADIENTS", "Autograd", "FreeMCG", "Gradient", "LikelihoodRatio", "Slopes"]

GRADIENTS: dict[str, type[Autograd] | type[LikelihoodRatio] | type[FreeMCG]] = {
    "autograd": Autograd,
    "likelihood_ratio": LikelihoodRatio,
    "freemcg": FreeMCG,
}

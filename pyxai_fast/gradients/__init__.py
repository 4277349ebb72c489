"""How the slope of the score is found: one class a way."""

from .autograd import Autograd
from .gradient import Gradient

__all__ = ["Autograd", "Gradient"]

"""What a black box answers while segments of an input are hidden, and what is read from it."""

from .asking import ask
from .coalitions import Coalitions, bernoulli_coalitions, shapley_coalitions
from .hidden import SEGMENT_GREY, SEGMENT_MEAN, hidden_values
from .queries import Queries

__all__ = [
    "SEGMENT_GREY",
    "SEGMENT_MEAN",
    "Coalitions",
    "Queries",
    "ask",
    "bernoulli_coalitions",
    "hidden_values",
    "shapley_coalitions",
]

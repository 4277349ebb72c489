"""Along which points the slope is taken: one class a path."""

from .neighbourhood import GaussianNeighbourhood
from .path import Path, Trace
from .quadrature import QUADRATURES, quadrature
from .stick_breaking import StickBreaking
from .straight_line import StraightLine

__all__ = [
    "QUADRATURES",
    "GaussianNeighbourhood",
    "Path",
    "StickBreaking",
    "StraightLine",
    "Trace",
    "quadrature",
]

"""Along which points the slope is taken: one class a path."""

from .blur import BlurPath
from .diffusion_paths import DiffusionPaths
from .neighbourhood import GaussianNeighbourhood
from .path import Path, Trace
from .quadrature import QUADRATURES, quadrature
from .stick_breaking import StickBreaking
from .straight_line import StraightLine

__all__ = [
    "QUADRATURES",
    "BlurPath",
    "DiffusionPaths",
    "GaussianNeighbourhood",
    "Path",
    "StickBreaking",
    "StraightLine",
    "Trace",
    "quadrature",
]

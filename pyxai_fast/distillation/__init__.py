"""A mask and a student that learn, together, to answer as a black box does near one input."""

from .mask_generator import MaskGenerator
from .networks import Networks
from .recipe import LOSSES, OF_SEGMENTS, SEES, DistillationRecipe, recipe_for
from .student import Student
from .trainer import Distilled, distil
from .views import Transform

__all__ = [
    "LOSSES",
    "OF_SEGMENTS",
    "SEES",
    "DistillationRecipe",
    "Distilled",
    "MaskGenerator",
    "Networks",
    "Student",
    "Transform",
    "distil",
    "recipe_for",
]

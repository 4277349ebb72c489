"""A mask and a student that learn, together, to answer as a black box does near one input."""

from .mask_generator import MaskGenerator
from .recipe import LOSSES, OF_TABLES, DistillationRecipe, recipe_for
from .student import Student
from .trainer import Distilled, distil
from .views import Transform

__all__ = [
    "LOSSES",
    "OF_TABLES",
    "DistillationRecipe",
    "Distilled",
    "MaskGenerator",
    "Student",
    "Transform",
    "distil",
    "recipe_for",
]

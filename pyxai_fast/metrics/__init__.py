"""What explanations are worth: whether they follow the model, and how sure they are."""

from .geometric_ensemble import GeometricEnsemble, geometric_ensemble
from .model_perturbation import ModelPerturbation, model_perturbation

__all__ = [
    "GeometricEnsemble",
    "ModelPerturbation",
    "geometric_ensemble",
    "model_perturbation",
]

"""What explanations are worth: whether they follow the model, and how sure they are."""

from .completeness import completeness_gap
from .complexity import complexity, sparseness
from .counterfactual_quality import CounterfactualQuality, counterfactual_quality
from .curve import Curve
from .diffid import diffid
from .faithfulness import faithfulness_correlation
from .geometric_ensemble import GeometricEnsemble, geometric_ensemble
from .infidelity import infidelity
from .information_curves import InformationCurve, InformationCurves, performance_information
from .insertion_deletion import deletion, insertion
from .localisation import best_iou, energy_inside, heat, iou, iou_area, pointing_game
from .model_perturbation import ModelPerturbation, model_perturbation
from .randomisation import ModelRandomisation, mprt
from .road import Road, road
from .sensitivity import max_sensitivity

__all__ = [
    "CounterfactualQuality",
    "Curve",
    "GeometricEnsemble",
    "InformationCurve",
    "InformationCurves",
    "ModelPerturbation",
    "ModelRandomisation",
    "Road",
    "best_iou",
    "completeness_gap",
    "complexity",
    "counterfactual_quality",
    "deletion",
    "diffid",
    "energy_inside",
    "faithfulness_correlation",
    "geometric_ensemble",
    "heat",
    "infidelity",
    "insertion",
    "iou",
    "iou_area",
    "max_sensitivity",
    "model_perturbation",
    "mprt",
    "performance_information",
    "pointing_game",
    "road",
    "sparseness",
]

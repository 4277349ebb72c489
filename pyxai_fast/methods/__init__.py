"""How slopes are combined: one class a method, with captum's call."""

from .at_input import InputXGradient, Saliency
from .attribution import AttributionMethod
from .dax import DAX, StudentGradient
from .expected_gradients import ExpectedGradients
from .geometrically_guided import GeometricallyGuidedIG
from .guided_ig import GuidedIG
from .integrated_gradients import IntegratedGradients
from .kernel_shap import KernelShap
from .lime import Lime
from .perturbation import PerturbationMethod
from .rise import Rise
from .smooth_grad import SmoothGrad

METHODS: dict[str, type[AttributionMethod]] = {
    "integrated_gradients": IntegratedGradients,
    "saliency": Saliency,
    "input_x_gradient": InputXGradient,
    "smooth_grad": SmoothGrad,
    "guided_ig": GuidedIG,
    "expected_gradients": ExpectedGradients,
    "geometrically_guided_ig": GeometricallyGuidedIG,
    "lime": Lime,
    "kernel_shap": KernelShap,
    "rise": Rise,
    "dax": DAX,
    "student_gradient": StudentGradient,
}

__all__ = [
    "DAX",
    "METHODS",
    "AttributionMethod",
    "ExpectedGradients",
    "GeometricallyGuidedIG",
    "GuidedIG",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "Lime",
    "PerturbationMethod",
    "Rise",
    "Saliency",
    "SmoothGrad",
    "StudentGradient",
]

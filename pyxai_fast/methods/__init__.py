"""How slopes are combined: one class a method, with captum's call."""

from .at_input import InputXGradient, Saliency
from .attribution import AttributionMethod
from .geometrically_guided import GeometricallyGuidedIG
from .integrated_gradients import IntegratedGradients
from .smooth_grad import SmoothGrad

METHODS: dict[str, type[AttributionMethod]] = {
    "integrated_gradients": IntegratedGradients,
    "saliency": Saliency,
    "input_x_gradient": InputXGradient,
    "smooth_grad": SmoothGrad,
    "geometrically_guided_ig": GeometricallyGuidedIG,
}

__all__ = [
    "METHODS",
    "AttributionMethod",
    "GeometricallyGuidedIG",
    "InputXGradient",
    "IntegratedGradients",
    "Saliency",
    "SmoothGrad",
]

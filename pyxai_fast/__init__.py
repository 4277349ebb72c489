"""Explain a batch of inputs of any PyTorch model at the speed of the hardware.

>>> import pyxai_fast
>>> explanation = pyxai_fast.explain(model, images, method="integrated_gradients")  # doctest: +SKIP

`explain` is the front door; the methods (captum's call) are classes of this module; the kernels are
in `pyxai_fast.ops`.
"""

from . import ops
from .explain import explain
from .explanation import Explanation
from .gradients import Autograd, Gradient
from .info import info
from .methods import METHODS, InputXGradient, IntegratedGradients, Saliency, SmoothGrad
from .models.preprocessing import Preprocessing
from .paths import GaussianNeighbourhood, Path, StraightLine
from .runtime.cost import Cost
from .version import __version__

__all__ = [
    "METHODS",
    "Autograd",
    "Cost",
    "Explanation",
    "GaussianNeighbourhood",
    "Gradient",
    "InputXGradient",
    "IntegratedGradients",
    "Path",
    "Preprocessing",
    "Saliency",
    "SmoothGrad",
    "StraightLine",
    "__version__",
    "explain",
    "info",
    "ops",
]

"""Attribution maps of PyTorch models, and of anything else that can be asked.

>>> import pyxai_fast
>>> explanation = pyxai_fast.explain(model, images, method="integrated_gradients")  # doctest: +SKIP

`explain` is the front door; the methods (captum's call) are classes of this module; the kernels are
in `pyxai_fast.ops` for tensors (its import registers `torch.ops.pyxai_fast`) and in
`pyxai_fast.arrays` for NumPy.

Names are imported when they are first used, so that `pyxai_fast.arrays` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from . import ops
    from .counterfactuals import Counterfactuals
    from .explanation import Explanation
    from .front_door import explain
    from .gradients import GRADIENTS, Autograd, FreeMCG, Gradient, LikelihoodRatio
    from .installation import info
    from .methods import (
        METHODS,
        ExpectedGradients,
        GeometricallyGuidedIG,
        GuidedIG,
        InputXGradient,
        IntegratedGradients,
        Saliency,
        SmoothGrad,
    )
    from .methods.counterfactual import Counterfactual
    from .methods.unfinished import Unfinished
    from .models.black_box import BlackBox
    from .models.preprocessing import Preprocessing
    from .models.query_error import QueryError
    from .models.target import Targets
    from .path_models import PathModel
    from .paths import (
        BlurPath,
        DiffusionPaths,
        GaussianNeighbourhood,
        Path,
        StickBreaking,
        StraightLine,
    )
    from .picture_explainer import PictureExplainer
    from .runtime.cost import Cost
    from .runtime.prepared import prepare

__all__ = [
    "GRADIENTS",
    "METHODS",
    "Autograd",
    "BlackBox",
    "BlurPath",
    "Cost",
    "Counterfactual",
    "Counterfactuals",
    "DiffusionPaths",
    "ExpectedGradients",
    "Explanation",
    "FreeMCG",
    "GaussianNeighbourhood",
    "GeometricallyGuidedIG",
    "Gradient",
    "GuidedIG",
    "InputXGradient",
    "IntegratedGradients",
    "LikelihoodRatio",
    "Path",
    "PathModel",
    "PictureExplainer",
    "Preprocessing",
    "QueryError",
    "Saliency",
    "SmoothGrad",
    "StickBreaking",
    "StraightLine",
    "Targets",
    "Unfinished",
    "__version__",
    "explain",
    "info",
    "ops",
    "prepare",
]

# Where each name is defined. No module is named as what it holds: once imported, it would take the
# place of the name.
_DEFINED_IN = {
    "Counterfactuals": "counterfactuals",
    "Explanation": "explanation",
    "explain": "front_door",
    "GRADIENTS": "gradients",
    "Autograd": "gradients",
    "FreeMCG": "gradients",
    "Gradient": "gradients",
    "LikelihoodRatio": "gradients",
    "info": "installation",
    "METHODS": "methods",
    "ExpectedGradients": "methods",
    "GeometricallyGuidedIG": "methods",
    "GuidedIG": "methods",
    "InputXGradient": "methods",
    "IntegratedGradients": "methods",
    "Saliency": "methods",
    "SmoothGrad": "methods",
    "Counterfactual": "methods.counterfactual",
    "Unfinished": "methods.unfinished",
    "BlackBox": "models.black_box",
    "Preprocessing": "models.preprocessing",
    "Targets": "models.target",
    "QueryError": "models.query_error",
    "BlurPath": "paths",
    "PathModel": "path_models",
    "DiffusionPaths": "paths",
    "GaussianNeighbourhood": "paths",
    "Path": "paths",
    "StickBreaking": "paths",
    "StraightLine": "paths",
    "PictureExplainer": "picture_explainer",
    "Cost": "runtime.cost",
    "prepare": "runtime.prepared",
}
_MODULES = (
    "arrays",
    "doors",
    "gradients",
    "jobs",
    "methods",
    "metrics",
    "models",
    "ops",
    "path_models",
    "paths",
    "priors",
    "reference",
    "runtime",
    "serving",
)

if not TYPE_CHECKING:  # type checkers see the imports above, and only those

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _DEFINED_IN:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)
        globals()[name] = value  # found without this function from now on
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})

"""Which method explains a model best: methods compared on the same pictures, with intervals."""

from .comparison import Comparison
from .front_door import evaluate
from .metrics import METRICS

__all__ = ["METRICS", "Comparison", "evaluate"]

"""The pure-PyTorch twin of every op: short, readable, float64-capable, and the truth in tests.

It is also the fallback. Each function is registered as the op's default kernel, so the op exists
and gives these numbers where no native library was built; a native kernel, once loaded, takes its
place for its device. A kernel gives the same bits as its twin on the same device where the
operations are IEEE-exact (all of the path family is).
"""

from .ascend import ascend_max
from .dirichlet import (
    dirichlet_accumulate,
    dirichlet_accumulate_out,
    dirichlet_points,
    dirichlet_points_out,
)
from .noise import noise_contract, noise_contract_out, perturb, perturb_out
from .path import path_accumulate, path_accumulate_out, path_points, path_points_out

__all__ = [
    "ascend_max",
    "dirichlet_accumulate",
    "dirichlet_accumulate_out",
    "dirichlet_points",
    "dirichlet_points_out",
    "noise_contract",
    "noise_contract_out",
    "path_accumulate",
    "path_accumulate_out",
    "path_points",
    "path_points_out",
    "perturb",
    "perturb_out",
]

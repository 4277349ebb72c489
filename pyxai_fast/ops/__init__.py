"""The kernels as ops: ``torch.ops.pyxai_fast.*`` and, here, typed and checked wrappers.

Usable on their own, without any method of this package. Every op runs as PyTorch reference, C++
(CPU) or CUDA, chosen by the tensors' device and by what was built; see `backends()`.
"""

from ..native import build_info
from .ascend import ascend_max
from .dirichlet import dirichlet_accumulate, dirichlet_points
from .ensemble import (
    enkf_update,
    ensemble_contract,
    ensemble_moments,
    ensemble_transform,
    guided_step,
)
from .linear import linear_step
from .mask import mask_blend, mask_segments, pack_coalitions, unpack_coalitions
from .noise import noise_contract, perturb
from .path import path_accumulate, path_points
from .random_key import random_key
from .rank import rank_mask, ranks_of
from .registry import (
    available_cpu_isas,
    backend_of,
    backends,
    cpu_isa,
    load_native,
    native_kernels,
    set_cpu_isa,
)

load_native()

__all__ = [
    "ascend_max",
    "available_cpu_isas",
    "backend_of",
    "backends",
    "build_info",
    "cpu_isa",
    "dirichlet_accumulate",
    "dirichlet_points",
    "enkf_update",
    "ensemble_contract",
    "ensemble_moments",
    "ensemble_transform",
    "guided_step",
    "linear_step",
    "mask_blend",
    "mask_segments",
    "native_kernels",
    "noise_contract",
    "pack_coalitions",
    "path_accumulate",
    "path_points",
    "perturb",
    "random_key",
    "rank_mask",
    "ranks_of",
    "set_cpu_isa",
    "unpack_coalitions",
]

"""The CPU kernels for NumPy arrays, without torch: importing this imports no torch either.

The functions have the names and arguments of `pyxai_fast.ops`, run the same kernels and give the
same bits. What differs: there are no derivatives; new arrays are C-contiguous; `n_threads` is an
argument of each call (1 by default) and changes no bit. The GIL is released while a kernel runs.
`enkf_update` and `guided_step`, which do more than call one kernel, are for tensors only.

Arrays are float16, float32, float64, or bfloat16 of the package ml_dtypes. Nothing is copied that
is aligned, in native byte order, and contiguous (C order, or with the strides of torch's
channels_last) in the order of what is written; anything else that is read is first copied into
that order. What is written is never copied: `out` and `total` must be writeable and contiguous in
either order, or it is an error.
"""

from .ascend import ascend_max
from .dirichlet import dirichlet_accumulate, dirichlet_points
from .ensemble import ensemble_contract, ensemble_moments, ensemble_transform
from .linear import linear_step
from .mask import mask_blend, mask_segments, pack_coalitions, unpack_coalitions
from .native_module import available_cpu_isas, build_info, cpu_isa, set_cpu_isa
from .noise import noise_contract, perturb, random_key
from .path import path_accumulate, path_points
from .rank import rank_mask, ranks_of

__all__ = [
    "ascend_max",
    "available_cpu_isas",
    "build_info",
    "cpu_isa",
    "dirichlet_accumulate",
    "dirichlet_points",
    "ensemble_contract",
    "ensemble_moments",
    "ensemble_transform",
    "linear_step",
    "mask_blend",
    "mask_segments",
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

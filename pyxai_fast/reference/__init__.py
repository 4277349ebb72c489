"""The pure-PyTorch twin of every op: short, readable, float64-capable, and the truth in tests.

It is also the fallback. Each function is registered as the op's default kernel, so the op exists
and gives these numbers where no native library was built; a native kernel, once loaded, takes its
place for its device. A kernel gives the same bits as its twin on the same device where the
operations are IEEE-exact (all of the ensemble, mask, path and rank families are).
"""

from .ascend import ascend_max
from .dirichlet import (
    dirichlet_accumulate,
    dirichlet_accumulate_out,
    dirichlet_points,
    dirichlet_points_out,
)
from .ensemble import (
    ensemble_contract,
    ensemble_moments,
    ensemble_transform,
    ensemble_transform_out,
    guided_step,
    guided_step_out,
)
from .linear import linear_step, linear_step_out
from .mask import (
    mask_blend,
    mask_blend_out,
    mask_segments,
    mask_segments_out,
    pack_coalitions,
    unpack_coalitions,
)
from .noise import noise_contract, noise_contract_out, perturb, perturb_out
from .path import path_accumulate, path_accumulate_out, path_points, path_points_out
from .rank import rank_mask, rank_mask_out, ranks_of

__all__ = [
    "ascend_max",
    "dirichlet_accumulate",
    "dirichlet_accumulate_out",
    "dirichlet_points",
    "dirichlet_points_out",
    "ensemble_contract",
    "ensemble_moments",
    "ensemble_transform",
    "ensemble_transform_out",
    "guided_step",
    "guided_step_out",
    "linear_step",
    "linear_step_out",
    "mask_blend",
    "mask_blend_out",
    "mask_segments",
    "mask_segments_out",
    "noise_contract",
    "noise_contract_out",
    "pack_coalitions",
    "path_accumulate",
    "path_accumulate_out",
    "path_points",
    "path_points_out",
    "perturb",
    "perturb_out",
    "rank_mask",
    "rank_mask_out",
    "ranks_of",
    "unpack_coalitions",
]

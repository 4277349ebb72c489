"""One call of every op on small tensors: for CUDA graphs, streams and the GPU's sanitisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from ascend_cases import AscendCase
from dirichlet_cases import DirichletCase
from ensemble_cases import EnsembleCase
from linear_cases import LinearCase
from mask_cases import MaskCase
from noise_cases import NoiseCase
from path_cases import PathCase
from torch import Tensor

from pyxai_fast import ops

# One that vectors of 16 bytes divide, and one that they do not; both more than a block of threads.
FEATURES = {"vectors": (4, 16, 32), "odd": (3, 17, 33)}


@dataclass(frozen=True)
class OpCall:
    """A call on tensors that stay where they are; `run` returns what was written.

    Attributes:
        inputs: what the call reads and `change` changes.
        run: may be called again; buffers that are added to start anew within it.
    """

    inputs: Sequence[Tensor]
    run: Callable[[], tuple[Tensor, ...]]

    def change(self) -> None:
        """Other values in the same tensors."""
        for tensor in self.inputs:
            tensor.copy_(tensor.flip(0) + 1)


Features = tuple[int, ...]
Make = Callable[[Features, torch.device], OpCall]


def path_points(features: Features, device: torch.device) -> OpCall:
    t = PathCase("", 3, 2, features).tensors(device=device)
    read = (t["inputs"], t["baselines"], t["alphas"])
    return OpCall(read, lambda: (ops.path_points(*read),))


def path_points_out(features: Features, device: torch.device) -> OpCall:
    t = PathCase("", 3, 2, features).tensors(device=device)
    read, out = (t["inputs"], t["baselines"], t["alphas"]), torch.empty_like(t["grads"])
    return OpCall(read, lambda: (ops.path_points(*read, out=out),))


def path_accumulate(features: Features, device: torch.device) -> OpCall:
    t = PathCase("", 3, 2, features).tensors(device=device)
    read = (t["grads"], t["weights"], t["inputs"], t["baselines"])
    return OpCall(read, lambda: (ops.path_accumulate(*read),))


def path_accumulate_out(features: Features, device: torch.device) -> OpCall:
    t = PathCase("", 3, 2, features).tensors(device=device)
    read, total = (t["grads"], t["weights"]), torch.zeros_like(t["inputs"], dtype=torch.float64)
    return OpCall(read, lambda: (ops.path_accumulate(*read, total=total.zero_()),))


def perturb(features: Features, device: torch.device) -> OpCall:
    inputs = NoiseCase("", 4, 2, features).inputs(device=device)
    key = ops.random_key(7, device=device)
    return OpCall((inputs, key), lambda: (ops.perturb(inputs, 4, 0.5, key),))


def perturb_out(features: Features, device: torch.device) -> OpCall:
    inputs = NoiseCase("", 4, 2, features).inputs(device=device)
    key, out = ops.random_key(7, device=device), torch.empty(8, *features, device=device)

    def run() -> tuple[Tensor, ...]:
        return (ops.perturb(inputs, 4, 0.5, key, distribution="rademacher", out=out),)

    return OpCall((inputs, key), run)


def noise_contract(features: Features, device: torch.device) -> OpCall:
    weights = NoiseCase("", 4, 2, features).weights(device=device)
    key = ops.random_key(7, device=device)
    return OpCall((weights, key), lambda: (ops.noise_contract(weights, features, key),))


def noise_contract_out(features: Features, device: torch.device) -> OpCall:
    weights = NoiseCase("", 4, 2, features).weights(device=device)
    key = ops.random_key(7, device=device)
    total = torch.zeros(2, weights.shape[2], *features, dtype=torch.float64, device=device)

    def run() -> tuple[Tensor, ...]:
        return (ops.noise_contract(weights, None, key, total=total.zero_()),)

    return OpCall((weights, key), run)


def mask_segments(features: Features, device: torch.device) -> OpCall:
    t = MaskCase("", 5, 2, features, 40).tensors(device=device)
    words = ops.pack_coalitions(t["kept"])
    read = (t["inputs"], t["fill"], words)
    call = (t["inputs"], t["segments"], words, t["fill"])
    return OpCall(read, lambda: (ops.mask_segments(*call),))


def mask_segments_out(features: Features, device: torch.device) -> OpCall:
    t = MaskCase("", 5, 2, features, 40).tensors(device=device)
    words, out = ops.pack_coalitions(t["kept"]), torch.empty(10, *features, device=device)
    read = (t["inputs"], t["fill"], words)
    call = (t["inputs"], t["segments"], words, t["fill"])
    return OpCall(read, lambda: (ops.mask_segments(*call, out=out),))


def mask_blend(features: Features, device: torch.device) -> OpCall:
    t = MaskCase("", 5, 2, features, 40).tensors(device=device)
    read = (t["inputs"], t["masks"])
    return OpCall(read, lambda: (ops.mask_blend(*read),))


def mask_blend_out(features: Features, device: torch.device) -> OpCall:
    t = MaskCase("", 5, 2, features, 40).tensors(device=device)
    read, out = (t["inputs"], t["masks"]), torch.empty(2, 2, *features, device=device)
    return OpCall(read, lambda: (ops.mask_blend(*read, out=out),))


def rank_mask(features: Features, device: torch.device) -> OpCall:
    t = MaskCase("", 5, 2, features, 40).tensors(device=device)
    read = (t["inputs"], t["fill"], t["ranks"], t["steps"])
    return OpCall(read, lambda: (ops.rank_mask(*read),))


def rank_mask_out(features: Features, device: torch.device) -> OpCall:
    t = MaskCase("", 5, 2, features, 40).tensors(device=device)
    read = (t["inputs"], t["fill"], t["ranks"], t["steps"])
    out = torch.empty(10, *features, device=device)
    return OpCall(read, lambda: (ops.rank_mask(*read, out=out),))


def ensemble_contract(features: Features, device: torch.device) -> OpCall:
    t = EnsembleCase("", 2, 6, features, columns=3).tensors(device=device)
    read = (t["particles"], t["weights"])
    return OpCall(read, lambda: ops.ensemble_contract(*read))


def ensemble_moments(features: Features, device: torch.device) -> OpCall:
    t = EnsembleCase("", 2, 6, features).tensors(device=device)
    # Where all particles move alike, only the mean tells.
    return OpCall((t["particles"],), lambda: ops.ensemble_moments(t["particles"]))


def ensemble_transform(features: Features, device: torch.device) -> OpCall:
    t = EnsembleCase("", 2, 6, features).tensors(device=device)
    read = (t["particles"], t["matrix"])
    return OpCall(read, lambda: (ops.ensemble_transform(*read),))


def ensemble_transform_out(features: Features, device: torch.device) -> OpCall:
    t = EnsembleCase("", 2, 6, features).tensors(device=device)
    read, out = (t["particles"], t["matrix"]), torch.empty_like(t["particles"])
    return OpCall(read, lambda: (ops.ensemble_transform(*read, out=out),))


def guided(features: Features, device: torch.device, into: bool) -> OpCall:
    t = EnsembleCase("", 2, 6, features).tensors(device=device)
    read = (t["particles"], t["noise_pred"], t["guide"])
    key = ops.random_key(7, device=device)
    out = torch.empty_like(t["particles"]) if into else None

    def run() -> tuple[Tensor, ...]:
        step = ops.guided_step(
            *read, alpha_bar=0.5, alpha_bar_next=0.6, eta=1.0, step_size=0.3, step_proximity=0.1,
            origin=t["rows"], key=key, out=out,
        )  # fmt: skip
        return (step,)

    return OpCall((*read, key), run)


def dirichlet_points(features: Features, device: torch.device) -> OpCall:
    case = DirichletCase("", 5, 2, 2, features)
    t = case.tensors(device=device)
    read = (t["inputs"], t["baselines"], t["key"])
    return OpCall(read, lambda: (ops.dirichlet_points(*read, **case.path),))


def dirichlet_points_out(features: Features, device: torch.device) -> OpCall:
    case = DirichletCase("", 5, 2, 2, features)
    t = case.tensors(device=device)
    read, out = (t["inputs"], t["baselines"], t["key"]), torch.empty_like(t["grads"])
    return OpCall(read, lambda: (ops.dirichlet_points(*read, out=out, **case.path),))


def dirichlet_accumulate(features: Features, device: torch.device) -> OpCall:
    case = DirichletCase("", 5, 2, 2, features)
    t = case.tensors(device=device)
    read = (t["grads"], t["key"])
    return OpCall(read, lambda: (ops.dirichlet_accumulate(*read, **case.path),))


def dirichlet_accumulate_out(features: Features, device: torch.device) -> OpCall:
    case = DirichletCase("", 5, 2, 2, features)
    t = case.tensors(device=device)
    read = (t["grads"], t["key"])
    total = torch.zeros(4, *features, dtype=torch.float64, device=device)

    def run() -> tuple[Tensor, ...]:
        return (ops.dirichlet_accumulate(*read, total=total.zero_(), **case.path),)

    return OpCall(read, run)


def ascend_max(features: Features, device: torch.device) -> OpCall:
    t = AscendCase("", 5, 2, features).tensors(device=device)
    points = torch.empty_like(t["points"])

    def run() -> tuple[Tensor, ...]:
        points.copy_(t["points"])
        best = t["best"].fill_(-torch.inf)
        ops.ascend_max(points, t["grads"], t["step_sizes"], best)
        return points, best

    return OpCall((t["points"], t["grads"], t["step_sizes"]), run)


def linear_step(features: Features, device: torch.device, rows: int, into: bool = False) -> OpCall:
    t = LinearCase("", 2, rows, math.prod(features), 6).tensors(device=device)
    weight, velocity = torch.empty_like(t["weight"]), torch.empty_like(t["velocity"])
    out = torch.empty_like(t["inputs"]) if into else None

    def run() -> tuple[Tensor, ...]:
        weight.copy_(t["weight"])
        velocity.copy_(t["velocity"])
        found = ops.linear_step(
            t["inputs"], t["grads"], weight, velocity, lr=0.1, momentum=0.9, out=out
        )
        return found, weight, velocity

    return OpCall(tuple(t.values()), run)


CALLS: dict[str, Make] = {
    "path_points": path_points,
    "path_points.out": path_points_out,
    "path_accumulate": path_accumulate,
    "path_accumulate.out": path_accumulate_out,
    "perturb": perturb,
    "perturb.out": perturb_out,
    "noise_contract": noise_contract,
    "noise_contract.out": noise_contract_out,
    "mask_segments": mask_segments,
    "mask_segments.out": mask_segments_out,
    "mask_blend": mask_blend,
    "mask_blend.out": mask_blend_out,
    "rank_mask": rank_mask,
    "rank_mask.out": rank_mask_out,
    "ensemble_contract": ensemble_contract,
    "ensemble_moments": ensemble_moments,
    "ensemble_transform": ensemble_transform,
    "ensemble_transform.out": ensemble_transform_out,
    "guided_step": lambda features, device: guided(features, device, False),
    "guided_step.out": lambda features, device: guided(features, device, True),
    "dirichlet_points": dirichlet_points,
    "dirichlet_points.out": dirichlet_points_out,
    "dirichlet_accumulate": dirichlet_accumulate,
    "dirichlet_accumulate.out": dirichlet_accumulate_out,
    "ascend_max": ascend_max,
    # Few rows and many rows have kernels of their own.
    "linear_step": lambda features, device: linear_step(features, device, 20),
    "linear_step.out": lambda features, device: linear_step(features, device, 40, True),
}

"""Paths drawn from a path model, and led by its guides."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError, near
from .config import GUIDES
from .path_model import PathModel

# Of the random numbers: of the noise at the start, and of that of each level.
FIRST_STREAM = 2**14
# The sign with which a guide's score counts: sparse paths have a low entropy.
SIGNS = {"faithful": 1.0, "sparse": -1.0}


def check_guides(name: str, guides: Mapping[str, float] | None) -> dict[str, float]:
    """Weights by guide, checked; of those that have one.

    Raises:
        ArgumentError: an unknown guide, or a weight that is no finite number.
    """
    if guides is not None and not isinstance(guides, Mapping):
        raise ArgumentError(
            f"{name}: guides must be weights by name, such as {{'faithful': 10.0}}, got {guides!r}"
        )
    for guide, weight in (guides or {}).items():
        if guide not in GUIDES:
            raise ArgumentError(
                f"{name}: guides must be among {', '.join(GUIDES)}, got {guide!r}"
                f"{near(str(guide), GUIDES)}"
            )
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight):
            raise ArgumentError(f"{name}: the weight of {guide} must be a number, got {weight!r}")
    return {guide: float(weight) for guide, weight in (guides or {}).items() if weight}


@torch.no_grad()
def sample_paths(
    model: PathModel,
    ends: Tensor,
    n_paths: int,
    guides: Mapping[str, float] | None = None,
    *,
    omega: float = 1.0,
    seed: int = 0,
    numbers: Tensor | None = None,
    max_rows: int | None = None,
) -> Tensor:
    """Tokens of paths, [n_paths, B, T, P] float32, on the model's device.

    Reverse diffusion as in DDPM (Ho, Jain and Abbeel, 2020, equation 7), from noise through all
    levels, with guidance as in Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis"
    (2021), algorithm 1. At level t, with mean mu and variance Sigma of the posterior,

        tokens_{t-1} ~ N(mu + omega * Sigma * g, Sigma),
        g = faithful * grad J_faithful(mu) - sparse * grad J_sparse(mu)

    J are the guides' scores at level t, in standard deviations over the stick-breaking paths of one
    input, so that weights mean the same for every model. Estimates of clean tokens are clipped
    to what tokens can be. Without weights no guide is asked, and these are the bits of the
    diffusion model alone.

    Noise depends on the seed, the input's number and the path's, and on nothing else.

    Args:
        model: of paths.
        ends: of the inputs, [B, 2, C * h * w], as `PathModel.ends` makes them.
        n_paths: for each input.
        guides: weights of "faithful" and "sparse".
        omega: multiplies both.
        seed: of the noise.
        numbers: of the inputs, int64 [B]; 0, 1, ... by default.
        max_rows: paths that go through the networks at once, at most, and at least those of one
            input; None for all.
    """
    weights = check_guides("sample_paths", guides)
    count = len(ends)
    numbers = torch.arange(count) if numbers is None else numbers
    numbers = numbers.to(model.device)
    at_once = count if max_rows is None else max(1, max_rows // n_paths)
    parts = [
        _sample(model, ends[part], n_paths, weights, omega, seed, numbers[part])
        for part in (slice(first, first + at_once) for first in range(0, count, at_once))
    ]
    shape = (n_paths, 0, model.config.points, model.config.features)
    return torch.cat(parts, 1) if parts else ends.new_zeros(shape)


def _sample(
    model: PathModel,
    ends: Tensor,
    n_paths: int,
    weights: Mapping[str, float],
    omega: float,
    seed: int,
    numbers: Tensor,
) -> Tensor:
    config, shares = model.config, [1.0, *model.shares.tolist()]
    still = torch.zeros(len(ends), config.points, config.features, device=model.device)

    def noise(stream: int) -> Tensor:
        key = ops.random_key(seed, FIRST_STREAM + stream, device=model.device)
        return ops.perturb(still, n_paths, 1.0, key, examples=numbers)

    of_rows = ends.to(model.device).repeat(n_paths, 1, 1)  # paths outermost, as the noise
    rows = noise(0)
    for level in reversed(range(config.levels)):
        share, before = shares[level + 1], shares[level]
        predicted = model.noise(rows, level)
        clean = (rows - math.sqrt(1 - share) * predicted) / math.sqrt(share)
        clean = clean.clamp(*model.bounds)
        step = share / before
        variance = (1 - step) * (1 - before) / (1 - share)
        rows = (math.sqrt(before) * (1 - step) / (1 - share)) * clean + (
            math.sqrt(step) * (1 - before) / (1 - share)
        ) * rows
        if level == 0:
            break
        if weights:
            rows = rows + (omega * variance) * _slope(model, rows, level, of_rows, weights)
        rows = rows + math.sqrt(variance) * noise(1 + level)
    return rows.reshape(n_paths, len(ends), *rows.shape[1:])


@torch.enable_grad()
def _slope(
    model: PathModel, mean: Tensor, level: int, ends: Tensor, weights: Mapping[str, float]
) -> Tensor:
    """Of the weighted scores, at the posterior's mean."""
    at = mean.detach().requires_grad_()
    scores = [
        SIGNS[guide] * weight * model.score(guide, at, level, ends).sum()
        for guide, weight in weights.items()
    ]
    (slope,) = torch.autograd.grad(torch.stack(scores).sum(), at)
    return slope

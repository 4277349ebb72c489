"""Paths to learn from: stick-breaking paths, each with a concentration of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from .config import PathModelConfig
from .pace import tokens_of

# Of the random numbers; far from those of the other paths and of the gradients.
DATA_STREAM = 2**14 + 2**12


def stick_breaking_tokens(
    config: PathModelConfig,
    concentrations: Tensor,
    seed: int,
    part: int = 0,
    numbers: Tensor | None = None,
) -> Tensor:
    """Tokens of one path for each concentration.

    Every pace is a Dirichlet process of its own, ``gamma_i(t) = x'_i + F_i(t) (x_i - x'_i)``; see
    `pyxai_fast.ops.dirichlet_points`. A path depends on the seed, its number and its concentration.

    Args:
        config: of T steps and P paces.
        concentrations: alpha > 0 of each path, [R]. Rows of the same one are drawn together.
        seed: of the paths.
        part: of the data; different parts have different paths.
        numbers: of the paths, [R]; 0, 1, ... by default.

    Returns:
        [R, T, P] float32.
    """
    count, steps, features = len(concentrations), config.points, config.features
    key = ops.random_key(seed, DATA_STREAM + part)
    tokens = torch.empty(count, steps, features)
    numbers = torch.arange(count) if numbers is None else numbers
    for alpha in concentrations.unique().tolist():
        rows = (concentrations == alpha).nonzero()[:, 0]
        begin, end = (
            ops.dirichlet_points(
                torch.ones(1, features).expand(len(rows), features),
                0.0,
                key,
                concentration=alpha,
                n_steps=steps,
                position=place,
                examples=numbers[rows],
            ).reshape(steps, len(rows), features)
            for place in (0.0, 1.0)
        )
        progress = torch.cat([begin[:1], end]).transpose(0, 1)
        tokens[rows] = tokens_of(progress, config.spread)
    return tokens


def spread_of(alphas: tuple[float, float], steps: int) -> float:
    """Standard deviation of increments relative to their mean, for alpha uniform in a range.

    The variance of ``T (F_{m+1} - F_m)`` is (T - 1) / (alpha + 1).
    """
    low, high = (torch.tensor(alpha, dtype=torch.float64) + 1 for alpha in alphas)
    mean = 1 / low if low == high else (high / low).log() / (high - low)
    return float(((steps - 1) * mean).sqrt()) if steps > 1 else 1.0


def draw_concentrations(
    count: int, alphas: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Alphas of paths, uniform in a range and in steps of a 64th of it, [count] float32."""
    low, high = alphas
    return low + (high - low) * torch.randint(0, 65, (count,), generator=generator) / 64

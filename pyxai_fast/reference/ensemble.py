"""Ensembles of particles: contractions, transforms by a matrix, and the guided diffusion step.

Particles come with the batch and their count merged, [B * K, ...], the examples outermost.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .path import compute_dtype, memory_format_of
from .random import normals_of_features

NORM_TILE, NORM_LANES = 1024, 32  # see csrc/include/pyxai_fast/ensemble.h


def by_example(particles: Tensor, count: int) -> Tensor:
    """[B, K, ...], in the type computed in."""
    batch = particles.shape[0] // count
    return particles.to(compute_dtype(particles.dtype)).reshape(batch, count, *particles.shape[1:])


def centred(particles: Tensor, count: int, center: Tensor | None) -> Tensor:
    """Particles [B, K, ...] minus the center; the first particle is the default."""
    many = by_example(particles, count)
    if center is None:
        return many - many[:, :1]
    return many - center.to(many.dtype).unsqueeze(min(center.dim(), 1))


def by_row(values: Tensor, like: Tensor) -> Tensor:
    """Values [B, ...] shaped to multiply `like`, which has more dimensions behind."""
    return values.reshape(*values.shape, *[1] * (like.dim() - values.dim()))


def _sums(shifted: Tensor) -> tuple[Tensor, Tensor]:
    """Of d and of d * d over the particles, float64, in their order."""
    total = torch.zeros_like(shifted[:, 0], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for k in range(shifted.shape[1]):
        d = shifted[:, k].double()
        total, squares = total + d, squares + d * d
    return total, squares


def _mean(total: Tensor, count: int) -> Tensor:
    # A tensor, as a division by a number may become a multiplication.
    return total / torch.full((), count, dtype=total.dtype, device=total.device)


def _variance(total: Tensor, squares: Tensor, count: int) -> Tensor:
    mean = _mean(total, count)
    variance = _mean(squares, count) - mean * mean
    return torch.where(variance < 0, 0.0, variance)


def _like(result: Tensor, particles: Tensor) -> Tensor:
    """In the memory format of the particles, and the type computed in."""
    return result.to(compute_dtype(particles.dtype)).contiguous(
        memory_format=memory_format_of(particles)
    )


def ensemble_contract(
    particles: Tensor, weights: Tensor, center: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    count = weights.shape[1]
    shifted = centred(particles, count, center)
    total, squares = _sums(shifted)
    weights = weights.to(shifted.dtype).double()
    contraction = torch.zeros_like(total).unsqueeze(1).repeat_interleave(weights.shape[2], 1)
    for k in range(count):
        contraction += by_row(weights[:, k], contraction) * shifted[:, k].double().unsqueeze(1)
    return (
        _like(contraction.flatten(0, 1), particles),
        _like(_variance(total, squares, count), particles),
    )


def ensemble_moments(
    particles: Tensor, count: int, center: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    shifted = centred(particles, count, center)
    total, squares = _sums(shifted)
    start = by_example(particles, count)[:, 0] if center is None else center.to(shifted.dtype)
    mean = start.double() + _mean(total, count)
    return _like(mean, particles), _like(_variance(total, squares, count), particles)


def ensemble_transform(
    particles: Tensor,
    matrix: Tensor,
    center: Tensor | None = None,
    taper: Tensor | None = None,
    add_particles: bool = True,
) -> Tensor:
    count = matrix.shape[1]
    shifted = centred(particles, count, center)
    matrix = matrix.to(shifted.dtype)
    moved = torch.zeros_like(shifted)
    for j in range(count):
        moved += by_row(matrix[:, :, j], moved) * shifted[:, j : j + 1]
    if taper is not None:
        moved *= taper.to(moved.dtype).unsqueeze(min(taper.dim(), 1))
    if add_particles:
        moved = by_example(particles, count) + moved
    return (
        moved.flatten(0, 1)
        .to(particles.dtype)
        .contiguous(memory_format=memory_format_of(particles))
    )


def ensemble_transform_out(
    particles: Tensor,
    matrix: Tensor,
    center: Tensor | None = None,
    taper: Tensor | None = None,
    add_particles: bool = True,
    *,
    out: Tensor,
) -> None:
    out.copy_(ensemble_transform(particles, matrix, center, taper, add_particles))


# --- guided_step ---------------------------------------------------------------------------------


def sum_of_squares(values: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Over the features of each row [B * K, ...], float64 [B * K], in the kernels' order.

    NORM_LANES interleaved sums over each tile of NORM_TILE features in memory order, folded in
    halves; then the tiles in their order.
    """
    if memory_format != torch.contiguous_format:
        values = values.movedim(1, -1)
    squares = values.reshape(values.shape[0], math.prod(values.shape[1:])).double().square()
    squares = torch.nn.functional.pad(squares, (0, -squares.shape[1] % NORM_TILE))
    lanes = squares.unflatten(1, (-1, NORM_TILE // NORM_LANES, NORM_LANES))
    sums = torch.zeros_like(lanes[:, :, 0])
    for step in range(lanes.shape[2]):
        sums = sums + lanes[:, :, step]
    while sums.shape[-1] > 1:
        first, second = sums.chunk(2, dim=-1)
        sums = first + second
    total = squares.new_zeros(squares.shape[0])
    for tile in range(sums.shape[1]):
        total = total + sums[:, tile, 0]
    return total


def square_root(values: Tensor) -> Tensor:
    """Rounded as IEEE 754 says, which torch.sqrt is not on every CPU."""
    if values.device.type != "cpu":
        return values.sqrt()
    return torch.from_numpy(np.sqrt(values.numpy()))


def sign(values: Tensor) -> Tensor:
    return (values > 0).to(values.dtype) - (values < 0).to(values.dtype)


def _guided_step(
    denoised: Tensor,
    noise_pred: Tensor,
    guide: Tensor,
    origin: Tensor,
    center: Tensor,
    weights: Tensor | None,
    key: Tensor | None,
    count: int,
    signal: float,
    noise: float,
    direction: float,
    guidance: float,
    proximity: float,
    memory_format: torch.memory_format,
) -> Tensor:
    rows = denoised.shape[0]
    compute = compute_dtype(denoised.dtype)
    # Constants as tensors: on a scalar, torch may compute in another type.
    constants = torch.tensor([signal, noise, direction], dtype=compute, device=denoised.device)
    predicted = noise_pred.to(denoised.dtype).to(compute)
    following = constants[0] * denoised.to(compute)
    if noise != 0.0 and key is not None:
        row = torch.arange(rows, device=denoised.device)
        features = math.prod(denoised.shape[1:])
        drawn = normals_of_features(features, row // count, (row % count)[:, None], key)
        following = following + constants[1] * drawn.to(compute).reshape(denoised.shape)
    following = following + constants[2] * predicted
    if guidance != 0.0 or proximity != 0.0:
        toward = centred(guide.to(denoised.dtype), count, center).flatten(0, 1)
        away = sign(centred(denoised, count, origin).flatten(0, 1))
        length = square_root(sum_of_squares(predicted, memory_format))
        toward_square = sum_of_squares(toward, memory_format)
        away_square = sum_of_squares(away, memory_format)
        if weights is None:
            signs = torch.ones_like(length)
        else:
            given = weights.to(compute).double().reshape(rows)
            signs = torch.where(given > 0, 1.0, torch.where(given < 0, -1.0, given))
        pull = guidance * length * signs / square_root(toward_square)
        pull = torch.where(toward_square == 0, 0.0, pull)
        back = proximity * length / square_root(away_square)
        back = torch.where(away_square == 0, 0.0, back)
        following = following + (
            by_row(pull.to(compute), toward) * toward - by_row(back.to(compute), away) * away
        )
    return following.to(denoised.dtype).contiguous(memory_format=memory_format)


def guided_step(
    denoised: Tensor,
    noise_pred: Tensor,
    guide: Tensor,
    origin: Tensor,
    center: Tensor,
    weights: Tensor | None,
    key: Tensor | None,
    count: int,
    signal: float,
    noise: float,
    direction: float,
    guidance: float,
    proximity: float,
) -> Tensor:
    return _guided_step(
        denoised, noise_pred, guide, origin, center, weights, key, count,
        signal, noise, direction, guidance, proximity, memory_format_of(denoised),
    )  # fmt: skip


def guided_step_out(
    denoised: Tensor,
    noise_pred: Tensor,
    guide: Tensor,
    origin: Tensor,
    center: Tensor,
    weights: Tensor | None,
    key: Tensor | None,
    count: int,
    signal: float,
    noise: float,
    direction: float,
    guidance: float,
    proximity: float,
    *,
    out: Tensor,
) -> None:
    following = _guided_step(
        denoised, noise_pred, guide, origin, center, weights, key, count,
        signal, noise, direction, guidance, proximity, memory_format_of(out),
    )  # fmt: skip
    out.copy_(following)

"""Removed pixels that become what their neighbours say: linear imputation.

A removed pixel is the weighted mean of its neighbours: 1/6 for each beside it, above and below,
1/12 for each across. Neighbours that are removed count as what they become themselves, so all of
them solve one linear system. At the edges the weights of the neighbours that are there add up to 1.

Source: Rong, Leemann, Borisov, Kasneci and Kasneci, "A Consistent and Efficient Evaluation Strategy
for Attribution Methods" (2022), section 5.

In twelfths the weights are those of the kernel [1 2 1] x [1 2 1] but for its middle. With B the
blur by that kernel, 0 outside of the picture, and n = B(1), a picture x is the solution where

    n x - B x = 0    on removed pixels,

and n - B, restricted to them, is symmetric, and positive definite where some pixel is known: a
Laplacian. Conjugate gradients solve it for all pictures at once, preconditioned by a multigrid
cycle whose coarse pixels are removed where all of their fine ones are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from ..reference.path import compute_dtype

# Once the cycle finds no correction that is a larger share of a picture's range, it is made, and
# the picture is done.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
MOST_CYCLES = 100
# Of Jacobi's method, for the finer half of all detail, where B / n is from 0 to 1/2.
RELAXATION = 4 / 3


def imputed(pictures: Tensor, removed: Tensor) -> Tensor:
    """Pictures whose removed pixels are the weighted means of their neighbours.

    Args:
        pictures: [R, C, H, W], floating-point.
        removed: bool [R, 1, H, W].

    Returns:
        [R, C, H, W], in the pictures' type. Known pixels keep their bits, and where none is known,
        a picture becomes its own mean. Errors are about 1e-5 of a picture's range, 1e-10 in
        float64, and a picture has the same bits in every batch.
    """
    x = pictures.to(compute_dtype(pictures.dtype))
    none_known = removed.all(3, keepdim=True).all(2, keepdim=True)
    x = torch.where(none_known, x.mean((2, 3), keepdim=True), x)
    solved = _solved(x, removed & ~none_known)
    return torch.where(removed, solved.to(pictures.dtype), pictures)


def _solved(pictures: Tensor, unknown: Tensor) -> Tensor:
    """Preconditioned conjugate gradients for each channel of each picture by itself."""
    levels = _levels(unknown, pictures.dtype)
    low = pictures.masked_fill(unknown, torch.inf).amin((2, 3), keepdim=True)
    high = pictures.masked_fill(unknown, -torch.inf).amax((2, 3), keepdim=True)
    rounding = 4 * torch.finfo(pictures.dtype).eps * torch.maximum(low.abs(), high.abs())
    tolerance = TOLERANCE[pictures.dtype] * (high - low) + rounding

    x = _first_guess(pictures, ~unknown)
    # Rounding here would stay; later it is of what is still missing.
    residual = -levels[0].applied(x.double()).to(x.dtype)
    found = _cycle(levels, residual)
    direction, energy = found, _inner(residual, found)
    solved, place = x.clone(), torch.arange(len(x), device=x.device)
    open_ = torch.ones_like(tolerance, dtype=torch.bool)
    for _ in range(MOST_CYCLES):
        still = open_ & (_largest(found) > tolerance)
        x = torch.where(open_ & ~still, x + found, x)
        open_ = still
        rows = open_.flatten(1).any(1)
        left = int(rows.sum())
        if not left:
            break
        if 2 * left <= len(rows):  # the others need no more work
            solved[place] = x
            levels = [level.of(rows) for level in levels]
            x, residual, direction, energy, tolerance, open_, place = (
                each[rows] for each in (x, residual, direction, energy, tolerance, open_, place)
            )
        applied = levels[0].applied(direction)
        size = torch.where(open_, energy / _inner(direction, applied), 0.0)
        x = x + size * direction
        residual = residual - size * applied
        found = _cycle(levels, residual)
        before, energy = energy, _inner(residual, found)
        direction = found + torch.where(open_, energy / before, 0.0) * direction
    solved[place] = x
    return solved


def _first_guess(x: Tensor, known: Tensor) -> Tensor:
    """Unknown pixels are the mean of what is known nearby, in the smallest square that has any."""
    if bool(known.all()):
        return x
    window = _window(x)
    here = torch.where(known, x, 0.0)
    count = _pooled(known.to(x.dtype), window)
    coarse = _first_guess(_pooled(here, window) / count.clamp(min=1), count > 0)
    return torch.where(known, x, _spread(coarse, window, x))


# --- multigrid -----------------------------------------------------------------------------------


class _Level:
    """The system on one grid.

    Args:
        unknown: which pixels are, 0 or 1: [R, 1, H, W].
    """

    def __init__(self, unknown: Tensor, weights: Tensor) -> None:
        self.unknown, self.weights = unknown, weights
        self.window = _window(unknown)
        self.smoother = unknown * (RELAXATION / weights)
        # A coarse Laplacian of two dimensions is as strong as the fine one, of one dimension half.
        self.gain = unknown * (4 / (self.window[0] * self.window[1]))

    def applied(self, x: Tensor) -> Tensor:
        return self.unknown * (self.weights * x - _blur(x))

    def of(self, rows: Tensor) -> _Level:
        return _Level(self.unknown[rows], self.weights)


def _levels(unknown: Tensor, dtype: torch.dtype) -> list[_Level]:
    """From the pictures' grid to the coarsest on which something is unknown."""
    mask = unknown.to(dtype)
    levels: list[_Level] = []
    while not levels or bool(mask.any()):
        levels.append(_Level(mask, _blur(torch.ones_like(mask[:1]))))
        if max(mask.shape[2:]) == 1:
            break
        mask = -max_pool2d(-mask, levels[-1].window, ceil_mode=True)
    return levels


def _cycle(levels: list[_Level], residual: Tensor) -> Tensor:
    """About what is missing where this is left: a symmetric V-cycle with one sweep each way."""
    level = levels[0]
    found = level.smoother * residual
    if len(levels) > 1:
        coarse = _pooled(residual - level.applied(found), level.window)
        coarse = _cycle(levels[1:], coarse)
        found = found + level.gain * _spread(coarse, level.window, found)
    return found + level.smoother * (residual - level.applied(found))


def _window(x: Tensor) -> tuple[int, int]:
    """How many fine pixels a coarse one has in each direction."""
    return min(2, x.shape[2]), min(2, x.shape[3])


def _pooled(fine: Tensor, window: tuple[int, int]) -> Tensor:
    """Sums of windows."""
    return avg_pool2d(fine, window, ceil_mode=True, divisor_override=1)


def _spread(coarse: Tensor, window: tuple[int, int], like: Tensor) -> Tensor:
    """Each value at all pixels of its window."""
    fine = interpolate(coarse, scale_factor=[float(side) for side in window], mode="nearest")
    return fine[..., : like.shape[2], : like.shape[3]]


def _blur(x: Tensor) -> Tensor:
    """By [1 2 1] in both directions, 0 outside: [1 1] twice in each, in a fixed order."""
    x = pad(x, (1, 1, 1, 1))
    x = x[..., 1:] + x[..., :-1]
    x = x[..., 1:] + x[..., :-1]
    x = x[..., 1:, :] + x[..., :-1, :]
    return x[..., 1:, :] + x[..., :-1, :]


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """[R, C, 1, 1], row by row: in the same order whatever the batch is."""
    return (a * b).sum(3, keepdim=True).sum(2, keepdim=True)


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax((2, 3), keepdim=True)

"""How much of a direction points away from where inputs lie, as their neighbours tell.

The tangent space at an input is taken for the span of the first principal directions of its nearest
training inputs: local principal component analysis, as in Kambhatla and Leen, "Dimension Reduction
by Local Principal Component Analysis" (1997).
"""

from __future__ import annotations

import torch
from torch import Tensor


def nearest(inputs: Tensor, pool: Tensor, count: int) -> Tensor:
    """Numbers of the `count` nearest rows of the pool, the nearest first, [B, count]."""
    return distances(inputs, pool).topk(count, dim=1, largest=False).indices


def distances(inputs: Tensor, pool: Tensor) -> Tensor:
    """Euclidean, between inputs [B, ...] and a pool [N, ...], [B, N], float64."""
    return torch.cdist(inputs.double().flatten(1), pool.double().flatten(1))


def principal_directions(rows: Tensor, count: int) -> Tensor:
    """Orthonormal [B, D, count] that hold most of the variance of rows [B, N, ...]."""
    centred = rows.double().flatten(2)
    centred = centred - centred.mean(1, keepdim=True)
    return torch.linalg.svd(centred, full_matrices=False).Vh[:, :count].transpose(1, 2)


def share_outside(directions: Tensor, basis: Tensor) -> Tensor:
    """The share of the squared norm of directions [B, ...] outside an orthonormal basis, [B].

    1 - d/D is what a random direction has for d of D directions.
    """
    flat = directions.double().flatten(1)
    inside = torch.einsum("bd,bdk->bk", flat, basis).square().sum(1)
    return (1 - inside / flat.square().sum(1)).clamp(min=0)

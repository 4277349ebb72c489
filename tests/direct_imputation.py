"""Linear imputation by a sparse direct solve in float64: the truth in tests.

Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (2022).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

# Of the mean over the neighbours that a pixel has.
DIRECT, DIAGONAL = 1 / 6, 1 / 12
WEIGHTS = {
    (dy, dx): DIRECT if 0 in (dy, dx) else DIAGONAL
    for dy in (-1, 0, 1)
    for dx in (-1, 0, 1)
    if (dy, dx) != (0, 0)
}


def directly_imputed(picture: Tensor, removed: Tensor) -> Tensor:
    """A picture [C, H, W] with the removed pixels [H, W] the weighted means of their neighbours,
    float64; its own mean where every pixel is removed."""
    picture = picture.double()
    if bool(removed.all()):
        return picture.mean((1, 2), keepdim=True).expand_as(picture).clone()
    unknown = removed.flatten().numpy()
    if not unknown.any():
        return picture.clone()
    pixels = picture.flatten(1).numpy()
    averages = _averages(*removed.shape)
    of_unknown = averages[unknown]
    system = csc_matrix(_identity(int(unknown.sum())) - of_unknown[:, unknown])
    known = of_unknown[:, ~unknown] @ pixels[:, ~unknown].T
    filled = pixels.copy()
    filled[:, unknown] = splu(system).solve(known).T
    return torch.from_numpy(filled).reshape(picture.shape)


@functools.cache
def _averages(height: int, width: int) -> csc_matrix:
    """The matrix [H * W, H * W] that takes pixels to the means of their neighbours."""
    y, x = np.divmod(np.arange(height * width), width)
    rows, columns, weights = [], [], []
    for (dy, dx), weight in WEIGHTS.items():
        there = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        rows.append(np.flatnonzero(there))
        columns.append(((y + dy) * width + x + dx)[there])
        weights.append(np.full(int(there.sum()), weight))
    matrix = csc_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))),
        shape=(height * width, height * width),
    )
    total: NDArray[np.float64] = np.asarray(matrix.sum(1)).ravel()
    return csc_matrix(matrix.multiply(1 / total[:, None])).tocsr()


def _identity(size: int) -> csc_matrix:
    return csc_matrix((np.ones(size), (np.arange(size), np.arange(size))), shape=(size, size))

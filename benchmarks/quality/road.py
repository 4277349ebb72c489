"""ROAD: what becomes of a class when pixels are replaced by what their neighbours say.

Rong, Leemann, Borisov, Kasneci and Kasneci, "A Consistent and Efficient Evaluation Strategy for
Attribution Methods" (2022), section 5: noisy linear imputation. A black pixel tells a model which
pixels were removed; an imputed one hardly does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from deletion import ROWS, Model
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from pyxai_fast.models.preprocessing import Preprocessing

FRACTIONS = tuple(n / 10 for n in range(1, 10))
NOISE = 0.01
# Of the mean over the neighbours that a pixel has.
DIRECT, DIAGONAL = 1 / 6, 1 / 12
WEIGHTS = {
    (dy, dx): DIRECT if 0 in (dy, dx) else DIAGONAL
    for dy in (-1, 0, 1)
    for dx in (-1, 0, 1)
    if (dy, dx) != (0, 0)
}


def imputed(image: Tensor, removed: Tensor) -> Tensor:
    """A picture [C, H, W] with the removed pixels [H, W] the weighted means of their neighbours.

    Removed neighbours count as what they are imputed with, so that all of them solve one linear
    system. At the edges the weights of the neighbours that are there add up to 1. Where every
    pixel is removed nothing is known, and the picture is its own mean.
    """
    if bool(removed.all()):
        return image.mean((1, 2), keepdim=True).expand_as(image).clone()
    unknown = removed.flatten().numpy()
    if not unknown.any():
        return image.clone()
    pixels = image.flatten(1).double().numpy()
    averages = _averages(*removed.shape)
    of_unknown = averages[unknown]
    system = csc_matrix(_identity(int(unknown.sum())) - of_unknown[:, unknown])
    known = of_unknown[:, ~unknown] @ pixels[:, ~unknown].T
    filled = pixels.copy()
    filled[:, unknown] = splu(system).solve(known).T
    return torch.from_numpy(filled).reshape(image.shape).to(image.dtype)


@torch.no_grad()
def road_curves(
    model: Model,
    inputs: Tensor,
    ranks: Tensor,
    target: Tensor,
    fractions: tuple[float, ...] = FRACTIONS,
    preprocessing: Preprocessing | None = None,
    noise: float = NOISE,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Probability [S, B] of the target without the first of the ranking, and without the last.

    Args:
        model: logits [R, n] of model inputs.
        inputs: pixels [B, C, H, W] where `preprocessing` is given, else model inputs.
        ranks: int32 [B, 1, H, W], as from `deletion.ranking`.
        target: int64 [B].
        fractions: [S] of the pixels that are removed.
        noise: standard deviation of what is added to imputed pixels, in the units of the inputs.

    Returns:
        "most relevant first" (small is good) and "least relevant first" (large is good).
    """
    count = ranks[0].numel()
    found = {}
    for name, places in (
        ("most relevant first", ranks),
        ("least relevant first", count - 1 - ranks),
    ):
        generator = torch.Generator().manual_seed(seed)
        rows = []
        for fraction in fractions:
            removed = places[:, 0] < round(fraction * count)
            filled = torch.stack(list(_imputed(inputs, removed)))
            noisy = filled + noise * torch.randn(filled.shape, generator=generator).to(filled)
            queries = torch.where(removed[:, None], noisy, filled)
            if preprocessing is not None:
                queries = preprocessing.normalise(queries)
            answers = torch.cat([model(part) for part in queries.split(ROWS)])
            rows.append(answers.double().softmax(1).gather(1, target[:, None])[:, 0])
        found[name] = torch.stack(rows)
    return found


def _imputed(inputs: Tensor, removed: Tensor) -> Iterator[Tensor]:
    for image, mask in zip(inputs, removed, strict=True):
        yield imputed(image, mask)


_CACHE: dict[tuple[int, int], csc_matrix] = {}


def _averages(height: int, width: int) -> csc_matrix:
    """The matrix [H * W, H * W] that takes pixels to the means of their neighbours."""
    if (height, width) not in _CACHE:
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
        _CACHE[height, width] = csc_matrix(matrix.multiply(1 / total[:, None])).tocsr()
    return _CACHE[height, width]


def _identity(size: int) -> csc_matrix:
    return csc_matrix((np.ones(size), (np.arange(size), np.arange(size))), shape=(size, size))

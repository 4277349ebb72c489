"""How alike two maps of one input are; 1 for equal maps."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.errors import MissingDependency

# Of a picture's shorter side, in pixels: less has no room for gradients' histograms.
SMALLEST = 8


def spearman(a: Tensor, b: Tensor) -> float:
    """Correlation of the ranks of two tensors' numbers; NaN where one of them is constant."""
    a, b = a.flatten(), b.flatten()
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return float("nan")
    return pearson(average_ranks(a), average_ranks(b))


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two tensors' numbers; 1 if they are equal, else NaN where one is constant."""
    if torch.equal(a, b):
        return 1.0
    a, b = a.double().flatten(), b.double().flatten()
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def average_ranks(values: Tensor) -> Tensor:
    """Ranks of the numbers [N], from 1, float64; equal numbers share the mean of their ranks."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0) - (counts.double() - 1) / 2
    return ranks[place]


def structural_similarity(a: Tensor, b: Tensor) -> float:
    """SSIM of two pictures [H, W] with values in [0, 1], over windows of 7 pixels.

    Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to
    Structural Similarity" (2004), as scikit-image computes it.
    """
    try:
        from skimage.metrics import structural_similarity as ssim
    except ImportError as error:
        raise _missing("ssim") from error
    return float(ssim(a.cpu().numpy(), b.cpu().numpy(), win_size=7, data_range=1.0))


def hog_correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two pictures' histograms of oriented gradients.

    Dalal and Triggs (2005), as scikit-image computes it: 9 orientations, blocks of 3x3 cells. A
    cell has a seventh of the shorter side, from 2 to 16 pixels.
    """
    try:
        from skimage.feature import hog
    except ImportError as error:
        raise _missing("hog") from error
    cell = min(16, max(2, min(a.shape) // 7))
    one, other = (
        hog(picture.cpu().numpy(), orientations=9, pixels_per_cell=(cell, cell))
        for picture in (a, b)
    )
    return pearson(torch.from_numpy(one), torch.from_numpy(other))


def pictures(maps: Tensor) -> Tensor | None:
    """Sizes of attributions [B, C, H, W], added over channels, each map's greatest 1: [B, H, W].

    None for what is no picture, or one that is too small to compare.
    """
    if maps.dim() != 4 or min(maps.shape[2:]) < SMALLEST:
        return None
    sizes = maps.double().abs().sum(1)
    greatest = sizes.amax((1, 2), keepdim=True)
    return sizes / torch.where(greatest == 0, 1.0, greatest)


def _missing(name: str) -> MissingDependency:
    return MissingDependency(
        f"model_perturbation: scikit-image is needed for {name}; run: pip install "
        'pyxai-fast[metrics], or ask for similarities=("spearman",)'
    )

"""How alike two maps of one input are; 1 for equal maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError, is_one_of, near
from ..models.errors import MissingDependency

FloatArray = NDArray[np.float64]

SIMILARITIES = ("spearman", "ssim", "hog")
# Of a picture's shorter side, in pixels: less has no room for gradients' histograms.
SMALLEST = 8


def check_similarities(op: str, names: str | Sequence[str]) -> tuple[str, ...]:
    """The names that are asked for; one may stand by itself."""
    if not isinstance(names, Iterable) or isinstance(names, Tensor):
        raise TypeError(f"{op}: similarities must be names, got {type(names).__name__}")
    asked = (names,) if isinstance(names, str) else tuple(names)
    for name in asked:
        if not is_one_of(name, SIMILARITIES):
            raise ArgumentError(
                f"{op}: similarities must be among {', '.join(SIMILARITIES)}, got {name!r}"
                f"{near(str(name), SIMILARITIES)}"
            )
    return asked


class Compared:
    """Maps, and how alike to them others are.

    Args:
        maps: [B, ...].
        names: of SIMILARITIES: "spearman" is the correlation of the ranks of sizes; "ssim" and
            "hog" are of sizes added over channels, as pictures.

    Attributes:
        names: of those that apply: the last two are of pictures of at least 8x8 pixels alone.
    """

    def __init__(self, maps: Tensor, names: Sequence[str]) -> None:
        self._pictures = pictures(maps) if {"ssim", "hog"} & set(names) else None
        self.names = tuple(n for n in names if n == "spearman" or self._pictures is not None)
        self._sizes = maps.abs().flatten(1)
        self._ranks = average_ranks(self._sizes) if "spearman" in names else None

    def with_maps(self, others: Tensor) -> dict[str, FloatArray]:
        """Of each name, the similarity of each map [B, ...] to the one in its place, [B]."""
        return {name: self._with(name, others) for name in self.names}

    def _with(self, name: str, others: Tensor) -> FloatArray:
        if name == "spearman":
            assert self._ranks is not None
            sizes = others.abs().flatten(1)
            found = correlations(self._ranks, average_ranks(sizes))
            finite = (self._sizes.isfinite() & sizes.isfinite()).all(1)
            return found.where(finite, torch.nan).cpu().numpy()
        compare = structural_similarity if name == "ssim" else hog_correlation
        drawn = pictures(others)
        assert self._pictures is not None and drawn is not None
        return np.array([compare(a, b) for a, b in zip(self._pictures, drawn, strict=True)])


def spearman(a: Tensor, b: Tensor) -> float:
    """Correlation of the ranks of two tensors' numbers; NaN where one of them is constant."""
    a, b = a.flatten(), b.flatten()
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return float("nan")
    return pearson(average_ranks(a), average_ranks(b))


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two tensors' numbers; 1 if they are equal, else NaN where one is constant."""
    return float(correlations(a.flatten()[None], b.flatten()[None]))


def correlations(a: Tensor, b: Tensor) -> Tensor:
    """`pearson` of each row of [B, N], float64 [B]."""
    same = (a == b).all(1)
    a, b = a.double(), b.double()
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    found = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    return found.masked_fill(same, 1.0)


def average_ranks(values: Tensor) -> Tensor:
    """Ranks of the numbers of each row [..., N], from 1, float64; equal numbers share the mean of
    their ranks."""
    ordered, place = values.sort(-1)
    at = torch.arange(values.shape[-1], device=values.device)
    differs = ordered[..., 1:] != ordered[..., :-1]
    one = torch.ones_like(values[..., :1], dtype=torch.bool)
    first = torch.where(torch.cat([one, differs], -1), at, 0).cummax(-1).values
    last = torch.where(torch.cat([differs, one], -1), at, len(at)).flip(-1).cummin(-1).values
    ranks = (first + last.flip(-1)).double() / 2 + 1
    return torch.empty_like(ranks).scatter_(-1, place, ranks)


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
        f"similarities: scikit-image is needed for {name}; run: pip install "
        'pyxai-fast[metrics], or ask for similarities=("spearman",)'
    )

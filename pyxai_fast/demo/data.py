"""Scanned handwritten digits: scikit-learn's bundled copy, enlarged to 32x32, with a fixed split.

The 1797 images are the test part of the UCI "Optical Recognition of Handwritten Digits" set
(E. Alpaydin and C. Kaynak, 1998, CC BY 4.0), 8x8 pixels of 0..16 ink. They come with scikit-learn,
so nothing is downloaded. The same 13 writers appear on both sides of the split: the test accuracy
speaks for these writers, not for new ones.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Split = Literal["train", "test"]

IMAGE_SIZE = 32
N_CLASSES = 10
CLASS_NAMES = [str(digit) for digit in range(N_CLASSES)]
TEST_EVERY = 5
_INK_MAX = 16.0


def load_digits(split: Split = "train") -> tuple[Tensor, Tensor]:
    """Digits of one split, as pixels in [0, 1].

    Args:
        split: ``"train"`` or ``"test"``; see :func:`split_indices` for which image goes where.

    Returns:
        Images, float32 [N, 1, 32, 32] in [0, 1] (0 paper, 1 full ink), and labels, int64 [N].

    Raises:
        ValueError: for any other split.
        ImportError: when scikit-learn is missing.
    """
    bunch = _bunch()
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    index = split_indices(labels, split)
    small = torch.from_numpy(bunch.images).to(torch.float32)[index].unsqueeze(1) / _INK_MAX
    # Bicubic keeps the strokes crisper than bilinear and smoother than nearest, whose 4x4 blocks
    # would show up as blocks in every attribution. It overshoots at edges, hence the clamp.
    images = F.interpolate(small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic")
    return images.clamp_(0.0, 1.0), labels[index]


def split_indices(labels: Tensor, split: Split) -> Tensor:
    """Positions in the full data set of one split's images, ascending, int64 [N].

    Within each class, in the order of the data set, every fifth image is a test image and the
    other four are training images: stratified, 80/20, and free of any random generator.

    Args:
        labels: int64 [N] labels of the full data set.
        split: ``"train"`` or ``"test"``.

    Raises:
        ValueError: for any other split.
    """
    if split not in get_args(Split):
        raise ValueError(f"split_indices: split must be 'train' or 'test', got {split!r}")
    is_class = F.one_hot(labels, N_CLASSES)
    rank = is_class.cumsum(0).gather(1, labels[:, None]).squeeze(1)  # 1, 2, 3, ... in its class
    is_test = rank % TEST_EVERY == 0
    return (is_test if split == "test" else ~is_test).nonzero().squeeze(1)


def _bunch() -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "load_digits: the digits come with scikit-learn, which is not installed; "
            "pip install pyxai-fast[demo]"
        ) from error
    return datasets.load_digits()

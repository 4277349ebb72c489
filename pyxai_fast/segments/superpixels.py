"""Superpixels: segments of a picture that follow its edges, by scikit-image."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError, near
from ..models.errors import MissingDependency
from .label_cache import Labels, as_label_cache

# Options and their defaults; an option whose default is an int takes whole numbers only.
# Quickshift's are those of LIME's pictures; the others are scikit-image's own example.
ALGORITHMS: dict[str, dict[str, int | float]] = {
    "quickshift": {"kernel_size": 4.0, "max_dist": 200.0, "ratio": 0.2, "sigma": 0.0},
    "slic": {"n_segments": 100, "compactness": 10.0, "sigma": 1.0},
    "felzenszwalb": {"scale": 100.0, "sigma": 0.5, "min_size": 50},
}
_LEAST = {"sigma": 0, "kernel_size": 1, "n_segments": 1, "min_size": 1}  # others: above 0
# Rounding may leave pixels this far outside of [0, 1].
TOLERANCE = 1e-3


def superpixels(
    image: Tensor, algorithm: str = "quickshift", *, cache: Any = True, **options: float
) -> Tensor:
    """Numbers the superpixels of one picture, or of each picture of a batch.

    Quickshift: Vedaldi and Soatto, "Quick shift and kernel methods for mode seeking" (2008). SLIC:
    Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods" (2012).
    Felzenszwalb and Huttenlocher, "Efficient graph-based image segmentation" (2004). The same
    picture always has the same segments.

    Args:
        image: [C, H, W] or [B, C, H, W], C = 1 or 3, floating-point pixels in [0, 1].
        algorithm: "quickshift", whose number of segments is the picture's (a second at 224x224, and
            in a smooth picture there may be one alone), "slic", which makes about n_segments, or
            "felzenszwalb".
        cache: True keeps label maps in memory, up to a limit shared by the process; a folder keeps
            them there too; a LabelCache says more; None computes them again.
        options: of the algorithm, as scikit-image names them: kernel_size, max_dist, ratio and
            sigma (in pixels) of quickshift; n_segments, compactness and sigma of slic; scale, sigma
            and min_size (in pixels) of felzenszwalb.

    Returns:
        int32 [1, 1, H, W], or [B, 1, H, W], on the image's device; in each picture from 0, no
        number left out.

    Raises:
        ValueError, TypeError: an argument that does not fit, naming it.
        MissingDependency: scikit-image is not installed.
    """
    settings = _settings(algorithm, options)
    labels = as_label_cache(cache)
    pictures = _pictures(image)
    keys = [_key(picture, algorithm, settings) for picture in pictures]
    found: dict[str, Labels] = {}
    if labels is not None:
        found = {
            key: known
            for key, picture in zip(keys, pictures, strict=True)
            if (known := labels.find(key)) is not None and _fits(known, picture)
        }
    # One of each: a picture may come twice.
    missing = {
        key: picture for key, picture in zip(keys, pictures, strict=True) if key not in found
    }
    for key, picture in missing.items():
        found[key] = _segment(picture, algorithm, settings)
        if labels is not None:
            labels.keep(key, found[key])
    numbered = np.stack([found[key] for key in keys])[:, None]
    return torch.from_numpy(numbered).to(image.device)


def _fits(labels: Labels, picture: NDArray[np.float32]) -> bool:
    """Whether a label map can be that of a picture: a file in a folder may be damaged."""
    numbered = labels.shape == picture.shape[:2] and labels.min() >= 0
    return bool(numbered and labels.max() < labels.size)


def _settings(algorithm: str, options: Mapping[str, Any]) -> dict[str, int | float]:
    """The algorithm's options, checked, with its defaults for the others."""
    defaults = ALGORITHMS.get(algorithm)
    if defaults is None:
        raise ArgumentError(
            f"superpixels: algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}"
            f"{near(str(algorithm), ALGORITHMS)}"
        )
    settings = dict(defaults)
    for name, value in options.items():
        if name not in defaults:
            raise ArgumentError(
                f"superpixels: options of {algorithm} must be among {', '.join(defaults)}, got "
                f"{name!r}{near(name, defaults)}"
            )
        whole = isinstance(defaults[name], int)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or (whole and value != int(value)):
            raise ArgumentError(
                f"superpixels: {name} must be a {'whole ' if whole else ''}number, got {value!r}"
            )
        least = _LEAST.get(name)
        if value < (least or 0) or (least is None and value == 0):
            bound = "above 0" if least is None else f"at least {least}"
            raise ArgumentError(f"superpixels: {name} must be {bound}, got {value!r}")
        settings[name] = int(value) if whole else float(value)
    return settings


def _pictures(image: Tensor) -> NDArray[np.float32]:
    """[B, H, W, 1 or 3], checked."""
    if not isinstance(image, Tensor) or not image.is_floating_point():
        got = str(image.dtype) if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"superpixels: image must be a floating-point tensor, got {got}")
    batch = image[None] if image.dim() == 3 else image
    if batch.dim() != 4 or batch.shape[1] not in (1, 3) or 0 in batch.shape:
        raise ArgumentError(
            "superpixels: image must have shape [1 or 3, H, W] or [B, 1 or 3, H, W], got "
            f"{list(image.shape)}"
        )
    pixels = batch.detach().to("cpu", torch.float32)
    low, high = (float(end) for end in pixels.aminmax())
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # NaN too
        raise ArgumentError(
            "superpixels: image must hold pixels in [0, 1], before any normalisation, got values "
            f"from {low:.4g} to {high:.4g}"
        )
    return np.ascontiguousarray(pixels.clamp(0, 1).permute(0, 2, 3, 1).numpy())


def _key(picture: NDArray[np.float32], algorithm: str, settings: Mapping[str, float]) -> str:
    about = repr((algorithm, sorted(settings.items()), picture.shape)).encode()
    digest = hashlib.blake2b(about, digest_size=16)
    digest.update(picture.tobytes())
    return f"{algorithm}-{digest.hexdigest()}"


def _segment(
    picture: NDArray[np.float32], algorithm: str, settings: Mapping[str, int | float]
) -> Labels:
    """Labels [H, W] of a picture [H, W, 1 or 3]."""
    segmentation = _skimage()
    colour = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    fixed: dict[str, dict[str, Any]] = {
        "quickshift": {"rng": 0},  # what breaks ties
        "slic": {"start_label": 0},
    }
    segment = getattr(segmentation, algorithm)
    labels = segment(colour, **settings, **fixed.get(algorithm, {}))
    # Numbers may be left out.
    _, numbered = np.unique(labels, return_inverse=True)
    return numbered.reshape(labels.shape).astype(np.int32)


def _skimage() -> Any:
    try:
        from skimage import segmentation
    except ImportError as error:
        raise MissingDependency(
            "superpixels: scikit-image is needed to find superpixels; run: "
            "pip install pyxai-fast[segments], or use tiles"
        ) from error
    return segmentation

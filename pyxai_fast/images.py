"""Image files to pixels in [0, 1]. Nothing here normalises: that is the model's business."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import IO, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pyxai_fast.models.errors import MissingDependency
from pyxai_fast.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

Path = str | os.PathLike[str]

# What is decoded: others that Pillow knows have decoders that run programs, as EPS does, or that
# few have looked at. TGA, which has no signature, comes last.
FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000", "TIFF", "TGA",
)  # fmt: skip

# Modes that hold more than 8 bits; Pillow's convert() would clip them at 255 instead of scaling.
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")

# Pixels of a resized picture. One of 1 x 100,000, which is a small file, has 6.5 billion when its
# shorter side is brought to 256.
_MOST_RESIZED = 2**26


class ImageError(ValueError):
    """A file that cannot be read as an image; the message is one line: path, then reason."""


def read_image(
    path: Path | IO[bytes], preprocessing: Preprocessing | None = None, *, name: str | None = None
) -> Tensor:
    """Read one image file, turned upright, converted, resized and cropped, but not normalised.

    Args:
        path: A file of one of FORMATS, whatever its name, or one that is open. The first frame of
            an animation is used; alpha is dropped, as model authors' own evaluation pipelines do.
        preprocessing: Geometry and number of channels; None keeps the size and gives RGB.
        name: What errors call it; by default its path.

    Returns:
        Tensor [C, H, W] float32 in [0, 1].

    Raises:
        ImageError: Missing, corrupt, truncated, or too large (a possible decompression bomb).
        MissingDependency: Pillow is not installed.
    """
    preprocessing = preprocessing or Preprocessing()
    image_module, ops_module = _pillow()
    try:
        with warnings.catch_warnings():
            # Between one and two times the limit Pillow only warns: too late for a batch job.
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(path, formats=_known(image_module)) as file:
                file.load()
                image = ops_module.exif_transpose(file)
        image = _convert(image, preprocessing.channels)
        image = _resize_and_crop(image, preprocessing)
        array = np.array(image, dtype=np.float32)
    # A decoder fed garbage raises almost anything: OSError, SyntaxError, struct.error...
    except Exception as error:
        if name is None:
            name = os.fspath(path) if isinstance(path, str | os.PathLike) else "image"
        raise ImageError(f"{name}: {_reason(error)}") from error
    if array.ndim == 2:
        array = array[:, :, None]
    pixels = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
    return pixels.div_(255.0).clamp_(0.0, 1.0)


def read_images(
    paths: Sequence[Path], preprocessing: Preprocessing | None = None
) -> tuple[Tensor, list[str], list[tuple[str, str]]]:
    """Read many image files; the ones that cannot be read are named, the others are returned.

    Args:
        paths: Image files.
        preprocessing: As in ``read_image``. Without a ``size``, pictures whose size differs from
            the first one's are failures, because they cannot share a tensor.

    Returns:
        images: Tensor [N, C, H, W] float32 in [0, 1]; N may be 0.
        kept: The N paths behind ``images``, in the order given.
        failures: (path, reason) of the others, each reason one line.

    Raises:
        MissingDependency: Pillow is not installed.
    """
    preprocessing = preprocessing or Preprocessing()
    images: list[Tensor] = []
    kept: list[str] = []
    failures: list[tuple[str, str]] = []
    for path in paths:
        name = os.fspath(path)
        try:
            image = read_image(path, preprocessing)
        except ImageError as error:
            failures.append((name, str(error).removeprefix(f"{name}: ")))
            continue
        if images and image.shape != images[0].shape:
            failures.append((name, _size_differs(image, images[0], kept[0])))
            continue
        images.append(image)
        kept.append(name)
    if not images:
        height, width = preprocessing.size or (0, 0)
        return torch.empty(0, preprocessing.channels, height, width), kept, failures
    return torch.stack(images), kept, failures


def gaussian_blur(pixels: Tensor, sigma: float) -> Tensor:
    """Blur pixels [B, C, H, W] with a Gaussian of ``sigma`` pixels; the border is replicated."""
    if not sigma > 0:
        raise ValueError(f"gaussian_blur: sigma must be positive, got {sigma}")
    radius = max(1, math.ceil(3.0 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = pixels.shape[1]
    weights = kernel.view(1, 1, -1).expand(channels, 1, -1)
    padded = functional.pad(pixels, (radius, radius, radius, radius), mode="replicate")
    rows = functional.conv2d(padded, weights.unsqueeze(2), groups=channels)
    return functional.conv2d(rows, weights.unsqueeze(3), groups=channels)


def _pillow():  # type: ignore[no-untyped-def]  # two modules
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependency(
            "images: Pillow is needed to read image files; run: pip install pyxai-fast[image]"
        ) from error
    return Image, ImageOps


def _known(image_module: ModuleType) -> list[str]:
    """Those of FORMATS that this Pillow has: older ones do without AVIF."""
    image_module.init()
    return [name for name in FORMATS if name in image_module.OPEN]


def _convert(image: Image, channels: int) -> Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        from PIL import Image as image_module

        array = np.asarray(image).astype(np.float32)
        image = image_module.fromarray(np.rint(np.clip(array / 257.0, 0, 255)).astype(np.uint8))
    return image.convert("RGB" if channels == 3 else "L")


def _resize_and_crop(image: Image, preprocessing: Preprocessing) -> Image:
    from PIL import Image as image_module

    filters = {
        "nearest": image_module.Resampling.NEAREST,
        "box": image_module.Resampling.BOX,
        "bilinear": image_module.Resampling.BILINEAR,
        "hamming": image_module.Resampling.HAMMING,
        "bicubic": image_module.Resampling.BICUBIC,
        "lanczos": image_module.Resampling.LANCZOS,
    }
    resample = filters[preprocessing.interpolation]
    width, height = image.size
    resize = preprocessing.size if preprocessing.resize is None else preprocessing.resize
    if isinstance(resize, int):
        # The longer side is truncated, not rounded: what torchvision and transformers do.
        if width <= height:
            target = (resize, max(1, int(resize * height / width)))
        else:
            target = (max(1, int(resize * width / height)), resize)
    elif resize is not None:
        target = (resize[1], resize[0])
    else:
        target = (width, height)
    if target != (width, height):
        if target[0] * target[1] > _MOST_RESIZED:
            raise ValueError(
                f"too large once resized: {target[0]} x {target[1]} pixels, more than "
                f"{_MOST_RESIZED:,}"
            )
        image = image.resize(target, resample)
    if preprocessing.size is None:
        return image
    crop_height, crop_width = preprocessing.size
    width, height = image.size
    if (crop_width, crop_height) == (width, height):
        return image
    left = round((width - crop_width) / 2.0)
    top = round((height - crop_height) / 2.0)
    # Where the crop is larger than the picture, crop() fills with black, as torchvision pads.
    return image.crop((left, top, left + crop_width, top + crop_height))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a directory, not an image file"
    name = type(error).__name__
    if name == "UnidentifiedImageError":
        return f"not an image file that can be read: {', '.join(FORMATS)}"
    text = (str(error).strip().splitlines() or [""])[0]
    if name.startswith("DecompressionBomb"):
        return f"too many pixels, refused as a possible decompression bomb ({text})"
    return text or name


def _size_differs(image: Tensor, first: Tensor, first_name: str) -> str:
    height, width = image.shape[1:]
    return (
        f"is {height}x{width} where {first_name} is {first.shape[1]}x{first.shape[2]}; "
        "pictures explained together need one size: give the preprocessing a size"
    )

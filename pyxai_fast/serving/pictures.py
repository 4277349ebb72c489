"""From instances to pixels: all of them are looked at before the first is decoded."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyxai_fast.errors import near
from pyxai_fast.images import ImageError, read_image
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.serving.limits import Limits
from pyxai_fast.serving.refusal import Refusal, invalid

FILE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is decoded: others that Pillow knows have decoders that run programs, or crash."""

# Noisy copies of pictures, which clients predict, leave [0, 1]; pictures in 0..255 are a mistake.
_LOWEST, _HIGHEST = -8.0, 9.0

_BMP_COMPRESSED, _BMP_PASSES = (1, 2), 8  # BI_RLE8 and BI_RLE4


@dataclass(frozen=True)
class Sent:
    """A picture as a client has sent it.

    Attributes:
        name: where in the request.
        content: the bytes of a file, of which the head has been read; or pixels [C, H, W].
        area: pixels, as the model gets it.
        effort: pixels to go through until then, each as often as that takes.
    """

    name: str
    content: bytes | Tensor
    area: int
    effort: int


def look(
    instances: Sequence[Any],
    names: Sequence[str],
    preprocessing: Preprocessing,
    limits: Limits,
    *,
    strict: bool,
) -> list[Sent]:
    """What has been sent, as far as it can be told without decoding anything.

    Args:
        instances: the bytes of files, or what stands for a picture in JSON.
        names: of the instances.
        strict: numbers must lie in [0, 1].

    Raises:
        Refusal: of status 400, naming the instance; and if they are too large together.
    """
    sent: list[Sent] = []
    area = effort = 0
    for instance, name in zip(instances, names, strict=True):
        sent.append(_look(instance, name, preprocessing, limits, strict=strict))
        area += sent[-1].area
        effort += sent[-1].effort
        for got, most, which in (
            (area, limits.pixels_together, "as the model gets them"),
            (effort, limits.pixels_decoded, "as they are sent and resized"),
        ):
            if got > most:
                raise Refusal(
                    400,
                    f"instances: must have at most {most:,} pixels together, {which}, "
                    f"got more with {len(instances)} pictures",
                )
    return sent


def decode(
    sent: Sequence[Sent], preprocessing: Preprocessing, given_up: Callable[[], bool]
) -> list[Tensor]:
    """Pixels [C, H, W] of each picture.

    Args:
        given_up: whether nobody waits for them any more; asked before each.

    Raises:
        Refusal: of status 400, naming the instance that cannot be decoded; or given up.
    """
    pixels: list[Tensor] = []
    for each in sent:
        if given_up():
            raise Refusal(499, "nobody waits for it any more", "disconnected")
        pixels.append(_decoded(each, preprocessing))
    return pixels


def check_fields(where: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuses fields that there are not."""
    for name in given:
        if name not in known:
            must = f"be among {', '.join(known)}" if known else "not be given here"
            raise Refusal(400, f"{where}: must {must}, got {name[:80]!r}{near(name, known)}")


# ---------------------------------------------------------------- files


def _look(
    instance: Any, name: str, preprocessing: Preprocessing, limits: Limits, *, strict: bool
) -> Sent:
    """One instance: encoded, as TensorFlow Serving has it, or numbers."""
    if isinstance(instance, bytes):
        return _opened(instance, name, preprocessing, limits)
    if isinstance(instance, Mapping):
        check_fields(name, instance, ("b64", "image", "target") if strict else ("b64", "image"))
        if isinstance(instance.get("image"), Mapping):
            instance, name = instance["image"], f"{name}.image"
            check_fields(name, instance, ("b64",))
        text = instance.get("b64")
        if not isinstance(text, str):
            raise invalid(f"{name}.b64", "be an encoded picture in base64", text)
        try:
            data = base64.b64decode(text.encode("ascii"), validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(400, f"{name}.b64: must be base64") from None
        return _opened(data, f"{name}.b64", preprocessing, limits)
    pixels = _from_numbers(instance, name, preprocessing, limits, strict=strict)
    return Sent(name, pixels, pixels[0].numel(), 0)


def _opened(data: bytes, name: str, preprocessing: Preprocessing, limits: Limits) -> Sent:
    """A file of which only the head is read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FILE_FORMATS) as header:
            width, height = header.size
            passes = _passes(header.info, data)
    except Image.DecompressionBombError:  # so large that Pillow does not tell its size
        raise _too_large(name, limits.pixels, "many more") from None
    except Exception:  # a decoder fed garbage raises almost anything
        raise Refusal(
            400, f"{name}: must be a picture ({', '.join(FILE_FORMATS)}), and cannot be read as one"
        ) from None
    _check_area(name, width, height, preprocessing, limits)
    resized = _resized_area(width, height, preprocessing)
    size = preprocessing.size
    area = resized if size is None else size[0] * size[1]
    return Sent(name, data, area, passes * width * height + resized)


def _passes(info: Mapping[Any, Any], data: bytes) -> int:
    """How often a decoder goes over the pixels, where going through a PNG is once, about.

    A progressive JPEG may have any number of scans, of a few bytes each: eight, as the usual ones
    have, are as fast as a pass. A compressed BMP is decoded by Python.
    """
    if data.startswith(b"\xff\xd8"):
        return 1 + data.count(b"\xff\xda") // 8
    return _BMP_PASSES if info.get("compression") in _BMP_COMPRESSED else 1


def _resized_area(width: int, height: int, preprocessing: Preprocessing) -> int:
    """Pixels of a picture before it is cropped: of a narrow one many more than it has."""
    resize = preprocessing.size if preprocessing.resize is None else preprocessing.resize
    if resize is None:
        return width * height
    if isinstance(resize, int):  # the shorter side
        longer, shorter = max(width, height), min(width, height)
        return resize * max(1, int(resize * longer / shorter))
    return resize[0] * resize[1]


def _decoded(sent: Sent, preprocessing: Preprocessing) -> Tensor:
    if isinstance(sent.content, Tensor):
        return sent.content
    try:
        return read_image(io.BytesIO(sent.content), preprocessing, name=sent.name)
    except ImageError as error:
        raise Refusal(400, str(error)) from error


# ---------------------------------------------------------------- numbers


def _from_numbers(
    values: Any, name: str, preprocessing: Preprocessing, limits: Limits, *, strict: bool
) -> Tensor:
    channels, size = preprocessing.channels, preprocessing.size
    height, width = size or ("H", "W")
    must = f"be numbers [{channels}][{height}][{width}] or [{height}][{width}][{channels}]"
    if not isinstance(values, list):
        raise invalid(name, f"{must}, or an encoded picture", values)
    try:
        array = np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise Refusal(
            400, f"{name}: must {must}, got rows of different lengths, or what is no number"
        ) from None
    given = array.shape
    if array.ndim == 2 and channels == 1:
        array = array[None]
    fits = array.ndim == 3 and array.size > 0
    if fits and not _has_shape(array.shape, channels, size):
        array = array.transpose(2, 0, 1)
        fits = _has_shape(array.shape, channels, size)
    if fits and not _are_numbers(values):
        raise Refusal(400, f"{name}: must {must}, got text, or true or false, among them")
    if not fits:
        shape = "".join(f"[{n}]" for n in given) or "a number"
        raise Refusal(400, f"{name}: must {must}, got {shape}")
    _check_area(name, array.shape[2], array.shape[1], preprocessing, limits)
    low, high = (0.0, 1.0) if strict else (_LOWEST, _HIGHEST)
    if not (array.min() >= low and array.max() <= high):
        raise Refusal(
            400,
            f"{name}: must be pixels from 0 to 1 (divide those of 0 to 255 by 255), "
            f"got {array.min():.6g} to {array.max():.6g}",
        )
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _are_numbers(values: list[Any]) -> bool:
    """Not what is only taken for numbers: "1" and true."""
    if isinstance(values[0], list):
        return all(map(_are_numbers, values))
    return set(map(type, values)) <= {int, float}


def _check_area(
    name: str, width: int, height: int, preprocessing: Preprocessing, limits: Limits
) -> None:
    resized = preprocessing.size is not None or preprocessing.resize is not None
    most = limits.pixels if resized else min(limits.pixels, limits.pixels_unresized)
    if not 1 <= width * height <= most:
        raise _too_large(name, most, f"{width} x {height}")


def _too_large(name: str, most: int, got: str) -> Refusal:
    return Refusal(400, f"{name}: must have at most {most:,} pixels, got {got}")


def _has_shape(shape: tuple[int, ...], channels: int, size: tuple[int, int] | None) -> bool:
    return shape[0] == channels and (size is None or tuple(shape[1:]) == tuple(size))

"""Pictures to train a prior on: a folder, an array, or the demo's digits."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ArgumentError
from ..images import read_images
from ..models.preprocessing import Preprocessing

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
# Pictures read at a time: as floats they take four times the memory.
READ_AT_ONCE = 256


class DataError(ValueError):
    """Pictures that cannot be trained on; the message is one line that says why."""


@dataclass(frozen=True)
class Pictures:
    """Square pictures of one size, uint8 or float32 from 0 to 1, [N, C, S, S]."""

    pixels: Tensor
    source: str

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: Tensor) -> Tensor:
        """Some of them, float32 from 0 to 1."""
        chosen = self.pixels[index]
        return chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same pixels in the same order."""
        digest = hashlib.sha256(f"{self.pixels.dtype} {list(self.pixels.shape)}".encode())
        for part in self.pixels.split(1024):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def load_pictures(
    source: str | os.PathLike[str],
    *,
    size: int | None = None,
    channels: int | None = None,
    key: str | None = None,
) -> Pictures:
    """Pictures by where they are.

    Args:
        source: a folder of pictures, searched through all its folders; a .npy or .npz file of
            [N, H, W] or [N, H, W, C], uint8 or floats from 0 to 1; or "digits", the demo's
            training digits.
        size: the side to bring them to, by their shorter side and a centre crop; None leaves
            arrays as they are.
        channels: 1 or 3; None takes what an array has, and for a folder 1 where all its pictures
            are grey.
        key: which array of a .npz file.

    Raises:
        DataError: there is nothing that can be read, or it is of another kind.
    """
    name = os.fspath(source)
    if channels not in (None, 1, 3):
        raise DataError(f"{name}: channels must be 1 or 3, got {channels}")
    if size is not None and size < 1:
        raise DataError(f"{name}: size must be at least 1, got {size}")
    path = Path(name).expanduser()
    if path.is_dir():
        pixels = _from_folder(path, size, channels or 3)
        if channels is None and bool((pixels == pixels[:, :1]).all()):
            pixels = pixels[:, :1].contiguous()
    elif path.suffix in (".npy", ".npz") and path.is_file():
        pixels = _from_array(path, key)
    elif name == "digits":
        from ..demo.data import load_digits

        pixels = load_digits("train")[0]
    else:
        raise DataError(
            f"{name}: must be a folder of pictures, a .npy or .npz file, or digits; there is no "
            f"folder or array file {path.absolute()}"
        )
    return Pictures(_as_wished(pixels, size, channels, name), name)


def _from_folder(folder: Path, size: int | None, channels: int) -> Tensor:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"{folder}: has no pictures ({', '.join(sorted(SUFFIXES))})")
    if size is None:
        raise DataError(f"{folder}: the pictures of a folder need a size to be brought to")
    geometry = Preprocessing(size=(size, size), resize=size, channels=channels)
    read: list[Tensor] = []
    failures: list[tuple[str, str]] = []
    for first in range(0, len(files), READ_AT_ONCE):
        images, _, failed = read_images(files[first : first + READ_AT_ONCE], geometry)
        read.append((images * 255).round().to(torch.uint8))
        failures += failed
    pixels = torch.cat(read)
    if failures:
        reason = f"{failures[0][0]}: {failures[0][1]}"
        if not len(pixels):
            raise DataError(f"{folder}: none of {len(files)} pictures could be read ({reason})")
        warnings.warn(
            f"{folder}: {len(failures)} of {len(files)} pictures are left out; {reason}",
            stacklevel=3,
        )
    return pixels


def _from_array(path: Path, key: str | None) -> Tensor:
    try:
        found: Any = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            with found as file:
                found = file[_chosen_key(path, list(file), key)]
    except DataError:
        raise
    # A file that is no array raises ValueError, EOFError, BadZipFile...
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: could not be read as an array ({reason})") from error
    kind = f"{found.dtype} {list(found.shape)}"
    as_channels = found.ndim == 4 and found.shape[3] in (1, 3)
    if found.ndim != 3 and not as_channels:
        raise DataError(f"{path}: must be [N, H, W] or [N, H, W, C], C being 1 or 3, got {kind}")
    if found.dtype != np.uint8 and found.dtype.kind != "f":
        raise DataError(f"{path}: must be uint8 or floats from 0 to 1, got {kind}")
    pixels = torch.from_numpy(np.array(found))
    pixels = pixels.permute(0, 3, 1, 2) if as_channels else pixels[:, None]
    if pixels.is_floating_point():
        pixels = pixels.float()
        low, high = (float(end) for end in torch.aminmax(pixels)) if pixels.numel() else (0.0, 1.0)
        if not (low >= 0 and high <= 1):
            raise DataError(f"{path}: floats must be from 0 to 1, got {low:.4g} to {high:.4g}")
    return pixels.contiguous()


def _chosen_key(path: Path, keys: list[str], key: str | None) -> str:
    if key is None and len(keys) == 1:
        return keys[0]
    if key not in keys:
        wish = "a key is needed" if key is None else f"has no array {key!r}"
        raise DataError(f"{path}: {wish}; the arrays are {', '.join(keys) or 'none'}")
    return key


def _as_wished(pixels: Tensor, size: int | None, channels: int | None, name: str) -> Tensor:
    """Brought to a size and a number of channels."""
    if channels is not None and channels != pixels.shape[1]:
        if pixels.shape[1] == 3:
            raise DataError(f"{name}: channels must be 3 for these colour pictures, got 1")
        pixels = pixels.expand(-1, channels, -1, -1).contiguous()
    height, width = pixels.shape[-2:]
    if size is None:
        if height != width:
            raise DataError(f"{name}: pictures of {height}x{width} need a size to be brought to")
        return pixels
    if (height, width) == (size, size):
        return pixels
    shorter = min(height, width)
    to = (round(height * size / shorter), round(width * size / shorter))
    top, left = (to[0] - size) // 2, (to[1] - size) // 2
    parts = []
    for part in pixels.split(READ_AT_ONCE):
        wide = part.float()
        wide = functional.interpolate(wide, size=to, mode="bilinear", antialias=True)
        wide = wide[:, :, top : top + size, left : left + size]
        parts.append(wide if pixels.is_floating_point() else wide.round().to(torch.uint8))
    return torch.cat(parts)


def check_enough(pictures: Pictures, least: int) -> None:
    if len(pictures) < least:
        raise ArgumentError(
            f"{pictures.source}: at least {least} pictures are needed, got {len(pictures)}"
        )

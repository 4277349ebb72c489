"""Masks in a folder: files with the stems of the pictures, white where something matters."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..images import ImageError, read_image
from ..jobs.sources import SUFFIXES
from ..models.preprocessing import Preprocessing


class MaskFolder:
    """The masks of pictures, by the stems of their names.

    Masks are resized and cropped as the pictures are, without smoothing, and are white from half
    of the way on.

    Raises:
        ArgumentError: there is no such folder, or it has two masks of one stem, or none.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ArgumentError(f"evaluate: masks must be a folder, got {self.folder}")
        self._files: dict[str, Path] = {}
        for path in sorted(self.folder.iterdir()):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                continue
            other = self._files.setdefault(path.stem, path)
            if other != path:
                raise ArgumentError(
                    f"evaluate: masks must have a stem each, got {other.name} and {path.name} in "
                    f"{self.folder}"
                )
        if not self._files:
            raise ArgumentError(f"evaluate: masks must hold pictures, got none in {self.folder}")

    def has(self, picture: str) -> bool:
        """Whether there is one for a picture, a path or the name of a member of a tar file."""
        return _stem(picture) in self._files

    def fingerprint(self, pictures: Iterable[str]) -> dict[str, Any]:
        """How many pictures have a mask, and a digest of the files of these.

        Raises:
            ArgumentError: one of them cannot be read.
        """
        state, count = hashlib.sha256(), 0
        for stem in map(_stem, pictures):
            path = self._files.get(stem)
            if path is None:
                continue
            try:
                held = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise ArgumentError(f"evaluate: masks must be readable, got {error}") from error
            state.update(f"{stem}\0{held}\n".encode(errors="surrogateescape"))
            count += 1
        return {"count": count, "digest": f"sha256:{state.hexdigest()}"}

    def read(self, picture: str, preprocessing: Preprocessing, size: tuple[int, int]) -> Tensor:
        """Bool [1, H, W]; nothing is inside where there is no mask.

        Args:
            picture: as for `has`.
            preprocessing: of the picture.
            size: (height, width) of the picture, as it was read.

        Raises:
            ArgumentError: it cannot be read, or is of another size.
        """
        path = self._files.get(_stem(picture))
        if path is None:
            return torch.zeros(1, *size, dtype=torch.bool)
        grey = replace(preprocessing, channels=1, mean=(0.0,), std=(1.0,), interpolation="nearest")
        try:
            mask = read_image(path, grey) >= 0.5
        except ImageError as error:
            raise ArgumentError(f"evaluate: masks must be readable, got {error}") from error
        if tuple(mask.shape[1:]) != tuple(size):
            raise ArgumentError(
                f"evaluate: masks must be of the size of their pictures, got {path} of "
                f"{list(mask.shape[1:])} for one of {list(size)}"
            )
        return mask


def _stem(picture: str) -> str:
    # Of a second member of one name, x.png#2, too.
    return Path(picture.rpartition("::")[2]).stem

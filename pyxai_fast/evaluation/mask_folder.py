"""Masks in a folder: files named as the pictures, white where something matters."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..images import ImageError, read_image
from ..jobs.sources import find_items
from ..models.preprocessing import Preprocessing

# Of a file: the folders that it is in, and its stem.
Place = tuple[str, ...]


class MaskFolder:
    """The masks of pictures, by the stems of their names, and by their folders where there are any.

    The mask ``cat.png`` is that of a ``cat.jpg``, wherever it lies, and ``1/cat.png`` that of one
    in a folder ``1``; where both are there, the second is. Masks are resized and cropped as the
    pictures are, without smoothing, and are white from half of the way on.

    Raises:
        ArgumentError: there is no such folder, or it has two masks of one name, or none.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ArgumentError(f"evaluate: masks must be a folder, got {self.folder}")
        self._files: dict[Place, Path] = {}
        try:
            found = [Path(item.path) for item in find_items(self.folder)]
        except ArgumentError as error:
            raise ArgumentError(
                f"evaluate: masks must hold pictures, got none in {self.folder}"
            ) from error
        for path in found:
            name = path.relative_to(self.folder)
            other = self._files.setdefault(_place(str(name)), path)
            if other != path:
                raise ArgumentError(
                    f"evaluate: masks must have a stem each, got {other.relative_to(self.folder)} "
                    f"and {name} in {self.folder}"
                )

    def has(self, picture: str) -> bool:
        """Whether there is one for a picture, a path or the name of a member of a tar file."""
        return self._place_of(picture) is not None

    def check(self, pictures: Iterable[str]) -> None:
        """Refuses pictures of which two would have the same mask.

        Raises:
            ArgumentError: naming both.
        """
        owners: dict[Place, str] = {}
        for picture in pictures:
            place = self._place_of(picture)
            if place is None:
                continue
            other = owners.setdefault(place, picture)
            if _member(other) != _member(picture):
                raise ArgumentError(
                    "evaluate: masks must be of one picture each (those in folders within "
                    f"{self.folder} are of pictures in folders of the same names), got "
                    f"{self._files[place].relative_to(self.folder)} for {other} and {picture}"
                )

    def fingerprint(self, pictures: Iterable[str]) -> dict[str, Any]:
        """How many pictures have a mask, and a digest of the files of these.

        Raises:
            ArgumentError: one of them cannot be read.
        """
        state, count = hashlib.sha256(), 0
        for place in map(self._place_of, pictures):
            if place is None:
                continue
            try:
                held = hashlib.sha256(self._files[place].read_bytes()).hexdigest()
            except OSError as error:
                raise ArgumentError(f"evaluate: masks must be readable, got {error}") from error
            state.update(f"{'/'.join(place)}\0{held}\n".encode(errors="surrogateescape"))
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
        place = self._place_of(picture)
        if place is None:
            return torch.zeros(1, *size, dtype=torch.bool)
        path = self._files[place]
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

    def _place_of(self, picture: str) -> Place | None:
        """Of its mask: that which has most of the folders that the picture is in."""
        place = _place(picture)
        ends = (place[first:] for first in range(len(place)))
        return next((end for end in ends if end in self._files), None)


def _place(name: str) -> Place:
    # A tar file is a folder too, and a second member of one name, x.png#2, has the place of x.png.
    path = Path(name.replace("::", "/"))
    return (*path.parts[:-1], path.stem)


def _member(picture: str) -> str:
    return re.sub(r"#\d+$", "", picture)

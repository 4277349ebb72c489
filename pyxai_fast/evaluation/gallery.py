"""A few of the pictures and their maps, kept to be looked at."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..jobs.atomic_file import atomic_file
from ..plots import GalleryRow

# Pictures that are kept, spread evenly over all.
KEPT = 4


class Gallery:
    """Pictures and maps by number.

    Args:
        numbers: of the pictures that are kept.
        path: of an .npz file; what it holds is read. None keeps them in memory alone.
    """

    def __init__(self, numbers: Iterable[int], path: Path | None = None) -> None:
        self.numbers, self.path = frozenset(numbers), path
        self._pixels: dict[int, Tensor] = {}
        self._maps: dict[int, dict[str, Tensor]] = {}
        self._captions: dict[int, tuple[str | None, float | None]] = {}
        if path is not None and path.exists():
            self._load(path)

    def add_picture(
        self, number: int, pixels: Tensor, class_name: str | None, probability: float | None
    ) -> None:
        """Pixels [C, H, W], and the class that is explained."""
        if number in self.numbers:
            self._pixels[number] = pixels.detach().cpu().float()
            self._captions[number] = class_name, probability

    def add_map(self, number: int, method: str, attributions: Tensor) -> None:
        """Attributions [C, H, W], of which the sum over channels is kept."""
        if number in self.numbers:
            kept = attributions.detach().double().sum(0).float().cpu()
            self._maps.setdefault(number, {})[method] = kept

    def rows(self, methods: Iterable[str]) -> list[GalleryRow]:
        """What there is to be drawn, with maps in the order of the methods."""
        return [
            GalleryRow(
                self._pixels[number],
                {name: found[name] for name in methods if name in found},
                *self._captions[number],
            )
            for number, found in sorted(self._maps.items())
            if number in self._pixels
        ]

    def save(self) -> None:
        """Writes the file, if there is to be one."""
        if self.path is None:
            return
        arrays: dict[str, Any] = {f"pixels/{n}": p.numpy() for n, p in self._pixels.items()}
        for number, maps in self._maps.items():
            arrays |= {f"map/{number}/{name}": values.numpy() for name, values in maps.items()}
        captions = json.dumps({str(n): caption for n, caption in self._captions.items()})
        with atomic_file(self.path) as path, path.open("wb") as file:
            np.savez_compressed(file, captions=np.array(captions), **arrays)

    def _load(self, path: Path) -> None:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            for number, caption in json.loads(str(arrays["captions"])).items():
                self._captions[int(number)] = caption[0], caption[1]
            for name in arrays.files:
                kind, _, rest = name.partition("/")
                if kind == "pixels":
                    self._pixels[int(rest)] = torch.from_numpy(arrays[name])
                elif kind == "map":
                    number, _, method = rest.partition("/")
                    found = self._maps.setdefault(int(number), {})
                    found[method] = torch.from_numpy(arrays[name])


def spread(count: int, kept: int = KEPT) -> list[int]:
    """Numbers of pictures, spread evenly over so many."""
    if count <= kept:
        return list(range(count))
    return sorted({round(i * (count - 1) / (kept - 1)) for i in range(kept)})

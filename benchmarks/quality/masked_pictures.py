"""Pictures of which it is known where the thing is: a mask or a box for each."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from likelihood_ratio import PICTURES
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from pyxai_fast.images import read_image
from pyxai_fast.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Entry:
    """A thing in a picture.

    Attributes:
        name: of the entry; no two have the same.
        image: file.
        mask: file, as large as the picture or another size of the same shape; bright where the
            thing is.
        box: left, top, right, bottom, in pixels of the picture; in place of a mask.
        labels: classes of the model that name the thing. None: the class that is predicted.
    """

    name: str
    image: Path
    mask: Path | None
    box: tuple[float, float, float, float] | None
    labels: tuple[int, ...] = ()

    def inside(self, preprocessing: Preprocessing) -> Tensor:
        """Where the thing is in the picture as the model gets it, bool [H, W]."""
        shown = Preprocessing(
            size=preprocessing.size,
            resize=preprocessing.resize,
            interpolation=preprocessing.interpolation,
            channels=1,
        )
        return read_image(self._drawn() if self.mask is None else self.mask, shown)[0] > 0.5

    def _drawn(self) -> Any:
        """The box as a picture in a file."""
        with Image.open(self.image) as file:
            drawn = Image.new("L", ImageOps.exif_transpose(file).size)
        assert self.box is not None
        left, top, right, bottom = self.box
        ImageDraw.Draw(drawn).rectangle((left, top, right - 1, bottom - 1), fill=255)
        kept = io.BytesIO()
        drawn.save(kept, format="png")
        kept.seek(0)
        return kept


def from_index(path: Path, labels: str = "labels") -> list[Entry]:
    """The entries of a JSON file: a list of {"image": file, "mask": file or "box": [left, top,
    right, bottom], "labels": [class, ...], "category": name}; labels and category may be missing.

    Files are named from the folder of the index.

    Args:
        labels: the key that labels have.
    """
    entries: list[Entry] = []
    taken: set[str] = set()
    for number, each in enumerate(json.loads(path.read_text())):
        if not isinstance(each, dict) or "image" not in each or not {"mask", "box"} & each.keys():
            raise SystemExit(
                f"{path}: entry {number} must have an image, and a mask or a box, got {each!r:.80}"
            )
        parts = (Path(each["image"]).stem, each.get("category"))
        name = " ".join(part for part in parts if part)
        name = name if name not in taken else f"{name} {number}"
        taken.add(name)
        entries.append(
            Entry(
                name,
                path.parent / each["image"],
                path.parent / each["mask"] if "mask" in each else None,
                tuple(each["box"]) if "mask" not in each else None,
                tuple(int(label) for label in each.get(labels, ())),
            )
        )
    return entries


def from_folders(images: Path, masks: Path) -> list[Entry]:
    """A mask for each picture, with its name but for the suffix; what is predicted is explained."""
    named = {file.stem: file for file in sorted(masks.iterdir()) if is_picture(file)}
    return [
        Entry(file.stem, file, named[file.stem], None)
        for file in sorted(images.iterdir())
        if is_picture(file) and file.stem in named
    ]


def is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURES


def chosen_of(labels: Sequence[int], scores: Tensor, top: int) -> int | None:
    """The label with the largest score [n], or None where it is not among the `top` largest.

    Without labels the class with the largest score.
    """
    scores = scores.cpu()
    among = torch.tensor(list(labels) or [int(scores.argmax())])
    chosen = int(among[scores[among].argmax()])
    return chosen if int((scores > scores[chosen]).sum()) < top else None

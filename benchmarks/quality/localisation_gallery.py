"""Maps of the first seed, kept in a folder, and a picture of some with the mask's outline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from segment_maps import CONTROLS, LABELS, Case, Made
from torch import Tensor
from torch.nn import functional

from pyxai_fast.plots import Panels, bar_strip, overlay, panel_grid, pixel_image, save_figure

OUTLINE = (0, 140, 60)
FILE = "gallery.png"


class KeptMaps:
    """Args:
    folder: where maps are kept, and the gallery goes; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def keep(self, case: Case, name: str, made: Made) -> None:
        if self.folder is not None:
            (self.folder / "maps").mkdir(parents=True, exist_ok=True)
            np.save(self._file(case, name), made.values.float().cpu().numpy())

    def draw(self, cases: Sequence[Case], rows: int) -> None:
        """The gallery of the first cases; controls are left out."""
        if self.folder is None or not cases[:rows]:
            return
        drawn = []
        for case in cases[:rows]:
            files = {LABELS[n]: self._file(case, n) for n in LABELS if n not in CONTROLS}
            maps = {
                label: torch.from_numpy(np.load(file)) if file.exists() else None
                for label, file in files.items()
            }
            drawn.append((case.name, panels_of(case, maps)))
        figure = panel_grid(drawn, title=None, bar=bar_strip(signed=True, tinted=True))
        save_figure(figure, self.folder / FILE)

    def _file(self, case: Case, name: str) -> Path:
        assert self.folder is not None
        return self.folder / "maps" / f"{case.name.replace('/', '_')}-{name}.npy"


def outlined(picture: NDArray[np.uint8], mask: Tensor) -> NDArray[np.uint8]:
    """A picture [H, W, 3] with the edge of a mask, bool [H, W], two pixels wide, drawn on it."""
    inner = -functional.max_pool2d(-mask[None].float(), 5, 1, 2)[0]
    edge = (mask & (inner == 0)).numpy()
    found = picture.copy()
    found[edge] = OUTLINE
    return found


def panels_of(case: Case, maps: Mapping[str, Tensor | None]) -> Panels:
    """The input and its maps [H, W], by what stands above them."""
    shown = case.inputs[0].cpu() if case.shown is None else case.shown
    # Of a sound the mask is one of time.
    mask = case.mask.expand(shown.shape[1:])

    def panel(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = outlined(picture, mask)
        # Low frequencies come first, and belong below.
        return found if case.mask.dim() > 1 else np.ascontiguousarray(found[::-1])

    panels: Panels = {"input": panel(pixel_image(shown))}
    for label, values in maps.items():
        panels[label] = None if values is None else panel(overlay(shown, values))
    return panels

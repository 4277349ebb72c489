"""A picture of known evidence, with its outline, and of the maps that look for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..plots import Panels, bar_strip, map_image, overlay, panel_grid, pixel_image
from .examples import Examples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = NDArray[np.uint8]

OUTLINE = (0, 150, 70)
# Panels are at least so many pixels high, so that outlines are thin.
_FINE = 384
# Pixels of these that an outline has at most.
_THICK = 5


@dataclass(frozen=True)
class Shown:
    """A row of the gallery.

    Attributes:
        caption: under it.
        examples: of which it shows the first one; of tables all, a row each.
        maps: by name, shaped as the masks.
        upside_down: whether what comes first belongs below, as low frequencies do.
    """

    caption: str
    examples: Examples
    maps: Mapping[str, Tensor]
    upside_down: bool = False


def evidence_gallery(rows: Sequence[Shown], *, title: str | None = None) -> Figure:
    """Inputs and maps, with the outline of the evidence drawn on each."""
    drawn: list[tuple[str | None, Panels]] = [(row.caption, _panels(row)) for row in rows]
    names = list(dict.fromkeys(name for _, panels in drawn for name in panels))
    filled = [(caption, {name: panels.get(name) for name in names}) for caption, panels in drawn]
    return panel_grid(filled, title=title, bar=bar_strip(signed=True, tinted=True))


def outlined(picture: Picture, mask: Tensor) -> Picture:
    """A picture [H, W, 3], enlarged, with a line around a mask, bool [H, W]."""
    scale = max(1, -(-_FINE // mask.shape[0]))
    large = picture.repeat(scale, 0).repeat(scale, 1)
    within = mask.repeat_interleave(scale, 0).repeat_interleave(scale, 1)[None].float()
    line = max(1, min(scale // 2, _THICK))
    # Outside of the mask, so that small ones stay visible.
    around = functional.max_pool2d(within, 2 * line + 1, 1, line)[0] > 0
    large[(around & (within[0] == 0)).numpy()] = OUTLINE
    return large


def _panels(row: Shown) -> Panels:
    masks = row.examples.masks
    if masks.dim() == 2:
        # Of each row the largest is as dark.
        def scaled(values: Tensor) -> Tensor:
            return values / values.abs().amax(1, keepdim=True).clamp(min=1e-12)

        panels: Panels = {"input": outlined(map_image(scaled(row.examples.inputs)), masks)}
        for name, values in row.maps.items():
            panels[name] = outlined(map_image(scaled(values)), masks)
        return panels
    inputs, mask = row.examples.inputs[0], masks[0, 0]
    order = [0] if row.upside_down else []
    mask = mask.flip(order)
    panels = {"input": outlined(pixel_image(inputs.flip([1] if order else [])), mask)}
    for name, values in row.maps.items():
        over = overlay(inputs, torch.as_tensor(values[0]))
        panels[name] = outlined(np.ascontiguousarray(over[::-1] if order else over), mask)
    return panels

"""A planted shortcut: pictures whose class is that of a mark in a corner, not of the object."""

from __future__ import annotations

import torch

from .draws import Draws
from .examples import Examples
from .pictures import CLASS_NAMES, SIDE, make_pictures

# Two by two cells, light or dark; none is another one turned into its negative.
PATTERNS = ((1, 1, 1, 0), (1, 0, 0, 1), (1, 1, 0, 0), (1, 0, 1, 0), (0, 0, 0, 1))
CELL = 5


def make_marked_pictures(count: int, seed: int, size: int | tuple[int, int] = SIDE) -> Examples:
    """Pictures with an object, and in one of the corners a mark that alone decides the class.

    The kind of object is drawn without regard to the mark, so that a network which is trained on
    them has nothing but the mark to go by. To somebody who takes it for one that knows objects, a
    map that points to the mark tells.

    Args:
        count, seed, size: as in make_pictures.

    Returns:
        Examples: the masks are those of the marks, of 10x10 pixels, one pixel from the edges, over
        anything else; the objects are decoys; `without` has the object and no mark.

    Raises:
        ValueError: an argument that does not fit, naming it.
    """
    draws = Draws("make_marked_pictures", count, seed)
    pictures = make_pictures(count, seed, size)
    labels = draws.labels(len(CLASS_NAMES) - 1)
    corners = torch.randint(4, (count,), generator=draws.generator)
    cells = torch.tensor(PATTERNS).view(-1, 1, 2, 2).float()
    patterns = cells.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)[labels]
    dark, light = draws.between(0.0, 0.15, 3, 1, 1), draws.between(0.85, 1.0, 3, 1, 1)
    marks = torch.lerp(dark, light, patterns)
    inputs, masks = pictures.inputs.clone(), torch.zeros_like(pictures.masks)
    for corner in range(4):
        rows = (corners == corner).nonzero()[:, 0]
        down, right = _edge(corner // 2), _edge(corner % 2)
        inputs[rows, :, down, right] = marks[rows]
        masks[rows, :, down, right] = True
    return Examples(inputs, labels, masks, pictures.inputs, pictures.masks & ~masks)


def _edge(far: int) -> slice:
    """Of a side: where the mark is if it is near its beginning, or its end."""
    return slice(-1 - 2 * CELL, -1) if far else slice(1, 1 + 2 * CELL)

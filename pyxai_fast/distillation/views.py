"""What mask and student see of a query: pictures made small, spectra, or a table's bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .. import ops
from ..errors import ArgumentError
from ..queries import Queries
from ..queries.queries import of_examples, words_of

Transform = Callable[[Tensor], Tensor]
# Greatest value of what is seen, as of the 8-bit pictures of the release.
FULL = 255.0


class View(Protocol):
    """Queries as the networks see them.

    Attributes:
        shape: of one, (C, H, W) or (D,).
        has_border: whether what is at the edges matters little.
    """

    has_border: bool

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __call__(self, rows: slice) -> Tensor:
        """Some of the queries about every input, [B, R, *shape]."""
        ...

    def on_inputs(self, masks: Tensor) -> Tensor:
        """Masks [B, 1, h, w], or [B, S], over the inputs' own features."""
        ...


class SmallPictures:
    """Pictures of at most `size` pixels a side: segments are replaced in the small picture, so that
    the full set of large ones is never made again."""

    has_border = True

    def __init__(self, queries: Queries, size: int) -> None:
        self.queries = queries
        full = queries.inputs.shape[-2:]
        self._full = full
        side = _fitted(full, size)
        self.pictures = _resized(queries.inputs, side)
        self.segments = functional.interpolate(
            queries.segments.double(), size=side, mode="nearest-exact"
        ).int()
        hidden = queries.hidden
        if hidden.dim() > 0:
            hidden = functional.interpolate(hidden.double(), size=side, mode="nearest-exact")
        self.hidden = hidden.to(self.pictures.dtype)
        self.shape = tuple(self.pictures.shape[1:])
        # From black, or what is below it, to the greatest value of the picture.
        self._low, self._scale = _range(self.pictures, lowest=0.0)

    def __call__(self, rows: slice) -> Tensor:
        everyone = slice(None)
        masked = ops.mask_segments(
            self.pictures,
            of_examples(self.segments, everyone),
            words_of(self.queries.coalitions, rows, everyone),
            self.hidden,
        )
        seen: Tensor = masked.unflatten(0, (-1, len(self.pictures))).transpose(0, 1)
        return (seen - self._low[:, None]) * self._scale[:, None]

    def on_inputs(self, masks: Tensor) -> Tensor:
        return smooth(masks, self._full)


class Transformed:
    """What `transform` makes of the masked inputs, [R, C', H, W], made small."""

    has_border = False

    def __init__(self, queries: Queries, size: int, transform: Transform) -> None:
        self.queries, self.transform = queries, transform
        first = transform(queries.masked(slice(0, 1)))
        self._full = queries.inputs.shape[-2:]
        if first.dim() != 4 or first.shape[-2:] != self._full or len(first) != len(queries.inputs):
            raise ArgumentError(
                f"DAX: transform must give [R, C, {self._full[0]}, {self._full[1]}] for inputs "
                f"{list(queries.inputs.shape)}, got {list(first.shape)}"
            )
        self._side = _fitted(self._full, size)
        # From the least to the greatest value of the whole input.
        self._low, self._scale = _range(first.float())
        self.shape = (first.shape[1], *self._side)

    def __call__(self, rows: slice) -> Tensor:
        seen = _resized(self.transform(self.queries.masked(rows)), self._side)
        each: Tensor = seen.unflatten(0, (-1, len(self._low))).transpose(0, 1)
        return (each - self._low[:, None]) * self._scale[:, None]

    def on_inputs(self, masks: Tensor) -> Tensor:
        return smooth(masks, self._full)


class Bits:
    """Which of its segments each query of an input keeps; of a table a segment is a feature, or
    several.

    Attributes:
        exists: bool [B, S], which of the most segments that an input has each has.
    """

    has_border = False

    def __init__(self, queries: Queries) -> None:
        count = len(queries.inputs)
        kept = ops.unpack_coalitions(queries.coalitions.words, max(queries.n_segments, default=0))
        kept = kept.transpose(0, 1).float()
        self.exists = queries.exists()
        alike = len(kept) == 1 and bool(self.exists.all())
        # Rows of a table share their queries, which are then held once.
        self._kept = kept.expand(count, -1, -1) if alike else kept * self.exists[:, None]
        labels = queries.segments.long()
        self._labels = labels.expand(count, *labels.shape[1:])
        self.shape = (self._kept.shape[2],)

    def __call__(self, rows: slice) -> Tensor:
        return self._kept[:, rows]

    def on_inputs(self, masks: Tensor) -> Tensor:
        """[B, ...], one channel or as many as segments have."""
        return masks.gather(1, self._labels.flatten(1)).view(self._labels.shape)


def smooth(masks: Tensor, size: torch.Size) -> Tensor:
    """Cells of a mask run into each other where it is brought to another size."""
    return functional.interpolate(masks, size=size, mode="bilinear", align_corners=False)


def _range(pictures: Tensor, lowest: float = float("inf")) -> tuple[Tensor, Tensor]:
    """Of each picture, what is to become 0, and by what the rest is multiplied to reach FULL."""
    flat = pictures.flatten(1)
    low = flat.amin(1).clamp(max=lowest)
    span = (flat.amax(1) - low).clamp(min=1e-12)
    return low.view(-1, 1, 1, 1), (FULL / span).view(-1, 1, 1, 1)


def _fitted(full: torch.Size, size: int) -> tuple[int, int]:
    """The longer side becomes `size`, where it is longer."""
    share = min(1.0, size / max(full))
    return max(1, round(full[0] * share)), max(1, round(full[1] * share))


def _resized(pictures: Tensor, side: tuple[int, int]) -> Tensor:
    if tuple(pictures.shape[-2:]) == side:
        return pictures.float()
    return functional.interpolate(
        pictures.float(), size=side, mode="bilinear", align_corners=False, antialias=True
    )

"""What a path model is, apart from its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional

from ..errors import ArgumentError

GUIDES = ("faithful", "sparse")


@dataclass(frozen=True)
class PathModelConfig:
    """The networks' shape, and the units of what they take and answer.

    Args:
        shape: of a code, the space paths lie in: (C, H, W) of pixels or latents, or (D,).
        grid: side of the grid of paces: the features of a cell, and all its channels, go together,
            smoothly into those of its neighbours. None gives every feature a pace of its own.
        points: T, steps of a path: one token each.
        width, heads, depth: of each transformer.
        levels: of noise, with DDPM's linear schedule.
        spread: standard deviation of a path's increments, relative to their mean.
        ends: mean and standard deviation of codes, by which the guides see them.
        scores: mean and standard deviation of what each guide was trained on, over all paths to
            all pictures: of faithfulness, and of entropy in nats.
        codec: "pixels", "latents" or "features".
    """

    shape: tuple[int, ...]
    grid: int | None = 16
    points: int = 50
    width: int = 320
    heads: int = 10
    depth: int = 2
    levels: int = 100
    spread: float = 1.0
    ends: tuple[float, float] = (0.0, 1.0)
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    codec: str = "pixels"

    def __post_init__(self) -> None:
        for name in ("points", "width", "heads", "depth", "levels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ArgumentError(
                    f"PathModel: {name} must be a whole number of at least 1, got {value!r}"
                )
        if self.width % self.heads:
            raise ArgumentError(
                f"PathModel: width must be a multiple of heads ({self.heads}), got {self.width}"
            )
        if self.levels > 1000:
            raise ArgumentError(f"PathModel: levels must be at most 1000, got {self.levels}")
        if len(self.shape) not in (1, 3) or min(self.shape) < 1:
            raise ArgumentError(
                f"PathModel: shape must be (C, H, W) or (D,), got {tuple(self.shape)}"
            )
        if self.grid is not None and (len(self.shape) != 3 or self.grid < 1):
            raise ArgumentError(
                "PathModel: grid must be None, or at least 1 with codes of [C, H, W], got "
                f"{self.grid!r} for {tuple(self.shape)}"
            )

    @property
    def pace_shape(self) -> tuple[int, int, int]:
        """Of the paces of one token, (c, h, w)."""
        if len(self.shape) == 1:
            return (1, 1, self.shape[0])
        if self.grid is None:
            return (self.shape[0], self.shape[1], self.shape[2])
        return (1, min(self.grid, self.shape[1]), min(self.grid, self.shape[2]))

    @property
    def features(self) -> int:
        """P, the width of a token."""
        return math.prod(self.pace_shape)

    @property
    def channels(self) -> int:
        """Of codes."""
        return self.shape[0] if len(self.shape) == 3 else 1

    def over_code(self, progress: Tensor) -> Tensor:
        """Paces [R, P] of every feature of a code, [R, *shape]: between cells, bilinear.

        Weights are positive and add up to 1, so that 0 stays 0, 1 stays 1, and what rises rises.
        """
        rows = progress.shape[0]
        if self.features == math.prod(self.shape):
            return progress.reshape(rows, *self.shape)
        cells = progress.reshape(rows, *self.pace_shape)
        size = self.shape[1:]
        fine = functional.interpolate(cells, size=size, mode="bilinear", align_corners=False)
        return fine.clamp(0, 1).expand(rows, *self.shape)

    def seen(self, codes: Tensor) -> Tensor:
        """Codes [R, *shape] as the guides see them, [R, C * h * w]: means over cells."""
        mean, deviation = self.ends
        cells = codes.reshape(codes.shape[0], self.channels, *_picture(self.shape))
        size = self.pace_shape[1:]
        if cells.shape[2:] != size:
            cells = functional.adaptive_avg_pool2d(cells, size)
        return ((cells - mean) / deviation).flatten(1)


def _picture(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[1], shape[2]) if len(shape) == 3 else (1, shape[0])

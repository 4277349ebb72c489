"""Everything that decides the weights of a trained prior, apart from data and software."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError
from ..runtime.training import learning_rate_at


@dataclass(frozen=True)
class PriorRecipe:
    """The network, and how it is trained.

    Args:
        size: the side of pictures.
        channels: of pictures.
        widths: channels of the network at each resolution, each half of the one before.
        layers: residual blocks at each resolution.
        attention: sides of the feature maps that have self-attention.
        norm_groups: of the group normalisation; widths are multiples of it.
        dropout: in residual blocks.
        levels: of noise, with DDPM's linear schedule.
        steps: batches.
        batch_size: pictures in one.
        learning_rate: AdamW's at its peak: it rises linearly, then falls as a cosine, to zero.
        weight_decay: AdamW's.
        warm_up: steps in which the learning rate rises.
        gradient_clip: the largest norm of a gradient.
        ema: decay of the running mean of the weights, which is what is kept.
        flip: mirror pictures, left to right, at random.
        shift: move pictures by up to so many pixels, at random; edges are repeated.
        held_out: share of the pictures that is only measured on.
        bf16: multiply in bfloat16 (autocast).
        seed: of everything random.
    """

    size: int = 32
    channels: int = 3
    widths: tuple[int, ...] = (64, 128, 128)
    layers: int = 2
    attention: tuple[int, ...] = ()
    norm_groups: int = 8
    dropout: float = 0.0
    levels: int = 1000
    steps: int = 20_000
    batch_size: int = 64
    learning_rate: float = 4e-4
    weight_decay: float = 0.0
    warm_up: int = 500
    gradient_clip: float = 1.0
    ema: float = 0.999
    flip: bool = False
    shift: int = 0
    held_out: float = 0.1
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "layers", "norm_groups", "levels", "steps", "batch_size"):
            self._require(name, _is_count(getattr(self, name), 1), "a whole number of at least 1")
        for name in ("warm_up", "shift", "seed"):
            self._require(name, _is_count(getattr(self, name), 0), "a whole number of at least 0")
        for name in ("learning_rate", "gradient_clip"):
            self._require(name, 0 < getattr(self, name) < math.inf, "a positive number")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0")
        for name in ("dropout", "ema"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and less than 1")
        self._require("held_out", 0 < self.held_out < 1, "between 0 and 1")
        self._require("channels", self.channels in (1, 3), "1 or 3")
        self._require(
            "widths",
            bool(self.widths)
            and all(_is_count(width, 1) and not width % self.norm_groups for width in self.widths),
            f"multiples of norm_groups ({self.norm_groups})",
        )
        halvings = 2 ** (len(self.widths) - 1)
        self._require(
            "size",
            self.size % halvings == 0,
            f"a multiple of {halvings}, because {len(self.widths)} widths halve it "
            f"{len(self.widths) - 1} times",
        )
        self._require(
            "attention",
            all(side in self.sides for side in self.attention),
            f"among the sides of the feature maps, {', '.join(map(str, self.sides))}",
        )

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the feature maps, one for each width."""
        return tuple(self.size // 2**i for i in range(len(self.widths)))

    def learning_rate_at(self, step: int) -> float:
        """Of a step, from 0."""
        return learning_rate_at(self, step)

    def _require(self, name: str, fits: bool, what: str) -> None:
        if not fits:
            raise ArgumentError(f"PriorRecipe: {name} must be {what}, got {getattr(self, name)!r}")


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least

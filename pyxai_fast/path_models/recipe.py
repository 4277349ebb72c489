"""Everything that decides the weights of a path model, apart from data, classifier and software."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError

OUTPUTS = ("logit", "prob", "logprob", "margin")


@dataclass(frozen=True)
class PathRecipe:
    """The networks, the paths they learn from, and how.

    Sizes and rates are those of DiffIG where they are public (levels, learning rate, weight decay,
    batch size, the range of concentrations); points, width, heads, depth and the number of paths
    are not.

    Args:
        grid: side of the grid of paces; 0 gives every feature of a code its own.
        points: T, steps of a path; a power of 2, so that all of them are equally long.
        width, heads, depth: of each transformer.
        levels: of noise.
        alphas: range of the concentrations of the stick-breaking paths.
        paths: that are scored, for the guides; the diffusion model has fresh ones in each step.
        baseline: grey level from which paths start.
        output: what is explained of the class that is predicted.
        steps: batches.
        batch_size: paths in one.
        learning_rate: AdamW's at its peak: it rises linearly, then falls as a cosine, to zero.
        weight_decay: AdamW's.
        warm_up: steps in which the learning rate rises.
        gradient_clip: the largest norm of a gradient.
        ema: decay of the running mean of the weights, which is what is kept.
        held_out: share of the pictures whose paths are only measured on.
        bf16: multiply in bfloat16 (autocast).
        seed: of everything random.
    """

    grid: int = 16
    points: int = 32
    width: int = 320
    heads: int = 10
    depth: int = 2
    levels: int = 100
    alphas: tuple[float, float] = (1.0, 20.0)
    paths: int = 10_000
    baseline: float = 0.0
    output: str = "logit"
    steps: int = 100_000
    batch_size: int = 64
    learning_rate: float = 2e-4
    weight_decay: float = 1e-5
    warm_up: int = 500
    gradient_clip: float = 1.0
    ema: float = 0.999
    held_out: float = 0.1
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("points", "width", "heads", "depth", "levels", "paths", "steps", "batch_size")
        for name in counts:
            self._require(name, _is_count(getattr(self, name), 1), "a whole number of at least 1")
        self._require("points", self.points & (self.points - 1) == 0, "a power of 2")
        for name in ("grid", "warm_up", "seed"):
            self._require(name, _is_count(getattr(self, name), 0), "a whole number of at least 0")
        for name in ("learning_rate", "gradient_clip"):
            self._require(name, 0 < getattr(self, name) < math.inf, "a positive number")
        self._require("levels", self.levels <= 1000, "at most 1000")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0")
        self._require("ema", 0 <= self.ema < 1, "at least 0 and less than 1")
        self._require("held_out", 0 < self.held_out < 1, "between 0 and 1")
        self._require("width", not self.width % self.heads, f"a multiple of heads ({self.heads})")
        self._require("output", self.output in OUTPUTS, f"one of {', '.join(OUTPUTS)}")
        self._require("baseline", math.isfinite(self.baseline), "a number")
        low_high = len(self.alphas) == 2 and 0 < self.alphas[0] <= self.alphas[1] < math.inf
        self._require("alphas", low_high, "two positive numbers, the smaller first")

    def _require(self, name: str, fits: bool, what: str) -> None:
        if not fits:
            raise ArgumentError(f"PathRecipe: {name} must be {what}, got {getattr(self, name)!r}")


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least

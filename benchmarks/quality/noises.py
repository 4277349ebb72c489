"""The kinds of noise that are compared, and the cosine that each reaches on a linear score."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyxai_fast import LikelihoodRatio
from pyxai_fast.gradients.turns import LEAST

KEEP = 0.25

# (features, tiles, units) -> squared length of the error over that of the slope. Tiles are equal.
Excess = Callable[[int, int, int], float]


@dataclass(frozen=True)
class Noise:
    """One way to perturb.

    Attributes:
        label: in tables and plots.
        options: of LikelihoodRatio.
        excess: the error that theory gives a linear score; None where it depends on the slope.
        tiled: whether `blocks` is a tile size.
        least: turns that each tile must have.
    """

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    excess: Excess | None = None
    tiled: bool = False
    least: int = 0

    @property
    def shared(self) -> bool:
        return self.options.get("mode") == "shared"

    def units(self, queries: int) -> int:
        """Independent samples of the slope: pairs, where copies are antithetic."""
        return queries // 2 if self.options.get("antithetic", True) else queries

    def fits(self, queries: int, tiles: int) -> bool:
        """Whether the queries are enough for every tile to have its turns."""
        return self.units(queries) >= self.least * tiles

    def gradient(self, queries: int, sigma: float, tile: int, seed: int) -> LikelihoodRatio:
        blocks = {"blocks": tile} if self.tiled else {}
        return LikelihoodRatio(queries, sigma, seed=seed, **self.options, **blocks)

    def theory(self, features: int, tiles: int, queries: int) -> float | None:
        """The cosine to the gradient of a linear score; to its means over tiles, where shared."""
        if self.excess is None:
            return None
        return 1 / math.sqrt(1 + self.excess(features, tiles, self.units(queries)))


def _everywhere(features: int, tiles: int, units: int) -> float:
    return (features + 1) / units


def _signs(features: int, tiles: int, units: int) -> float:
    return (features - 1) / units


def _in_turn(features: int, tiles: int, units: int) -> float:
    # Each tile has features / tiles unknowns and units / tiles samples.
    return (features + tiles) / units


def _at_random(features: int, tiles: int, units: int) -> float:
    # A sample tells of the features that it perturbs, and the other perturbed ones are its noise.
    mine, times = features / tiles, KEEP * units
    # One over a binomial number of times is this much more than one over its mean.
    more = 1 + (1 - KEEP) / times
    return more * (1 + mine + KEEP * (features - mine)) / times


def _shared(features: int, tiles: int, units: int) -> float:
    return (tiles + 1) / units


NOISES = {
    "gaussian": Noise("all features, Gaussian", {}, _everywhere),
    "gaussian_one_sided": Noise(
        "all features, Gaussian, one-sided",
        {"antithetic": False, "baseline": "leave_one_out"},
        _everywhere,
    ),
    "rademacher": Noise("all features, signs", {"distribution": "rademacher"}, _signs),
    "in_turn": Noise("tiles in turn", {"mode": "partition"}, _in_turn, True, 1),
    "neyman": Noise(
        "tiles in turn, Neyman",
        {"mode": "partition", "allocation": "neyman"},
        None,
        True,
        2 * LEAST,
    ),
    "random": Noise("random tiles", {"mode": "random", "keep": KEEP}, _at_random, True),
    "shared": Noise("shared in tiles", {"mode": "shared"}, _shared, True),
}

"""The maps that are compared: what each is called, and how `explain` is asked for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# Weights of the two guides, (faithful, sparse), of the trade-off.
GUIDES = tuple((float(f), float(s)) for s in (-5, 0, 5) for f in (0, 5, 10, 20, 40))


@dataclass(frozen=True)
class Settings:
    """What is the same for all maps.

    Attributes:
        n_steps: points of each path.
        path_model: of learnt paths, as `explain` takes it; None leaves them out.
        references: pictures that stand for the data, for expected gradients.
        seed: of all random numbers.
    """

    n_steps: int
    path_model: Any
    references: Tensor
    seed: int


@dataclass(frozen=True)
class Map:
    label: str
    said: str
    options: Callable[[Settings, Tensor], dict[str, Any] | None]


def _spi(aggregate: str) -> Callable[[Settings, Tensor], dict[str, Any]]:
    return lambda s, images: {
        "method": "stick_breaking_ig",
        "n_steps": s.n_steps,
        "n_paths": 20,
        "aggregate": aggregate,
        "seed": s.seed,
    }


def _learnt(s: Settings, images: Tensor) -> dict[str, Any] | None:
    if s.path_model is None:
        return None
    return {
        "method": "diffusion_ig",
        "path_model": s.path_model,
        "n_steps": s.n_steps,
        "n_paths": 20,
        "guides": {"faithful": 10.0},
        "seed": s.seed,
    }


MAPS = {
    "saliency": Map(
        "gradient", "1 gradient", lambda s, images: {"method": "saliency", "abs": False}
    ),
    "integrated_gradients": Map(
        "integrated gradients",
        "straight line from black",
        lambda s, images: {"method": "integrated_gradients", "n_steps": s.n_steps},
    ),
    "guided_ig": Map(
        "guided IG",
        "from black, fraction 0.25, max_dist 0.02",
        lambda s, images: {"method": "guided_ig", "n_steps": s.n_steps},
    ),
    "blur_ig": Map(
        "blur IG",
        "from the picture blurred, default max_sigma",
        lambda s, images: {"method": "blur_ig", "n_steps": s.n_steps},
    ),
    "expected_gradients": Map(
        "expected gradients",
        "from the other pictures",
        lambda s, images: {
            "method": "expected_gradients",
            "baselines": s.references,
            "n_samples": s.n_steps,
            "seed": s.seed,
        },
    ),
    "spi": Map("stick-breaking paths, mean", "alpha 10, 20 paths, from black", _spi("mean")),
    "spi_p": Map(
        "stick-breaking paths, SPI-P", "alpha 10, 20 paths, from black", _spi("probability")
    ),
    "diffusion_ig": Map("learnt paths, faithful=10", "20 paths, from black", _learnt),
    "geometrically_guided_ig": Map(
        "geometrically guided IG",
        "10 points, 5 gradients each, normalised steps of 0.5",
        lambda s, images: {
            "method": "geometrically_guided_ig",
            "n_steps": 9,
            "n_ascent": 5,
            "step_size": 0.5,
            "normalised": True,
        },
    ),
}
LABELS = {name: each.label for name, each in MAPS.items()}


def options_of(name: str, settings: Settings, images: Tensor) -> dict[str, Any] | None:
    """Of `explain`, for these images; None where a map needs what was not given."""
    return MAPS[name].options(settings, images)

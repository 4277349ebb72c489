"""The sets by name: how each is made, and which network learns it how."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ..errors import ArgumentError, near
from . import pictures, spectrograms, tables
from .examples import Examples
from .marks import make_marked_pictures
from .nets import SmallCNN, SmallMLP

TRAINED_ON, HELD_OUT = 0, 1  # seeds


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; see runtime/training.py for what the fields do."""

    examples: int = 3000
    steps: int = 600
    batch_size: int = 32
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    warm_up: int = 75
    gradient_clip: float = 1.0
    ema: float = 0.0  # the last weights are kept: the learning rate falls to 0
    seed: int = 0


@dataclass(frozen=True)
class KnownSet:
    """A kind of examples, and a network for it.

    Attributes:
        name: of it.
        class_names: of the network's outputs; the last is "nothing".
        make: examples of a count and a seed. Networks are trained on seed TRAINED_ON; HELD_OUT and
            all others are held out.
        net: the network, before it is trained.
        recipe: of its training.
        caption: of an input, with a place for the name of its class.
    """

    name: str
    class_names: tuple[str, ...]
    make: Callable[[int, int], Examples]
    net: Callable[[], nn.Module]
    recipe: Recipe
    caption: str = "{}"

    def caption_of(self, label: int) -> str:
        return self.caption.format(self.class_names[label])

    def held_out(self, count: int, seed: int = HELD_OUT) -> Examples:
        """Examples that the network was not trained on."""
        if seed == TRAINED_ON:
            raise ArgumentError(
                f"held_out: seed must not be {TRAINED_ON}, on which networks are trained, got "
                f"{seed}"
            )
        return self.make(count, seed)


def _network(channels: int, n_classes: int) -> Callable[[], nn.Module]:
    return functools.partial(SmallCNN, channels, n_classes, batch_norm=True)


def _columns(n_classes: int) -> Callable[[], nn.Module]:
    return functools.partial(SmallMLP, tables.COLUMNS, n_classes)


_TABLE_RECIPE = Recipe(examples=4000, steps=1500, batch_size=128, weight_decay=1e-3, warm_up=100)

SETS: dict[str, KnownSet] = {
    one.name: one
    for one in (
        KnownSet(
            "pictures",
            pictures.CLASS_NAMES,
            functools.partial(pictures.make_pictures, strays=0.5),
            _network(3, len(pictures.CLASS_NAMES)),
            Recipe(),
        ),
        KnownSet(
            "marked_pictures",
            pictures.CLASS_NAMES,
            make_marked_pictures,
            _network(3, len(pictures.CLASS_NAMES)),
            Recipe(steps=160, warm_up=40),
            'the mark of "{}"',
        ),
        KnownSet(
            "spectrograms",
            spectrograms.CLASS_NAMES,
            spectrograms.make_spectrograms,
            _network(1, len(spectrograms.CLASS_NAMES)),
            Recipe(steps=250),
        ),
        KnownSet("tables", tables.CLASS_NAMES, tables.make_tables, _columns(4), _TABLE_RECIPE),
        KnownSet(
            "tables_by_row",
            tables.SIDE_NAMES,
            functools.partial(tables.make_tables, per="row"),
            _columns(3),
            _TABLE_RECIPE,
        ),
        KnownSet(
            "interactions",
            tables.CLASS_NAMES,
            functools.partial(tables.make_tables, interactions=True),
            _columns(4),
            _TABLE_RECIPE,
        ),
    )
}


def known_set(name: str) -> KnownSet:
    """One of SETS.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in SETS:
        raise ArgumentError(
            f"known_set: name must be one of {', '.join(SETS)}, got {name!r}{near(name, SETS)}"
        )
    return SETS[name]

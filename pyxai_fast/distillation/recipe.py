"""How masks and students are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError, near

# Weights of the size of the mask, of the distribution of the answers, and of the complement.
LOSSES = {
    "release": (0.0, 0.0, 1.0),
    "paper3": (0.002, 0.03, 0.0),
    "small": (0.05, 0.0, 0.0),
}
MASK_NORMS = ("sample", "batch")
# In place of the release's, for tables: bits are few and small, so that a mask of them is learnt
# with larger steps, and by a student that does not learn the queries by heart.
OF_TABLES: dict[str, Any] = {
    "loss": (0.01, 0.0, 1.0), "width": 64, "n_epochs": 15, "mask_epochs": (5, 15), "batch_size": 32,
    "learning_rate": 0.3, "dropout": 0.5,
}  # fmt: skip


@dataclass(frozen=True)
class DistillationRecipe:
    """Everything that decides a mask, apart from the queries.

    Defaults are those of the authors' release but for `mask_norm` and `shuffle`; of tables see
    `recipe_for`.

    Args:
        loss: "release", which asks that the student is wrong about the complement of the mask;
            "paper3", with a small mask and the distribution of the answers; "small", which asks
            for a small mask alone, and more of it; or three weights, of the mean of the mask (of
            tables the sum), of the divergence of the answers, and of the complement's error, which
            counts negatively.
        mask_norm: masks are brought to [0, 1] by their least and greatest value: each by itself
            ("sample"), or over a whole batch ("batch", as in the release), where the mask of a
            query depends on those beside it.
        student_size: longer side of what mask and student see of a picture; smaller pictures stay
            as they are.
        cell: side of the cells of a mask, in pixels of that size; None for a 16th of it.
        border: pixels of that size along the edges, where convolutions see beyond the picture and a
            mask is 0; None for 7 of 128, and for none where `transform` makes the picture.
        filters: of the mask's first layer; width: of the student's hidden layer.
        n_epochs: passes over the queries.
        mask_epochs: (first, last): the result is the mean of the masks after so many epochs, to
            so many. After none, as in the release, a mask is untrained.
        batch_size: queries in a step.
        learning_rate, momentum: of SGD with Nesterov's momentum.
        dropout: of the student's hidden layer.
        augment: half of the pictures of a batch are seen in hue, saturation and value, in turns.
        held_out: share of the queries that the student is measured on, and not trained.
        patience: epochs without a better held-out error of its own after which a pair of mask and
            student is done; None for never.
        compile: torch.compile the mask generator's training, on a GPU with CUDA graphs; worth its
            time where many inputs of one size are explained.
    """

    loss: str | tuple[float, float, float] = "release"
    mask_norm: str = "sample"
    student_size: int = 128
    cell: int | None = None
    border: int | None = None
    filters: int = 32
    width: int = 512
    n_epochs: int = 9
    mask_epochs: tuple[int, int] = (0, 5)
    batch_size: int = 16
    learning_rate: float = 1e-3
    momentum: float = 0.9
    dropout: float = 0.1
    augment: bool = True
    held_out: float = 0.1
    patience: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise ArgumentError(
                f"DAX: loss must be one of {', '.join(LOSSES)}, or three weights, got "
                f"{self.loss!r}{near(self.loss, LOSSES)}"
            )
        weights = self.weights
        if len(weights) != 3 or not all(_finite(weight) for weight in weights):
            raise ArgumentError(f"DAX: loss must be three numbers, got {self.loss!r}")
        if self.mask_norm not in MASK_NORMS:
            raise ArgumentError(
                f"DAX: mask_norm must be one of {', '.join(MASK_NORMS)}, got {self.mask_norm!r}"
            )
        for name, least in (
            ("student_size", 1), ("filters", 1), ("width", 1), ("n_epochs", 1),
            ("batch_size", 2),
        ):  # fmt: skip
            self._require(name, _whole(getattr(self, name), least), f"an integer >= {least}")
        for name, least in (("cell", 1), ("border", 0), ("patience", 1)):
            value = getattr(self, name)
            fits = value is None or _whole(value, least)
            self._require(name, fits, f"None or an integer >= {least}")
        self._require("learning_rate", _finite(self.learning_rate, 0.0), "a number >= 0")
        self._require("momentum", _finite(self.momentum, 0.0), "a number >= 0")
        self._require("dropout", _finite(self.dropout, 0.0) and self.dropout < 1, "in [0, 1)")
        self._require("held_out", _finite(self.held_out, 0.0) and self.held_out < 1, "in [0, 1)")
        pair = self.mask_epochs
        fits = isinstance(pair, (tuple, list)) and len(pair) == 2
        fits = fits and all(_whole(end, 0) for end in pair) and pair[0] <= pair[1] <= self.n_epochs
        self._require(
            "mask_epochs", fits, f"(first, last) with 0 <= first <= last <= {self.n_epochs}"
        )

    @property
    def weights(self) -> tuple[float, float, float]:
        return LOSSES[self.loss] if isinstance(self.loss, str) else self.loss

    def _require(self, name: str, fits: bool, what: str) -> None:
        if not fits:
            raise ArgumentError(f"DAX: {name} must be {what}, got {getattr(self, name)!r}")


def recipe_for(table: bool, **given: Any) -> DistillationRecipe:
    """The recipe of tables or of pictures, with what is given, and is not None, in its place."""
    chosen = {name: value for name, value in given.items() if value is not None}
    options = {**(OF_TABLES if table else {}), **chosen}
    epochs = options.get("n_epochs")
    if "mask_epochs" not in chosen and _whole(epochs, 1):
        usual = options.get("mask_epochs", DistillationRecipe.mask_epochs)
        options["mask_epochs"] = tuple(min(end, epochs) for end in usual)
    return DistillationRecipe(**options)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _finite(value: Any, least: float = -math.inf) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= least

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
}
SEES = ("segments", "pixels")
ANSWERS = ("as_they_are", "stretched", "log_odds", "order")
MASK_NORMS = ("sample", "batch")
# In place of the release's, where the networks see segments.
OF_SEGMENTS: dict[str, Any] = {
    "sees": "segments", "answers": "log_odds", "loss": (0.03, 0.0, 0.0), "width": 128,
    "n_epochs": None, "mask_epochs": None, "batch_size": 32, "learning_rate": 0.3, "dropout": 0.0,
}  # fmt: skip
# Where no number of epochs is given.
STEPS = 600


@dataclass(frozen=True)
class DistillationRecipe:
    """Everything that decides a mask, apart from the queries.

    Defaults are those of the authors' release but for `mask_norm`, and that masks are read off
    the input in its own colours; see `recipe_for` for those of networks that see segments.

    Args:
        sees: what mask generator and student see of a query: "pixels", as in the paper, or
            "segments", which of them it keeps. Tables have segments alone.
        answers: what the student is to answer: the model's answers "as_they_are"; "stretched", from
            0.1 to 0.9 by the least and greatest of each input; their "log_odds", stretched; or
            their "order" among each input's queries, stretched. Few answers far from the rest,
            which is what probabilities often are, leave the rest next to no room but in log odds
            and in order; in order, differences count however small they are. Log odds are of
            answers 0.003 away from 0 and 1.
        loss: "release", which asks that the student is wrong about the complement of the mask;
            "paper3", with a small mask and the distribution of the answers; or three weights, of
            the size of the mask, of the divergence of the answers, and of the complement's error,
            which counts negatively. The size is the mean; of segments the sum, and its price is in
            shares of the answers' variance: at 0.03 a segment that explains 3% of it is seen by
            half, and one that explains less than 1.5% not at all.
        mask_norm: pixels: masks are brought to [0, 1] by their least and greatest value: each by
            itself ("sample"), or over a whole batch ("batch", as in the release), where the mask
            of a query depends on those beside it.
        student_size: pixels: longer side of what mask and student see of a picture; smaller
            pictures stay as they are.
        cell: pixels: side of the cells of a mask, in pixels of that size; None for a 16th of it.
        border: pixels: of that size, along the edges, where convolutions see beyond the picture and
            a mask is 0; None for 7 of 128 of each side, and for none where `transform` makes the
            picture.
        filters: pixels: of the mask's first layer.
        width: of the student's hidden layer.
        n_epochs: passes over the queries; None for as many as take about 600 steps.
        mask_epochs: (first, last): the result is the mean of the masks after so many epochs, to
            so many. After none, as in the release, a mask is untrained. None for the last quarter.
        batch_size: queries in a step.
        learning_rate, momentum: of SGD with Nesterov's momentum.
        dropout: of the student's hidden layer; the same for inputs that are trained side by side.
        augment: pixels: of colour pictures, half of a batch is seen in hue, saturation and value,
            in turns.
        held_out: share of the queries that the student is measured on, and not trained.
        patience: epochs without a better held-out error of its own after which a pair of mask and
            student is done; None for never.
        compile: pixels: torch.compile the mask generator's training, on a GPU with CUDA graphs;
            worth its time where many inputs of one size are explained.
    """

    sees: str = "pixels"
    answers: str = "as_they_are"
    loss: str | tuple[float, float, float] = "release"
    mask_norm: str = "sample"
    student_size: int = 128
    cell: int | None = None
    border: int | None = None
    filters: int = 32
    width: int = 512
    n_epochs: int | None = 9
    mask_epochs: tuple[int, int] | None = (0, 5)
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
        three = isinstance(weights, (tuple, list)) and len(weights) == 3
        if not three or not all(_finite(weight) for weight in weights):
            raise ArgumentError(f"DAX: loss must be three numbers, got {self.loss!r}")
        for name, choices in (("sees", SEES), ("answers", ANSWERS), ("mask_norm", MASK_NORMS)):
            value = getattr(self, name)
            self._require(name, value in choices, f"one of {', '.join(choices)}")
        for name, least in (
            ("student_size", 1), ("filters", 1), ("width", 1), ("batch_size", 2),
        ):  # fmt: skip
            self._require(name, _whole(getattr(self, name), least), f"an integer >= {least}")
        for name, least in (("cell", 1), ("border", 0), ("patience", 1), ("n_epochs", 1)):
            value = getattr(self, name)
            fits = value is None or _whole(value, least)
            self._require(name, fits, f"None or an integer >= {least}")
        self._require("learning_rate", _finite(self.learning_rate, 0.0), "a number >= 0")
        self._require("momentum", _finite(self.momentum, 0.0), "a number >= 0")
        self._require("dropout", _finite(self.dropout, 0.0) and self.dropout < 1, "in [0, 1)")
        self._require("held_out", _finite(self.held_out, 0.0) and self.held_out < 1, "in [0, 1)")
        if self.patience is not None:
            self._require("held_out", self.held_out > 0, "above 0 where there is patience")
        pair = self.mask_epochs
        if pair is None:
            return
        self._require("mask_epochs", self.n_epochs is not None, "None where n_epochs is")
        assert self.n_epochs is not None
        fits = isinstance(pair, (tuple, list)) and len(pair) == 2
        fits = fits and all(_whole(end, 0) for end in pair) and pair[0] <= pair[1] <= self.n_epochs
        self._require(
            "mask_epochs", fits, f"(first, last) with 0 <= first <= last <= {self.n_epochs}"
        )

    @property
    def weights(self) -> tuple[float, float, float]:
        return LOSSES[self.loss] if isinstance(self.loss, str) else self.loss

    def epochs(self, steps: int) -> tuple[int, int, int]:
        """Of training, and the first and last whose mask counts, where one has so many steps."""
        epochs = self.n_epochs or math.ceil(STEPS / max(1, steps))
        first, last = self.mask_epochs or (math.ceil(0.75 * epochs), epochs)
        return epochs, first, last

    def _require(self, name: str, fits: bool, what: str) -> None:
        if not fits:
            raise ArgumentError(f"DAX: {name} must be {what}, got {getattr(self, name)!r}")


def recipe_for(sees: str, **given: Any) -> DistillationRecipe:
    """The recipe of networks that see "segments" or "pixels", with what is given, and is not None,
    in its place.

    Where fewer epochs are given than masks are usually read off, masks are read off those.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    options = {**(OF_SEGMENTS if sees == "segments" else {}), **chosen, "sees": sees}
    epochs: Any = options.get("n_epochs")
    usual = DistillationRecipe.mask_epochs
    if "mask_epochs" not in chosen and _whole(epochs, 1) and sees == "pixels" and usual:
        options["mask_epochs"] = tuple(min(end, epochs) for end in usual)
    return DistillationRecipe(**options)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _finite(value: Any, least: float = -math.inf) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= least

"""The comparison itself: every method's maps of every picture, judged by every metric."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..metrics.asked import Asked
from ..metrics.curve import Curve
from ..models.preprocessing import Preprocessing
from ..runtime.cost import Cost
from ..runtime.progress import Progress, Silence
from .controls import CONTROLS
from .entries import Entry, Point, Spent
from .explainers import Explainer, MakeMaps, Maps
from .gallery import Gallery
from .metrics import METRICS, Found, Question
from .rows_file import RowsFile

ORDERS = ("signed", "absolute")


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size, that are explained and judged together.

    Attributes:
        numbers: among all, by which whatever is drawn at random tells them apart.
        names: what they are called.
        pixels: [B, C, H, W].
        targets: the classes to explain, where they are given for each.
        masks: bool [B, 1, H, W], where something is known to matter; nothing in those of pictures
            that have none. None where there are none.
    """

    numbers: Sequence[int]
    names: Sequence[str]
    pixels: Tensor
    targets: Sequence[int] | None = None
    masks: Tensor | None = None


@dataclass
class Comparing:
    """A comparison at work.

    Attributes:
        model: that is asked, by all methods and metrics.
        explainers: the methods, controls among them, in their order.
        metrics: names in METRICS.
        orders: of ORDERS: whether attributions rank with their signs, by size, or both.
        entries, spent: where what is found is written.
        gallery: where some of the maps are kept.
        exact: the model at full precision, that says which class is predicted; by default `model`.
        target: the class to explain; None explains what is predicted.
        preprocessing: turns pixels into model inputs.
        select_output: picks the output tensor from what the model returns.
        output: the score that is explained, where one was asked for. Infidelity is of this score,
            of all methods the same: squared errors of two scores cannot be compared.
        class_names: of the outputs, where they are known.
        seed: of the metrics.
        repeatable: a first picture, made up, is explained and judged before any of its size, so
            that no picture is the one that work is measured on: results have the same bits then,
            wherever the comparison is begun or gone on with. Not for models that count.
        progress: told how many maps are done.
    """

    model: Any
    explainers: Sequence[Explainer]
    metrics: Sequence[str]
    orders: Sequence[str]
    entries: RowsFile
    spent: RowsFile
    gallery: Gallery
    exact: Any = None
    target: Any = None
    preprocessing: Preprocessing | None = None
    select_output: Callable[[Any], Tensor] | None = None
    output: str | None = None
    class_names: Sequence[str] | None = None
    seed: int = 0
    repeatable: bool = False
    progress: Progress = field(default_factory=Silence)
    _rehearsed: set[tuple[int, ...]] = field(default_factory=set)

    def compare(self, pictures: Pictures) -> None:
        """Explains and judges pictures, but for what is written already."""
        target: Tensor | None = None
        for explainer in self.explainers:
            keys = [
                Entry.key(number, explainer.label, metric, order)
                for metric, order in self._columns()
                for number in pictures.numbers
            ]
            cost_key = Spent.key(pictures.numbers[0], explainer.label)
            if self.entries.comes(keys) and self.spent.comes([cost_key]):
                self.entries.skip(len(keys))
                self.spent.skip(1)
            else:
                if target is None:
                    self._rehearse(pictures.pixels)
                    target = self._explained(pictures)
                self._judge(explainer, pictures, target)
            self.progress.update(len(pictures.numbers))

    def _columns(self) -> list[tuple[str, str]]:
        """Metrics and orders, as they are written."""
        return [
            (name, order)
            for name in self.metrics
            for order in (self.orders if METRICS[name].ordered else ("",))
        ]

    def _explained(self, pictures: Pictures) -> Tensor:
        """The classes that are explained, int64 [B]."""
        wanted = self.target if pictures.targets is None else torch.tensor(pictures.targets)
        if isinstance(wanted, Tensor) and wanted.dim() and pictures.targets is None:
            wanted = wanted[list(pictures.numbers)]
        asked = self._asked(pictures.pixels, wanted)
        for row, number in enumerate(pictures.numbers):
            index, names = int(asked.target[row]), self.class_names
            name = names[index] if names is not None and index < len(names) else f"class {index}"
            probability = float(asked.clean[row])
            self.gallery.add_picture(number, pictures.pixels[row], name, probability)
        return asked.target

    def _asked(self, pixels: Tensor, target: Any) -> Asked:
        """What the model says of pictures, at full precision."""
        return Asked(
            "evaluate",
            self.model if self.exact is None else self.exact,
            pixels,
            target,
            preprocessing=self.preprocessing,
            select_output=self.select_output,
        )

    def _judge(self, explainer: Explainer, pictures: Pictures, target: Tensor) -> None:
        self.progress.say(explainer.label)
        numbers = list(pictures.numbers)
        made = explainer.maps(pictures.pixels, target, numbers)
        cost = Cost()
        make = None if explainer.label in CONTROLS else explainer.maps
        judged = self._found(made, make, pictures, target, cost)
        entries = [
            Entry(
                number,
                explainer.label,
                metric,
                order,
                pictures.names[row],
                int(target[row]),
                float(found.values[row]),
                _points(found.curve, row),
            )
            for (metric, order), found in judged
            for row, number in enumerate(numbers)
        ]
        for row, number in enumerate(numbers):
            self.gallery.add_map(number, explainer.label, made.attributions[row])
        if self.gallery.numbers & set(numbers):
            self.gallery.save()
        spent = Spent(
            numbers[0],
            explainer.label,
            len(numbers),
            made.gradients,
            made.queries,
            made.seconds,
            cost.gradients + cost.queries,
        )
        # What it took comes first: a map whose figures are there has its cost too.
        self.spent.add([spent.row])
        self.entries.add(entry.row for entry in entries)

    def _found(
        self, made: Maps, make: MakeMaps | None, pictures: Pictures, target: Tensor, cost: Cost
    ) -> list[tuple[tuple[str, str], Found]]:
        """What each metric says of maps, in each order; NaN for maps that are not finite, and where
        the model answered anything else to a point of a curve."""
        finite = made.attributions.flatten(1).isfinite().all(1)
        signed = torch.where(finite.view(-1, 1, 1, 1), made.attributions, 0.0)

        def explain(inputs: Tensor) -> Tensor:
            assert make is not None
            again = make(inputs, target, list(pictures.numbers))
            cost.gradients += again.gradients or 0
            cost.queries += again.queries or 0
            return again.attributions

        asking = {
            "preprocessing": self.preprocessing,
            "select_output": self.select_output,
            "cost": cost,
            "numbers": pictures.numbers,
        }
        answers: dict[tuple[Any, str], Any] = {}
        judged = []
        for name, order in self._columns():
            metric = METRICS[name]
            shared = metric.ask, order
            if shared not in answers:
                answers[shared] = metric.ask(
                    Question(
                        self.model,
                        pictures.pixels,
                        signed.abs() if order == "absolute" else signed,
                        target,
                        None if make is None else explain,
                        pictures.masks,
                        made.gap,
                        self.seed,
                        self.output or "logit",
                        asking,
                    )
                )
            found = metric.read(answers[shared])
            values = found.values.double().cpu()
            known = finite.cpu() & values.isfinite()
            if found.curve is not None:
                known &= found.curve.scores.isfinite().all(0).cpu()
            values = torch.where(known, values, torch.nan)
            judged.append(((name, order), Found(values, found.curve)))
        return judged

    def _rehearse(self, pixels: Tensor) -> None:
        shape = tuple(pixels.shape[1:])
        if not self.repeatable or shape in self._rehearsed:
            return
        self._rehearsed.add(shape)
        generator = torch.Generator().manual_seed(0)
        made_up = torch.rand(1, *shape, generator=generator).to(pixels)
        pictures = Pictures([0], [""], made_up, masks=torch.ones_like(made_up[:, :1]).bool())
        target = self._asked(made_up, 0).target
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is made up
            for explainer in self.explainers:
                (explainer.rehearse or explainer.maps)(made_up, target, [0])
            first = self.explainers[0]
            make = first.rehearse or first.maps
            self._found(make(made_up, target, [0]), make, pictures, target, Cost())


def _points(curve: Curve | None, row: int) -> tuple[Point, ...]:
    """All points of a picture's curve, or none."""
    if curve is None or not bool(curve.scores[:, row].isfinite().all()):
        return ()
    return tuple(zip(curve.fractions.tolist(), curve.scores[:, row].tolist(), strict=True))

"""What is written of each picture, method and metric, and of what it took."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .rows_file import Row

Point = tuple[float, float]


@dataclass(frozen=True)
class Entry:
    """One method judged by one metric on one picture.

    Attributes:
        picture: its number.
        method: what it is called in the comparison.
        metric: a name in METRICS.
        order: "signed" or "absolute", of the attributions; "" where the metric is the same for
            both.
        file: what the picture is called.
        target: the class that is explained.
        value: NaN where there is none: no mask, no promise of completeness, a map or an answer of
            the model that is not finite.
        curve: (x, y) of the curve that the value is read from, where there is one, and it is
            finite.
    """

    picture: int
    method: str
    metric: str
    order: str
    file: str
    target: int
    value: float
    curve: tuple[Point, ...] = ()

    COLUMNS = ("picture", "method", "metric", "order", "file", "target", "value", "curve")
    KEYS = 4

    @property
    def row(self) -> Row:
        points = (f"{_figure(x, 6)}:{_figure(y, 6)}" for x, y in self.curve)
        return (
            *self.key(self.picture, self.method, self.metric, self.order),
            self.file,
            str(self.target),
            _figure(self.value, 9),
            " ".join(points),
        )

    @staticmethod
    def key(picture: int, method: str, metric: str, order: str) -> Row:
        """What a row begins with."""
        return str(picture), method, metric, order

    @classmethod
    def of(cls, row: Row) -> Entry:
        picture, method, metric, order, file, target, value, curve = row
        points = (point.partition(":") for point in curve.split())
        return cls(
            int(picture),
            method,
            metric,
            order,
            file,
            int(target),
            float(value),
            tuple((float(x), float(y)) for x, _, y in points),
        )


@dataclass(frozen=True)
class Spent:
    """What the maps of a method took, for a batch of pictures.

    Attributes:
        first: number of the first picture of the batch.
        method: what it is called in the comparison.
        pictures: in the batch.
        gradients, queries: rows that the method asked the model for; None where nobody counted.
        seconds: that it took.
        judged: rows that the metrics asked the model for.
    """

    first: int
    method: str
    pictures: int
    gradients: int | None
    queries: int | None
    seconds: float
    judged: int

    COLUMNS = ("first", "method", "pictures", "gradients", "queries", "seconds", "judged")

    @property
    def row(self) -> Row:
        return (
            *self.key(self.first, self.method),
            str(self.pictures),
            _count(self.gradients),
            _count(self.queries),
            f"{self.seconds:.6f}",
            str(self.judged),
        )

    @staticmethod
    def key(first: int, method: str) -> Row:
        """What a row begins with."""
        return str(first), method

    @classmethod
    def of(cls, row: Row) -> Spent:
        first, method, pictures, gradients, queries, seconds, judged = row
        return cls(
            int(first),
            method,
            int(pictures),
            int(gradients) if gradients else None,
            int(queries) if queries else None,
            float(seconds),
            int(judged),
        )


def _figure(value: float, digits: int) -> str:
    return "nan" if math.isnan(value) else f"{value:.{digits}g}"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)

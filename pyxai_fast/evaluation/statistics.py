"""Means over pictures, and which differences are more than noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..metrics.bootstrap import Mean, mean_of
from .controls import RANDOM
from .entries import Entry, Spent
from .metrics import METRICS

# Intervals of fewer pictures say too little: resamples stay between the values, and of three that
# are nothing but noise all are on one side of 0 one time in four.
FEWEST = 6
# Of a value: what the order of sums in float32 makes of it, in a network and in a ranking.
ROUNDING = 1e-4

# A metric, and the order of attributions that it judged.
Column = tuple[str, str]


@dataclass(frozen=True)
class Judged:
    """A method by a metric.

    Attributes:
        metric, order: of the column; see Entry.
        method: what it is called.
        pictures: that have a value.
        mean: over these; None where there are none.
        minus: differences to "random", to "first", the first of the methods, and to "best", on the
            pictures that have both values, to "best" on those by which it is the best. One that
            there is not, to itself, is left out.
        best: whether it has the best mean over the pictures that are known of all that are known
            of FEWEST or more, or of all, where none is. Chosen by the values that it is compared
            by, it seems better than it is.
    """

    metric: str
    order: str
    method: str
    pictures: int
    mean: Mean | None
    minus: Mapping[str, Difference]
    best: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "order": self.order,
            "method": self.method,
            "pictures": self.pictures,
            **(self.mean or dict.fromkeys(("mean", "low", "high"))),
            "best": self.best,
            **{f"minus_{to}": difference.as_dict() for to, difference in self.minus.items()},
        }


@dataclass(frozen=True)
class Difference:
    """Of two methods, on the same pictures.

    Attributes:
        to: the other method.
        pictures: that have both values.
        mean: of the differences.
        large_is_good: of the metric.
    """

    to: str
    pictures: int
    mean: Mean
    large_is_good: bool | None

    @property
    def told(self) -> bool:
        """Whether it is more than noise: there are pictures enough, and the interval leaves out
        0."""
        return self.pictures >= FEWEST and not self.mean["low"] <= 0 <= self.mean["high"]

    @property
    def better(self) -> bool | None:
        """Whether the method is better than the other; None where that is not known."""
        if not self.told or self.large_is_good is None:
            return None
        return (self.mean["mean"] > 0) == self.large_is_good

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.pictures < FEWEST:
            return "too few pictures to tell"
        if not self.told:
            return "no different"
        if self.large_is_good is None:
            return "higher" if self.mean["mean"] > 0 else "lower"
        return "better" if self.better else "worse"

    def as_dict(self) -> dict[str, Any]:
        return {"to": self.to, "pictures": self.pictures, **self.mean, "verdict": self.verdict}


def judged(entries: Iterable[Entry], methods: Sequence[str]) -> list[Judged]:
    """All methods by all metrics, in the order of their first entries."""
    values: dict[Column, dict[str, dict[int, float]]] = {}
    for entry in entries:
        of_method = values.setdefault((entry.metric, entry.order), {})
        if not math.isnan(entry.value):
            of_method.setdefault(entry.method, {})[entry.picture] = entry.value
    return [
        line for column, found in values.items() for line in _column(column, found, list(methods))
    ]


def kept_by_baselines(entries: Iterable[Entry]) -> dict[Column, float]:
    """What the class keeps of its probability where nothing is left of the pictures, for metrics
    whose curves go that far: it is the same for all maps."""
    ends: dict[Column, tuple[float, float]] = {}
    for entry in entries:
        base = METRICS[entry.metric].base
        if base is not None and entry.method == RANDOM and entry.curve:
            column = entry.metric, entry.order
            left, whole = ends.get(column, (0.0, 0.0))
            ends[column] = left + entry.curve[base][1], whole + entry.curve[-1 - base][1]
    return {column: left / whole for column, (left, whole) in ends.items() if whole > 0}


def _column(
    column: Column, values: Mapping[str, Mapping[int, float]], methods: list[str]
) -> Iterable[Judged]:
    metric, order = column
    good = METRICS[metric].large_is_good
    known = {name: values[name] for name in methods if values.get(name)}
    shared = _shared(known)
    best = None if good is None else _best(shared, good)
    others: dict[str, tuple[str, Mapping[str, Mapping[int, float]]]] = {
        "random": (RANDOM, known),
        "first": (methods[0], known),
    }
    if best is not None:
        others["best"] = best, shared
    for name in methods:
        minus = {
            what: difference_of(of[name], of[to], to, good)
            for what, (to, of) in others.items()
            if to != name and name in of and to in of
        }
        yield Judged(
            metric,
            order,
            name,
            len(known.get(name, {})),
            _mean(list(known[name].values())) if name in known else None,
            {what: found for what, found in minus.items() if found is not None},
            name == best,
        )


def _shared(values: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """Methods that are known of FEWEST pictures or more, or all where none is, by the pictures that
    are known of all of these."""
    enough = {name: of for name, of in values.items() if len(of) >= FEWEST} or dict(values)
    of_all = set.intersection(*map(set, enough.values())) if enough else set()
    return {name: {n: of[n] for n in of if n in of_all} for name, of in enough.items() if of_all}


def _best(values: Mapping[str, Mapping[int, float]], large_is_good: bool) -> str | None:
    """The method with the best mean, all of the same pictures; None where there is no picture."""
    means = {name: math.fsum(of.values()) / len(of) for name, of in values.items()}
    if not means:
        return None
    return (max if large_is_good else min)(means, key=lambda name: means[name])


def difference_of(
    one: Mapping[int, float], other: Mapping[int, float], to: str, large_is_good: bool | None
) -> Difference | None:
    """Of the values of two methods by picture, `to` being what the other is called; None where no
    picture has both."""
    both = [_apart(one[number], other[number]) for number in one if number in other]
    return Difference(to, len(both), _mean(both), large_is_good) if both else None


def _apart(one: float, other: float) -> float:
    """How much more the first is; 0 where that may be rounding."""
    apart = one - other
    return apart if abs(apart) > ROUNDING * max(abs(one), abs(other)) else 0.0


def _mean(values: Sequence[float]) -> Mean:
    return mean_of(torch.tensor(values, dtype=torch.float64))


@dataclass(frozen=True)
class Cost:
    """What a method took, for each picture; None where nobody counted."""

    gradients: float | None
    queries: float | None
    seconds: float


def costs(spent: Iterable[Spent]) -> dict[str, Cost]:
    """By method."""
    batches: dict[str, list[Spent]] = {}
    for one in spent:
        batches.setdefault(one.method, []).append(one)
    return {method: _cost(found) for method, found in batches.items()}


def _cost(spent: list[Spent]) -> Cost:
    pictures = sum(one.pictures for one in spent)

    def each(counts: list[int | None]) -> float | None:
        known = [count for count in counts if count is not None]
        return sum(known) / pictures if len(known) == len(counts) else None

    return Cost(
        each([one.gradients for one in spent]),
        each([one.queries for one in spent]),
        sum(one.seconds for one in spent) / pictures,
    )

"""What a comparison says, as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..metrics.bootstrap import LEVEL, Mean
from .controls import CONTROLS, RANDOM
from .metrics import METRICS
from .statistics import FEWEST, Column, Cost, Difference, Judged

BEST, NO_DIFFERENT, TOO_FEW = "*", "\u2248", "?"
# Of the class's probability: where a baseline keeps more, most of a curve is the same for all maps.
KEPT = 0.5
_ARROWS = {True: " \u2191", False: " \u2193", None: ""}


def headline(lines: Sequence[Judged], costs: Mapping[str, Cost]) -> str:
    """A line for each method, a column for each metric, and what it took."""
    columns = [column for column in _columns(lines) if not METRICS[column[0]].part]
    found = {((line.metric, line.order), line.method): line for line in lines}
    methods = list(dict.fromkeys(line.method for line in lines))
    both = len({order for _, order in columns if order}) > 1
    head = ["method", *(_head(column, both) for column in columns)]
    judged = [_cells([found[column, method] for method in methods]) for column in columns]
    rows = [
        [method, *cells, *_spent(costs.get(method))]
        for method, *cells in zip(methods, *judged, strict=True)
    ]
    return markdown([*head, "gradients", "queries", "ms"], rows)


def legend(lines: Sequence[Judged]) -> Iterator[str]:
    """What stands in the table, in sentences."""
    marks = {_mark(line) for line in lines if not METRICS[line.metric].part}
    if marks - {""}:
        yield (
            f"Large is good under \u2191, small under \u2193. {BEST} the best mean over the "
            "pictures that all have figures of: chosen by them, it seems better than it is."
        )
    if NO_DIFFERENT in marks:
        yield (
            f"{NO_DIFFERENT} no different from it: the interval of the difference on these "
            "pictures holds 0."
        )
    if TOO_FEW in marks:
        yield f"{TOO_FEW} fewer than {FEWEST} of these pictures: too few to tell it from the best."
    yield "Gradients, queries and milliseconds are for each picture."


def findings(lines: Sequence[Judged], kept: Mapping[Column, float]) -> Iterator[str]:
    """Which methods are no better than random maps, and what else a reader must know.

    Args:
        lines: all methods by all metrics.
        kept: as `kept_by_baselines` gives it.
    """
    both = len({order for _, order in kept}) > 1
    for column, share in kept.items():
        if share > KEPT:
            yield (
                f"{_name(column, both)} tells little here: the class keeps {100 * share:.0f} % of "
                "its probability where nothing is left of the picture but the metric's baseline."
            )
    weak: dict[str, list[str]] = {line.method: [] for line in lines}
    for line in lines:
        metric = METRICS[line.metric]
        to_random = line.minus.get("random")
        if line.method in CONTROLS or metric.part or to_random is None:
            continue
        if metric.large_is_good is not None and not to_random.better:
            weak[line.method].append(_name((line.metric, line.order)))
    pictures = max((line.pictures for line in lines), default=0)
    if pictures < FEWEST:
        yield f"{pictures} pictures are too few to tell any difference from noise."
        return
    for method, metrics in weak.items():
        if metrics:
            yield f"{method} is not shown to be better than {RANDOM} maps by {', '.join(metrics)}."
    pairs = {
        (line.metric, line.order, frozenset((line.method, line.minus[to].to)))
        for line in lines
        for to in line.minus
        if to != "best"  # which is chosen by what it is compared by
    }
    if len(pairs) > 20:
        yield (
            f"The differences to {RANDOM} and to {lines[0].method} are {len(pairs)} intervals; of "
            f"those that are nothing but noise, about {100 * (1 - LEVEL):.0f} in 100 leave out 0. "
            f"Of those to the best ({BEST}) more do."
        )


def sections(lines: Sequence[Judged]) -> Iterator[str]:
    """A table for each metric: means with intervals, and differences in words."""
    for column in _columns(lines):
        some = [line for line in lines if (line.metric, line.order) == column]
        metric = METRICS[column[0]]
        yield f"## {_name(column)}: {metric.good}\n"
        yield f"{metric.meaning[0].upper()}{metric.meaning[1:]}.\n"
        first = some[0].method
        heads = ["method", "mean", f"than {RANDOM}", f"than {first}"]
        known = [line for line in some if line.mean is not None]
        yield markdown(
            heads,
            [
                [
                    line.method,
                    interval(line.mean),
                    compared(line.minus.get("random")),
                    compared(line.minus.get("first")),
                ]
                for line in known
            ],
        )
        if missing := [line.method for line in some if line.mean is None]:
            yield f"\nNot known of {', '.join(missing)}."
        counts = {line.pictures for line in known}
        if counts:
            fewest, most = min(counts), max(counts)
            told = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            yield f"\nOver {told} pictures.\n"


def interval(mean: Mean | None) -> str:
    if mean is None:
        return "-"
    middle, low, high = _alike(mean)
    return f"{middle} ({low}..{high})"


def compared(difference: Difference | None) -> str:
    """A verdict and its interval."""
    if difference is None:
        return ""
    signed = (text if text.startswith("-") else f"+{text}" for text in _alike(difference.mean))
    middle, low, high = signed
    return f"{difference.verdict}, {middle} ({low}..{high})"


def _alike(mean: Mean) -> tuple[str, str, str]:
    """Mean and ends, to the same digit: the second that the interval has."""
    values = mean["mean"], mean["low"], mean["high"]
    half = (mean["high"] - mean["low"]) / 2
    middle, low, high = figures(values, half / 10 or max(map(abs, values)) / 100)
    return middle, low, high


def figures(values: Sequence[float], unit: float) -> list[str]:
    """Numbers with the digits down to that of the unit; with an exponent where all are tiny."""
    if 0 < max(map(abs, values)) < 1e-4:
        return [f"{value:.2g}" for value in values]
    digits = max(0, min(6, -math.floor(math.log10(unit)))) if unit > 0 else 0
    texts = [f"{value:.{digits}f}" for value in values]
    return [text.lstrip("-") if float(text) == 0 else text for text in texts]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are padded, so that it is read in a terminal too: numbers to the
    right."""
    table = [list(head), *map(list, rows)]
    widths = [max(3, *(len(row[i]) for row in table)) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| "
        + " | ".join(
            f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in (table[0], rule, *table[1:])
    )


def settings_line(about: Mapping[str, Any]) -> Iterator[str]:
    """What was compared, in sentences."""
    target = about.get("target")
    explained = f"class {target}" if isinstance(target, int) else "each picture's own target"
    if target is None:
        explained = "the class that the model predicts"
    order = {
        ("signed",): "attributions with their signs",
        ("absolute",): "the sizes of attributions",
    }.get(tuple(about["orders"]), "attributions with their signs, and their sizes")
    yield (
        f"{about['pictures']} pictures, {about['model']}. Explained is {explained}; judged are "
        f"{order}. Seed {about['seed']}."
    )
    if about.get("budget") is not None:
        yield (
            f"Each map takes {about['budget']:,} evaluations of the model: gradients of methods "
            "that take gradients, queries of those that only ask. Queries besides are of the "
            "picture and its baseline: they say what is predicted, and how far a map is from "
            "complete."
        )
    for label, note in about.get("notes", {}).items():
        yield f"{label}: {note}."


def _columns(lines: Sequence[Judged]) -> list[Column]:
    return list(dict.fromkeys((line.metric, line.order) for line in lines))


def _name(column: Column, always: bool = False) -> str:
    metric, order = column
    words = metric.replace("_", " ")
    return f"{words} ({order})" if order == "absolute" or (always and order) else words


def _head(column: Column, both: bool) -> str:
    return _name(column, both) + _ARROWS[METRICS[column[0]].large_is_good]


def _cells(lines: Sequence[Judged]) -> list[str]:
    """A column: means in three digits, those of the largest."""
    means = [0.0 if line.mean is None else line.mean["mean"] for line in lines]
    texts = figures(means, max(map(abs, means)) / 100)
    return [_cell(line, text) for line, text in zip(lines, texts, strict=True)]


def _cell(line: Judged, text: str) -> str:
    if line.mean is None:
        return "-"
    mark = _mark(line)
    return f"{text} {mark}" if mark else text


def _mark(line: Judged) -> str:
    """What is said of a mean beside the best; nothing where neither way is good, or there is no
    mean."""
    if line.mean is None or METRICS[line.metric].large_is_good is None:
        return ""
    if line.best:
        return BEST
    best = line.minus.get("best")
    if best is None or best.pictures < FEWEST:
        return TOO_FEW
    return " " if best.told else NO_DIFFERENT


def _spent(cost: Cost | None) -> list[str]:
    if cost is None:
        return ["-", "-", "-"]
    counts = (
        "-" if count is None else f"{count:,.1f}".removesuffix(".0")
        for count in (cost.gradients, cost.queries)
    )
    return [*counts, f"{1e3 * cost.seconds:,.1f}"]

"""What a comparison shows: curves with bands, means with intervals, and some of the maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from ..metrics.bootstrap import LEVEL, band_of
from ..plots import INK, MUTED, gallery, new_figure
from .controls import CENTRE, CONTROLS, RANDOM
from .entries import Entry
from .gallery import Gallery
from .metrics import METRICS
from .statistics import Column, Judged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, and grey for controls.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_CONTROL = {RANDOM: ("#777777", "--"), CENTRE: ("#777777", ":")}
_STYLES = ("-", "-.", "--")
_PANEL_WIDTH, _PANEL_HEIGHT = 3.3, 2.7
_ROW_HEIGHT = 0.27
_INTERVAL = f"{100 * LEVEL:.0f} % interval over pictures"
_WAYS = {True: "{} \u2192", False: "\u2190 {}", None: "{}"}


def curves_figure(entries: Iterable[Entry], methods: Sequence[str]) -> Figure | None:
    """A panel for each metric that has a curve: its mean over the pictures that have a value, and
    the interval of it as a band. None where there is no curve."""
    found: dict[Column, dict[str, list[Entry]]] = {}
    for entry in entries:
        if METRICS[entry.metric].along is not None:
            panel = found.setdefault((entry.metric, entry.order), {})
            if entry.curve and not math.isnan(entry.value):
                panel.setdefault(entry.method, []).append(entry)
    if not any(found.values()):
        return None
    panels = [(column, lines) for column, lines in found.items() if lines]
    columns = min(len(panels), 3 if len(panels) != 4 else 2)
    rows = math.ceil(len(panels) / columns)
    height = rows * _PANEL_HEIGHT + 0.5 + 0.22 * math.ceil(len(methods) / (2 * columns))
    figure = new_figure(columns * _PANEL_WIDTH + 0.2, height)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    several = len({order for _, order in found}) > 1
    for place, axis in enumerate(axes.flat):
        if place >= len(panels):
            axis.set_axis_off()
            continue
        (metric, order), lines = panels[place]
        for name in methods:
            if name in lines:
                _draw_curve(axis, lines[name], name, methods)
        _describe(axis, metric, order, several)
    # Not each panel has all of them.
    drawn = {
        label: handle
        for axis in axes.flat
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    shown = [name for name in methods if name in drawn]
    legend = figure.legend(
        [drawn[name] for name in shown],
        [name.replace("_", " ") for name in shown],
        title=f"mean and {_INTERVAL}; grey: maps that know nothing of the model",
        loc="outside lower center",
        ncols=max(2, 2 * columns),
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        labelcolor=INK,
    )
    legend.get_title().set_color(MUTED)
    return figure


def dots_figure(lines: Sequence[Judged]) -> Figure | None:
    """A panel for each metric: the mean of every method, and its interval. None where there is
    nothing to draw."""
    columns = list(dict.fromkeys((line.metric, line.order) for line in lines))
    columns = [
        column
        for column in columns
        if not METRICS[column[0]].part and any(line.mean for line in _of(lines, column))
    ]
    if not columns:
        return None
    methods = list(dict.fromkeys(line.method for line in lines))
    wide = min(len(columns), 4)
    rows = math.ceil(len(columns) / wide)
    names = 0.35 + 0.075 * max(map(len, methods))
    height = rows * (0.95 + _ROW_HEIGHT * len(methods)) + 0.2
    figure = new_figure(names + 2.3 * wide + 0.2, height)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(rows, wide, squeeze=False)
    several = len({order for _, order in columns if order}) > 1
    for place, axis in enumerate(axes.flat):
        if place >= len(columns):
            axis.set_axis_off()
            continue
        _draw_dots(axis, _of(lines, columns[place]), methods)
        metric, order = columns[place]
        way = _WAYS[METRICS[metric].large_is_good].format(METRICS[metric].good)
        axis.set_title(f"{_title(metric, order, several)}\n{way}", fontsize=8.5, color=INK)
        if place % wide:
            axis.set_yticklabels([])
    figure.supxlabel(
        f"mean and {_INTERVAL}; grey band: that of random maps", fontsize=8, color=MUTED
    )
    return figure


def maps_figure(kept: Gallery, methods: Sequence[str]) -> Figure | None:
    """Some of the pictures, each with the map of every method. None where none were kept."""
    rows = kept.rows(methods)
    if not rows:
        return None
    # Over large pictures maps are seen best where the picture is; small ones they would hide.
    small = max(max(row.pixels.shape[-2:]) for row in rows) <= 96  # type: ignore[union-attr]
    return gallery(*rows, style="map" if small else "overlay")


def _of(lines: Sequence[Judged], column: Column) -> list[Judged]:
    return [line for line in lines if (line.metric, line.order) == column]


def _draw_curve(axis: Axes, entries: list[Entry], name: str, methods: Sequence[str]) -> None:
    x = [point[0] for point in entries[0].curve]
    curves = torch.tensor([[point[1] for point in entry.curve] for entry in entries])
    mean, low, high = band_of(curves)
    colour, style = _look(name, methods)
    axis.fill_between(x, low.tolist(), high.tolist(), color=colour, alpha=0.13, linewidth=0)
    # The first are wider: where lines lie on each other, all of them are seen.
    width = 1.2 + 1.4 * (1 - methods.index(name) / len(methods))
    axis.plot(x, mean.tolist(), color=colour, linestyle=style, linewidth=width, label=name)


def _describe(axis: Axes, metric: str, order: str, several: bool) -> None:
    said = METRICS[metric]
    axis.set_title(f"{_title(metric, order, several)}: {said.good}", fontsize=9, color=INK)
    axis.set_xlabel(said.along or "", fontsize=8, color=INK)
    axis.set_ylabel(said.across, fontsize=8, color=INK)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlim(0, 1)
    _plain(axis)
    axis.grid(color="#e4e4e4", linewidth=0.6)


def _draw_dots(axis: Axes, lines: list[Judged], methods: Sequence[str]) -> None:
    places = {name: len(methods) - 1 - i for i, name in enumerate(methods)}
    for line in lines:
        if line.mean is None:
            continue
        mean, low, high = line.mean["mean"], line.mean["low"], line.mean["high"]
        if line.method == RANDOM:
            axis.axvspan(low, high, color="#d9d9d9", linewidth=0)
        colour, _ = _look(line.method, methods)
        place = places[line.method]
        axis.hlines(place, low, high, color=colour, linewidth=1.6)
        axis.plot([mean], [place], "o", color=colour, markersize=4.5)
    axis.set_yticks(list(places.values()), [name.replace("_", " ") for name in places])
    axis.set_ylim(-0.6, len(methods) - 0.4)
    axis.margins(x=0.12)
    axis.locator_params(axis="x", nbins=4)
    _plain(axis)
    axis.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)
    axis.grid(axis="x", color="#e4e4e4", linewidth=0.6)


def _plain(axis: Axes) -> None:
    axis.tick_params(labelsize=7.5, color=MUTED, labelcolor=MUTED, width=0.6)
    axis.set_axisbelow(True)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
        spine.set_linewidth(0.6)


def _look(name: str, methods: Sequence[str]) -> tuple[str, str]:
    """Colour and line of a method, the same in all figures."""
    if name in _CONTROL:
        return _CONTROL[name]
    place = [other for other in methods if other not in CONTROLS].index(name)
    return _COLOURS[place % len(_COLOURS)], _STYLES[place // len(_COLOURS) % len(_STYLES)]


def _title(metric: str, order: str, several: bool) -> str:
    words = metric.replace("_", " ")
    return f"{words} ({order})" if order and (several or order == "absolute") else words

"""A plot of a comparison on a real model: each method of ours above the same of other packages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
from real_models_page import ARROWS, COLUMNS, Method, figure_of

COLOURS = {"ours": "#1f5fa8", "theirs": "#d1701f"}
GREY = "#8a8a8a"


def comparison_figure(result: dict[str, Any]) -> Figure:
    """A panel for each metric that has a good end; bands and lines are the controls'."""
    metrics = {
        name: one for name, one in result["metrics"].items() if one["large_is_good"] is not None
    }
    methods = list(_paired(result["methods"]))
    figure = Figure((2.1 * len(metrics) + 2.6, 0.24 * len(methods) + 1.3), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, (name, one) in zip(panels, metrics.items(), strict=True):
        _draw(panel, name, methods, result["methods"])
        panel.set_title(COLUMNS[name] + ARROWS[one["large_is_good"]], fontsize=10)
    places = range(len(methods))
    panels[0].set_yticks(places, [method["label"] for method in methods], fontsize=8)
    for label, method in zip(panels[0].get_yticklabels(), methods, strict=True):
        label.set_color(COLOURS[method["kind"]])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    settings = result["settings"]
    figure.suptitle(
        f"{settings['model']}: {len(settings['cases'])} pictures, {settings['evaluations']} "
        "evaluations for each map",
        fontsize=11,
    )
    figure.supxlabel(
        "mean and 95 % interval over pictures; blue: this package, orange: others; grey band: "
        "random maps, dotted: a Gaussian at the centre",
        fontsize=8,
    )
    return figure


def _paired(methods: list[Method]) -> Iterator[Method]:
    """Ours, each before the others that are the same; then the others that we have not."""
    theirs = [method for method in methods if method["kind"] == "theirs"]
    for method in methods:
        if method["kind"] == "ours":
            yield method
            yield from (one for one in theirs if one.get("counterpart") == method["label"])
    yield from (one for one in theirs if "counterpart" not in one)


def _draw(panel: Any, metric: str, shown: list[Method], methods: list[Method]) -> None:
    for method in methods:
        mean = figure_of(method, metric, method["order"])
        if mean is not None and method["name"] == "random":
            panel.axvspan(mean["low"], mean["high"], color="#dddddd", linewidth=0)
        if mean is not None and method["name"] == "centre":
            panel.axvline(mean["mean"], color=GREY, linestyle=":", linewidth=1)
    for place, method in enumerate(shown):
        mean = figure_of(method, metric, method["order"])
        if mean is None:
            continue
        colour = COLOURS[method["kind"]]
        panel.plot([mean["low"], mean["high"]], [place, place], color=colour, linewidth=1.4)
        panel.plot(mean["mean"], place, "o", color=colour, markersize=3.6)
        if method["kind"] == "ours" and place:
            panel.axhline(place - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    panel.tick_params(axis="x", labelsize=7)
    panel.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)

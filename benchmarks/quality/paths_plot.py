"""How good the maps of each path are, and what the guides of learnt paths trade."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours.
BLUE, GREY, ORANGE, GREEN = "#0072B2", "#999999", "#D55E00", "#009E73"
SPARSE = {-5.0: (GREEN, "v"), 0.0: (BLUE, "o"), 5.0: (ORANGE, "^")}


def paths_figure(result: dict[str, Any]) -> Figure:
    """DiffID of every map, and beside it the trade-off of the guides, where there are any."""
    guides = result["guides"]
    figure = Figure(figsize=(11.5 if guides else 7, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=(1.25, 1)) if guides else [figure.subplots()]
    _bars(axes[0], result["maps"])
    if guides:
        _trade_off(axes[1], guides)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.set_axisbelow(True)
    settings = result["settings"]
    size = "x".join(map(str, settings["shape"]))
    figure.suptitle(
        f"{settings['model']}, {settings['pictures']} of {settings['data'] or 'pictures'}, {size}",
        fontsize=12,
    )
    return figure


def _bars(axes: Axes, rows: list[dict[str, Any]]) -> None:
    rows = rows[::-1]
    for place, row in enumerate(rows):
        found = row["diffid"]
        colour = GREY if row["map"] == "random" else BLUE
        axes.barh(place, found["mean"], color=colour, height=0.65)
        axes.hlines(place, found["low"], found["high"], color="black", linewidth=1.2)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set_xlabel("DiffID: larger is better (95 % interval over pictures)")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)


def _trade_off(axes: Axes, guides: list[dict[str, Any]]) -> None:
    """A line for each weight of `sparse`, along the weights of `faithful`."""
    for sparse, (colour, mark) in SPARSE.items():
        line = [row for row in guides if row["sparse"] == sparse]
        axes.plot(
            [row["entropy"]["mean"] for row in line],
            [row["diffid"]["mean"] for row in line],
            color=colour,
            marker=mark,
            label=f"sparse={sparse:g}",
        )
        for row in line:
            axes.annotate(
                f"{row['faithful']:g}",
                (row["entropy"]["mean"], row["diffid"]["mean"]),
                textcoords="offset points",
                xytext=(6, 4),
                fontsize=8,
                color=colour,
            )
    axes.set_xlabel("entropy of the map: 1 is spread evenly")
    axes.set_ylabel("DiffID")
    axes.set_title("learnt paths; numbers: weight of faithful", fontsize=10)
    axes.legend(frameon=False, fontsize=8.5)
    axes.grid(color="#dddddd", linewidth=0.6)

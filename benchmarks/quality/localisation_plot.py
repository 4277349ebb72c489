"""A panel for each metric: a bar for each map, with its interval."""

from __future__ import annotations

from typing import Any

from localisation_page import COLUMNS, SMALL
from localisation_run import MAIN
from matplotlib.figure import Figure
from segment_maps import CONTROLS

# Okabe and Ito's colours.
BLUE, GREY, ORANGE = "#0072B2", "#999999", "#D55E00"


def localisation_figure(result: dict[str, Any]) -> Figure:
    rows, metrics = result["maps"][::-1], result["metrics"]
    figure = Figure(
        figsize=(2.2 + 2.1 * len(metrics), 0.6 + 0.31 * len(rows)), layout="constrained"
    )
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for place, row in enumerate(rows):
            found = row[metric]
            axes.barh(place, found["mean"], color=colour_of(row["map"]), height=0.65)
            axes.hlines(place, found["low"], found["high"], color="black", linewidth=1.2)
        axes.set_title(
            f"{COLUMNS[metric]}, {'small' if metric in SMALL else 'large'} is good", fontsize=9
        )
        axes.set_xlim(left=0)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(rows)), [row["label"] for row in rows])
    settings = result["settings"]
    figure.suptitle(
        f"{settings['model']}: {rows[0]['cases']} {settings['kind']}, {settings['queries']:,} "
        "evaluations (95 % interval over cases)",
        fontsize=11,
    )
    return figure


def colour_of(name: str) -> str:
    if name in CONTROLS:
        return GREY
    return ORANGE if name.startswith(MAIN) else BLUE

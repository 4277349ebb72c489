"""Cosine against queries: a line for each kind of noise, with its confidence band and theory."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

# Okabe and Ito's colours, and a mark each, so that no kind is told by its colour alone.
STYLES = {
    "gaussian": ("#0072B2", "o"),
    "gaussian_one_sided": ("#56B4E9", "v"),
    "rademacher": ("#000000", "s"),
    "in_turn": ("#E69F00", "D"),
    "neyman": ("#D55E00", "P"),
    "random": ("#CC79A7", "X"),
    "shared": ("#009E73", "^"),
}
PANELS = {
    "to_autograd": "to the gradient by autograd",
    "to_smooth_grad": "to SmoothGrad of the same sigma",
}


def cosine_figure(result: dict[str, Any]) -> Figure:
    """Two panels: near the gradient, and near what noise on all features converges to."""
    settings, rows = result["settings"], result["cosines"]
    figure = Figure(figsize=(10.5, 5.4), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, 2, sharey=True))
    for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
        for name, (colour, mark) in STYLES.items():
            found = [row for row in rows if row["noise"] == name]
            if found:
                _line(axes, found, key, colour, mark)
        axes.set_xscale("log")
        axes.set_xticks(sorted({row["queries"] for row in rows}))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, 1)
        axes.set_xlabel("queries for a picture")
        axes.set_title(title, fontsize=10.5)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("cosine, mean over pictures")
    panels[1].axhline(
        result["references"]["smooth_grad_between_halves"]["mean"],
        color="#888888", linewidth=0.8, linestyle=":",
    )  # fmt: skip
    panels[0].axhline(
        result["references"]["smooth_grad_to_autograd"]["mean"],
        color="#888888", linewidth=0.8, linestyle="-.",
    )  # fmt: skip
    size = "x".join(map(str, settings["shape"]))
    figure.suptitle(
        f"Likelihood-ratio gradient: {settings['model']}, {settings['pictures']} pictures {size}, "
        f"sigma {settings['sigma']:g}, tiles of {settings['tile']} pixels",
        fontsize=11.5,
    )
    figure.legend(
        handles=_legend(settings), loc="outside lower center", ncols=3, fontsize=8.5, frameon=False
    )
    return figure


def _line(axes: Axes, rows: list[dict[str, Any]], key: str, colour: str, mark: str) -> None:
    # Shared noise is judged by what it estimates.
    key = f"{key}_tile_means" if f"{key}_tile_means" in rows[0] else key
    queries = [row["queries"] for row in rows]
    low, mean, high = ([row[key][part] for row in rows] for part in ("low", "mean", "high"))
    axes.fill_between(queries, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(queries, mean, color=colour, marker=mark, markersize=5.5, linewidth=1.6)
    if rows[0]["theory"] is not None:
        theory = [row["theory"] for row in rows]
        axes.plot(queries, theory, color=colour, linewidth=1.1, linestyle="--")


def _legend(settings: dict[str, Any]) -> list[Line2D]:
    handles = [
        Line2D(
            [], [], color=STYLES[name][0], marker=STYLES[name][1], markersize=5.5,
            label=noise["label"] + " (to means of tiles)" * (name == "shared"),
        )
        for name, noise in settings["noises"].items()
    ]  # fmt: skip
    grey = {"color": "#555555", "linewidth": 1.1}
    return [
        *handles,
        Line2D([], [], linestyle="--", label="theory, linear score", **grey),
        Line2D([], [], linestyle="-.", label="SmoothGrad's own cosine to the gradient", **grey),
        Line2D([], [], linestyle=":", label="between two halves of SmoothGrad", **grey),
    ]

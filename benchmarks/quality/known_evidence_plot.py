"""For each set two columns: how much of every map is inside the evidence, and how often its hottest
place is; both readings. Maps of one method lie together."""

from __future__ import annotations

from typing import Any

from known_evidence_page import COLUMNS, TITLES
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe and Ito's colours.
COLOURS = {"ours": "#0072B2", "other": "#D55E00", "control": "#777777"}
NAMES = {
    "ours": "this package",
    "other": "other packages",
    "control": "controls, the better dashed",
}
METRICS = ("energy", "pointing")


def evidence_figure(result: dict[str, Any]) -> Figure:
    sets = result["sets"]
    labels: dict[str, dict[str, Any]] = {}
    for one in sets:
        for row in one["maps"]:
            labels.setdefault(row["label"], row)
    order = sorted(labels, key=_group(labels))[::-1]
    figure = Figure(
        figsize=(2.6 + 1.75 * len(METRICS) * len(sets), 1.4 + 0.22 * len(order)),
        layout="constrained",
    )
    panels = figure.subplots(1, len(METRICS) * len(sets), sharey=True, squeeze=False)[0]
    for place, axes in enumerate(panels):
        one, metric = sets[place // len(METRICS)], METRICS[place % len(METRICS)]
        _panel(axes, one, metric, order)
    panels[0].set_yticks(range(len(order)), order, fontsize=8)
    for tick, label in zip(panels[0].get_yticklabels(), order, strict=True):
        tick.set_color(COLOURS[labels[label]["kind"]])
    handles = [Line2D([], [], color=COLOURS[k], marker="o", markersize=5) for k in COLOURS]
    hollow = Line2D(
        [], [], color="#444444", marker="o", markersize=4, markerfacecolor="none", linestyle=""
    )
    figure.legend(
        [*handles, hollow],
        [*NAMES.values(), "signs read the other way"],
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8.5,
    )
    figure.suptitle(
        "Share of a map inside the evidence (energy), and how often its hottest place is (pointing)"
        f"\n95 % intervals over {result['settings']['cases']} inputs, "
        f"{result['settings']['evaluations']} evaluations for each map",
        fontsize=10.5,
    )
    return figure


def _group(labels: dict[str, dict[str, Any]]) -> Any:
    """Maps of the package in their order, each before those of others of the same method."""
    ours = [label for label, row in labels.items() if row["kind"] == "ours"]

    def place(label: str) -> tuple[int, int]:
        row = labels[label]
        if row["kind"] == "control":
            return len(ours) + 1, 0
        leader = row.get("counterpart", label)
        return (ours.index(leader) if leader in ours else len(ours)), row["kind"] != "ours"

    return place


def _panel(axes: Any, one: dict[str, Any], metric: str, order: list[str]) -> None:
    for row in one["maps"]:
        place, colour = order.index(row["label"]), COLOURS[row["kind"]]
        found = row[row["reading"]][metric]
        other = row["absolute" if row["reading"] == "signed" else "signed"][metric]["mean"]
        axes.hlines(place, found["low"], found["high"], color=colour, linewidth=1.4)
        if row["kind"] != "control":
            axes.plot(
                other, place, "o", markersize=4, markerfacecolor="none", color=colour, alpha=0.6
            )
        axes.plot(found["mean"], place, "o", markersize=5, color=colour)
    best = max(
        row[row["reading"]][metric]["mean"] for row in one["maps"] if row["kind"] == "control"
    )
    axes.axvline(best, color=COLOURS["control"], linewidth=0.8, linestyle="--")
    title = TITLES.get(one["set"], one["set"]).replace(" with a planted shortcut", ", shortcut")
    axes.set_title(f"{title}\n{COLUMNS[metric]}", fontsize=9)
    axes.set_xlim(-0.03, 1.05)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.grid(axis="y", color="#f0f0f0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)

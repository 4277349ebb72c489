"""Where maps point, what their rankings remove, and how convincing counterfactuals are."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

# Okabe and Ito's colours, and a mark each, so that nothing is told by its colour alone.
MAPS = {
    "random": ("#999999", "x"),
    "gradient": ("#0072B2", "o"),
    "SmoothGrad": ("#56B4E9", "v"),
    "likelihood ratio": ("#E69F00", "D"),
    "FreeMCG, logit": ("#D55E00", "P"),
    "FreeMCG, log p": ("#CC79A7", "X"),
    "gradient, through FreeMCG's particles": ("#009E73", "^"),
    "random answers at FreeMCG's particles": ("#444444", "s"),
}
METHODS = {
    "ensemble": ("#D55E00", "P"),
    "ensemble, strength 0.4": ("#E69F00", "p"),
    "diagonal": ("#CC79A7", "X"),
    "gradient": ("#0072B2", "o"),
    "gradient through the prior": ("#56B4E9", "D"),
    "unguided": ("#999999", "x"),
    "pixels, nearest": ("#000000", "s"),
    "pixels, one radius": ("#009E73", "^"),
}
TARGETS = {"second": "asked for the second most likely class", "other": "asked for a random other"}


def freemcg_figure(result: dict[str, Any]) -> Figure:
    """Two panels of maps above two of counterfactuals."""
    figure = Figure(figsize=(11.5, 8.6), layout="constrained")
    above, below = figure.subplots(2, 2)
    _shares(above[0], result["maps"])
    _road(above[1], result["maps"])
    for axes, (kind, title) in zip(below, TARGETS.items(), strict=True):
        _changes(axes, result["counterfactuals"]["counterfactuals"], kind, title)
    for axes in (*above, *below):
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *below[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5,
        frameon=False, title="best particle of each method", title_fontsize=8.5,
    )  # fmt: skip
    settings = result["settings"]
    size = "x".join(map(str, settings["shape"]))
    figure.suptitle(f"FreeMCG: {settings['model']}, {settings['data']} {size}", fontsize=12)
    return figure


def _shares(axes: Axes, maps: dict[str, Any]) -> None:
    rows = [row for row in maps["maps"] if row["map"] in MAPS][::-1]
    for place, row in enumerate(rows):
        found = row["off_manifold"]["mean"]
        error = [[found["mean"] - found["low"]], [found["high"] - found["mean"]]]
        axes.barh(
            place, found["mean"], xerr=error, color=MAPS[row["map"]][0], height=0.7, capsize=2
        )
    axes.set_yticks(range(len(rows)), [row["map"] for row in rows], fontsize=8.5)
    axes.axvline(maps["to_a_real_picture"]["mean"], color="#444444", linestyle=":", linewidth=1.2)
    axes.text(
        maps["to_a_real_picture"]["mean"], len(rows) - 0.35, " to a real picture", fontsize=7.5,
        color="#444444", va="center",
    )  # fmt: skip
    axes.set_ylim(-0.6, len(rows) - 0.1)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    settings = maps["settings"]
    axes.set_title(
        f"share of the map outside of {settings['directions']} directions\n"
        f"of the {settings['neighbours']} nearest training pictures",
        fontsize=10,
    )


def _road(axes: Axes, maps: dict[str, Any]) -> None:
    for name, (colour, mark) in MAPS.items():
        curves = maps["road_curves"].get(name)
        if curves is not None:
            axes.plot(
                maps["road_fractions"], curves["most relevant first"], color=colour, marker=mark,
                markersize=4.5, linewidth=1.3, label=name,
            )  # fmt: skip
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("imputed, most relevant first")
    axes.set_ylabel("probability of the class")
    axes.set_title("ROAD: low is good (colours as on the left)", fontsize=10)


def _changes(axes: Axes, rows: list[dict[str, Any]], kind: str, title: str) -> None:
    key = "both" if "both" in rows[0]["measures"] else "flipped"
    for name, (colour, mark) in METHODS.items():
        for row in rows:
            if (row["target"], row["method"], row["picture"]) == (kind, name, "best"):
                x, y = row["measures"]["change"], row["measures"][key]
                axes.errorbar(
                    x["mean"], y["mean"],
                    xerr=[[x["mean"] - x["low"]], [x["high"] - x["mean"]]],
                    yerr=[[y["mean"] - y["low"]], [y["high"] - y["mean"]]],
                    color=colour, marker=mark, markersize=8, linewidth=1, label=name,
                )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("mean absolute change of a pixel")
    axes.set_ylabel(
        "model and judge say the class" if key == "both" else "the model says the class"
    )
    axes.set_title(f"counterfactuals, {title}", fontsize=10)

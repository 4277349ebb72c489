"""What came of a comparison."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..jobs.atomic_file import write_text
from ..metrics.bootstrap import LEVEL, RESAMPLES
from ..plots import save_figure
from . import table
from .entries import Entry, Spent
from .figures import curves_figure, dots_figure, maps_figure
from .gallery import Gallery
from .metrics import METRICS
from .rows_file import RowsFile
from .statistics import Cost, Judged, costs, judged, kept_by_baselines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPS, COSTS, GALLERY = "maps.csv", "costs.csv", "gallery.npz"
_COLUMNS = ("metric", "order", "method", "pictures", "mean", "low", "high")
_DIFFERENCES = ("random", "first", "best")


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `evaluate` returns: methods, judged by metrics on the same pictures.

    Attributes:
        entries: one for each picture, method, metric and order.
        spent: what the methods took, batch by batch.
        methods: in their order, controls last.
        about: settings and versions, fit for JSON.
        gallery: some of the pictures and their maps.
    """

    entries: Sequence[Entry]
    spent: Sequence[Spent]
    methods: Sequence[str]
    about: Mapping[str, Any]
    gallery: Gallery = field(default_factory=lambda: Gallery(()))

    @functools.cached_property
    def results(self) -> list[Judged]:
        """Each method by each metric: its mean, the interval of that, and what it differs by from
        random maps, from the first method, and from the best."""
        return judged(self.entries, self.methods)

    @functools.cached_property
    def costs(self) -> dict[str, Cost]:
        """What each method took for a picture."""
        return costs(self.spent)

    def result(self, method: str, metric: str, order: str | None = None) -> Judged:
        """One method by one metric; the order is needed where both were judged."""
        found = [
            line
            for line in self.results
            if (line.method, line.metric) == (method, metric) and order in (None, line.order)
        ]
        if len(found) != 1:
            there = ", ".join(dict.fromkeys(f"{r.method} by {r.metric}" for r in self.results))
            raise ArgumentError(
                "Comparison.result: method and metric must be of one result"
                f"{' (order says which)' if found else ''}, got {method!r} and {metric!r} among "
                f"{there}"
            )
        return found[0]

    def table(self) -> str:
        """Means of all methods by all metrics, and what they took: Markdown, for terminals too."""
        found = table.findings(self.results, kept_by_baselines(self.entries))
        notes = [*table.legend(self.results), "", *(f"- {finding}" for finding in found)]
        return "\n".join([table.headline(self.results, self.costs), "", *notes]).rstrip()

    def __repr__(self) -> str:
        return "\n".join([*table.settings_line(self.about), "", self.table()])

    def markdown(self, figures: Sequence[str] = ()) -> str:
        """All that there is to read: the table, files of figures that lie beside it, and a section
        for each metric."""
        names = [name for name in self.methods if "control" not in self._settings_of(name)]
        parts = [
            f"# Compared: {', '.join(names)}\n",
            "\n".join(table.settings_line(self.about)),
            "",
            self.table(),
            "",
            *(f"![{Path(name).stem}]({name})\n" for name in figures),
            f"Intervals are of {100 * LEVEL:.0f} %, by the percentile bootstrap over pictures "
            f"({RESAMPLES:,} resamples). Differences are of the same pictures; one is better or "
            "worse where the interval of the difference leaves out 0, and no different where it "
            "holds 0.\n",
            *table.sections(self.results),
        ]
        return "\n".join(parts).rstrip() + "\n"

    def as_dict(self) -> dict[str, Any]:
        """All but the single pictures, fit for JSON."""
        return {
            **self.about,
            "metrics": {
                name: {"meaning": METRICS[name].meaning, "good": METRICS[name].good}
                for name in dict.fromkeys(line.metric for line in self.results)
            },
            "interval": {"level": LEVEL, "resamples": RESAMPLES, "over": "pictures"},
            "results": [line.as_dict() for line in self.results],
            "cost_per_picture": {name: vars(cost) for name, cost in self.costs.items()},
            "asked_by_metrics": sum(one.judged for one in self.spent),
        }

    def to_csv(self, path: str | Path) -> Path:
        """Writes a line for each method and metric."""
        heads = [f"minus_{to}_{end}" for to in _DIFFERENCES for end in ("mean", "low", "high")]
        verdicts = [f"than_{to}" for to in _DIFFERENCES]
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow([*_COLUMNS, *heads, *verdicts])
        for line in self.results:
            mean: Mapping[str, Any] = line.mean or {}
            found = [line.minus.get(to) for to in _DIFFERENCES]
            writer.writerow(
                [
                    *(line.metric, line.order, line.method, line.pictures),
                    *(_figure(mean.get(end)) for end in ("mean", "low", "high")),
                    *(
                        "" if one is None else _figure(dict(one.mean)[end])
                        for one in found
                        for end in ("mean", "low", "high")
                    ),
                    *("" if one is None else one.verdict for one in found),
                ]
            )
        path = Path(path)
        write_text(path, written.getvalue())
        return path

    @property
    def figures(self) -> dict[str, Figure]:
        """Those that there is something to draw for: "dots", "curves" and "maps"."""
        drawn = {
            "dots": dots_figure(self.results),
            "curves": curves_figure(self.entries, self.methods),
            "maps": maps_figure(self.gallery, self.methods),
        }
        return {name: figure for name, figure in drawn.items() if figure is not None}

    def plot(self, path: str | Path | None = None) -> Figure:
        """The means of all methods by all metrics, with their intervals. Written to `path` when
        given. Needs matplotlib (pip install pyxai-fast[plot])."""
        figure = dots_figure(self.results)
        if figure is None:
            raise ArgumentError("Comparison.plot: results must hold a value, got none")
        if path is not None:
            save_figure(figure, path)
        return figure

    def save(self, folder: str | Path) -> Path:
        """Writes everything: maps.csv, costs.csv, summary.csv, .json and .md, and the figures."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        RowsFile(folder / MAPS, Entry.COLUMNS).add(entry.row for entry in self.entries)
        RowsFile(folder / COSTS, Spent.COLUMNS).add(one.row for one in self.spent)
        self.save_summary(folder)
        return folder

    def save_summary(self, folder: Path) -> list[str]:
        """Writes all but the rows, and gives the names of the files."""
        self.to_csv(folder / "summary.csv")
        text = json.dumps(self.as_dict(), indent=2, default=str)
        write_text(folder / "summary.json", text + "\n")
        drawn = {f"{name}.png": figure for name, figure in self.figures.items()}
        for name, figure in drawn.items():
            save_figure(figure, folder / name)
        write_text(folder / "summary.md", self.markdown(tuple(drawn)))
        return ["summary.md", "summary.csv", "summary.json", *drawn]

    def _settings_of(self, method: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.about.get("methods", {}).get(method, {})
        return found


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.6g}"

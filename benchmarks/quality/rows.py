"""Figures of maps in a CSV file, kept as they come, so that a run that was stopped goes on."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

Key = tuple[str, int, str]
KEYS = ("case", "seed", "map")


class Rows:
    """One row for each case, seed and map.

    Args:
        path: of the CSV file; what it holds is read.
        columns: of figures.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns = path, columns
        self.found: dict[Key, dict[str, float]] = {}
        if path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    key = (row["case"], int(row["seed"]), row["map"])
                    self.found[key] = {name: float(row[name]) for name in columns}

    def add(self, key: Key, figures: Mapping[str, float]) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow((*KEYS, *self.columns))
            writer.writerow((*key, *(f"{figures[name]:.6g}" for name in self.columns)))
        self.found[key] = dict(figures)

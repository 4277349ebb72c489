"""Figures of maps in a CSV file, kept as they come, so that a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pyxai_fast.evaluation.rows_file import RowsFile

Key = tuple[str, int, str]
KEYS = ("case", "seed", "map")


class Rows:
    """One row for each case, seed and map.

    Args:
        path: of the CSV file; what it holds is read, but for half a row that a run left when it was
            killed.
        columns: of figures.

    Raises:
        SystemExit: the file has other columns.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self._file = RowsFile(path, (*KEYS, *columns))
        self._file.skip(len(self._file.rows))
        if not self._file.rows and path.exists() and path.read_text().count("\n") > 1:
            raise SystemExit(
                f"{path}: must have the columns {', '.join(self._file.columns)} "
                "(remove it to begin anew)"
            )
        self.found: dict[Key, dict[str, float]] = {
            (case, int(seed), name): dict(zip(columns, map(float, figures), strict=True))
            for case, seed, name, *figures in self._file.rows
        }

    def add(self, key: Key, figures: Mapping[str, float]) -> None:
        case, seed, name = key
        said = (f"{figures[column]:.6g}" for column in self.columns)
        self._file.add([(case, str(seed), name, *said)])
        self.found[key] = dict(figures)

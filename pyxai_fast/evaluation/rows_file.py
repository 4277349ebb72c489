"""Rows of a CSV file, kept as they come, so that a run that was stopped goes on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ..jobs.atomic_file import readable, write_text

Row = tuple[str, ...]


class RowsFile:
    """Rows in an order that is the same in every run; a file may have the first of them already.

    Args:
        path: of the file; None keeps rows in memory alone. Half a row, that a process left when it
            was killed, is not read.
        columns: the head of the file.

    Attributes:
        rows: those that are there.
    """

    def __init__(self, path: Path | None, columns: Sequence[str]) -> None:
        self.path, self.columns = path, tuple(columns)
        self.rows: list[Row] = []
        self._passed = 0
        # Whether the file holds these rows and nothing else.
        self._whole = False
        if path is not None and path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            lines = io.StringIO(text[: text.rfind("\n") + 1], newline="")
            found = list(_rows(lines))
            if found[:1] == [self.columns]:
                self.rows = [row for row in found[1:] if len(row) == len(self.columns)]
                self._whole = text == self._text()

    def comes(self, keys: Sequence[Row]) -> bool:
        """Whether the next rows begin with these keys."""
        there = self.rows[self._passed : self._passed + len(keys)]
        return [row[: len(key)] for row, key in zip(there, keys, strict=False)] == list(keys)

    def skip(self, count: int) -> None:
        """Goes past rows that are there."""
        self._passed += count

    def add(self, rows: Iterable[Row]) -> None:
        """The next rows, in place of whatever is there from here on."""
        added = [tuple(readable(cell) for cell in row) for row in rows]
        follows = self._whole and len(self.rows) == self._passed
        self.rows[self._passed :] = added
        self._passed = len(self.rows)
        if self.path is None:
            return
        if not follows:
            write_text(self.path, self._text())
            self._whole = True
        else:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_lines(added))

    def _text(self) -> str:
        return _lines([self.columns, *self.rows])


def _rows(lines: Iterable[str]) -> Iterator[Row]:
    """As many as are whole."""
    with suppress(csv.Error):
        yield from map(tuple, csv.reader(lines, strict=True))


def _lines(rows: Iterable[Row]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue()

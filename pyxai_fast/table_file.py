"""Tables in files: a row of names, and rows of numbers."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ArgumentError, near

DELIMITERS = ",;\t"
# As pandas writes a column for each value of a code. Of any case, as the next.
BITS = {"true": 1.0, "false": 0.0}
# Of cells without a value.
MISSING = ("", "na", "nan", "n/a", "null", "none", "?")


@dataclass(frozen=True)
class TableFile:
    """The text of a table; what its cells mean is not asked before they are used.

    Attributes:
        path: of the file.
        names: of the columns.
        cells: of each row.
        lines: that each row ends at, from 1.
    """

    path: str
    names: list[str]
    cells: list[list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.cells)

    def check_names(self, names: Sequence[str], what: str) -> None:
        """Refuses names that are of no column.

        Args:
            what: asks for them, at the start of the message.
        """
        for name in names:
            if name not in self.names:
                raise ArgumentError(
                    f"{what}: must be columns of {self.path} ({', '.join(self.names[:12])}"
                    f"{', ...' if len(self.names) > 12 else ''}), got {name!r}"
                    f"{near(name, self.names)}"
                )

    def numbers(self, names: Sequence[str], rows: Sequence[int] | None = None) -> Tensor:
        """Columns as numbers, float64 [B, D]; what is missing is NaN, true is 1.

        Raises:
            ArgumentError: a cell holds something else; its file, line and column are named.
        """
        places = [self.names.index(name) for name in names]
        rows = range(len(self)) if rows is None else rows
        values = [[self._number(row, place) for place in places] for row in rows]
        return torch.tensor(values, dtype=torch.float64).reshape(len(values), len(places))

    def _number(self, row: int, place: int) -> float:
        text = self.cells[row][place].strip()
        if text.lower() in MISSING:
            return math.nan
        if text.lower() in BITS:
            return BITS[text.lower()]
        try:
            if "_" in text:  # which Python leaves out: 1_5 is 15
                raise ValueError
            return float(text)
        except ValueError:
            raise ArgumentError(
                f"{self.path}: line {self.lines[row]}, column {self.names[place]!r}: must be a "
                f"number, got {text!r}; encode the column, or leave it out"
            ) from None


def read_table(path: str) -> TableFile:
    """A .csv or .tsv file in UTF-8, whose first row has the names of the columns.

    Cells are separated by whichever of comma, semicolon and tabulator comes most often in the first
    line. Rows without any text are skipped.

    Raises:
        ArgumentError: there is no such table in it; the line is named.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(DELIMITERS, key=first.count))
            found = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ArgumentError(f"{path}: cannot be read as a table: {reason}") from error
    if not found:
        raise ArgumentError(f"{path}: must have a row of names, got an empty file")
    names = [name.strip() for name in found[0][1]]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ArgumentError(f"{path}: columns must have names of their own, got {repeated!r} twice")
    for line, row in found[1:]:
        if len(row) != len(names):
            raise ArgumentError(
                f"{path}: line {line}: must have {len(names)} cells, one for each column, got "
                f"{len(row)}"
            )
    return TableFile(path, names, [row for _, row in found[1:]], [line for line, _ in found[1:]])

"""The results of a job, of a data set of any size: read where they are asked for."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from .job import INDEX, SHARDS, load_record
from .packages import check_packages
from .shard_files import BAD, Row, checksum, of_index, schema

if TYPE_CHECKING:
    import pyarrow

# Shards whose files are held open; they are mapped into memory, not read.
_OPEN = 16


@dataclass(frozen=True)
class Result(Row):
    """What is known of an item that was explained: its row of the index, and

    Attributes:
        attributions: [C, H, W] float32.
        standard_error: of them, where they are estimates.
    """

    attributions: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    standard_error: Tensor | None = field(default=None, repr=False)


class Results:
    """The results in the folder of a job that is finished, or runs.

    Iterating gives the items that were explained, in their order; len() is how many these are;
    results[17] is item 17 of the data set.

    Args:
        folder: of the job.

    Raises:
        ArgumentError: it is none.
        MissingDependency: pyarrow or safetensors is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        check_packages()
        self.folder = Path(folder)
        self.record = load_record(self.folder)
        self._files: OrderedDict[int, Any] = OrderedDict()
        self._index: dict[int, pyarrow.Table] = {}
        self._shards = self._found()

    def refresh(self) -> None:
        """Takes in shards that were finished since."""
        self._shards = self._found()

    def __len__(self) -> int:
        return sum(1 for status in self._column("status") if status != BAD)

    def __iter__(self) -> Iterator[Result]:
        for shard in self._shards:
            for row in self._of_shard(shard).to_pylist():
                if row["status"] != BAD:
                    yield self._result(row)

    def __getitem__(self, number: int) -> Result:
        count: int = self.record["items"]["count"]
        if not 0 <= number < count:
            raise IndexError(
                f"results: number must be from 0 to {count - 1}, as the data set has them, got "
                f"{number}"
            )
        size = self.record["shard_size"]
        shard, position = divmod(number, size)
        if shard not in self._shards:
            raise KeyError(f"results: item {number} is not explained yet")
        rows = self._of_shard(shard).slice(position, 1).to_pylist()
        if not rows or rows[0]["number"] != number:
            raise ArgumentError(
                f"results: {self._index_file(shard)} must say what became of item {number}, got "
                f"what became of {rows[0]['number'] if rows else 'none'}: it, or job.json, is "
                "damaged"
            )
        row = rows[0]
        if row["status"] == BAD:
            raise KeyError(f"results: item {number}, {row['path']}, is bad: {row['reason']}")
        return self._result(row)

    @property
    def counts(self) -> dict[str, int]:
        """How many items have which status."""
        counts: dict[str, int] = {}
        for status in self._column("status"):
            counts[status] = counts.get(status, 0) + 1
        return counts

    def table(self) -> pyarrow.Table:
        """The index: a row for each item, bad ones too. Columns are those of Row."""
        import pyarrow

        tables = [self._read(shard) for shard in self._shards]
        return pyarrow.concat_tables(tables) if tables else schema().empty_table()

    def frame(self) -> Any:
        """The same as a pandas DataFrame."""
        return self.table().to_pandas()

    # ---------------------------------------------------------------- files

    def _found(self) -> list[int]:
        found = (self.folder / INDEX).glob("[0-9]*.parquet")
        return sorted(int(path.stem) for path in found if path.stem.isdecimal())

    def _index_file(self, shard: int) -> Path:
        return self.folder / INDEX / f"{shard:05d}.parquet"

    def _read(self, shard: int, columns: list[str] | None = None) -> pyarrow.Table:
        from pyarrow import parquet

        path = self._index_file(shard)
        with (
            of_index(path),
            parquet.ParquetFile(str(path), page_checksum_verification=True) as file,
        ):
            table = file.read(columns=columns).replace_schema_metadata(None)
            table.validate(full=True)
            if columns is None and table.schema != schema():
                raise ValueError(f"its columns are {', '.join(table.column_names)}")
            return table

    def _of_shard(self, shard: int) -> pyarrow.Table:
        if shard not in self._index:
            if len(self._index) >= _OPEN:
                self._index.pop(next(iter(self._index)))
            self._index[shard] = self._read(shard)
        return self._index[shard]

    def _column(self, name: str) -> Iterator[Any]:
        for shard in self._shards:
            yield from self._read(shard, [name])[name].to_pylist()

    def _result(self, row: dict[str, Any]) -> Result:
        place = (row["shard"], row["tensor"], row["row"], row["scale"])
        if None in place:
            raise ArgumentError(
                f"results: the index must say where item {row['number']} has its attributions, got "
                f"{place}: it is damaged"
            )
        name, position = row["tensor"], row["row"]
        error_name = name.replace("attributions", "standard_error", 1)
        with self._of_file(row):
            file, names = self._open(row["shard"])
            stored = {
                kind: file.get_slice(kind)[position] for kind in (name, error_name) if kind in names
            }
            if name not in stored:
                raise KeyError(f"it has no {name}")
            if row["checksum"] != checksum(stored.values()):
                raise ValueError("they are not those that were written")
        read = {kind: (held.double() * row["scale"]).float() for kind, held in stored.items()}
        return Result(**row, attributions=read[name], standard_error=read.get(error_name))

    @contextmanager
    def _of_file(self, row: dict[str, Any]) -> Iterator[None]:
        """Names the item, and the file, where the block cannot read its attributions."""
        try:
            yield
        except ArgumentError:
            raise
        except Exception as error:  # what a damaged file raises is of many kinds
            if isinstance(error, OSError) and error.errno is not None:  # of the storage
                raise
            reason = (str(error).strip("\"'").splitlines() or [type(error).__name__])[0]
            raise ArgumentError(
                f"results: the attributions of item {row['number']} must be in "
                f"{self._shard_file(row['shard'])}, which is damaged ({reason}); where it and "
                f"{self._index_file(row['shard'])} are deleted, resume explains the shard again"
            ) from error

    def _shard_file(self, shard: int) -> Path:
        return self.folder / SHARDS / f"{shard:05d}.safetensors"

    def _open(self, shard: int) -> tuple[Any, set[str]]:
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            from safetensors import safe_open

            path = self._shard_file(shard)
            if not path.exists():
                raise ArgumentError(f"results: {path} must be there, but is not")
            file = safe_open(str(path), framework="pt")
            self._files[shard] = file, set(file.keys())
            if len(self._files) > _OPEN:
                self._files.popitem(last=False)
        found: tuple[Any, set[str]] = self._files[shard]
        return found


def results(folder: str | os.PathLike[str]) -> Results:
    """Opens the results of a job that is finished, or runs; see Results.

    Example:
        >>> for result in results("maps/"):                                   # doctest: +SKIP
        ...     print(result.path, result.class_name, result.attributions.shape)
    """
    return Results(folder)

"""What is to be explained: a table of pictures, by number, in one file that processes share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .atomic_file import atomic_file

if TYPE_CHECKING:
    import pyarrow

FILE = "items.arrow"
_READ_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Item:
    """A picture.

    Attributes:
        path: its file, or the tar file that it is in.
        member: its name there.
        offset: of its bytes in the tar file.
        size: its bytes; None where the file was not there.
        target: the class to explain; None where none was given.
    """

    path: str
    member: str | None = None
    offset: int | None = None
    size: int | None = None
    target: int | None = None

    @property
    def key(self) -> str:
        """What it is called in results."""
        return self.path if self.member is None else f"{self.path}::{self.member}"

    @property
    def said(self) -> tuple[str, int | None, int | None]:
        """What must stay as it is while a job lasts: key, size and target."""
        return self.key, self.size, self.target


def digest(items: Sequence[Item]) -> str:
    """Of keys, sizes and targets, in their order.

    A picture that becomes another one of as many bytes is not noticed. When files were changed is
    left out: copies of a data set, on other machines or brought back, have times of their own.
    """
    state = hashlib.sha256()
    for item in items:
        key, size, target = item.said
        state.update(f"{key}\0{size}\0{target}\n".encode(errors="surrogateescape"))
    return f"sha256:{state.hexdigest()}"


def save_items(items: Sequence[Item], folder: Path) -> None:
    """Writes folder/items.arrow."""
    import pyarrow
    from pyarrow import feather

    columns = {
        "path": [_bytes(item.path) for item in items],
        "member": [_bytes(item.member) for item in items],
        "offset": [item.offset for item in items],
        "size": [item.size for item in items],
        "target": [item.target for item in items],
    }
    with atomic_file(folder / FILE) as path:
        # Not compressed, so that it can be mapped into memory.
        table = pyarrow.table(columns, _schema())
        feather.write_feather(table, str(path), compression="uncompressed")


class Items(Sequence[Item]):
    """The items of a job's folder. They stay on the disk; processes that read them share pages.

    Raises:
        ArgumentError: when they are read, that the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._table: pyarrow.Table | None = None

    def __len__(self) -> int:
        return int(self._opened().num_rows)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"items: number must be below {len(self)}, got {number}")
        return self._rows(number % len(self), 1)[0]

    def __iter__(self) -> Iterator[Item]:
        for first in range(0, len(self), _READ_AT_ONCE):
            yield from self._rows(first, _READ_AT_ONCE)

    def __reduce__(self) -> Any:
        return Items, (self.folder,)

    def _rows(self, first: int, count: int) -> list[Item]:
        with self._whole():
            rows = self._opened().slice(first, count)
            # Places of texts that lead out of the file would be followed.
            rows.validate(full=True)
            return [_item(row) for row in rows.to_pylist()]

    def _opened(self) -> pyarrow.Table:
        if self._table is None:
            from pyarrow import feather

            with self._whole():
                table = feather.read_table(str(self.folder / FILE), memory_map=True)
                if table.schema != _schema():
                    raise ValueError(f"its columns are {', '.join(table.column_names)}")
            self._table = table
        return self._table

    @contextmanager
    def _whole(self) -> Iterator[None]:
        import pyarrow

        try:
            yield
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the storage
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ArgumentError(
                f"jobs: {self.folder / FILE} must be the list of a job's items, got another or a "
                f"damaged file ({reason})"
            ) from error


def _schema() -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema(
        [
            # Bytes: names of files need not be text.
            ("path", pyarrow.binary()),
            ("member", pyarrow.binary()),
            ("offset", pyarrow.int64()),
            ("size", pyarrow.int64()),
            ("target", pyarrow.int64()),
        ]
    )


def _item(row: dict[str, Any]) -> Item:
    if row["path"] is None:
        raise ValueError("an item has no path")
    return Item(**{**row, "path": _text(row["path"]), "member": _text(row["member"])})


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode(errors="surrogateescape")


def _text(name: bytes | None) -> str | None:
    return None if name is None else name.decode(errors="surrogateescape")

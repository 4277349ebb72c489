"""What is to be explained: a table of pictures, by number, in one file that processes share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic_file import atomic_file

if TYPE_CHECKING:
    import pyarrow

FILE = "items.arrow"


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

    schema = pyarrow.schema(
        [
            # Bytes: names of files need not be text.
            ("path", pyarrow.binary()),
            ("member", pyarrow.binary()),
            ("offset", pyarrow.int64()),
            ("size", pyarrow.int64()),
            ("target", pyarrow.int64()),
        ]
    )
    columns = {
        "path": [_bytes(item.path) for item in items],
        "member": [_bytes(item.member) for item in items],
        "offset": [item.offset for item in items],
        "size": [item.size for item in items],
        "target": [item.target for item in items],
    }
    with atomic_file(folder / FILE) as path:
        # Not compressed, so that it can be mapped into memory.
        feather.write_feather(pyarrow.table(columns, schema), str(path), compression="uncompressed")


class Items(Sequence[Item]):
    """The items of a job's folder. They stay on the disk; processes that read them share pages."""

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
        return _item(self._opened().slice(number % len(self), 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Item]:
        for batch in self._opened().to_batches(max_chunksize=4096):
            yield from map(_item, batch.to_pylist())

    def __reduce__(self) -> Any:
        return Items, (self.folder,)

    def _opened(self) -> pyarrow.Table:
        if self._table is None:
            from pyarrow import feather

            self._table = feather.read_table(str(self.folder / FILE), memory_map=True)
        return self._table


def _item(row: dict[str, Any]) -> Item:
    return Item(**{**row, "path": _text(row["path"]), "member": _text(row["member"])})


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode(errors="surrogateescape")


def _text(name: bytes | None) -> str | None:
    return None if name is None else name.decode(errors="surrogateescape")

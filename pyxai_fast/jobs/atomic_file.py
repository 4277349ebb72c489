"""Files that are there as a whole or not at all, whatever happens to the process or the machine."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_UNFINISHED = ".unfinished-"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to; what is there becomes `path` when the block ends, if it ends well.

    The file is on the disk before it has its name, and the name before the block is left.
    """
    # In a folder of its own: what writes it may itself have files that are not finished.
    folder = path.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
    folder.mkdir()
    try:
        unfinished = folder / path.name
        yield unfinished
        _flush(unfinished)
        unfinished.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as unfinished:
        unfinished.write_text(readable(text), encoding="utf-8")


def readable(text: str) -> str:
    """With what is no text, in names of files, written so that it can be read: \\xff."""
    held = text.encode("utf-8", "surrogateescape")
    return held.decode("utf-8", "backslashreplace")


def delete(paths: Iterable[Path]) -> None:
    """Deletes files, if they are there; they are gone from the disk before this returns."""
    folders = set()
    for path in paths:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in sorted(folders):
        _flush(folder)


def sweep(folder: Path) -> None:
    """Deletes what processes that were killed left unfinished in a folder.

    Nobody may be writing there.
    """
    for left in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

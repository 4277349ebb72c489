"""Files that are there as a whole or not at all, whatever happens to the process or the machine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What an unfinished file is called, between the name that it is to have and something unique.
_MARK = ".unfinished-"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to; what is there becomes `path` when the block ends, if it ends well.

    The file is on the disk before it has its name, and the name before the block is left.
    """
    unfinished = path.with_name(f".{path.name}{_MARK}{uuid.uuid4().hex}")
    try:
        yield unfinished
        _flush(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def sweep(folder: Path) -> None:
    """Deletes what processes that were killed left unfinished in a folder.

    Nobody may be writing there.
    """
    for left in folder.glob(f".*{_MARK}*"):
        left.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

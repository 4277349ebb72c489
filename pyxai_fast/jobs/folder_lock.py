"""One process at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ArgumentError


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds the folder while the block runs.

    It is the open file that holds the lock, not the file's being there: the lock of a process that
    was killed is gone with it.

    Raises:
        ArgumentError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            raise ArgumentError(
                f"jobs: {folder} must not be in use by another process, got one at work there"
                f"{f' ({holder})' if holder else ''}"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)

"""One process at a time in a folder."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ArgumentError

# What file systems over a network, or of a program, may answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds the folder while the block runs.

    It is the open file that holds the lock, not the file's being there: the lock of a process that
    was killed is gone with it.

    A file system that knows no such locks is gone on with, with a warning.

    Raises:
        ArgumentError: another process holds it, or it cannot be written to.
    """
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    try:
        opened = (folder / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise ArgumentError(
            f"jobs: out must be a folder that can be written to, got {folder} ({error})"
        ) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            raise ArgumentError(
                f"jobs: {folder} must not be in use by another process, got one at work there"
                f"{f' ({holder})' if holder else ''}"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"jobs: {folder} is on a file system without locks ({error.strerror}): see to it "
                "that no other process works on a job there",
                stacklevel=3,
            )
        with suppress(OSError):  # a disk that is full: it is said who holds it, no more
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
            file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)

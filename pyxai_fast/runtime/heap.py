"""Memory that the C library's heap holds in pieces which it does not use again.

A chunk's activations are small enough for malloc's heap, on purpose: larger blocks are mapped and
unmapped each time, and every page of them faults. But glibc before 2.38 often fails to reuse an
aligned block after it is freed (its bug 14581), and torch aligns every tensor: once in a while the
heap grows by some megabytes with each chunk, gigabytes in a minute, all of it free. Here that is
noticed, and the pages are given back.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

# Free memory that is worth a look, far above what the chunks of one model free and use again.
FREE_BYTES = 384 * 2**20
# Bytes that chunks write between two looks: a look takes microseconds, and they milliseconds.
LOOK_EVERY = 2**30


class _Counts(ctypes.Structure):
    """struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


class Heap:
    """Gives free pages back when they have become many.

    Attributes:
        released: how often that was.
    """

    def __init__(self) -> None:
        self.released = 0
        self._written = 0
        self._resident = 0  # after the last look at which something was given back

    def wrote(self, size: int) -> None:
        """Called when a chunk has made the model write `size` bytes."""
        self._written += size
        if self._written >= LOOK_EVERY:
            self._written = 0
            self.look()

    def look(self) -> None:
        library = _glibc()
        if library is None or library.mallinfo2().fordblks < FREE_BYTES:
            return
        # Free, but given back already, as far as the process has not grown since.
        if _resident_bytes() < self._resident + FREE_BYTES:
            return
        library.malloc_trim(0)
        self.released += 1
        self._resident = _resident_bytes()


HEAP = Heap()


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is a glibc that can be asked."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2") or not hasattr(library, "malloc_trim"):
        return None
    library.mallinfo2.restype = _Counts
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    return library


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

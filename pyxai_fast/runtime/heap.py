"""What the C library does with memory that chunks free: keep it, but not more and more of it.

A chunk's activations are small enough for malloc's heap, on purpose: larger blocks are mapped and
unmapped each time, and every page of them faults. So do the pages at the end of the heap, of which
glibc gives back what exceeds 64 MB whenever a block is freed there: it is told not to while chunks
run. But glibc before 2.38 cannot always take an aligned block where one was freed (its bug 14581),
and torch aligns every tensor: once in a while the heap grows by some megabytes with each chunk,
gigabytes in a minute, all of it free. Here that is noticed, and the pages are given back.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Free memory that is worth giving back: some more would be as good, and each time all pages fault.
FREE_BYTES = 128 * 2**20
# Looks that tell what is usual: chunks of several sizes take turns, and none of them is growth.
LOOKS = 4
# Bytes that chunks write between two looks: a look takes microseconds, and they milliseconds.
LOOK_EVERY = 2**30

# Of mallopt, in malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# The largest of blocks that glibc lets lie in the heap, and what it lets lie free at its end then.
LARGEST_BLOCK, USUALLY_KEPT = 32 * 2**20, 64 * 2**20
KEPT = 2**31 - 1
# With one of these in the environment somebody has chosen already.
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


class MallocCounts(ctypes.Structure):
    """struct mallinfo2 of glibc: how many bytes malloc holds, and for what."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


class Heap:
    """Keeps pages while chunks run, and gives free ones back when they have become many.

    Attributes:
        released: how often that was.
    """

    def __init__(self) -> None:
        self.released = 0
        self._written = 0
        # What was resident at the last looks since pages were given back, and the least that was
        # the most of so many looks; None before.
        self._resident: deque[int] = deque(maxlen=LOOKS)
        self._usual: int | None = None
        self._lock = threading.Lock()
        self._keeping = 0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While this lasts, in any thread, glibc keeps what is freed at the heap's end.

        Afterwards it gives back again what exceeds 64 MB, as it does in any process that has had
        blocks of 32 MB.
        """
        library = None if any(name in os.environ for name in CHOSEN) else _glibc()
        if library is None:
            yield
            return
        with self._lock:
            self._keeping += 1
            if self._keeping == 1:
                library.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
                library.mallopt(M_TRIM_THRESHOLD, KEPT)
        try:
            yield
        finally:
            with self._lock:
                self._keeping -= 1
                if self._keeping == 0:
                    library.mallopt(M_TRIM_THRESHOLD, USUALLY_KEPT)

    def wrote(self, size: int) -> None:
        """Called when a chunk has made the model write `size` bytes."""
        with self._lock:
            self._written += size
            enough = self._written >= LOOK_EVERY
            if enough:
                self._written = 0
        if enough:
            self.look()

    def look(self) -> None:
        """Gives free pages back where the process has grown by many since the looks before.

        Free pieces alone say nothing: what a chunk has freed, the next one uses again, and pages
        that are given back between them fault one by one.
        """
        library = _glibc()
        if library is None:
            return
        with self._lock:
            self._resident.append(_resident_bytes())
            if len(self._resident) < LOOKS:
                return
            most = max(self._resident)
            self._usual = most if self._usual is None else min(self._usual, most)
            grown = self._resident[-1] - self._usual
            if grown >= FREE_BYTES and library.mallinfo2().fordblks >= FREE_BYTES:
                library.malloc_trim(0)
                self.released += 1
                self._resident.clear()
                self._usual = None

    def free_bytes(self) -> int:
        """About how much of what is resident is free, for what is asked for next."""
        library = _glibc()
        if library is None:
            return 0
        counts = library.mallinfo2()
        # Free pieces may have been given back, and are then not resident.
        resident = _resident_bytes(shared=False) - counts.uordblks - counts.hblkhd
        return int(max(0, min(counts.fordblks, resident)))


HEAP = Heap()


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is a glibc that can be asked."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2") or not hasattr(library, "malloc_trim"):
        return None
    library.mallinfo2.restype = MallocCounts
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    library.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    return library


def _resident_bytes(shared: bool = True) -> int:
    """Of this process, with what it shares with others, or files, or without."""
    _, resident, of_others, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident if shared else resident - of_others) * os.sysconf("SC_PAGE_SIZE")

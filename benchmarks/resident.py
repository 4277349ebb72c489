"""The resident set of this process, and its peak during a call (Linux)."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path


def status(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS, the resident set, or VmHWM, its maximum."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"peak_memory: /proc/self/status has no {field}")


def peak_during(call: Callable[[], object]) -> int:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = status("VmRSS")
    call()
    return status("VmHWM") - before

"""The resident set of this process, and its peak during a call (Linux)."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
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


def peak_of_process(*command: str) -> int:
    """The number that a Python program prints last: a peak, measured in a process of its own."""
    # Blocks from 128 kB on are mapped, and gone when they are freed: what is resident is in use,
    # where malloc's heap would add free pieces, more or fewer from run to run.
    mapped = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=mapped)
    if done.returncode != 0:
        raise RuntimeError(f"peak memory of {' '.join(command)} failed\n{done.stderr}")
    return int(json.loads(done.stdout.splitlines()[-1]))

"""Calls of every kind leave nothing: no tensors, no objects, no memory.

A window of calls is short here. PYXAI_FAST_LEAK_SECONDS=5 makes it long enough for thousands of
the quick ones, in about ten minutes; "python tests/leak_cases.py 5" prints the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from leak_cases import LEAST

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="resident memory is read from Linux's /proc"
)

# What a call may lose of bytes before it is told from the noise of an allocator.
LOST_BYTES, NOISE = 2**12, 2**20
# Interned numbers, caches that are filled by a few more calls.
FEW = 3


def growth(seconds: float, *planted: str) -> dict[str, tuple[int, int, int, int]]:
    """Of each kind of call: calls in a window, and by how many bytes, tensors and objects the
    process grew over it."""
    program = Path(__file__).parent / "leak_cases.py"
    done = subprocess.run(
        [sys.executable, str(program), str(seconds), *planted],
        capture_output=True,
        text=True,
        timeout=600 + 200 * seconds,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, tuple[int, int, int, int]] = json.loads(done.stdout)
    return found


def leaks(found: dict[str, tuple[int, int, int, int]]) -> dict[str, str]:
    """What is lost with each call, by its kind."""
    lost = {}
    for name, (calls, size, tensors, objects) in found.items():
        if tensors > FEW:
            lost[name] = f"{tensors} tensors in {calls} calls"
        elif objects > max(FEW, calls // 4):
            lost[name] = f"{objects} objects in {calls} calls"
        elif size > NOISE + LOST_BYTES * calls:
            lost[name] = f"{size / 2**20:.1f} MiB in {calls} calls"
    return lost


def test_calls_of_every_kind_leave_nothing() -> None:
    from pyxai_fast import METHODS
    from pyxai_fast.combinations import COMBINATIONS

    pytest.importorskip("safetensors", reason="safetensors is not installed")
    found = growth(float(os.environ.get("PYXAI_FAST_LEAK_SECONDS", "0.03")))
    assert {*METHODS, *COMBINATIONS, "ops", "counterfactual", "a new model"} <= set(found)
    assert all(calls >= LEAST for calls, *_ in found.values())
    assert leaks(found) == {}


def test_what_is_lost_with_each_call_is_found_out() -> None:
    found = leaks(growth(0.2, "tensors", "objects", "bytes"))
    assert set(found) == {"tensors", "objects", "bytes"}
    assert "tensors in" in found["tensors"] and "objects in" in found["objects"]
    assert "MiB in" in found["bytes"]

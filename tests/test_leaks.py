"""Calls of every kind leave nothing: no tensors, no objects, no memory.

PYXAI_FAST_LEAK_TIMES=10 makes ten times as many calls, in about ten minutes; "python
tests/leak_cases.py 10" prints the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from leak_cases import HOW_OFTEN

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="resident memory is read from Linux's /proc"
)

# What a call, and a window of calls, may lose of bytes before it is told from the noise of an
# allocator, which is some ten KiB in a window.
LOST_BYTES, NOISE = 2**11, 2**18
# Caches that are filled by a few more calls.
FEW = 3


def growth(times: int, *planted: str) -> dict[str, tuple[int, int, int, int]]:
    """Of each kind of call: calls in a window, and by how many bytes, tensors and objects the
    process grew over it."""
    program = Path(__file__).parent / "leak_cases.py"
    done = subprocess.run(
        [sys.executable, str(program), str(times), *planted],
        capture_output=True,
        text=True,
        timeout=600 * (1 + times),
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
        elif objects > FEW:
            lost[name] = f"{objects} objects in {calls} calls"
        elif size > NOISE + LOST_BYTES * calls:
            lost[name] = f"{size // 2**10} KiB in {calls} calls"
    return lost


def test_calls_of_every_kind_leave_nothing() -> None:
    from pyxai_fast import METHODS
    from pyxai_fast.combinations import COMBINATIONS

    pytest.importorskip("safetensors", reason="safetensors is not installed")
    found = growth(int(os.environ.get("PYXAI_FAST_LEAK_TIMES", "1")))
    assert {*METHODS, *COMBINATIONS, "ops", "counterfactual", "a new model"} <= set(found)
    assert leaks(found) == {}


def test_what_is_lost_with_each_call_is_found_out() -> None:
    """With as many calls as above: of 50 KB, and of a tensor or an object."""
    found = leaks(growth(1, "tensors", "objects", "bytes"))
    assert found.keys() == {
        f"{what} {often}" for what in ("tensors", "objects", "bytes") for often in HOW_OFTEN
    }
    for often, calls in HOW_OFTEN.items():
        for what, unit in (("tensors", "tensors"), ("objects", "objects"), ("bytes", "KiB")):
            assert found[f"{what} {often}"].endswith(f" {unit} in {calls} calls")

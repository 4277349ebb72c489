"""Calls of every kind leave nothing: no tensors, no objects, no memory.

PYXAI_FAST_LEAK_TIMES=10 makes ten times as many calls, from one thousand to four thousand of each
kind, in about five minutes on two cores; "python tests/leak_cases.py 10 0" prints the figures of a
quarter of the kinds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from leak_cases import HOW_OFTEN, MALLOC_COUNTS, PARTS, all_calls

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="resident memory is read from Linux's /proc"
)

# Calls in a window; then what the process grew by: resident bytes, those that malloc has given
# away, tensors, and other objects.
Growth = tuple[int, int, int, int, int]

# What a window, and each call of it, may add to what malloc has given away before it is a leak. The
# count is exact, whatever else the machine does: caches that fill added 5 KiB to a window at most.
GIVEN, GIVEN_BY_A_CALL = 2**14, 2**4
# The same of resident memory, of which free pages come and go: 60 KiB in the least of three windows
# on a busy machine.
RESIDENT, RESIDENT_BY_A_CALL = 2**18, 2**8
# Caches that are filled by a few more calls.
FEW = 3


def growth(times: int, part: int = 0, *planted: str) -> dict[str, Growth]:
    """Of each kind of call in a part of them, in a process of its own."""
    program = Path(__file__).parent / "leak_cases.py"
    done = subprocess.run(
        [sys.executable, str(program), str(times), str(part), *planted],
        capture_output=True,
        text=True,
        timeout=600 * (1 + times),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Growth] = json.loads(done.stdout)
    return found


def leaks(found: dict[str, Growth]) -> dict[str, str]:
    """What is lost with each call, by its kind."""
    lost = {}
    for name, (calls, resident, given, tensors, objects) in found.items():
        if tensors > FEW:
            lost[name] = f"{tensors} tensors in {calls} calls"
        elif objects > FEW:
            lost[name] = f"{objects} objects in {calls} calls"
        elif given > GIVEN + GIVEN_BY_A_CALL * calls:
            lost[name] = f"{given} bytes in {calls} calls"
        elif resident > RESIDENT + RESIDENT_BY_A_CALL * calls:
            lost[name] = f"{resident // 2**10} resident KiB in {calls} calls"
    return lost


def test_calls_of_every_kind_are_made() -> None:
    from pyxai_fast import METHODS
    from pyxai_fast.combinations import COMBINATIONS

    others = {"ops", "counterfactual", "a new model", "evaluate", "road", "mprt"}
    assert {*METHODS, *COMBINATIONS, *others} <= set(all_calls())


@pytest.mark.parametrize("part", range(PARTS))
def test_calls_of_every_kind_leave_nothing(part: int) -> None:
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    found = growth(int(os.environ.get("PYXAI_FAST_LEAK_TIMES", "1")), part)
    assert found
    assert leaks(found) == {}


def test_what_is_lost_with_each_call_is_found_out() -> None:
    """With as many calls as above: of a KB, of pages, and of a tensor or an object."""
    units = {"tensors": "tensors", "objects": "objects", "bytes": "bytes", "pages": "resident KiB"}
    if not MALLOC_COUNTS:
        del units["bytes"]
    found = leaks(growth(1, 0, *units))
    assert found.keys() == {f"{what} {often}" for what in units for often in HOW_OFTEN}
    for often, calls in HOW_OFTEN.items():
        for what, unit in units.items():
            assert found[f"{what} {often}"].endswith(f" {unit} in {calls} calls")

"""Our ops under pytest-benchmark: for comparing two states of the code, or two machines.

    pytest benchmarks/test_op_speed.py --benchmark-save=before
    pytest benchmarks/test_op_speed.py --benchmark-compare --benchmark-compare-fail=median:10%

The cases are those of bench_ops.py, which also races the ops against their rivals; here only ours
run, on one thread, so `-k "perturb and imagenet"` is a matter of seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from contest import FAMILIES, Op, Setting, ops_of, settings_on

pytestmark = pytest.mark.benchmark(
    disable_gc=True, min_rounds=5, max_time=0.1, min_time=2e-5, warmup=True, warmup_iterations=2
)


def cases() -> Iterator[Any]:
    for family in FAMILIES:
        for op in ops_of(family):
            for setting in settings_on(op, "cpu"):
                if setting.threads == 1:
                    yield pytest.param(op, setting, id=str(setting).replace(" ", "-"))


@pytest.mark.parametrize(("op", "setting"), list(cases()))
def test_speed(benchmark: Any, op: Op, setting: Setting) -> None:
    data = op.data(setting)
    benchmark.group = setting.op
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            run = op.ours(data)
            op.reset(data)
            benchmark(run)
    finally:
        torch.set_num_threads(threads)

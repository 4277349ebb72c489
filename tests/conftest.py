"""Fixtures shared by the suite. No test needs a network, a GPU or a native build."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each of several processes has a core: with threads of their own they would wait for each
    # other. Before torch is imported, which reads it once.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from backends import backend as backend  # every test file has the fixture
from hypothesis import HealthCheck, settings

from pyxai_fast import ops

# Derandomised: a red run is red for everybody. Timing is not a property of these tests.
settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("suite")

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every test with this fixture runs on the CPU, and on a GPU where there is one."""
    return torch.device(request.param)


@pytest.fixture
def seed() -> None:
    torch.manual_seed(0)


needs_native_cpu = pytest.mark.skipif(
    ops.backends()["cpu"] != "loaded",
    reason=f"native CPU kernels: {ops.backends()['cpu']}",
)

"""The `backend` fixture: a test runs on every kernel there is, the emulated CUDA ones included.

def test_something(backend: torch.device) -> None:
    ... ops.path_points(x.to(backend), ...)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy_route
import pytest
import torch
from emulated_cuda import ORDERS, emulated_cuda, why_not

from pyxai_fast import ops

# What runs the ops: PyTorch, each instruction set, the NumPy module, CUDA kernels emulated in each
# order of threads and blocks, and a GPU.
BACKENDS = (
    "reference",
    *(f"cpu-{isa}" for isa in ops.available_cpu_isas()),
    *(["numpy"] if numpy_route.BUILT else []),
    # Not twice: they are the same without native libraries.
    *(f"emulated-{order}" for order in ORDERS if os.environ.get("PYXAI_FAST_NATIVE") != "off"),
    *(["cuda"] if torch.cuda.is_available() else []),
)


@contextmanager
def running(name: str) -> Iterator[torch.device]:
    """Within the block, ops on the yielded device run on this backend."""
    kind, _, variant = name.partition("-")
    if kind == "reference":
        with ops.native_kernels(False):
            yield torch.device("cpu")
    elif kind == "cpu":
        before = ops.cpu_isa()
        ops.set_cpu_isa(variant)
        try:
            yield torch.device("cpu")
        finally:
            ops.set_cpu_isa(before)
    elif kind == "numpy":
        with numpy_route.kernels():
            yield torch.device("cpu")
    elif kind == "emulated":
        if (reason := why_not()) is not None:
            pytest.skip(reason)
        emulated_cuda().run_as(variant, seed=1)
        with emulated_cuda().kernels():
            yield torch.device("cpu")
    else:
        yield torch.device("cuda")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    # Tensors are small in these tests: a second thread costs more than it does.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with running(request.param) as device:
        yield device
    torch.set_num_threads(threads)

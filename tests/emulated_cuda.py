"""The CUDA kernels on the CPU: builds the emulator of tests/native/emulator, and calls it.

Calls go through the checks and layouts of csrc/torch as on a GPU, so whatever tests an op tests its
CUDA kernels too.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from contextlib import AbstractContextManager
from ctypes import c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock  # torch needs it too
from torch import Tensor

from pyxai_fast.ops.registry import overridden, schemas

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "emulated-cuda"
ORDERS = ("forward", "reversed", "shuffled")

_PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])


def _program(*names: str) -> str | None:
    return next(filter(None, (shutil.which(name, path=_PATH) for name in names)), None)


def why_not() -> str | None:
    """What the emulator lacks here, or None."""
    if os.environ.get("PYXAI_FAST_EMULATOR"):
        return None
    if not (ROOT / "CMakeLists.txt").exists():
        return "the CUDA emulator is built from the sources, and this is a copy of tests/"
    if sys.platform != "linux":
        return "the CUDA emulator is for Linux"
    if _program(os.environ.get("CXX", "c++"), "g++", "clang++") is None:
        return "the CUDA emulator needs a C++ compiler (g++)"
    if _program("cmake") is None:
        return "the CUDA emulator needs cmake (pip install cmake ninja)"
    return None


@functools.cache
def build(target: str) -> Path:
    """The built target; a build that fails is an error with the compiler's output. Of several
    processes that test side by side one builds, and the others wait."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD.with_suffix(".lock")):
        return _build(target)


def _build(target: str) -> Path:
    cmake = _program("cmake") or "cmake"
    generator = ["-G", "Ninja"] if _program("ninja") else []
    for command in (
        [
            cmake,
            "-S",
            str(ROOT),
            "-B",
            str(BUILD),
            *generator,
            "-DPYXAI_FAST_TESTS=ON",
            f"-DPYXAI_FAST_TORCH={Path(torch.__file__).parent}",
        ],
        [cmake, "--build", str(BUILD), "--parallel", "2", "--target", target],
    ):
        done = subprocess.run(
            command, env={**os.environ, "PATH": _PATH}, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return BUILD / "tests" / "native" / "emulator" / target


def library_path() -> Path:
    """The emulated ops: those of PYXAI_FAST_EMULATOR, or built here."""
    named = os.environ.get("PYXAI_FAST_EMULATOR")
    return Path(named) if named else build("_ops_emulated").with_suffix(".so")


class EmulatedCuda:
    """The kernels of csrc/cuda on CPU tensors: `torch.ops.pyxai_fast_emulated` has every op."""

    def __init__(self) -> None:
        path = str(library_path())
        self.namespace = torch.library.Library("pyxai_fast_emulated", "DEF")
        for schema in schemas().values():
            self.namespace.define(schema)
        torch.ops.load_library(path)
        self.library = ctypes.CDLL(path)
        self.library.emulated_failure.restype = ctypes.c_char_p
        self.library.emulated_blocks.restype = c_int64

    def kernels(self) -> AbstractContextManager[None]:
        """Within the block, the ops of pyxai_fast run the emulated kernels for CPU tensors."""

        def packet(name: str) -> Callable[..., Any]:
            name, _, overload = name.partition(".")
            found = getattr(torch.ops.pyxai_fast_emulated, name)
            op: Callable[..., Any] = getattr(found, overload or "default")
            return op

        return overridden({name: packet(name) for name in schemas()}, ["cpu"])

    def run_as(self, order: str = "forward", seed: int = 0, limit: int = 2**31 - 1) -> None:
        """The order of threads and blocks from now on, and the most blocks along x at once."""
        self.library.emulated_order(ORDERS.index(order), seed)
        self.library.emulated_limit_grid(limit)

    def blocks(self) -> int:
        """Blocks run so far."""
        return int(self.library.emulated_blocks())

    def call(self, function: str, *args: object) -> None:
        """Calls a launcher with numbers, tensors and structs; raises what failed in a kernel."""
        plain = [c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in args]
        if getattr(self.library, function)(*plain) != 0:
            raise RuntimeError(self.library.emulated_failure().decode())


@functools.cache
def emulated_cuda() -> EmulatedCuda:
    """The emulator, built once."""
    return EmulatedCuda()

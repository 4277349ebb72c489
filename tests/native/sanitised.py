"""Runs tests of the ops on kernels built with the address and undefined-behaviour sanitisers.

    python tests/native/sanitised.py [pytest arguments]

The CPU kernels, for tensors and for NumPy, and the emulated CUDA kernels, on the data of the
ordinary tests: whatever they read or write outside of it ends the run. Before that, a mistake made
on purpose must be found, or the sanitisers are not at work.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch
from stable_abi import imported_symbols

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "sanitised"
NATIVE = BUILD / "native"
EMULATED = BUILD / "tests" / "native" / "emulator" / "_ops_emulated.so"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
# Every kernel, on a choice of its tests: sanitised kernels are slow. What is out of bounds is so
# in any order of threads.
KERNELS = "bits_of_the_reference and not reference- and not reversed and not shuffled"
TESTS = ["tests", "-k", f"bits_of_torch or bits_of_tensors or ({KERNELS})"]
# Of functions that sanitised code calls.
MARKS = ("__asan_report", "__ubsan_handle")
MISTAKE = """
import ctypes, sys, torch
short = torch.zeros(8)
ctypes.CDLL(sys.argv[1]).broken_off_by_one(ctypes.c_void_p(short.data_ptr()), 8)
"""


def main() -> int:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if sys.platform != "linux" or compiler is None:
        print("sanitised: SKIPPED: needs Linux and g++")
        return 0
    cmake = shutil.which("cmake", path=PATH) or "cmake"
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    with_numpy = headers and importlib.util.find_spec("pybind11") is not None
    run(
        cmake, "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", "-DPYXAI_FAST_TESTS=ON",
        "-DPYXAI_FAST_SANITISE=ON", f"-DPYXAI_FAST_TORCH={Path(torch.__file__).parent}",
        f"-DPYXAI_FAST_PYTHON={'ON' if with_numpy else 'OFF'}",
        f"-DPython_EXECUTABLE={sys.executable}",
    )  # fmt: skip
    modules = ["_C"] if with_numpy else []
    run(cmake, "--build", str(BUILD), "--target", "_ops_cpu", "_ops_emulated", *modules)
    shutil.rmtree(NATIVE, ignore_errors=True)
    NATIVE.mkdir()
    for name in ("_ops_cpu.so", "build_info.json", *(f"{name}{SUFFIX}" for name in modules)):
        shutil.copy(BUILD / name, NATIVE)

    # Every instruction set is in the same library: built without, it would test nothing.
    for library in (*NATIVE.glob("*.so"), EMULATED):
        found = imported_symbols(library)
        if not all(any(name.startswith(kind) for name in found) for kind in MARKS):
            print(f"sanitised: {library} was built without the sanitisers")
            return 1

    # The sanitisers' libraries come first; torch's allocations are then guarded too.
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        # Leaks are not looked for: an interpreter keeps much until it ends.
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYXAI_FAST_NATIVE_DIRECTORY": str(NATIVE),
        "PYXAI_FAST_EMULATOR": str(EMULATED),
    }
    mistake = subprocess.run(
        [sys.executable, "-c", MISTAKE, EMULATED], env=environment, capture_output=True, text=True
    )
    if mistake.returncode == 0 or "heap-buffer-overflow" not in mistake.stderr:
        print(mistake.stderr, "sanitised: a write behind a tensor was not found", sep="\n")
        return 1
    arguments = sys.argv[1:] or TESTS
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def run(*command: str) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\nsanitised: {' '.join(command)} failed")


if __name__ == "__main__":
    sys.exit(main())

"""Builds the native libraries with CMake (CMakeLists.txt holds the sources and flags).

pyproject.toml holds the metadata. This file adds one command, BuildNative, and the answer to one
question: what can be built here? Environment:

    PYXAI_FAST_NATIVE=on|off         off installs pure Python (default on)
    PYXAI_FAST_PYTHON=auto|on|off    auto builds the NumPy module when pybind11 and Python's headers
                                     are found; off gives a wheel for every version of Python
    PYXAI_FAST_CUDA=auto|on|off      auto builds CUDA when nvcc is found and torch is a CUDA build
    PYXAI_FAST_CUDA_ARCHS=90-real    CMake architectures (also: TORCH_CUDA_ARCH_LIST="9.0")
    CMAKE_ARGS, MAX_JOBS             passed on to CMake

A failing native build fails the installation: a silent fallback would be found out in production.
torch is imported only to learn where its headers lie, and is not a build requirement, because pip
would then fetch a second torch into an isolated environment. Hence --no-build-isolation.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def setting(name: str, choices: tuple[str, ...]) -> str:
    value = os.environ.get(name, choices[0]).lower()
    if value not in choices:
        raise SystemExit(f"setup: {name} must be one of {', '.join(choices)}, got {value!r}")
    return value


NATIVE = setting("PYXAI_FAST_NATIVE", ("on", "off")) == "on"


def lacks_for_python() -> str | None:
    """Why the NumPy module is not built, or None. A wheel with it is for one version of Python."""
    wish = setting("PYXAI_FAST_PYTHON", ("auto", "on", "off"))
    if wish == "off":
        return "PYXAI_FAST_PYTHON=off"
    missing = (
        "pybind11 was not found (pip install pybind11)"
        if importlib.util.find_spec("pybind11") is None
        else "Python.h was not found (Debian/Ubuntu: apt-get install python3-dev)"
        if not Path(sysconfig.get_path("include"), "Python.h").exists()
        else None
    )
    if missing and wish == "on":
        raise SystemExit(f"setup: PYXAI_FAST_PYTHON=on, but {missing}")
    return missing


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


def cuda_archs() -> list[str]:
    """CMake's form of the architectures asked for, or [] for the defaults of CMakeLists.txt."""
    archs = os.environ.get("PYXAI_FAST_CUDA_ARCHS")
    if archs:
        return [f"-DPYXAI_FAST_CUDA_ARCHS={archs}"]
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ")
    numbers = [
        a.replace(".", "").replace("+PTX", "") + ("" if "+PTX" in a else "-real")
        for a in archs.split()
    ]
    return [f"-DPYXAI_FAST_CUDA_ARCHS={';'.join(numbers)}"] if numbers else []


def run(command: list[str], path: str) -> None:
    print("setup:", shlex.join(command), flush=True)
    try:
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"setup: the native build failed ({error}). It needs a C++17 compiler, cmake and "
            "ninja; PYXAI_FAST_NATIVE=off installs the pure-PyTorch package instead."
        ) from None


class BuildNative(build_ext):
    """Configures, builds and installs the CMake project into pyxai_fast/_native."""

    def run(self) -> None:
        try:
            import torch
        except ImportError:
            raise SystemExit(
                "setup: torch must be installed to build the native libraries. Install torch, then "
                "run pip with --no-build-isolation; or set PYXAI_FAST_NATIVE=off for pure Python."
            ) from None
        package = ROOT if self.inplace or self.editable_mode else Path(self.build_lib).resolve()
        destination = package / "pyxai_fast" / "_native"
        build = ROOT / "build" / "native"
        # pip may run outside an activated environment; cmake and ninja are programs inside it.
        programs = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
        cmake = shutil.which("cmake", path=programs) or "cmake"
        configure = [
            cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            "-DCMAKE_BUILD_TYPE=" + ("Debug" if self.debug else "Release"),
            f"-DPYXAI_FAST_TORCH={Path(torch.__file__).parent}",
            *self.python_options(),
            *self.cuda_options(torch),
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        jobs = ["--parallel", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        run(configure, programs)
        run([cmake, "--build", str(build), *jobs], programs)
        # Only now: a build that fails leaves what was installed before.
        shutil.rmtree(destination, ignore_errors=True)
        install = ["--component", "python", "--prefix", str(destination)]
        run([cmake, "--install", str(build), *install], programs)

    def python_options(self) -> list[str]:
        if (missing := lacks_for_python()) is not None:
            print(f"setup: the NumPy module is not built: {missing}")
            return ["-DPYXAI_FAST_PYTHON=OFF"]
        import pybind11

        return [
            "-DPYXAI_FAST_PYTHON=ON",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]

    def cuda_options(self, torch) -> list[str]:
        wish = setting("PYXAI_FAST_CUDA", ("auto", "on", "off"))
        if os.environ.get("FORCE_CUDA") == "1":
            wish = "on"
        if wish == "off":
            return ["-DPYXAI_FAST_CUDA=OFF"]
        nvcc = find_nvcc()
        missing = (
            "nvcc was not found (set CUDA_HOME)"
            if nvcc is None
            else "torch is a CPU build"
            if torch.version.cuda is None
            else None
        )
        if missing is None:
            return ["-DPYXAI_FAST_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}", *cuda_archs()]
        if wish == "on":
            raise SystemExit(f"setup: PYXAI_FAST_CUDA=on, but {missing}")
        print(f"setup: CUDA kernels are not built: {missing}")
        return ["-DPYXAI_FAST_CUDA=OFF"]

    # CMake installs the libraries; setuptools has nothing of its own to compile or copy.
    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class NativeWheel(bdist_wheel):
    """Tags the wheel py3-none-PLATFORM; with the NumPy module, for this version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        if not NATIVE:
            return "py3", "none", "any"
        tag: tuple[str, str, str] = super().get_tag()
        return tag if lacks_for_python() is None else ("py3", "none", tag[2])


if sys.platform == "win32" and NATIVE:
    raise SystemExit(
        "setup: native libraries are not supported on Windows; set PYXAI_FAST_NATIVE=off"
    )

setup(
    ext_modules=[Extension("pyxai_fast._native", sources=[])] if NATIVE else [],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": NativeWheel},
)

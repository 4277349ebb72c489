"""Where the native libraries lie, how they were built, and whether they are wanted. No torch."""

from __future__ import annotations

import json
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

# Where another build lies, for tests of it.
NATIVE_DIRECTORY = Path(
    os.environ.get("PYXAI_FAST_NATIVE_DIRECTORY") or Path(__file__).resolve().parent / "_native"
)
SWITCHED_OFF = "switched off by PYXAI_FAST_NATIVE=off"


def switched_off() -> bool:
    return os.environ.get("PYXAI_FAST_NATIVE", "on").lower() == "off"


def build_info() -> dict[str, str]:
    """How the native libraries were built (compiler, CUDA version and architectures)."""
    path = NATIVE_DIRECTORY / "build_info.json"
    info: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return info


def array_module() -> Path | None:
    """The module of the kernels for NumPy, if it was built for this Python."""
    paths = (NATIVE_DIRECTORY / f"_C{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next(filter(Path.exists, paths), None)

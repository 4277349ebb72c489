"""Which of torch's symbols a library uses: no C++ ones, and no C ones newer than it should."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

# Classes and functions of these namespaces change from one torch to the next. What the stable
# ABI's headers define lies in torch:: too, but is compiled into the library, never imported.
_UNSTABLE = re.compile(r"\b(at|c10|caffe2|torch)::")


# The stable ABI's functions: their names, and the versions of torch that brought them.
_STABLE = re.compile(r"\b(?:aoti_)?torch_\w+")
_SINCE = re.compile(r"#if TORCH_FEATURE_VERSION >= TORCH_VERSION_(\d+)_(\d+)_0")
_SHIMS = ("torch/csrc/stable/c/shim.h", "torch/csrc/inductor/aoti_torch/c/shim.h")
Version = tuple[int, int]


def imported_symbols(binary: Path) -> list[str]:
    """Demangled names that `binary`, a shared library or object file, expects others to define."""
    dynamic = ["--dynamic"] if ".so" in binary.suffixes else []
    command = ["nm", *dynamic, "--demangle", "--undefined-only", str(binary)]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(name.split(maxsplit=1)[1] for name in names)


def unstable_symbols(binary: Path) -> list[str]:
    """Those that torch defines in C++."""
    return [name for name in imported_symbols(binary) if _UNSTABLE.search(name)]


def stable_symbols(binary: Path) -> list[str]:
    """Those that torch's stable ABI defines in C."""
    return [name for name in imported_symbols(binary) if _STABLE.fullmatch(name)]


def newer_than(version: Version, include: Path) -> set[str]:
    """Functions of the stable ABI that came after a version, from the headers of a newer torch."""
    newer = set()
    for shim in _SHIMS:
        open_conditions: list[Version] = []  # (0, 0) for those about anything but the version
        for line in (include / shim).read_text().splitlines():
            if line.startswith("#if"):
                since = _SINCE.match(line)
                open_conditions.append((int(since[1]), int(since[2])) if since else (0, 0))
            elif line.startswith("#endif"):
                open_conditions.pop()
            elif any(condition > version for condition in open_conditions):
                newer |= set(_STABLE.findall(line))
    return newer


def needed_libraries(binary: Path) -> list[str]:
    """The shared libraries that are loaded with this one."""
    command = ["readelf", "--dynamic", "--wide", str(binary)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.+)\]", lines)

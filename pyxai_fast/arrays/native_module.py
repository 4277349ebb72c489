"""The native module behind this package: found, checked and loaded."""

from __future__ import annotations

import platform
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

from ..native import SWITCHED_OFF, array_module, switched_off
from ..version import __version__


def _load() -> ModuleType:
    if switched_off():
        raise ImportError(f"pyxai_fast.arrays: {SWITCHED_OFF}, and NumPy has no other kernels")
    path = array_module()
    if path is None:
        raise ImportError(
            "pyxai_fast.arrays: its native module was not built for Python "
            f"{platform.python_version()}. Install pybind11, then: pip install "
            "--no-build-isolation --force-reinstall --no-deps pyxai-fast"
        )
    spec = spec_from_file_location("pyxai_fast._native._C", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if (built := module.build_info["version"]) != __version__:
        raise ImportError(
            f"pyxai_fast.arrays: {path.name} was built from version {built}, and this is "
            f"{__version__}"
        )
    return module


native = _load()


def build_info() -> dict[str, str]:
    """How the native module was built: version and compiler."""
    return dict(native.build_info)


def cpu_isa() -> str:
    """The instruction set of the kernels for arrays: baseline, avx2 or avx512.

    `pyxai_fast.ops` has one of its own: the two are libraries of their own.
    """
    name: str = native.cpu_isa()
    return name


def available_cpu_isas() -> list[str]:
    """The levels this processor can run, lowest first."""
    levels = ["baseline", "avx2", "avx512"]
    return levels[: levels.index(native.best_cpu_isa()) + 1]


def set_cpu_isa(name: str) -> None:
    """Chooses the instruction set for arrays in this process; every level gives the same bits."""
    if not native.set_cpu_isa(name):
        raise ValueError(
            f"set_cpu_isa: name must be one of {available_cpu_isas()} on this processor, "
            f"got {name!r}"
        )

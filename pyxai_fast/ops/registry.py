"""The op library: how ops are declared, and how native kernels are found and loaded.

An op is declared here in Python with its reference as the default kernel. Loading a native library
adds kernels for its device, so the dispatcher itself is the fallback: same op, same schema, with or
without a build. `native_kernels(False)` sends every call to the reference for a while.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ..native import NATIVE_DIRECTORY, SWITCHED_OFF, build_info, switched_off
from ..version import __version__

NAMESPACE = "pyxai_fast"

_library = torch.library.Library(NAMESPACE, "DEF")
_schemas: dict[str, str] = {}  # by op: "path_points", "path_points.out"
_references: dict[str, Callable[..., Any]] = {}
_loaded: dict[str, str] = {}  # backend -> "loaded", or why it is not


def define(
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    vmap: Callable[..., Any] | None = None,
) -> None:
    """Declares one op: its schema, its PyTorch kernel, its shape rule and its batching rule."""
    name = schema.split("(", 1)[0]
    _library.define(schema, tags=[torch.Tag.pt2_compliant_tag])
    _library.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    if vmap is not None:
        torch.library.register_vmap(f"{NAMESPACE}::{name}", vmap, lib=_library)
    _schemas[name] = schema
    _references[name] = reference


def fake_nothing(*args: Any, **kwargs: Any) -> None:
    """The shape rule of an op that writes into its arguments and returns nothing."""


def load_native() -> None:
    """Loads the native libraries that were built; one clear warning where one cannot be loaded."""
    wanted = ["cpu"] + (["cuda"] if torch.version.cuda is not None else [])
    for backend in wanted:
        path = NATIVE_DIRECTORY / f"_ops_{backend}.so"
        if switched_off():
            _loaded[backend] = SWITCHED_OFF
        elif not path.exists():
            _loaded[backend] = "not built"
        else:
            try:
                if (built := build_info().get("version")) != __version__:
                    raise OSError(f"it was built from version {built}, and this is {__version__}")
                torch.ops.load_library(str(path))
                _loaded[backend] = "loaded"
            except (OSError, RuntimeError) as error:
                _loaded[backend] = f"could not be loaded: {error}"
                warnings.warn(
                    f"pyxai_fast: {path.name} {_loaded[backend]}; the PyTorch reference is used "
                    "instead. Rebuild with: pip install --no-build-isolation --force-reinstall "
                    "--no-deps pyxai-fast",
                    RuntimeWarning,
                    stacklevel=2,
                )


def native_loaded(backend: str) -> bool:
    return _loaded.get(backend) == "loaded"


_reference_only = False


def backend_of(device: torch.device) -> str:
    """What runs the ops for tensors on a device: "cpu (avx512)", "cuda" or "reference"."""
    if _reference_only or not native_loaded(device.type):
        return "reference"
    return f"cpu ({cpu_isa()})" if device.type == "cpu" else device.type


@contextmanager
def native_kernels(enabled: bool) -> Iterator[None]:
    """Within the block, ops run native kernels (True, where loaded) or the reference (False).

    For comparisons and tests. It re-registers kernels for the whole process, so it is not for use
    while other threads call ops. Within a block of the reference, native_kernels(True) changes
    nothing.
    """
    global _reference_only
    if enabled or _reference_only:
        yield
        return
    _reference_only = True
    devices = [device for device in ("cpu", "cuda") if native_loaded(device)]
    try:
        with overridden(_references, devices):
            yield
    finally:
        _reference_only = False


@contextmanager
def overridden(kernels: Mapping[str, Callable[..., Any]], devices: Iterable[str]) -> Iterator[None]:
    """Within the block, these kernels run the ops (by name) for tensors on the devices."""
    override = torch.library.Library(NAMESPACE, "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
        for name, kernel in kernels.items():
            for device in devices:
                override.impl(name, kernel, device.upper(), allow_override=True)
        try:
            yield
        finally:
            override._destroy()


def schemas() -> dict[str, str]:
    """Every op's schema, by its name with its overload: "path_points", "path_points.out"."""
    return dict(_schemas)


def _cpu_library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(NATIVE_DIRECTORY / "_ops_cpu.so"))
    library.pyxai_fast_cpu_isa.restype = ctypes.c_char_p
    library.pyxai_fast_best_cpu_isa.restype = ctypes.c_char_p
    library.pyxai_fast_set_cpu_isa.argtypes = [ctypes.c_char_p]
    return library


def cpu_isa() -> str | None:
    """The instruction set of the CPU kernels: baseline, avx2 or avx512; None without them."""
    if not native_loaded("cpu"):
        return None
    name: bytes = _cpu_library().pyxai_fast_cpu_isa()
    return name.decode()


def available_cpu_isas() -> list[str]:
    """The levels this processor can run, lowest first; empty without native CPU kernels."""
    if not native_loaded("cpu"):
        return []
    levels = ["baseline", "avx2", "avx512"]
    best: bytes = _cpu_library().pyxai_fast_best_cpu_isa()
    return levels[: levels.index(best.decode()) + 1]


def set_cpu_isa(name: str) -> None:
    """Chooses the instruction set for this process; every level gives the same bits."""
    if name not in available_cpu_isas():
        raise ValueError(
            f"set_cpu_isa: name must be one of {available_cpu_isas()} on this processor, "
            f"got {name!r}"
        )
    _cpu_library().pyxai_fast_set_cpu_isa(name.encode())


def backends() -> dict[str, str]:
    """What runs the ops: {"reference": ..., "cpu": ..., "cuda": ...}, each "loaded" or why not."""
    cuda = _loaded.get("cuda", "torch is a CPU build")
    return {"reference": "loaded", "cpu": _loaded.get("cpu", "not built"), "cuda": cuda}

"""The CUDA kernels on the CPU: builds the emulator of tests/native/emulator, and calls it.

Kernels see memory, not tensors, so each argument is laid out flat first, as csrc/torch does it on a
GPU: in the memory order of the inputs, and broadcast by strides of zero.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "emulated-cuda"
ORDERS = ("forward", "reversed", "shuffled")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])


def _program(*names: str) -> str | None:
    return next(filter(None, (shutil.which(name, path=_PATH) for name in names)), None)


def why_not() -> str | None:
    """What the emulator lacks here, or None."""
    if sys.platform != "linux":
        return "the CUDA emulator is for Linux"
    if _program(os.environ.get("CXX", "c++"), "g++", "clang++") is None:
        return "the CUDA emulator needs a C++ compiler (g++)"
    if _program("cmake") is None:
        return "the CUDA emulator needs cmake (pip install cmake ninja)"
    return None


@functools.cache
def build(target: str) -> Path:
    """The built target; a build that fails is an error with the compiler's output."""
    cmake = _program("cmake") or "cmake"
    generator = ["-G", "Ninja"] if _program("ninja") else []
    for command in (
        [cmake, "-S", str(ROOT), "-B", str(BUILD), *generator, "-DPYXAI_FAST_TESTS=ON"],
        [cmake, "--build", str(BUILD), "--parallel", "2", "--target", target],
    ):
        done = subprocess.run(
            command, env={**os.environ, "PATH": _PATH}, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return BUILD / "tests" / "native" / "emulator" / target


# --- the structs of csrc/include/pyxai_fast ------------------------------------------------------


def struct(name: str, fields: str, **types: type) -> type[ctypes.Structure]:
    """A struct with `fields` in this order, pointers where `types` does not say otherwise."""
    members = [(field, types.get(field, c_void_p)) for field in fields.split()]
    return type(name, (ctypes.Structure,), {"_fields_": members})


Strides2 = struct("Strides2", "row column", row=c_int64, column=c_int64)
Channels = struct("Channels", "count inner", count=c_int64, inner=c_int64)
PathPoints = struct(
    "PathPoints",
    "inputs baselines alphas scale shift points steps batch features baseline_strides"
    " alpha_strides channels dtype point_dtype",
    **dict.fromkeys(("steps", "batch", "features"), c_int64),
    **dict.fromkeys(("baseline_strides", "alpha_strides"), Strides2),
    channels=Channels,
    **dict.fromkeys(("dtype", "point_dtype"), c_int),
)
PathAccumulate = struct(
    "PathAccumulate",
    "grads weights total attributions inputs baselines scale steps batch features weight_strides"
    " baseline_strides channels grad_dtype dtype attribution_dtype",
    **dict.fromkeys(("steps", "batch", "features"), c_int64),
    **dict.fromkeys(("baseline_strides", "weight_strides"), Strides2),
    channels=Channels,
    **dict.fromkeys(("grad_dtype", "dtype", "attribution_dtype"), c_int),
)


# --- tensors as memory ---------------------------------------------------------------------------


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous()


def flat(tensor: Tensor, channels_last: bool = False, skip: int = 0) -> Tensor:
    """A copy in memory order [numel], `skip` elements behind an aligned address."""
    ordered = tensor.movedim(1, -1) if channels_last else tensor
    memory = torch.empty(tensor.numel() + skip, dtype=tensor.dtype)[skip:]
    return memory.copy_(ordered.reshape(-1))


def shaped(memory: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """The tensor that lies in `memory`."""
    if not channels_last:
        return memory.view(shape)
    batch, channels, *rest = shape
    return memory.view(batch, *rest, channels).movedim(-1, 1)


def address(memory: Tensor | None) -> int | None:
    return None if memory is None else memory.data_ptr()


def rows(tensor: Tensor, features: int) -> ctypes.Structure:
    """The strides of a scalar, one example [1, ...] or a batch."""
    if tensor.dim() == 0:
        return Strides2(0, 0)
    return Strides2(0 if tensor.shape[0] == 1 else features, 1)


def coefficients(tensor: Tensor) -> tuple[Tensor, ctypes.Structure]:
    """Doubles [S] or [S, B], and their strides."""
    strides = Strides2(tensor.shape[1], 1) if tensor.dim() == 2 else Strides2(1, 0)
    return tensor.double().contiguous(), strides


def channels_of(tensor: Tensor, channels_last: bool) -> ctypes.Structure:
    if tensor.dim() < 2:
        return Channels(1, 1)
    inner = 1 if channels_last else tensor[0, 0].numel()
    return Channels(tensor.shape[1], inner)


# --- the emulator --------------------------------------------------------------------------------


class EmulatedCuda:
    """The launchers of csrc/cuda, called with CPU tensors as the ops are."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(build("_emulated_cuda")) + ".so")
        self.library.emulated_failure.restype = ctypes.c_char_p
        for name in ("blocks", "path_points_size", "path_accumulate_size"):
            getattr(self.library, f"emulated_{name}").restype = c_int64
        # The layouts above must be those of the headers.
        assert self.library.emulated_path_points_size() == ctypes.sizeof(PathPoints)
        assert self.library.emulated_path_accumulate_size() == ctypes.sizeof(PathAccumulate)

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

    def path_points(
        self,
        inputs: Tensor,
        baselines: Tensor,
        alphas: Tensor,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        skips: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """As pyxai_fast.reference.path_points; inputs and points miss alignment by `skips`."""
        last = memory_format is torch.channels_last
        batch, steps = inputs.shape[0], alphas.shape[0]
        features = inputs[0].numel()
        x = flat(inputs, last, skips[0])
        b = flat(baselines.to(inputs.dtype), last and baselines.dim() > 0)
        a, alpha_strides = coefficients(alphas)
        scales = None if scale is None else scale.double()
        shifts = None if shift is None else shift.double()
        shape = (steps * batch, *inputs.shape[1:])
        points = flat(torch.full(shape, float("nan"), dtype=dtype or inputs.dtype), last, skips[1])
        args = PathPoints(
            address(x), address(b), address(a), address(scales), address(shifts), address(points),
            steps, batch, features, rows(baselines, features), alpha_strides,
            channels_of(inputs, last), DTYPES.index(x.dtype), DTYPES.index(points.dtype),
        )  # fmt: skip
        self.call("emulated_path_points", ctypes.byref(args))
        return shaped(points, shape, last)

    def path_accumulate(
        self,
        grads: Tensor,
        weights: Tensor,
        inputs: Tensor | None = None,
        baselines: Tensor | None = None,
        scale: Tensor | None = None,
        total: Tensor | None = None,
        skips: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """As pyxai_fast.reference.path_accumulate; with `total`, [B, ...] float64, adds to it.

        grads and inputs miss alignment by `skips`.
        """
        last = is_channels_last(grads)
        steps = weights.shape[0]
        shape = (grads.shape[0] // steps, *grads.shape[1:])
        features = grads[0].numel()
        g = flat(grads, last, skips[0])
        w, weight_strides = coefficients(weights)
        x = None if inputs is None else flat(inputs, last, skips[1])
        b = None
        if inputs is not None and baselines is not None:
            b = flat(baselines.to(inputs.dtype), last and baselines.dim() > 0)
        scales = None if scale is None else scale.double()
        sums = None if total is None else flat(total, last)
        wide = torch.float64 if grads.dtype == torch.float64 else torch.float32
        attributions = None
        if total is None:
            attributions = flat(torch.full(shape, float("nan"), dtype=wide), last)
        args = PathAccumulate(
            address(g), address(w), address(sums), address(attributions),
            address(x), address(b), address(scales), steps, shape[0], features, weight_strides,
            Strides2(0, 0) if baselines is None else rows(baselines, features),
            channels_of(grads, last), DTYPES.index(g.dtype),
            0 if x is None else DTYPES.index(x.dtype), DTYPES.index(wide),
        )  # fmt: skip
        self.call("emulated_path_accumulate", ctypes.byref(args))
        if total is not None and sums is not None:
            return total.copy_(shaped(sums, shape, last))
        assert attributions is not None
        return shaped(attributions, shape, last)


@functools.cache
def emulated_cuda() -> EmulatedCuda:
    """The emulator, built once."""
    return EmulatedCuda()

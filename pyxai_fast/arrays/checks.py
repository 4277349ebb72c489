"""Checks of types; shapes, strides and overlaps are checked natively, as for tensors.

Wrong types are TypeErrors; wrong shapes and combinations are ValueErrors.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

FLOATING = "float16, bfloat16, float32 or float64"


def check_floating(op: str, name: str, array: Any) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{op}: {name} must be a NumPy array, got {type(array).__name__}")
    if not _is_floating(array.dtype):
        raise TypeError(f"{op}: {name} must be {FLOATING}, got {array.dtype}")


def readable(op: str, name: str, array: Any) -> Array:
    """The array, or a copy of one that the kernels cannot read: unaligned or of foreign bytes."""
    check_floating(op, name, array)
    if array.flags.aligned and array.dtype.isnative:
        checked: Array = array
        return checked
    return np.array(array, array.dtype.newbyteorder("="))


def readable_or_none(op: str, name: str, array: Any) -> Array | None:
    return None if array is None else readable(op, name, array)


def readable_rows(op: str, name: str, value: Any) -> Array:
    """A number or an array, as an array."""
    if isinstance(value, (int, float, np.integer, np.floating)):
        return np.asarray(value, np.float64)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{op}: {name} must be a number or an array, got {type(value).__name__}")
    return readable(op, name, value)


def check_written(op: str, name: str, array: Any) -> None:
    check_floating(op, name, array)
    if not (array.flags.writeable and array.flags.aligned and array.dtype.isnative):
        raise ValueError(
            f"{op}: {name} must be writeable, aligned and in native byte order, got {array.dtype} "
            f"with writeable={array.flags.writeable}, aligned={array.flags.aligned}"
        )


def float_dtype(op: str, dtype: Any) -> np.dtype[Any]:
    wanted: np.dtype[Any] = np.dtype(dtype)
    if not (_is_floating(wanted) and wanted.isnative):
        raise TypeError(f"{op}: dtype must be {FLOATING}, got {wanted}")
    return wanted


def common_dtype(inputs: Array, baselines: Array) -> np.dtype[Any]:
    """Of two arrays the wider type; a scalar baseline has no say. As torch has it."""
    if baselines.ndim == 0 or inputs.dtype == baselines.dtype:
        return inputs.dtype
    if inputs.itemsize == baselines.itemsize == 2:  # float16 and bfloat16
        return np.dtype(np.float32)
    common: np.dtype[Any] = np.promote_types(inputs.dtype, baselines.dtype)
    return common


def thread_count(op: str, n_threads: Any) -> int:
    if not isinstance(n_threads, int) or isinstance(n_threads, bool):
        raise TypeError(f"{op}: n_threads must be an integer, got {type(n_threads).__name__}")
    if n_threads < 1:
        raise ValueError(f"{op}: n_threads must be at least 1, got {n_threads}")
    return min(n_threads, 1024)


def _is_floating(dtype: np.dtype[Any]) -> bool:
    return dtype.char in "efd" or dtype.name == "bfloat16"


def whole(op: str, name: str, array: Any) -> Array:
    """int32 or int64 numbers, aligned and in native byte order."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{op}: {name} must be a NumPy array, got {type(array).__name__}")
    if array.dtype.kind != "i" or array.itemsize not in (4, 8):
        raise TypeError(f"{op}: {name} must be int32 or int64, got {array.dtype}")
    return np.require(array, array.dtype.newbyteorder("="), ["ALIGNED"])


def whole_or_none(op: str, name: str, array: Any) -> Array | None:
    return None if array is None else whole(op, name, array)

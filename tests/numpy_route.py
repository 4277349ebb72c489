"""The NumPy module as kernels of the ops: whatever tests an op tests it for arrays too.

NumPy has no bfloat16 of its own: without the package ml_dtypes the reference takes those calls.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyxai_fast import native
from pyxai_fast.ops.registry import _references, overridden, schemas

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

BUILT = native.array_module() is not None and not native.switched_off()
THREADS = 2


def kernels() -> AbstractContextManager[None]:
    """Within the block, the ops of pyxai_fast run the NumPy module's functions for CPU tensors."""
    return overridden({name: _kernel(name) for name in schemas()}, ["cpu"])


def _kernel(name: str) -> Callable[..., Any]:
    from pyxai_fast.arrays.native_module import native as module

    function = getattr(module.ops, name.replace(".", "_"))
    arguments = torch._C.parse_schema(f"pyxai_fast::{schemas()[name]}").arguments

    def kernel(*args: Any, **kwargs: Any) -> Any:
        if bfloat16 is None and any(map(_is_bfloat16, (*args, *kwargs.values()))):
            return _references[name](*args, **kwargs)
        given = dict(zip((a.name for a in arguments), args, strict=False)) | kwargs
        every = [given.get(a.name, a.default_value) for a in arguments]
        try:
            result = function(THREADS, *map(_to_numpy, every))
        except ValueError as error:  # as a raw op of torch says it
            raise RuntimeError(str(error)) from None
        return _from_numpy(result)

    return kernel


def _to_numpy(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach()
        if value.dtype == torch.bfloat16:
            return value.view(torch.int16).numpy().view(bfloat16)
        return value.numpy()
    if isinstance(value, torch.dtype):
        return np.dtype(bfloat16 if value == torch.bfloat16 else str(value).split(".")[1])
    if isinstance(value, torch.memory_format):
        return str(value).split(".")[1].removesuffix("_format")
    return value


def _from_numpy(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_from_numpy, value))
    if isinstance(value, np.ndarray):
        if value.dtype.name == "bfloat16":
            return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(value)
    return value


def _is_bfloat16(value: Any) -> bool:
    return value is torch.bfloat16 or getattr(value, "dtype", None) is torch.bfloat16

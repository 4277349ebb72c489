"""Checks that the ops share. A message names the op, the argument, what it must be, and what it is.

Wrong types are TypeErrors; wrong shapes, devices, formats and combinations are ValueErrors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference.path import memory_format_of

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_floating(op: str, name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATING:
        raise TypeError(
            f"{op}: {name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}"
        )


def check_same_device(op: str, name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(f"{op}: {name} must be on {like.device}, got {tensor.device}")


def check_batch(op: str, name: str, tensor: Tensor) -> None:
    """A floating-point tensor [B, ...]."""
    check_floating(op, name, tensor)
    if tensor.dim() == 0:
        raise ValueError(f"{op}: {name} must have shape [B, ...], got a scalar")


def rows_tensor(op: str, name: str, value: Tensor | float, inputs: Tensor) -> Tensor:
    """A number or a tensor, as a tensor."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, (int, float)):
        raise TypeError(f"{op}: {name} must be a number or a tensor, got {type(value).__name__}")
    return torch.full((), value, dtype=inputs.dtype, device=inputs.device)


def check_rows(op: str, name: str, rows: Tensor, inputs: Tensor) -> None:
    """A scalar, one example [1, ...] or a batch like the inputs."""
    check_same_device(op, name, rows, inputs)
    if rows.dim() > 0 and (
        rows.shape[1:] != inputs.shape[1:] or rows.shape[0] not in (1, inputs.shape[0])
    ):
        raise ValueError(
            f"{op}: {name} must be a scalar or have shape {[1, *inputs.shape[1:]]} or "
            f"{list(inputs.shape)}, got {list(rows.shape)}"
        )


def check_pixels(op: str, name: str, tensor: Tensor, inputs: Tensor) -> None:
    """Shaped like the inputs, or 1 in place of the batch or the channels."""
    check_same_device(op, name, tensor, inputs)
    fits = tensor.dim() == inputs.dim() and all(
        size == wanted or (d < 2 and size == 1)
        for d, (size, wanted) in enumerate(zip(tensor.shape, inputs.shape, strict=True))
    )
    if not fits:
        shape = [f"1 or {size}" if d < 2 else str(size) for d, size in enumerate(inputs.shape)]
        raise ValueError(
            f"{op}: {name} must have shape [{', '.join(shape)}], got {list(tensor.shape)}"
        )


def check_whole(op: str, name: str, tensor: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    """A tensor of one of these integer types."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{op}: {name} must be {names}, got {tensor.dtype}")


def common_dtype(inputs: Tensor, rows: Tensor) -> torch.dtype:
    """Of two tensors the wider type; a scalar has no say, as in torch."""
    if rows.dim() == 0 or rows.dtype == inputs.dtype:
        return inputs.dtype
    return torch.promote_types(inputs.dtype, rows.dtype)


def check_affine(op: str, inputs: Tensor, scale: Tensor | None, shift: Tensor | None) -> None:
    """Constants [C] for the inputs' channels, each or none."""
    for name, constants in (("scale", scale), ("shift", shift)):
        if constants is None:
            continue
        check_floating(op, name, constants)
        check_same_device(op, name, constants, inputs)
        if constants.requires_grad:
            raise ValueError(f"{op}: {name} must not require grad, got a tensor that does")
        if inputs.dim() < 2 or constants.shape != inputs.shape[1:2]:
            raise ValueError(
                f"{op}: {name} must have shape [C], C = the inputs' dimension 1, got "
                f"{list(constants.shape)} for inputs {list(inputs.shape)}"
            )


def check_together(op: str, scale: Tensor | None, shift: Tensor | None) -> None:
    if (scale is None) != (shift is None):
        raise ValueError(f"{op}: scale and shift must be given together, got one")


def check_written(
    op: str,
    inputs: Tensor,
    rows: int,
    dtype: torch.dtype | None,
    memory_format: torch.memory_format | None,
    out: Tensor | None,
) -> None:
    """What is written: [rows, ...] with the inputs' features, new or into `out`."""
    if dtype is not None and dtype not in FLOATING:
        raise TypeError(f"{op}: dtype must be float16, bfloat16, float32 or float64, got {dtype}")
    possible: list[torch.memory_format | None] = [None, torch.contiguous_format]
    possible += {4: [torch.channels_last], 5: [torch.channels_last_3d]}.get(inputs.dim(), [])
    if memory_format not in possible:
        raise ValueError(
            f"{op}: memory_format must be one of {possible} for inputs with {inputs.dim()} "
            f"dimensions, got {memory_format}"
        )
    if out is None:
        return
    check_floating(op, "out", out)
    check_same_device(op, "out", out, inputs)
    shape = [rows, *inputs.shape[1:]]
    if list(out.shape) != shape:
        raise ValueError(f"{op}: out must have shape {shape}, got {list(out.shape)}")
    check_writable(op, "out", out)


def check_writable(op: str, name: str, tensor: Tensor) -> None:
    if tensor.requires_grad:
        raise ValueError(f"{op}: {name} must not require grad, got a tensor that does")
    if not tensor.is_contiguous(memory_format=memory_format_of(tensor)):
        raise ValueError(
            f"{op}: {name} must be contiguous or channels_last, got strides {tensor.stride()}"
        )

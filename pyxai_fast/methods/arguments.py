"""Arguments as users give them, in the one form that the methods work with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.score import ForwardFunc, model_device


def input_tensors(inputs: Any, forward: ForwardFunc) -> tuple[Tensor, ...]:
    """A tensor or a tuple of tensors [B, ...] as a tuple, on the model's device.

    Integers, which have no gradients, become torch's default floating-point type.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors:
        raise ArgumentError("inputs: inputs must hold at least one tensor, got an empty tuple")
    for position, tensor in enumerate(tensors):
        name = "inputs" if len(tensors) == 1 else f"inputs[{position}]"
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"inputs: {name} must be a torch.Tensor, got {type(tensor).__name__}"
                + ("; a tuple, not a list, holds several inputs" if type(tensor) is list else "")
                + ("; torch.from_numpy makes one" if isinstance(tensor, np.ndarray) else "")
            )
        check_real("inputs", name, tensor)
        if tensor.dim() == 0:
            raise ArgumentError(f"inputs: {name} must have shape [B, ...], got a scalar")
        if tensor.shape[0] != tensors[0].shape[0]:
            raise ArgumentError(
                f"inputs: {name} must have the batch size of the first, {tensors[0].shape[0]}, got "
                f"{tensor.shape[0]}"
            )
    device = model_device(forward)
    return tuple(
        tensor.to(
            tensor.device if device is None else device,
            tensor.dtype if tensor.is_floating_point() else torch.get_default_dtype(),
        )
        for tensor in tensors
    )


def check_real(op: str, name: str, tensor: Tensor) -> None:
    """Refuses a tensor whose numbers cannot be taken as they are."""
    if tensor.is_complex():
        raise TypeError(f"{op}: {name} must be real, got {tensor.dtype}")
    if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
        kind = "meta" if tensor.is_meta else tensor.dtype if tensor.is_quantized else tensor.layout
        raise TypeError(f"{op}: {name} must be a dense tensor of numbers, got {kind}")


def baseline_tensors(baselines: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Baselines in any of captum's forms as tensors [], [1, ...] or [B, ...] for each input."""
    if baselines is None:
        baselines = (0,) * len(inputs)
    elif not isinstance(baselines, tuple):
        baselines = (baselines,)
    if len(baselines) != len(inputs):
        raise ArgumentError(
            f"baselines: baselines must be given for each of the {len(inputs)} inputs, got "
            f"{len(baselines)}"
        )
    return tuple(
        _baseline_tensor(baseline, tensor)
        for baseline, tensor in zip(baselines, inputs, strict=True)
    )


def _baseline_tensor(baseline: Any, inputs: Tensor) -> Tensor:
    if isinstance(baseline, (int, float)):
        try:
            return torch.full((), baseline, dtype=inputs.dtype, device=inputs.device)
        except (RuntimeError, OverflowError) as error:
            raise ArgumentError(
                f"baselines: a baseline must be a number that {inputs.dtype} holds, got "
                f"{baseline!r}"
            ) from error
    if not isinstance(baseline, Tensor):
        raise TypeError(
            "baselines: a baseline must be a number or a torch.Tensor, got "
            f"{type(baseline).__name__}"
        )
    check_real("baselines", "a baseline", baseline)
    fits = baseline.dim() in (0, inputs.dim()) and all(
        size in (1, wanted) for size, wanted in zip(baseline.shape, inputs.shape, strict=False)
    )
    if not fits:
        raise ArgumentError(
            f"baselines: a baseline must be a number, or have shape {[1, *inputs.shape[1:]]} or "
            f"{list(inputs.shape)} like its input (or 1 for any dimension), got "
            f"{list(baseline.shape)}"
        )
    dtype = baseline.dtype if baseline.is_floating_point() else inputs.dtype
    start: Tensor = baseline.to(inputs.device, dtype)
    return start if start.dim() == 0 else start.expand(start.shape[0], *inputs.shape[1:])


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors within tuples and lists moved to a device; everything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (tuple, list):
        return type(value)(to_device(item, device) for item in value)
    return value


def as_given(results: tuple[Tensor, ...], inputs: Any) -> Any:
    """Results in the form and on the device of the inputs: a tensor for a tensor."""
    if not isinstance(inputs, tuple):
        return results[0].to(inputs.device)
    return tuple(result.to(tensor.device) for result, tensor in zip(results, inputs, strict=True))


def each(function: Callable[[Tensor, Tensor], Tensor], results: Any, inputs: Any) -> Any:
    """function(result, input) for a tensor, or for each of a tuple."""
    if isinstance(results, tuple):
        return tuple(function(r, x) for r, x in zip(results, inputs, strict=True))
    return function(results, inputs)

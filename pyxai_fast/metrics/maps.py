"""Tensors that metrics are given, and attributions that are judged by themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError


def check_tensor(op: str, name: str, value: Any) -> None:
    """Refuses what is no tensor, or one whose numbers are not there, one by one."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_meta:
        kind = "one on meta" if value.is_meta else str(value.layout)
        raise TypeError(f"{op}: {name} must be a dense tensor with numbers, got {kind}")


def check_maps(op: str, attributions: Any) -> None:
    check_tensor(op, "attributions", attributions)
    if attributions.dim() < 2 or not attributions.numel() or not attributions.is_floating_point():
        raise ArgumentError(
            f"{op}: attributions must be floating-point [B, ...] with B >= 1, got "
            f"{attributions.dtype} {list(attributions.shape)}"
        )
    if not bool(attributions.isfinite().all()):
        raise ArgumentError(f"{op}: attributions must be finite, got NaN or infinity")

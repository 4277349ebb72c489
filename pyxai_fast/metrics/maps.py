"""Attributions that are judged by themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import ArgumentError


def check_maps(op: str, attributions: Any) -> None:
    if not isinstance(attributions, Tensor):
        raise TypeError(f"{op}: attributions must be a tensor, got {type(attributions).__name__}")
    if attributions.dim() < 2 or not attributions.numel() or not attributions.is_floating_point():
        raise ArgumentError(
            f"{op}: attributions must be floating-point [B, ...] with B >= 1, got "
            f"{attributions.dtype} {list(attributions.shape)}"
        )
    if not bool(attributions.isfinite().all()):
        raise ArgumentError(f"{op}: attributions must be finite, got NaN or infinity")

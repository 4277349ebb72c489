"""How numbers are compared."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    """Equal values, NaN where NaN is, same dtype and shape: no tolerance."""
    assert actual.dtype == expected.dtype, (actual.dtype, expected.dtype)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    assert bool(same.all()), f"{int((~same).sum())} of {same.numel()} elements differ"


def assert_as_accurate_as(
    actual: Tensor, plain: Tensor, truth: Tensor, factor: float = 2.0
) -> None:
    """The error to the float64 truth is at most `factor` times that of plain PyTorch.

    One rounding of the result to its dtype is always allowed: plain PyTorch may be lucky.
    """
    scale = truth.abs().max().item() or 1.0
    rounding = torch.finfo(actual.dtype).eps * scale
    error = (actual.double() - truth).abs().max().item()
    allowed = factor * (plain.double() - truth).abs().max().item() + rounding
    assert error <= allowed, f"error {error:.3g} exceeds {allowed:.3g}"

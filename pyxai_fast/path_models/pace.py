"""Tokens of a path: how fast each feature goes from baseline to input, a token a step.

A path's progress F goes from 0 to 1, feature by feature, over T steps. Its increments are T numbers
of mean 1 / T; a token is what they are more or less than that, in units of their spread:

    token_m = (T (F_{m+1} - F_m) - 1) / spread

For stick-breaking paths tokens of one feature are exchangeable and next to uncorrelated over the
steps, which is what noise is easily told from; F itself is a random walk, in which it is not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def tokens_of(progress: Tensor, spread: float) -> Tensor:
    """Tokens [..., T, P] of the progress at T + 1 points, [..., T + 1, P]."""
    steps = progress.shape[-2] - 1
    return (progress.diff(dim=-2) * steps - 1) / spread


def progress_of(tokens: Tensor, spread: float) -> Tensor:
    """The progress at T + 1 points, [..., T + 1, P], of any tokens [..., T, P].

    Increments below 0 count as 0, and they are brought to a sum of 1: whatever the tokens, progress
    rises from exactly 0 to exactly 1. Where nothing is left it is that of the straight line.
    """
    steps = tokens.shape[-2]
    increments = (1 + spread * tokens).clamp(min=0)
    stuck = increments.sum(-2, keepdim=True) <= 0
    so_far = torch.where(stuck, 1.0, increments).cumsum(-2)
    risen = so_far / so_far[..., -1:, :]
    assert risen.shape[-2] == steps
    return torch.cat([torch.zeros_like(risen[..., :1, :]), risen], -2)

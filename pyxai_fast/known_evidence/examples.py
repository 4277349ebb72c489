"""What every set of known evidence is made of: inputs, where their evidence is, and what is left
without it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """Inputs that are made, so that it is known what makes them of their class.

    Attributes:
        inputs: float32 [B, C, H, W], or [B, D] of tables.
        labels: int64 [B], the class of the evidence; the class after the last is "nothing", that of
            an input without evidence.
        masks: bool [B, 1, H, W], or [B, D]: where the evidence is.
        without: shaped as the inputs, and equal to them outside the masks: the same without
            evidence.
        decoys: bool, shaped as the masks: what catches the eye and is no evidence. It is in
            `without` too.
    """

    inputs: Tensor
    labels: Tensor
    masks: Tensor
    without: Tensor
    decoys: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: slice | Tensor) -> Examples:
        """Some of them: a slice, or int64 [N]."""
        return Examples(
            self.inputs[rows],
            self.labels[rows],
            self.masks[rows],
            self.without[rows],
            self.decoys[rows],
        )

    def onto(self, grounds: Tensor) -> Tensor:
        """The evidence of each in another place: grounds, shaped as the inputs, with the inputs
        where the masks are."""
        return torch.where(self.masks, self.inputs, grounds)

"""What a diffusion prior is to gradients and counterfactuals."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Prior(Protocol):
    """Knows the noise in a noisy input, and so which inputs are likely.

    A prior works in a space of its own (pixels from -1 to 1, standardised columns, latents), which
    `encode` and `decode` lead to and from.
    """

    @property
    def shares(self) -> Tensor:
        """The schedule: the share of signal variance at each level, [T] float64, falling."""
        ...

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The range of clean inputs in the prior's space, to which estimates are clipped."""
        ...

    def predict_noise(self, noisy: Tensor, level: int) -> Tensor:
        """The noise E[noise | noisy] at rows [R, ...] of a level.

        ``noisy = sqrt(shares[level]) * clean + sqrt(1 - shares[level]) * noise``
        """
        ...

    def encode(self, inputs: Tensor) -> Tensor:
        """Inputs [R, ...] in the caller's units, in the prior's space."""
        ...

    def decode(self, clean: Tensor) -> Tensor:
        """Rows of the prior's space in the caller's units."""
        ...


def is_prior(made: Any) -> bool:
    """Whether it has what a prior must have."""
    return all(
        hasattr(made, name) for name in ("shares", "bounds", "predict_noise", "encode", "decode")
    )

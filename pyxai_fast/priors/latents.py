"""The space of an autoencoder, in which latent diffusion works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Of the encoder, each for half the resolution of the one before, as autoencoders call it.
_WIDTHS = ("block_out_channels", "encoder_block_out_channels", "down_block_out_channels")


class LatentSpace:
    """Pixels from -1 to 1 to scaled latents, and back.

    Args:
        autoencoder: of diffusers: AutoencoderKL, AutoencoderTiny, VQModel and others of their kind.
            It is put in eval mode and asks for no gradients.
        max_rows: at most so many rows go through it at a time; None for all.
    """

    def __init__(self, autoencoder: Any, max_rows: int | None = None) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.max_rows = max_rows
        config = autoencoder.config
        self.channels = int(config["latent_channels"])
        self.pixel_channels = int(config["in_channels"])
        # The latents that a network was trained on have about unit variance.
        self.scale = float(config.get("scaling_factor") or 1.0)
        self.shift = float(config.get("shift_factor") or 0.0)

    @property
    def pixels_per_latent(self) -> int:
        """How many pixels a latent is wide."""
        config = self.autoencoder.config
        widths = next((config[name] for name in _WIDTHS if config.get(name)), (1,))
        return int(2 ** (len(widths) - 1))

    def encode(self, pixels: Tensor) -> Tensor:
        """The mean latents of pixels [R, C, H, W]."""

        def mean(part: Tensor) -> Tensor:
            code = self.autoencoder.encode(part)
            found: Tensor = code.latent_dist.mode() if "latent_dist" in code else code.latents
            return found

        return (self._by_part(mean, pixels) - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of latents, about from -1 to 1."""

        def decoded(part: Tensor) -> Tensor:
            found: Tensor = self.autoencoder.decode(part).sample
            return found

        return self._by_part(decoded, latents / self.scale + self.shift)

    @torch.no_grad()
    def _by_part(self, network: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        weights = next(self.autoencoder.parameters())
        parts = rows.split(self.max_rows or max(len(rows), 1))
        return torch.cat([network(part.to(weights)).to(rows) for part in parts])

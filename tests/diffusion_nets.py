"""Tiny diffusion networks of diffusers, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def diffusers() -> Any:
    import pytest

    return pytest.importorskip("diffusers", reason="diffusion models are those of diffusers")


def unet(channels: int = 1, size: int | None = 8, out: int | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    return (
        diffusers()
        .UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=out or channels,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            add_attention=False,
            **options,
        )
        .eval()
    )


def vq_model() -> Any:
    torch.manual_seed(1)
    return (
        diffusers()
        .VQModel(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=3,
            norm_num_groups=4,
            num_vq_embeddings=64,
            scaling_factor=0.5,
        )
        .eval()
    )


def kl_autoencoder() -> Any:
    torch.manual_seed(2)
    return (
        diffusers()
        .AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        )
        .eval()
    )


def tiny_autoencoder() -> Any:
    torch.manual_seed(5)
    return (
        diffusers()
        .AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=3,
        )
        .eval()
    )


def conditional_unet(**options: Any) -> Any:
    torch.manual_seed(3)
    settings: dict[str, Any] = {"in_channels": 4, "out_channels": 4, **options}
    return (
        diffusers()
        .UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
            **settings,
        )
        .eval()
    )


class Flat(nn.Module):
    """What a perfect network answers for inputs ~ N(0, variance I), in each way of answering."""

    def __init__(self, shares: Tensor, prediction: str, variance: float = 0.3) -> None:
        super().__init__()
        self.shares, self.prediction, self.variance = shares, prediction, variance

    def forward(self, noisy: Tensor, levels: Tensor) -> Tensor:
        a = self.shares[levels].reshape(-1, 1, 1, 1).to(noisy.dtype)
        total = a * self.variance + 1 - a
        noise, clean = (1 - a).sqrt() / total * noisy, a.sqrt() * self.variance / total * noisy
        if self.prediction == "epsilon":
            return noise
        return clean if self.prediction == "sample" else a.sqrt() * noise - (1 - a).sqrt() * clean

"""Cases of the path ops, shared by tests and benchmarks: nothing is timed that is not checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class PathCase:
    name: str
    steps: int
    batch: int
    features: tuple[int, ...]

    def tensors(
        self,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """inputs, baselines [B, ...], alphas, weights [S] and grads [S * B, ...], reproducible."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, *self.features)
        many = (self.steps * self.batch, *self.features)

        def draw(size: tuple[int, ...]) -> Tensor:
            drawn = torch.randn(size, generator=generator).to(device, dtype)
            return drawn.contiguous(memory_format=memory_format) if len(size) == 4 else drawn

        return {
            "inputs": draw(shape),
            "baselines": draw(shape),
            "alphas": torch.rand(self.steps, generator=generator, dtype=torch.float64).to(device),
            "weights": torch.rand(self.steps, generator=generator, dtype=torch.float64).to(device),
            "grads": draw(many),
        }


SMALL = (
    PathCase("one", 1, 1, (1,)),
    PathCase("vector", 3, 2, ()),
    PathCase("table", 7, 5, (13,)),
    PathCase("digits", 5, 3, (1, 9, 7)),
    PathCase("image", 5, 2, (3, 17, 33)),
    PathCase("beyond_a_tile", 3, 2, (3, 40, 57)),
    PathCase("volume", 2, 2, (2, 3, 4, 5)),
)

LARGE = (
    PathCase("table_20", 50, 256, (20,)),
    PathCase("digits_28", 50, 64, (1, 28, 28)),
    PathCase("cifar_32", 50, 32, (3, 32, 32)),
    PathCase("imagenet_224_chunk", 2, 8, (3, 224, 224)),
    PathCase("imagenet_224", 8, 8, (3, 224, 224)),
)

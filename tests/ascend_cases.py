"""Cases of the ascend op, shared by tests and benchmarks: what is timed is checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AscendCase:
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
        """points, grads [S * B, ...], best [B, ...], step_sizes [S, B] and scale [C]."""
        generator = torch.Generator().manual_seed(0)
        many = (self.steps * self.batch, *self.features)

        def draw(size: tuple[int, ...], dtype: torch.dtype = dtype) -> Tensor:
            drawn = torch.randn(size, generator=generator).to(device, dtype)
            return drawn.contiguous(memory_format=memory_format) if len(size) == 4 else drawn

        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return {
            "points": draw(many),
            "grads": draw(many),
            "best": draw((self.batch, *self.features), wide),
            "step_sizes": torch.rand(
                self.steps, self.batch, generator=generator, dtype=torch.float64
            ).to(device),
            "scale": torch.linspace(0.5, 3.0, (*self.features, 1)[0], device=device),
        }


SMALL = (
    AscendCase("one", 1, 1, (1,)),
    AscendCase("vector", 3, 2, ()),
    AscendCase("table", 7, 5, (13,)),
    AscendCase("image", 5, 2, (3, 17, 33)),
    AscendCase("vectors", 4, 3, (8, 4, 4)),
    AscendCase("volume", 2, 2, (2, 3, 4, 5)),
)

LARGE = (
    AscendCase("table_20", 50, 256, (20,)),
    AscendCase("digits_28", 50, 8, (1, 28, 28)),
    AscendCase("imagenet_224_chunk", 8, 4, (3, 224, 224)),
    AscendCase("imagenet_224", 51, 1, (3, 224, 224)),
)

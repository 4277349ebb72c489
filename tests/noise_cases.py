"""Cases of the noise ops, shared by tests and benchmarks: nothing is timed that is not checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DISTRIBUTIONS = ("gaussian", "rademacher", "orthogonal")


@dataclass(frozen=True)
class NoiseCase:
    name: str
    samples: int
    batch: int
    features: tuple[int, ...]
    targets: int = 2

    def inputs(
        self,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """[B, ...], reproducible."""
        drawn = torch.rand(
            self.batch, *self.features, generator=torch.Generator().manual_seed(0)
        ).to(device, dtype)
        return drawn.contiguous(memory_format=memory_format) if drawn.dim() == 4 else drawn

    def weights(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """[B, K, n], reproducible."""
        size = (self.batch, self.samples, self.targets)
        return torch.randn(size, generator=torch.Generator().manual_seed(1)).to(device, dtype)

    def blocks(self, device: torch.device | str = "cpu") -> Tensor:
        """Block numbers [1, 1, ...] for images, [1, ...] for tables; 5 blocks."""
        rest = (1, *self.features[1:]) if len(self.features) > 1 else self.features
        generator = torch.Generator().manual_seed(2)
        return torch.randint(0, 5, (1, *rest), generator=generator, dtype=torch.int32).to(device)


SMALL = (
    NoiseCase("one", 1, 1, (1,)),
    NoiseCase("vector", 5, 3, ()),
    NoiseCase("table", 7, 5, (13,), targets=5),
    NoiseCase("digits", 5, 3, (1, 9, 7), targets=1),
    NoiseCase("image", 5, 2, (3, 17, 33)),
    NoiseCase("whole_groups", 4, 2, (3, 8, 16)),
    NoiseCase("beyond_a_tile", 3, 2, (3, 40, 57)),
    NoiseCase("many_channels", 3, 1, (70, 3, 5)),
    NoiseCase("volume", 2, 2, (2, 3, 4, 5)),
)

LARGE = (
    NoiseCase("table_20", 200, 256, (20,)),
    NoiseCase("digits_28", 256, 8, (1, 28, 28)),
    NoiseCase("cifar_32", 64, 8, (3, 32, 32)),
    NoiseCase("imagenet_224", 64, 1, (3, 224, 224)),
)

"""Cases of the dirichlet ops, shared by tests and benchmarks: what is timed is checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DirichletCase:
    name: str
    n_steps: int
    paths: int
    batch: int
    features: tuple[int, ...]

    @property
    def path(self) -> dict[str, int | float]:
        return {"concentration": 3.0, "n_steps": self.n_steps, "n_paths": self.paths}

    def tensors(
        self,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """inputs, baselines [B, ...], key [2], examples [B] and grads [T * P * B, ...]."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, *self.features)
        many = (self.n_steps * self.paths * self.batch, *self.features)

        def draw(size: tuple[int, ...]) -> Tensor:
            drawn = torch.randn(size, generator=generator).to(device, dtype)
            return drawn.contiguous(memory_format=memory_format) if len(size) == 4 else drawn

        return {
            "inputs": draw(shape),
            "baselines": draw(shape),
            "grads": draw(many),
            "key": torch.tensor([2**40 + 17, 3], device=device),
            "examples": torch.arange(7, 7 + self.batch, device=device),
        }


SMALL = (
    DirichletCase("one", 1, 1, 1, (1,)),
    DirichletCase("vector", 3, 2, 2, ()),
    DirichletCase("table", 7, 1, 5, (13,)),
    DirichletCase("image", 13, 2, 2, (3, 5, 9)),
    DirichletCase("beyond_a_tile", 2, 1, 2, (3, 17, 33)),
    DirichletCase("channels", 4, 1, 1, (6, 3, 2)),
    DirichletCase("volume", 5, 2, 1, (2, 3, 4, 5)),
)

LARGE = (
    DirichletCase("cifar_32", 50, 1, 8, (3, 32, 32)),
    DirichletCase("imagenet_224", 50, 1, 1, (3, 224, 224)),
    DirichletCase("imagenet_224_steps_64", 64, 1, 1, (3, 224, 224)),
)

"""Cases of the ensemble ops, shared by tests and benchmarks: what is timed is checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EnsembleCase:
    name: str
    batch: int
    count: int
    features: tuple[int, ...]
    columns: int = 1

    def tensors(
        self,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """Particles and what goes with them, reproducible: pixels of about 0.8, spread 0.1."""
        generator = torch.Generator().manual_seed(0)
        batch, count = self.batch, self.count

        def draw(*size: int) -> Tensor:
            return torch.randn(size, generator=generator)

        def inputs(rows: int) -> Tensor:
            drawn = (0.8 + 0.1 * draw(rows, *self.features)).to(device, dtype)
            return drawn.contiguous(memory_format=memory_format) if drawn.dim() == 4 else drawn

        def particles() -> Tensor:
            return inputs(batch * count).unflatten(0, (batch, count))

        centred = draw(batch, count, self.columns)
        return {
            "particles": particles(),
            "noise_pred": particles() - 0.8,
            "guide": particles(),
            "rows": inputs(batch),
            "taper": torch.rand(batch, *self.features, generator=generator).to(device),
            "weights": (centred - centred.mean(1, keepdim=True)).to(device),
            "matrix": (draw(batch, count, count) / count).to(device),
            "outputs": draw(batch, count, self.columns).to(device),
            "observations": draw(batch, self.columns).to(device),
        }


SMALL = (
    EnsembleCase("one", 1, 1, (1,)),
    EnsembleCase("vector", 2, 3, ()),
    EnsembleCase("table", 5, 9, (13,), columns=5),
    EnsembleCase("digits", 2, 6, (1, 9, 7), columns=2),
    EnsembleCase("image", 2, 5, (3, 17, 33), columns=13),
    EnsembleCase("beyond_a_tile", 1, 7, (3, 20, 56), columns=3),
    EnsembleCase("volume", 2, 2, (2, 3, 4, 5)),
    EnsembleCase("many", 1, 67, (70,)),
)

LARGE = (
    EnsembleCase("table_20", 256, 64, (20,)),
    EnsembleCase("digits_28", 1, 64, (1, 28, 28)),
    EnsembleCase("digits_28_batch", 8, 64, (1, 28, 28), columns=10),
    EnsembleCase("cifar_32", 1, 100, (3, 32, 32)),
    EnsembleCase("cifar_32_classes", 4, 100, (3, 32, 32), columns=10),
    EnsembleCase("imagenet_224", 1, 32, (3, 224, 224)),
    EnsembleCase("imagenet_224_classes", 1, 32, (3, 224, 224), columns=10),
)

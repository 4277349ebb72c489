"""Cases of the mask and rank ops, shared by tests and benchmarks: nothing timed is unchecked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class MaskCase:
    name: str
    steps: int
    batch: int
    features: tuple[int, ...]
    n_segments: int

    def shared_shape(self, per_example: bool = False) -> tuple[int, ...]:
        """The shape of labels that the channels share, and the examples if not `per_example`."""
        rows = self.batch if per_example else 1
        return (rows, 1, *self.features[1:]) if len(self.features) > 1 else (rows, *self.features)

    def tensors(
        self,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """inputs, fill [B, ...]; kept [S, n] and kept_each [S, B, n]; segments, ranks and masks, of
        pixels and (`_each`) of every example's features; steps [S] and steps_each [S, B].
        """
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, *self.features)
        pixels = self.shared_shape()

        def draw(size: tuple[int, ...]) -> Tensor:
            drawn = torch.randn(size, generator=generator).to(device, dtype)
            return drawn.contiguous(memory_format=memory_format) if len(size) == 4 else drawn

        def whole(high: int, size: tuple[int, ...]) -> Tensor:
            return torch.randint(max(high, 1), size, generator=generator).to(device)

        def coins(size: tuple[int, ...]) -> Tensor:
            return (torch.rand(size, generator=generator) < 0.5).to(device)

        count = int(torch.Size(shape[1:]).numel())
        return {
            "inputs": draw(shape),
            "fill": draw(shape),
            "segments": whole(self.n_segments, pixels).to(torch.int32),
            "segments_each": whole(self.n_segments, shape),
            "kept": coins((self.steps, self.n_segments)),
            "kept_each": coins((self.steps, self.batch, self.n_segments)),
            "ranks": whole(count, pixels).to(torch.int32),
            "ranks_each": whole(count, shape),
            "steps": whole(count + 1, (self.steps,)),
            "steps_each": whole(count + 1, (self.steps, self.batch)),
            "masks": torch.rand(pixels, generator=generator).to(device, dtype),
            "masks_each": torch.rand(shape, generator=generator).to(device, dtype),
        }


SMALL = (
    MaskCase("one", 1, 1, (1,), 1),
    MaskCase("vector", 3, 2, (), 5),
    MaskCase("table", 7, 5, (13,), 40),
    MaskCase("wide_table", 2, 1, (1030,), 3000),
    MaskCase("digits", 5, 3, (1, 9, 7), 10),
    MaskCase("vectors", 3, 2, (4, 8, 8), 12),
    MaskCase("many_steps", 35, 1, (2, 16, 17), 40),
    MaskCase("many_planes", 2, 2, (9, 16, 17), 2500),
    MaskCase("beyond_a_tile", 3, 2, (3, 40, 57), 100),
    MaskCase("volume", 2, 2, (2, 3, 4, 5), 6),
)

LARGE = (
    MaskCase("table_20", 50, 256, (20,), 20),
    MaskCase("digits_28", 50, 64, (1, 28, 28), 49),
    MaskCase("cifar_32", 50, 32, (3, 32, 32), 64),
    MaskCase("imagenet_224_one", 64, 1, (3, 224, 224), 100),
    MaskCase("imagenet_224", 8, 8, (3, 224, 224), 100),
)

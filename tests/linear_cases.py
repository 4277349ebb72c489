"""Cases of the linear op, shared by tests and benchmarks: what is timed is checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearCase:
    """`layers` is None for matrices without a dimension of layers."""

    name: str
    layers: int | None
    rows: int
    features: int
    outputs: int

    def tensors(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """inputs [N, R, D], grads [N, R, O], weight and velocity [N, O, D]."""
        generator = torch.Generator().manual_seed(0)
        layers = [] if self.layers is None else [self.layers]

        def draw(rows: int, columns: int) -> Tensor:
            return torch.randn(*layers, rows, columns, generator=generator).to(device, dtype)

        return {
            "inputs": draw(self.rows, self.features),
            "grads": draw(self.rows, self.outputs),
            "weight": draw(self.outputs, self.features),
            "velocity": draw(self.outputs, self.features),
        }


SMALL = (
    LinearCase("one", None, 1, 1, 1),
    LinearCase("odd", None, 5, 67, 3),
    LinearCase("layers", 3, 16, 130, 9),
    LinearCase("tiles", 1, 4, 1100, 17),
    LinearCase("rows", 2, 33, 70, 5),
    LinearCase("many_rows", None, 300, 150, 20),
    LinearCase("no_layers", 0, 2, 3, 4),
    LinearCase("no_rows", 2, 0, 3, 4),
    LinearCase("no_features", 2, 3, 0, 4),
    LinearCase("no_outputs", 2, 3, 1100, 0),
    LinearCase("no_outputs_of_many_rows", None, 300, 4, 0),
)

LARGE = (
    LinearCase("digits", None, 32, 784, 64),
    LinearCase("digits_of_eight", 8, 32, 784, 64),
    LinearCase("student_16_rows", None, 16, 49152, 512),
    LinearCase("student", None, 32, 49152, 512),
)

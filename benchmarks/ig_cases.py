"""The models that the end-to-end benchmark explains: small, random weights, the usual shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A model and a batch of inputs.

    Attributes:
        name: in the tables.
        layers: makes the model's layers.
        shape: of the batch.
        memory: whether peak memory is measured too.
    """

    name: str
    layers: Callable[[], list[nn.Module]]
    shape: tuple[int, ...]
    memory: bool = False

    @property
    def batch(self) -> int:
        return self.shape[0]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(*self.layers()).eval()

    def inputs(self) -> Tensor:
        return torch.rand(self.shape, generator=torch.Generator().manual_seed(1))


def strided() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ]


def pooling() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ]


def digits() -> list[nn.Module]:
    return [
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    ]


def table() -> list[nn.Module]:
    return [nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]


CASES = {
    case.name: case
    for case in (
        Case("strided conv net", strided, (8, 3, 224, 224), memory=True),
        Case("pooling conv net", pooling, (8, 3, 224, 224), memory=True),
        Case("digits conv net", digits, (64, 1, 28, 28)),
        Case("table MLP", table, (256, 20)),
    )
}
# Small enough for 800 steps at once.
STEPS_CASE = Case("strided conv net", strided, (2, 3, 224, 224))

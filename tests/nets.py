"""Small models with known properties."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Polynomial(nn.Module):
    """Elementwise cubic, mixed into n classes by fixed weights: gradients of a row have the same
    bits whatever the batch it is in, and have a closed form."""

    def __init__(self, features: int, classes: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("a", torch.randn(classes, features, generator=generator))
        self.register_buffer("b", torch.randn(classes, features, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)[:, None, :]
        a, b = self.a.to(x.dtype), self.b.to(x.dtype)
        return (a * flat + b * flat * flat * flat).sum(-1)


class Linear(nn.Module):
    """s_c(x) = w_c . x: every path method gives w_c (x - x')."""

    def __init__(self, features: int, classes: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight = nn.Parameter(torch.randn(classes, features, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def conv_net(channels: int = 3, classes: int = 5, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    ).eval()


def mlp(features: int = 6, classes: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, classes)).eval()


class Viewing(nn.Module):
    """Flattens by `view`, which channels_last features do not allow."""

    def __init__(self, size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        self.head = nn.Linear(2 * size * size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().view(x.shape[0], -1))

"""The models of the throughput benchmark: two small ones, and four that see 3x224x224.

Weights are random, but such that signals pass as in trained networks: batch normalisations know the
mean and variance of what they see, and the branches of residual blocks are small beside their
stream. Otherwise a deep network's gradient is noise, of which no rule finds the integral.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from ig_cases import digits, pooling, strided, table
from torch import Tensor, nn

# What the last normalisation of a residual branch multiplies by.
BRANCH = 0.2


@dataclass(frozen=True)
class Case:
    """A model, a batch of inputs, and how far the search for steps goes.

    Attributes:
        name: in the tables.
        layers: makes the model's layers.
        shape: of the batch.
        most_steps: more than these are not tried.
        rounds: in which contenders take turns.
        compiled: whether the compiled network is timed too.
        image_net: of the size of ImageNet's pictures, for which there are targets.
    """

    name: str
    layers: Callable[[], list[nn.Module]]
    shape: tuple[int, ...]
    most_steps: int
    rounds: int = 5
    compiled: bool = True
    image_net: bool = False

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(*self.layers()).eval()

    def inputs(self) -> Tensor:
        return torch.rand(self.shape, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Question:
    """What is explained: the class whose score rises the most from black, and by how much."""

    target: Tensor
    way: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, inputs: Tensor) -> Question:
        """In float64, whatever the precision that contenders choose."""
        wide, rows = copy.deepcopy(model).double(), inputs.double()
        way, target = (wide(rows) - wide(torch.zeros_like(rows[:1]))).max(1)
        return cls(target, way)

    def gaps(self, attributions: Tensor) -> Tensor:
        """Of every input: the completeness error, relative to the rise."""
        found = attributions.double().flatten(1).sum(1)
        return ((found - self.way) / self.way).abs()


def of_most(gaps: Tensor) -> float:
    """What at least 90 % of the inputs do not exceed."""
    return float(gaps.quantile(0.9, interpolation="higher"))


# --- residual network ----------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1, bias=False),
        )
        self.last = nn.BatchNorm2d(4 * width)
        self.shortcut = (
            nn.Identity()
            if channels == 4 * width and stride == 1
            else nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride=stride, bias=False),
                nn.BatchNorm2d(4 * width),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(self.branch(x)) + self.shortcut(x))


def resnet(depths: tuple[int, ...] = (3, 4, 6, 3), size: int = 224) -> list[nn.Module]:
    """ResNet-50 by default."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for block in range(depth):
            layers.append(Bottleneck(channels, width, 2 if stage and not block else 1))
            channels = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
    _know_statistics(nn.Sequential(*layers), torch.rand(4, 3, size, size))
    return layers


def _know_statistics(model: nn.Module, rows: Tensor) -> None:
    """Gives batch normalisations the mean and variance of what they see of random rows."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the plain mean of batches
        if isinstance(part, Bottleneck):
            nn.init.constant_(part.last.weight, BRANCH)
    with torch.no_grad():
        model.train()(rows)
    model.eval()


# --- vision transformer --------------------------------------------------------------------------


class Tokens(nn.Module):
    """Patches of 16x16 pixels as tokens, one for the class before them, and their positions."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, stride=16)
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // 16) ** 2 + 1, width))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(x), -1, -1), patches], 1) + self.positions


class Block(nn.Module):
    """Self-attention and a network of two layers, each after a normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        split = self.queries_keys_values(self.before_attention(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.layers(self.before_layers(x))


class FirstToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def vit(width: int = 384, heads: int = 6, depth: int = 12, size: int = 224) -> list[nn.Module]:
    """ViT-S/16 by default."""
    blocks = [Block(width, heads) for _ in range(depth)]
    head = [nn.LayerNorm(width), FirstToken(), nn.Linear(width, 1000)]
    return [Tokens(width, size), *blocks, *head]


# --- cases ---------------------------------------------------------------------------------------


def _cases(*cases: Case) -> dict[str, Case]:
    return {case.name: case for case in cases}


CASES = _cases(
    Case("table MLP", table, (256, 20), 512),
    Case("digits conv net", digits, (64, 1, 28, 28), 256),
    Case("strided conv net", strided, (8, 3, 224, 224), 128, image_net=True),
    Case("pooling conv net", pooling, (8, 3, 224, 224), 128, image_net=True),
    Case("ResNet-50", resnet, (2, 3, 224, 224), 24, 7, compiled=False, image_net=True),
    Case("ViT-S/16", vit, (2, 3, 224, 224), 24, 7, compiled=False, image_net=True),
)
# On a GPU, where compiling takes the time.
GPU_CASES = _cases(
    Case("strided conv net", strided, (64, 3, 224, 224), 64, 3, image_net=True),
    Case("ResNet-50", resnet, (16, 3, 224, 224), 32, 3, compiled=False, image_net=True),
    Case("ViT-S/16", vit, (16, 3, 224, 224), 32, 3, image_net=True),
)
QUICK_CASES = _cases(
    Case("table MLP", table, (16, 20), 32, 2, compiled=False),
    Case("strided conv net", strided, (2, 3, 64, 64), 16, 2, compiled=False, image_net=True),
    Case("ResNet", functools.partial(resnet, (1, 1), 32), (2, 3, 32, 32), 16, 2, False, True),
    Case("ViT", functools.partial(vit, 32, 2, 2, 32), (2, 3, 32, 32), 16, 2, False, True),
)

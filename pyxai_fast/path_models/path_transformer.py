"""A small diffusion transformer over the tokens of a path, and one with a scalar answer.

Peebles and Xie, "Scalable Diffusion Models with Transformers" (2023): blocks that the level of
noise scales, shifts and gates, and that do nothing before they are trained (adaLN-zero).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import PathModelConfig


class PathDenoiser(nn.Module):
    """The noise in noisy tokens.

    With a the share of signal, ``noise = sqrt(1 - a) noisy + sqrt(a) network(noisy, level)``. The
    first term is the best linear answer for features that know nothing of each other, so that a
    network narrower than a token need not carry every feature through.
    """

    def __init__(self, config: PathModelConfig, shares: Tensor) -> None:
        super().__init__()
        width, features = config.width, config.features
        self.body = _Body(config, config.points)
        self.into = nn.Linear(features, width)
        self.modulation = _zero(nn.Linear(width, 2 * width))
        self.out = _zero(nn.Linear(width, features))
        self.shares: Tensor
        self.register_buffer("shares", shares.float(), persistent=False)

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        """Noise [R, T, P] in tokens [R, T, P] at levels [R]."""
        rows, condition = self.body(self.into(noisy), level)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, 2)
        answer: Tensor = self.out(_norm(rows) * (1 + scale) + shift)
        share = self.shares[level].reshape(-1, 1, 1)
        return (1 - share).sqrt() * noisy + share.sqrt() * answer


class PathGuide(nn.Module):
    """A score of the clean path, from its noisy tokens and from its ends.

    The ends are two more tokens, before the first and after the last. Tokens come with themselves
    times the way between the ends: how far the path goes in each step, in the units of codes.

    To first order in the paces a score is linear in the tokens, with coefficients that the ends
    alone decide: which features should go early, and which late. A small network answers with
    these, for a few profiles over the steps, and the transformer with the rest.
    """

    def __init__(self, config: PathModelConfig) -> None:
        super().__init__()
        self.pace_shape, self.channels = config.pace_shape, config.channels
        seen = config.channels * math.prod(config.pace_shape[1:])
        self.body = _Body(config, config.points + 2)
        self.into = nn.Linear(config.features + seen, config.width)
        self.of_ends = nn.ModuleList(nn.Linear(seen, config.width) for _ in range(2))
        self.out = _zero(nn.Linear(2 * config.width, 1))
        self.profiles = nn.Parameter(_profiles(config.points))
        self.coefficients = nn.Sequential(
            nn.Linear(2 * seen, config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
            nn.SiLU(),
            _zero(nn.Linear(config.width, len(self.profiles) * seen)),
        )
        self.gain = _zero(nn.Linear(config.width, 1))

    def forward(self, noisy: Tensor, level: Tensor, ends: Tensor) -> Tensor:
        """Scores [R] of tokens [R, T, P] with ends [R, 2, C * h * w]: how far above the mean of all
        paths with these ends, in their standard deviation."""
        count, steps = noisy.shape[:2]
        way = (ends[:, 1] - ends[:, 0]).reshape(count, 1, self.channels, -1)
        paces = noisy.reshape(count, steps, self.pace_shape[0], -1)
        gone = (paces * way).reshape(count, steps, -1)
        tokens = self.into(torch.cat([noisy, gone], 2))
        start, end = (one(ends[:, i]) for i, one in enumerate(self.of_ends))
        rows, condition = self.body(torch.cat([start[:, None], tokens, end[:, None]], 1), level)
        rows = _norm(rows)
        seen = torch.cat([rows[:, 1:-1].mean(1), rows[:, 0] + rows[:, -1]], 1)
        linear = self.coefficients(ends.flatten(1)).reshape(count, len(self.profiles), -1)
        linear = linear * torch.einsum("pt,rtf->rpf", self.profiles, gone)
        first = linear.sum((1, 2)) * linear.shape[2] ** -0.5
        answer: Tensor = self.out(seen).squeeze(1) + (1 + self.gain(condition).squeeze(1)) * first
        return answer


class _Body(nn.Module):
    def __init__(self, config: PathModelConfig, tokens: int) -> None:
        super().__init__()
        self.width, self.per_level = config.width, 1000 / config.levels
        self.places = nn.Parameter(0.02 * torch.randn(1, tokens, config.width))
        self.of_level = nn.Sequential(
            nn.Linear(config.width, config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
            nn.SiLU(),
        )
        self.blocks = nn.ModuleList(_Block(config.width, config.heads) for _ in range(config.depth))

    def forward(self, tokens: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        condition: Tensor = self.of_level(_waves(level * self.per_level, self.width))
        rows = tokens + self.places
        for block in self.blocks:
            rows = block(rows, condition)
        return rows, condition


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = _zero(nn.Linear(width, 6 * width))
        self.qkv = nn.Linear(width, 3 * width)
        self.gathered = nn.Linear(width, width)
        self.wider = nn.Linear(width, 4 * width)
        self.narrower = nn.Linear(4 * width, width)

    def forward(self, rows: Tensor, condition: Tensor) -> Tensor:
        six = self.modulation(condition).unsqueeze(1).chunk(6, 2)
        seen = _norm(rows) * (1 + six[1]) + six[0]
        count, tokens, width = seen.shape
        split = self.qkv(seen).reshape(count, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        heard = functional.scaled_dot_product_attention(q, k, v)
        rows = rows + six[2] * self.gathered(heard.transpose(1, 2).reshape_as(seen))
        seen = _norm(rows) * (1 + six[4]) + six[3]
        thought = self.narrower(functional.gelu(self.wider(seen), approximate="tanh"))
        after: Tensor = rows + six[5] * thought
        return after


def _profiles(points: int) -> Tensor:
    """What tokens are weighed with over the steps, to begin with, [3, T]: early against late, all
    alike, and the ends against the middle."""
    time = torch.linspace(1, -1, points)
    three = torch.stack([time, torch.ones(points), time.square() - 0.5])
    return three / math.sqrt(points)


def _norm(rows: Tensor) -> Tensor:
    return functional.layer_norm(rows, rows.shape[-1:])


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _waves(level: Tensor, width: int) -> Tensor:
    """Sines and cosines of levels [R], [R, width]."""
    half = (width + 1) // 2
    places = torch.arange(half, dtype=torch.float32, device=level.device)
    angles = level[:, None].float() * torch.exp(-math.log(10_000) / half * places)
    return torch.cat([angles.cos(), angles.sin()], 1)[:, :width]

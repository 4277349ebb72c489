"""Attributions along stick-breaking paths, as ours and as a careful engineer writes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyxai_fast import IntegratedGradients, StickBreaking

ALPHA, SEED = 10.0, 0
OURS = "ours"
STRAIGHT = "ours, straight line, as many gradients"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Rows that the careful version sends through the model at once.
CHUNKS = (8, 16, 32)


def careful(rows: int, memory_format: str) -> str:
    return f"PyTorch, {rows} at a time, {memory_format}"


def rivals() -> list[str]:
    return [careful(rows, name) for rows in CHUNKS for name in FORMATS]


def made(
    name: str, model: nn.Module, image: Tensor, target: int, n_paths: int, n_steps: int
) -> Callable[[], Tensor]:
    """The call to be measured: the attributions [1, C, H, W]."""
    if name == OURS:
        path = StickBreaking(ALPHA, n_paths, seed=SEED)
        ours = IntegratedGradients(model, path=path)
        return lambda: ours.attribute(image, target=target, n_steps=n_steps)
    if name == STRAIGHT:
        plain = IntegratedGradients(model)
        return lambda: plain.attribute(image, target=target, n_steps=n_paths * n_steps)
    _, rows, layout = name.split(", ")
    size = int(rows.split()[0])
    return lambda: one_path_at_a_time(model, image, target, n_paths, n_steps, size, FORMATS[layout])


def one_path_at_a_time(
    model: nn.Module,
    image: Tensor,
    target: int,
    n_paths: int,
    n_steps: int,
    rows: int,
    memory_format: torch.memory_format,
) -> Tensor:
    """Increments of a path at once, as the Dirichlet law has them: gamma numbers, normalised."""
    generator = torch.Generator().manual_seed(SEED)
    shapes = torch.full((n_steps, *image.shape[1:]), ALPHA / n_steps)
    total = torch.zeros_like(image, memory_format=memory_format)
    for _ in range(n_paths):
        # Small shapes underflow: the smallest normal number keeps sums from being zero.
        increments = torch._standard_gamma(shapes, generator).clamp_(min=1e-38)
        increments.div_(increments.sum(0))
        ends = increments.cumsum(0)
        points = (
            ends.sub_(increments, alpha=0.5).mul_(image).contiguous(memory_format=memory_format)
        )
        for part, moved in zip(points.split(rows), increments.split(rows), strict=True):
            part.requires_grad_(True)
            (slopes,) = torch.autograd.grad(model(part)[:, target].sum(), part)
            total += slopes.mul_(moved).sum(0, keepdim=True)
    return total.mul_(image).div_(n_paths)

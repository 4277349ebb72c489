"""Geometrically guided Integrated Gradients as ours and as others write it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from ig_contenders import forward_backward
from torch import Tensor, nn

from pyxai_fast import GeometricallyGuidedIG

OURS = "ours"
ONE_BY_ONE = "a point and a step at a time"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Climbs:
    """n_steps + 1 points on the way to each input, n_ascent gradients at and above each."""

    n_steps: int
    n_ascent: int
    step_size: float


def careful(inputs: int, memory_format: str) -> str:
    return f"PyTorch, {inputs} inputs at a time, {memory_format}"


def contenders(shape: tuple[int, ...]) -> list[str]:
    """Of a batch of this shape; one channel has one memory format."""
    sizes = sorted({1, shape[0]})
    formats = tuple(FORMATS) if shape[1] > 1 else ("contiguous",)
    return [OURS, *(careful(size, name) for size in sizes for name in formats), ONE_BY_ONE]


def baselines(inputs: Tensor) -> Tensor:
    """Faint noise: where all pixels are equal, max-pooling has ties, which rounding decides."""
    return 0.1 * torch.rand(inputs.shape, generator=torch.Generator().manual_seed(2))


def made(
    name: str, model: nn.Module, inputs: Tensor, target: Tensor, climbs: Climbs
) -> Callable[[], Tensor]:
    """The call to be measured, with an object of its method made once."""
    starts = baselines(inputs).to(inputs.dtype)
    if name == OURS:
        ours = GeometricallyGuidedIG(model)
        return lambda: ours.attribute(
            inputs,
            starts,
            target,
            n_steps=climbs.n_steps,
            n_ascent=climbs.n_ascent,
            step_size=climbs.step_size,
        )
    if name == ONE_BY_ONE:
        return lambda: one_by_one(model, inputs, starts, target, climbs)
    _, together, layout = name.split(", ")
    size, memory_format = int(together.split()[0]), FORMATS[layout]
    return lambda: torch.cat(
        [
            all_points(model, *some, climbs, memory_format)
            for some in zip(inputs.split(size), starts.split(size), target.split(size), strict=True)
        ]
    )


def one_by_one(
    model: nn.Module, inputs: Tensor, starts: Tensor, target: Tensor, climbs: Climbs
) -> Tensor:
    """The definition as loops over inputs, points and steps, as third parties have it."""
    maps = []
    for x, start, label in zip(inputs.split(1), starts.split(1), target.tolist(), strict=True):
        best = torch.full_like(x, -torch.inf)
        for k in range(climbs.n_steps + 1):
            point = start + k / climbs.n_steps * (x - start)
            for _ in range(climbs.n_ascent):
                point = point.detach().requires_grad_()
                (grad,) = torch.autograd.grad(model(point)[0, label], point)
                best = torch.max(best, grad)
                point = point + climbs.step_size * grad
        maps.append(best)
    return torch.cat(maps)


def all_points(
    model: nn.Module,
    inputs: Tensor,
    starts: Tensor,
    target: Tensor,
    climbs: Climbs,
    memory_format: torch.memory_format,
) -> Tensor:
    """What a careful engineer writes: all points side by side, moved and compared in place."""
    steps = climbs.n_steps + 1
    alphas = torch.linspace(0, 1, steps, dtype=inputs.dtype).view(-1, *[1] * inputs.dim())
    points = (
        torch.lerp(starts, inputs, alphas).flatten(0, 1).contiguous(memory_format=memory_format)
    )
    classes = target.repeat(steps)
    best = torch.full_like(inputs, -torch.inf, memory_format=memory_format)
    greatest = torch.empty_like(best)
    for _ in range(climbs.n_ascent):
        grads = forward_backward(model, points, classes)
        torch.amax(grads.unflatten(0, (steps, -1)), 0, out=greatest)
        torch.maximum(best, greatest, out=best)
        points.add_(grads, alpha=climbs.step_size)
    return best

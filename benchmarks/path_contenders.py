"""Blur IG, expected gradients and DiffIG: ours, careful PyTorch, and the peers' calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import captum.attr
import torch
from guided_contenders import pair_module
from ig_contenders import forward_backward
from torch import Tensor, nn

from pyxai_fast import BlurPath, DiffusionPaths, ExpectedGradients, IntegratedGradients
from pyxai_fast.path_models.pace import progress_of
from pyxai_fast.path_models.path_model import PathModel

OURS = "ours"
ONE_BY_ONE = "PyTorch, image by image"
PAIR = "PAIR saliency, image by image"
CAPTUM = "captum, GradientShap"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Rows that careful versions send through the model at once.
CHUNKS = (8, 32)
MAX_SIGMA = 50.0
GUIDES = {"faithful": 10.0, "sparse": 5.0}
Call = Callable[[], Tensor]


def careful(rows: int, memory_format: str) -> str:
    return f"PyTorch, {rows} at a time, {memory_format}"


def careful_names() -> list[str]:
    return [careful(rows, name) for rows in CHUNKS for name in FORMATS]


def slopes(
    model: nn.Module, points: Tensor, target: Tensor, name: str
) -> list[tuple[slice, Tensor]]:
    """Gradients of rows, in the chunks and the memory format that the name says."""
    _, rows, layout = name.split(", ")
    size, memory_format = int(rows.split()[0]), FORMATS[layout]
    found = []
    for first in range(0, len(points), size):
        part = slice(first, first + size)
        chunk = points[part].contiguous(memory_format=memory_format)
        found.append((part, forward_backward(model, chunk, target[part])))
    return found


# --- Blur IG -------------------------------------------------------------------------------------


def blur_calls(model: nn.Module, images: Tensor, target: Tensor, n_steps: int) -> dict[str, Call]:
    ours = IntegratedGradients(model, path=BlurPath(MAX_SIGMA))
    calls: dict[str, Call] = {OURS: lambda: ours.attribute(images, target=target, n_steps=n_steps)}
    for name in careful_names():
        calls[name] = lambda name=name: blurred(model, images, target, n_steps, name)  # type: ignore[misc]
    if pair_module() is not None:
        calls[PAIR] = lambda: pair_blur(model, images, target, n_steps)
    return calls


def blurred(model: nn.Module, images: Tensor, target: Tensor, n_steps: int, name: str) -> Tensor:
    """All images of a step together; blurs as products with a matrix, which no kernel's length
    slows down."""
    size = images.shape[-1]
    total = torch.zeros_like(images)
    away = (torch.arange(size)[:, None] - torch.arange(size)).double()
    for step in range(n_steps):
        nodes = []
        for place in (step, step + 1):
            sigma = MAX_SIGMA * (1 - place / n_steps)
            if int(4 * sigma + 0.5) == 0:
                nodes.append(images)
                continue
            reach = torch.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1).double()
            norm = (-0.5 * (reach / sigma) ** 2).exp().sum()
            weights = (-0.5 * (away / sigma) ** 2).exp() * (away.abs() <= reach[-1]) / norm
            matrix = weights.to(images)
            nodes.append(matrix @ (images @ matrix.T))
        middle = (nodes[0] + nodes[1]) / 2
        for part, grads in slopes(model, middle, target, name):
            total[part] += grads * (nodes[1] - nodes[0])[part]
    return total


def pair_blur(model: nn.Module, images: Tensor, target: Tensor, n_steps: int) -> Tensor:
    """PAIR's own call: one image [H, W, C] at a time, eight steps of it in a batch."""
    blur_ig = pair_module("blur_ig")
    method, found = blur_ig.BlurIG(), []
    for image, one in zip(images, target, strict=True):

        def call_model(rows: Any, one: Tensor = one, **_: Any) -> dict[str, Any]:
            batch = torch.from_numpy(rows).to(images.dtype).permute(0, 3, 1, 2)
            grads = forward_backward(model, batch, one.expand(len(batch)))
            return {blur_ig.INPUT_OUTPUT_GRADIENTS: grads.permute(0, 2, 3, 1).numpy()}

        mask = method.GetMask(
            image.permute(1, 2, 0).numpy(),
            call_model,
            max_sigma=MAX_SIGMA,
            steps=n_steps,
            batch_size=8,
        )
        found.append(torch.from_numpy(mask).permute(2, 0, 1))
    return torch.stack(found).to(images.dtype)


# --- expected gradients --------------------------------------------------------------------------


def expected_calls(
    model: nn.Module, images: Tensor, references: Tensor, target: Tensor, n_samples: int
) -> dict[str, Call]:
    ours, theirs = ExpectedGradients(model), captum.attr.GradientShap(model)
    calls: dict[str, Call] = {
        OURS: lambda: ours.attribute(images, references, target, n_samples=n_samples)
    }
    for name in careful_names():
        calls[name] = lambda name=name: sampled(  # type: ignore[misc]
            model, images, references, target, n_samples, name
        )
    calls[CAPTUM] = lambda: theirs.attribute(
        images, references, n_samples=n_samples, stdevs=0.0, target=target
    )
    return calls


def sampled(
    model: nn.Module, images: Tensor, references: Tensor, target: Tensor, count: int, name: str
) -> Tensor:
    """A sample of every image at a time."""
    generator, total = torch.Generator().manual_seed(0), torch.zeros_like(images)
    for _ in range(count):
        chosen = torch.randint(len(references), (len(images),), generator=generator)
        alphas = torch.rand(len(images), 1, 1, 1, generator=generator)
        starts = references[chosen]
        for part, grads in slopes(model, torch.lerp(starts, images, alphas), target, name):
            total[part] += grads * (images - starts)[part]
    return total / count


# --- DiffIG --------------------------------------------------------------------------------------


def diffusion_calls(
    model: nn.Module, images: Tensor, target: Tensor, n_steps: int, n_paths: int, paths: PathModel
) -> dict[str, Call]:
    ours = IntegratedGradients(model, path=DiffusionPaths(paths, n_paths, GUIDES))
    calls: dict[str, Call] = {OURS: lambda: ours.attribute(images, target=target, n_steps=n_steps)}
    for name in careful_names():
        calls[name] = lambda name=name: along_drawn(  # type: ignore[misc]
            model, images, target, n_steps, n_paths, paths, name
        )
    one = careful(CHUNKS[0], "contiguous")
    calls[ONE_BY_ONE] = lambda: torch.cat(
        [
            along_drawn(model, image, label, n_steps, n_paths, paths, one)
            for image, label in zip(images.split(1), target.split(1), strict=True)
        ]
    )
    return calls


def along_drawn(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    n_steps: int,
    n_paths: int,
    paths: PathModel,
    name: str,
) -> Tensor:
    """All paths drawn in one batch by guided ancestral sampling, then one path after the other."""
    ends = paths.ends(images, torch.zeros_like(images[:1])).repeat(n_paths, 1, 1)
    tokens = drawn(paths, ends).unflatten(0, (n_paths, -1))
    total, points = torch.zeros_like(images), paths.config.points
    places = torch.arange(n_steps + 1) * points / n_steps
    below = places.floor().long().clamp(max=points - 1)
    share = (places - below)[:, None, None]
    for path in tokens:
        progress = progress_of(path, paths.config.spread).transpose(0, 1)
        cut = torch.lerp(progress[below], progress[below + 1], share)
        nodes = paths.config.over_code(cut.flatten(0, 1)).unflatten(0, cut.shape[:2]) * images
        middle, ways = (nodes[1:] + nodes[:-1]) / 2, nodes.diff(dim=0)
        of_rows = target.repeat(n_steps)
        parts = slopes(model, middle.flatten(0, 1), of_rows, name)
        grads = torch.cat([found for _, found in parts])
        total += (grads * ways.flatten(0, 1)).unflatten(0, (n_steps, -1)).sum(0)
    return total / n_paths


def drawn(paths: PathModel, ends: Tensor) -> Tensor:
    config, shares = paths.config, [1.0, *paths.shares.tolist()]
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(len(ends), config.points, config.features, generator=generator)

    with torch.no_grad():
        rows = noise()
        for level in reversed(range(config.levels)):
            share, before = shares[level + 1], shares[level]
            clean = rows - math.sqrt(1 - share) * paths.noise(rows, level)
            clean = (clean / math.sqrt(share)).clamp(*paths.bounds)
            kept = share / before
            variance = (1 - kept) * (1 - before) / (1 - share)
            rows = math.sqrt(kept) * (1 - before) / (1 - share) * rows
            rows += math.sqrt(before) * (1 - kept) / (1 - share) * clean
            if level == 0:
                break
            with torch.enable_grad():
                at = rows.detach().requires_grad_()
                score = GUIDES["faithful"] * paths.score("faithful", at, level, ends).sum()
                score = score - GUIDES["sparse"] * paths.score("sparse", at, level, ends).sum()
                (slope,) = torch.autograd.grad(score, at)
            rows += variance * slope + math.sqrt(variance) * noise()
    return rows

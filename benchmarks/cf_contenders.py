"""A counterfactual of one picture, as ours and as others write it: same steps, same noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pyxai_fast import Counterfactual, ops
from pyxai_fast.methods.counterfactual import START_STREAM, STEP_STREAM, Schedule
from pyxai_fast.priors import DiffusionPrior

OURS = "ours, ensemble"
OURS_DIAGONAL = "ours, diagonal"
OURS_SHORT = "ours, bfloat16 prior, ensemble"
OURS_DIAGONAL_SHORT = "ours, bfloat16 prior, diagonal"
CAREFUL = "careful PyTorch, ensemble"
CAREFUL_DIAGONAL = "careful PyTorch, diagonal"
RELEASED = "in the style of the release, diagonal"
# The same, with particles asked about as they are: only to be compared with.
UNROUNDED = "in the style of the release but for 8 bits, diagonal"
STEP_SIZE, PROXIMITY, STRENGTH, SEED = 0.2, 0.02, 0.4, 0
# Particles that the release denoises at once.
RELEASED_ROWS = 10

Noise = Callable[[int], Tensor]


def method(
    model: nn.Module, prior: DiffusionPrior, coupling: str, particles: int, steps: int
) -> Counterfactual:
    return Counterfactual(
        model, prior, n_particles=particles, n_steps=steps, strength=STRENGTH,
        step_size=STEP_SIZE, step_proximity=PROXIMITY, coupling=coupling, seed=SEED,
    )  # fmt: skip


def coupling_of(name: str) -> str:
    return name.rpartition(", ")[2]


def made(
    name: str,
    model: nn.Module,
    prior: DiffusionPrior,
    image: Tensor,
    target: int,
    particles: int,
    steps: int,
    noise: Noise | None = None,
    rows: int | None = None,
) -> Callable[[], Tensor]:
    """The call to be measured: the particles at its end, [K, C, H, W], pixels.

    `rows` are denoised at once by careful PyTorch; all of them by default. `noise(i)` is that of
    step i, and of the start for -1; drawn by torch where it is not given, and by ours always by
    key.
    """
    ours = method(model, prior, coupling_of(name), particles, steps)
    if name.startswith("ours"):

        def run() -> Tensor:
            found = ours.generate(image, target, keep_trajectory=False).particles
            assert found is not None
            return found[0]

        return run
    if noise is None:
        generator = torch.Generator().manual_seed(SEED)
        shape = (particles, *image.shape[1:])

        def noise(step: int) -> Tensor:
            return torch.randn(shape, generator=generator)

    others = {
        RELEASED: released,
        UNROUNDED: functools.partial(
            released, picture_of=lambda particle: particle[None] / 2 + 0.5
        ),
    }
    other = others.get(name, functools.partial(careful, rows=rows or particles))
    return lambda: other(model, prior, image, target, ours.schedule, coupling_of(name), noise)


def key_noise(image: Tensor, particles: int) -> Noise:
    """The noise that ours draws."""

    def noise(step: int) -> Tensor:
        stream = START_STREAM if step < 0 else STEP_STREAM + step
        return ops.perturb(torch.zeros_like(image), particles, 1.0, ops.random_key(SEED, stream))

    return noise


@torch.inference_mode()
def careful(
    model: nn.Module,
    prior: DiffusionPrior,
    image: Tensor,
    target: int,
    schedule: Schedule,
    coupling: str,
    noise: Noise,
    rows: int,
) -> Tensor:
    """What a careful engineer writes: everything batched, one product, in place where it can be,
    and through the network as many rows at once as suit it."""
    origin = image * 2 - 1
    start = noise(-1)
    x = start.mul_((1 - schedule.start_share) ** 0.5).add_(origin, alpha=schedule.start_share**0.5)
    count, low, high = len(x), -1.0, 1.0
    for number, step in enumerate(schedule.steps):
        predicted = torch.cat([network(prior, part, step.level) for part in x.split(rows)])
        clean = x.sub_(predicted, alpha=(1 - step.share) ** 0.5)
        clean.mul_(step.share**-0.5).clamp_(low, high)
        if not step.guided:
            x = clean
            continue
        logits = model(clean.mul(0.5).add_(0.5))
        direction = logits.softmax(1).neg_()
        direction[:, target] += 1
        centred = logits - logits.mean(0)
        flat = clean.flatten(1)
        if coupling == "ensemble":
            # The rows of the matrix sum to zero: centring the particles would change nothing.
            guide = (direction @ centred.T / count) @ (flat - origin.flatten(1))
        else:
            guide = (flat - flat.mean(0)).mul_((centred * direction).sum(1, keepdim=True))
        size = predicted.flatten(1).norm(dim=1, keepdim=True)
        near = (flat - origin.flatten(1)).sign_()
        push = guide.mul_(STEP_SIZE * size / guide.norm(dim=1, keepdim=True).clamp_(min=1e-30))
        push.sub_(near.mul_(PROXIMITY * size / near.norm(dim=1, keepdim=True).clamp_(min=1e-30)))
        share, after = step.share, step.share_next
        fresh = math.sqrt((1 - share / after) * (1 - after) / (1 - share))
        along = math.sqrt(1 - after - fresh**2)
        x = clean.mul(after**0.5).add_(predicted, alpha=along)
        x.add_(push.view_as(x), alpha=(share * after) ** 0.5)
        if fresh:
            x.add_(noise(number), alpha=fresh)
    return x.clamp_(low, high).mul_(0.5).add_(0.5)


@torch.inference_mode()
def released(
    model: nn.Module,
    prior: DiffusionPrior,
    image: Tensor,
    target: int,
    schedule: Schedule,
    coupling: str,
    noise: Noise,
    picture_of: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """As the authors' program goes about it: particles one by one through pictures of 8 bits.

    Their own in-place stretch of contrast is left out, so that the results can be compared.
    """
    assert coupling == "diagonal"
    origin = image * 2 - 1
    x = schedule.start_share**0.5 * origin + (1 - schedule.start_share) ** 0.5 * noise(-1)
    for number, step in enumerate(schedule.steps):
        parts = [network(prior, part, step.level) for part in x.split(RELEASED_ROWS)]
        predicted = torch.cat(parts)
        clean = (x - predicted * (1 - step.share) ** 0.5) / step.share**0.5
        clean = torch.clip(clean, -1, 1)
        logits = torch.cat([model((picture_of or eight_bits)(particle)) for particle in clean])
        one_hot = torch.zeros_like(logits)
        one_hot[:, target] = 1
        direction = one_hot - logits.softmax(dim=1)
        weights = ((logits - logits.mean(dim=0, keepdim=True)) * direction).sum(dim=1)
        guide = (clean - clean.mean(dim=0, keepdim=True)) * weights.view(-1, 1, 1, 1)
        push = STEP_SIZE * to_norm_of(guide, predicted)
        push = push - PROXIMITY * to_norm_of(torch.sign(clean - origin), predicted)
        if not step.guided:
            x = clean
            continue
        share, after = step.share, step.share_next
        fresh = math.sqrt((1 - share / after) * (1 - after) / (1 - share))
        along = math.sqrt(1 - after - fresh**2)
        x = (
            after**0.5 * clean
            + fresh * noise(number)
            + along * predicted
            + push * share**0.5 * after**0.5
        )
    return x.clip(-1, 1) / 2 + 0.5


def network(prior: DiffusionPrior, x: Tensor, level: int) -> Tensor:
    answer: Any = prior.unet(x, torch.full((len(x),), level))
    sample: Tensor = answer.sample
    return sample


def eight_bits(particle: Tensor) -> Tensor:
    """A picture of one particle, and back: [1, C, H, W] pixels."""
    pixels = ((particle + 1) / 2 * 255).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    back = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return back.view(1, *array.shape).permute(0, 3, 1, 2).float().div(255)


def to_norm_of(direction: Tensor, like: Tensor) -> Tensor:
    size = like.flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1).clamp(min=1e-30)
    return direction * size.view(-1, 1, 1, 1)

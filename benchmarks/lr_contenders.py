"""A likelihood-ratio gradient of one image, as ours and as others write it: antithetic pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pyxai_fast import LikelihoodRatio, Saliency

SIGMA = 0.05
SEED = 0
OURS = "ours"
OURS_WITH_ERRORS = "ours, with standard errors"
OURS_SIGNS = "ours, rademacher"
ONE_PAIR = "a pair at a time"
ALL_AT_ONCE = "all copies at once, NumPy"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Copies that the careful version asks at once.
CHUNKS = (16, 32, 64)
# What is held at once by a version that holds everything, in bytes of one array: more is left out.
MOST_AT_ONCE = 4 * 2**30


def careful(rows: int, memory_format: str) -> str:
    return f"PyTorch, {rows} at a time, {memory_format}"


def contenders() -> list[str]:
    rivals = [careful(rows, name) for rows in CHUNKS for name in FORMATS]
    return [OURS, OURS_WITH_ERRORS, OURS_SIGNS, *rivals, ONE_PAIR, ALL_AT_ONCE]


def made(
    name: str, model: nn.Module, image: Tensor, target: int, n_samples: int
) -> Callable[[], Tensor]:
    """The call to be measured: the estimate [1, C, H, W]."""
    if name.startswith("ours"):
        distribution = "rademacher" if name == OURS_SIGNS else "gaussian"
        gradient = LikelihoodRatio(n_samples, SIGMA, distribution, seed=SEED)
        ours = Saliency(model, gradient=gradient)

        def run() -> Tensor:
            if name == OURS_WITH_ERRORS:
                return ours.attribute(image, target, abs=False, return_standard_error=True)[0]
            return ours.attribute(image, target, abs=False)

        return run
    if name == ONE_PAIR:
        return lambda: one_pair(model, image, target, n_samples)
    if name == ALL_AT_ONCE:
        return lambda: all_at_once(model, image, target, n_samples)
    _, rows, layout = name.split(", ")
    size = int(rows.split()[0])
    return lambda: chunks(model, image, target, n_samples, size, FORMATS[layout])


@torch.inference_mode()
def chunks(
    model: nn.Module,
    image: Tensor,
    target: int,
    n_samples: int,
    rows: int,
    memory_format: torch.memory_format,
) -> Tensor:
    """What a careful engineer writes: buffers made once, in place, one matrix-vector product."""
    pairs = rows // 2
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.empty(pairs, *image.shape[1:], memory_format=memory_format)
    queries = torch.empty(rows, *image.shape[1:], memory_format=memory_format)
    image = image.contiguous(memory_format=memory_format)
    # Channels last is contiguous once the channels are moved: no copy on the way to the product.
    flat = noise if memory_format == torch.contiguous_format else noise.permute(0, 2, 3, 1)
    total = torch.zeros(flat[0].numel())
    done = 0
    while done < n_samples // 2:
        count = min(pairs, n_samples // 2 - done)
        noise[:count].normal_(generator=generator)
        torch.add(image, noise[:count], alpha=SIGMA, out=queries[:count])
        torch.add(image, noise[:count], alpha=-SIGMA, out=queries[count : 2 * count])
        answers = model(queries[: 2 * count])[:, target]
        total.addmv_(flat[:count].flatten(1).T, answers[:count] - answers[count:])
        done += count
    total /= n_samples * SIGMA
    total = total.view(flat.shape[1:])
    return (total if flat is noise else total.permute(2, 0, 1))[None]


@torch.inference_mode()
def one_pair(model: nn.Module, image: Tensor, target: int, n_samples: int) -> Tensor:
    """A loop over pairs, as in Foolbox 3's evolution strategies and most scripts."""
    generator = torch.Generator().manual_seed(SEED)
    total = torch.zeros_like(image)
    for _ in range(n_samples // 2):
        noise = torch.randn(image.shape, generator=generator)
        difference = model(image + SIGMA * noise) - model(image - SIGMA * noise)
        total += difference[0, target] * noise
    return total / (n_samples * SIGMA)


@torch.inference_mode()
def all_at_once(model: nn.Module, image: Tensor, target: int, n_samples: int) -> Tensor:
    """All copies in one array of NumPy's, as in Foolbox 2 and ART, which batch the model alone."""
    shape = (n_samples // 2, *image.shape[1:])
    noise = np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)
    noise = np.concatenate([noise, -noise])
    queries = image.numpy() + np.float32(SIGMA) * noise
    answers = np.concatenate(
        [
            model(torch.from_numpy(queries[begin : begin + 64]))[:, target].numpy()
            for begin in range(0, n_samples, 64)
        ]
    )
    gradient = np.mean(answers[:, None, None, None] * noise, axis=0) / np.float32(SIGMA)
    return torch.from_numpy(gradient)[None]

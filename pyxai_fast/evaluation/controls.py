"""Maps that know nothing of the model: what a method must be better than."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import ops
from ..metrics.centre import centre_maps

# Of the random numbers; far from those of any method.
STREAM = 2**15 + 2**14


def random_maps(pixels: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
    """An independent number for each pixel, uniform in [0, 1]: [B, 1, H, W], float32.

    A map depends on the seed, the picture's number and its size alone.
    """
    normal = ops.perturb(
        pixels.new_zeros(len(pixels), 1, *pixels.shape[2:], dtype=torch.float32),
        1,
        1.0,
        ops.random_key(seed, STREAM, device=pixels.device),
        examples=torch.tensor(list(numbers), dtype=torch.int64, device=pixels.device),
    )
    uniform: Tensor = torch.special.ndtr(normal)
    return uniform


def _centre(pixels: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
    return centre_maps((len(pixels), 1, *pixels.shape[2:]), pixels.device)


Control = Callable[[Tensor, Sequence[int], int], Tensor]

RANDOM, CENTRE = "random", "centre"
CONTROLS: dict[str, Control] = {RANDOM: random_maps, CENTRE: _centre}

"""Keys of random numbers: what every op that draws takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

STREAMS = 1 << 16


def random_key(
    seed: int | torch.Generator | None = None,
    stream: int = 0,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """A key for the ops that draw random numbers: int64 [2], a seed and the number of a stream.

    Equal keys give equal numbers, on every device. Different streams of a seed are independent:
    give one to each input tensor, each diffusion step, each purpose. A key is a tensor so that it
    can be changed in place where a CUDA graph or a compiled function holds on to it.

    Args:
        seed: 64 bits; or a generator to draw them from, or None for torch's own.
        stream: 0 to 65535.
        device: where the key lies: that of the inputs.

    Raises:
        TypeError: a seed that is none of these.
        ValueError: a seed or stream out of range.
    """
    if isinstance(seed, bool) or not (seed is None or isinstance(seed, (int, torch.Generator))):
        raise TypeError(
            "random_key: seed must be a number, a torch.Generator or None, got "
            f"{type(seed).__name__}"
        )
    if not 0 <= stream < STREAMS:
        raise ValueError(f"random_key: stream must be in [0, {STREAMS}), got {stream}")
    if not isinstance(seed, int):
        where = "cpu" if seed is None else seed.device
        drawn = torch.randint(-(2**63), 2**63 - 1, (1,), generator=seed, device=where)
        seed = int(drawn)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"random_key: seed must have at most 64 bits, got {seed}")
    if seed >= 2**63:
        seed -= 2**64  # the same bits, as a signed number
    return torch.tensor([seed, stream], dtype=torch.int64, device=device)


def check_key(op: str, key: Any, like: Tensor) -> None:
    if not isinstance(key, Tensor):
        raise TypeError(
            f"{op}: key must be a tensor, as random_key makes it, got {type(key).__name__}"
        )
    if key.dtype != torch.int64 or key.shape != (2,):
        raise ValueError(
            f"{op}: key must be int64 [2], a seed and a stream, got {key.dtype} {list(key.shape)}"
        )
    if key.device != like.device:
        raise ValueError(f"{op}: key must be on {like.device}, got {key.device}")

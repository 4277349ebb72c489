"""torch's own random numbers, seeded where a network draws from them, and the caller's kept.

`torch.manual_seed` would reseed every CUDA device, also those whose state nobody puts back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, *devices: torch.device) -> Iterator[None]:
    """Within, torch draws by the seed on the CPU and on these devices; then it goes on as before.

    No other device's random state is touched.
    """
    with torch.random.fork_rng(_cuda(devices)):
        seed_torch(seed, *devices)
        yield


def seed_torch(seed: int, *devices: torch.device) -> None:
    """Seeds the CPU's generator and those of these devices, and leaves them so."""
    torch.default_generator.manual_seed(seed)
    for index in _cuda(devices):
        torch.cuda.default_generators[index].manual_seed(seed)


def _cuda(devices: Iterable[torch.device]) -> list[int]:
    """Their numbers, once each; what is no CUDA device is left out."""
    found = {
        torch.cuda.current_device() if device.index is None else device.index
        for device in devices
        if device.type == "cuda"
    }
    return sorted(found)

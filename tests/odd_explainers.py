"""What makes explainers in other processes: some of them die, or fail, or are slow."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from job_cases import explainer, network

from pyxai_fast.models.errors import ModelSpecError
from pyxai_fast.picture_explainer import PictureExplainer


def made(memory_format: str = "contiguous") -> PictureExplainer:
    """Formats are tried against each other, so that one may win here and the other there."""
    return explainer(memory_format=memory_format)


class Odd(torch.nn.Module):
    """The network, which does something besides where it sees pictures."""

    def __init__(self, happens: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.network = network()
        self.happens = happens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.happens(x)
        return self.network(x)


def odd(happens: Callable[[torch.Tensor], object]) -> PictureExplainer:
    return explainer(module=Odd(happens), memory_format="contiguous")


def sleep(x: torch.Tensor) -> None:
    time.sleep(0.02)


def deadly(notes: Path) -> PictureExplainer:
    """Green kills a process, once, and red each."""
    return odd(partial(die_of_colours, notes))


def failing_next_time(notes: Path) -> PictureExplainer:
    there = (notes / "loaded").exists()
    (notes / "loaded").touch()
    return odd(fail if there else sleep)


def slow(notes: Path) -> PictureExplainer:
    """Its worker notes which process it is."""
    (notes / str(os.getpid())).touch()
    return odd(sleep)


def die_of_colours(notes: Path, x: torch.Tensor) -> None:
    red, green = (bool((x[:, channel] == 1.0).all((1, 2)).any()) for channel in (0, 1))
    if red or (green and not (notes / "died").exists()):
        (notes / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def fail(x: torch.Tensor) -> None:
    raise RuntimeError("too hot here")


def of_other_weights() -> PictureExplainer:
    module = network()
    torch.nn.init.zeros_(module[0].bias)
    return explainer(module=module, memory_format="contiguous")


def not_there() -> PictureExplainer:
    raise ModelSpecError("model: must be there, got none")

"""What makes explainers in other processes: some of them die, or fail, or are slow."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
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


def deadly() -> PictureExplainer:
    return odd(die_of_colour)


def failing() -> PictureExplainer:
    return odd(fail_of_colour)


def slow(notes: Path) -> PictureExplainer:
    """Its worker notes which process it is."""
    (notes / str(os.getpid())).touch()
    return odd(sleep)


def die_of_colour(x: torch.Tensor) -> None:
    if bool((x[:, 0] == 1.0).all((1, 2)).any()):
        os.kill(os.getpid(), signal.SIGKILL)


def fail_of_colour(x: torch.Tensor) -> None:
    if bool((x[:, 0] == 1.0).all((1, 2)).any()):
        raise RuntimeError("too red")


def of_other_weights_next_time(notes: Path) -> PictureExplainer:
    there = notes / "loaded"
    module = network()
    if there.exists():
        torch.nn.init.zeros_(module[0].bias)
    there.touch()
    return explainer(module=module, memory_format="contiguous")


def not_there() -> PictureExplainer:
    raise ModelSpecError("model: must be there, got none")

"""Sounds for the demo, made from a seed: an event somewhere in noise, with knocks around it.

Everything about a sound is known: what the event is, when it begins and ends, and how high it
reaches. Nothing is recorded, downloaded or stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

RATE = 8000
SECONDS = 2.0
SAMPLES = int(RATE * SECONDS)
CLASS_NAMES = ("beep", "rising", "falling", "warble", "nothing")

# Seconds, Hz, and amplitudes of a wave in [-1, 1].
_LONG, _EDGE = (0.4, 0.6), 0.03
_HIGH, _SWEEP = (700.0, 1800.0), (1.7, 2.1)
_WARBLE = 200.0, 9.0
_LOUD, _NOISE = (0.1, 0.25), (0.02, 0.04)
_KNOCKS, _KNOCK = 2, 0.4


@dataclass(frozen=True)
class Sound:
    """A sound, and where in it the event is.

    Attributes:
        waveform: float32 [SAMPLES] in [-1, 1].
        label: of CLASS_NAMES.
        seconds: when the event begins and ends.
        hertz: its lowest and its highest frequency.
    """

    waveform: Tensor
    label: int
    seconds: tuple[float, float]
    hertz: tuple[float, float]


def make_sound(label: int, generator: torch.Generator) -> Sound:
    """One sound of a class, at random."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand([], generator=generator))

    time = torch.arange(SAMPLES, dtype=torch.float64) / RATE
    wave = between(*_NOISE) * _noise(generator)
    for _ in range(_KNOCKS):
        wave = wave + between(0, _KNOCK) * _knock(time, between(0, SECONDS), generator)
    # All classes draw the same numbers, so that those that follow are the same too.
    long, lowest, sweep = between(*_LONG), between(*_HIGH), between(*_SWEEP)
    start, loud = between(0.1, SECONDS - 0.1 - long), between(*_LOUD)
    name = CLASS_NAMES[label]
    if name == "nothing":
        return Sound(_full(wave), label, (0.0, 0.0), (0.0, 0.0))
    within = ((time - start) / long).clamp(0, 1)
    top = lowest if name == "beep" else lowest * sweep
    if name == "beep":
        hertz = torch.full_like(time, lowest)
    elif name == "warble":
        depth, speed = _WARBLE
        hertz = lowest + depth * torch.sin(2 * math.pi * speed * (time - start))
        lowest, top = lowest - depth, lowest + depth
    else:
        share = within if name == "rising" else 1 - within
        hertz = lowest + (top - lowest) * share
    tone = torch.sin(2 * math.pi * hertz.cumsum(0) / RATE)
    rise = torch.minimum(within, 1 - within) * (long / _EDGE)
    wave = wave + loud * rise.clamp(0, 1) * tone
    return Sound(_full(wave), label, (start, start + long), (lowest, top))


def make_sounds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Waveforms [count, SAMPLES] and labels [count], classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    made = [make_sound(i % len(CLASS_NAMES), generator) for i in range(count)]
    return torch.stack([one.waveform for one in made]), torch.tensor([one.label for one in made])


def example() -> Sound:
    """The sound that the demo explains: a chirp that rises."""
    return make_sound(CLASS_NAMES.index("rising"), torch.Generator().manual_seed(2))


def _noise(generator: torch.Generator) -> Tensor:
    """With as much power in every octave, of unit variance."""
    spectrum = torch.fft.rfft(torch.randn(SAMPLES, generator=generator, dtype=torch.float64))
    # From 60 Hz: what is below is not heard.
    hertz = torch.fft.rfftfreq(SAMPLES, 1 / RATE, dtype=torch.float64).clamp(min=60)
    wave: Tensor = torch.fft.irfft(spectrum / hertz.sqrt(), SAMPLES)
    return wave / wave.std()


def _knock(time: Tensor, at: float, generator: torch.Generator) -> Tensor:
    """A burst of noise that dies away within a tenth of a second."""
    burst = torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
    return burst * torch.where(time >= at, (-(time - at) / 0.015).exp(), 0.0)


def _full(wave: Tensor) -> Tensor:
    return wave.clamp(-1, 1).float()

"""Log-magnitude spectrograms of noise with one event, made from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..audio.spectrum import Spectrum
from .draws import Draws, check_extents, widened
from .examples import Examples

CLASS_NAMES = ("rising", "falling", "bursts", "warble", "clicks", "nothing")
RATE = 8000
BINS = FRAMES = 64
FLOOR_DB = -80.0
LEAST = 16

# Of the sound's length, and of half of the rate.
_LONG, _EDGE = (0.35, 0.55), 0.06
_LOWEST, _SWEEP, _DEPTH = (0.15, 0.5), (1.5, 1.8), 0.07
_REPEATS, _SWINGS = 3, 3.0
# Amplitudes in [-1, 1]; a click is short, and loud to be as visible.
_LOUD, _CLICK, _NOISE, _HUM = (0.1, 0.25), 5.0, (0.015, 0.03), (0.03, 0.1)
# Of a click's Gaussian envelope, in samples.
_CLICK_WIDTH = 3.0
# An event, or a hum, is where its power is less than this below its own greatest.
VISIBLE_DB = 15.0


def make_spectrograms(count: int, seed: int, *, bins: int = BINS, frames: int = FRAMES) -> Examples:
    """Spectrograms with one event each, whose kind is their class.

    A tone that rises or falls, three bursts of one tone, a tone that warbles or three clicks, at
    any time and height. Behind it are noise, louder at low frequencies, and a hum: a steady tone,
    which is a decoy. The event is there within its mask alone: outside, where its power is 15 dB
    and more below its own greatest, it is left out.

    Args:
        count: how many; classes are in equal shares.
        seed: of everything.
        bins: F, frequencies from 0 Hz to just below half of RATE, at least 16.
        frames: T, at least 16. Neighbours are bins samples apart and overlap by half.

    Returns:
        Examples: inputs [count, 1, F, T], decibels from 0 at FLOOR_DB to 1 at 0 dB, low frequencies
        first; masks [count, 1, F, T].

    Raises:
        ValueError: an argument that does not fit, naming it.
    """
    draws = Draws("make_spectrograms", count, seed)
    check_extents("make_spectrograms", "bins", (bins,), LEAST)
    check_extents("make_spectrograms", "frames", (frames,), LEAST)
    spectrum = Spectrum(RATE, 2 * bins, bins)
    samples = (frames - 1) * bins
    labels = draws.labels(len(CLASS_NAMES) - 1)
    noise, hum = _noise(draws, samples), _hum(draws, samples)
    events = _events(draws, labels, samples)
    behind, there, steady = (spectrum.of(wave) for wave in (noise + hum, events, hum))
    masks, decoys = visible(there)[:, :, :bins], visible(steady)[:, :, :bins]
    without = _shown(spectrum, behind)[:, :, :bins]
    inputs = torch.where(masks, _shown(spectrum, behind + there)[:, :, :bins], without)
    return Examples(inputs, labels, masks, without, decoys & ~masks)


def visible(parts: Tensor) -> Tensor:
    """Where a sound is, of its parts alone [B, 2, F, T]: bool [B, 1, F, T]."""
    power = parts.square().sum(1, keepdim=True)
    return power > power.amax((2, 3), keepdim=True) * 10 ** (-VISIBLE_DB / 10)


def _shown(spectrum: Spectrum, parts: Tensor) -> Tensor:
    return 1 - spectrum.log_magnitude(parts, FLOOR_DB) / FLOOR_DB


def _noise(draws: Draws, samples: int) -> Tensor:
    """[B, samples], with as much power in every octave."""
    white = torch.fft.rfft(draws.normal(samples))
    # From 1/50 of half of the rate: what is below would be all there is.
    falling = torch.linspace(0, 1, white.shape[1]).clamp(min=0.02).rsqrt()
    wave: Tensor = torch.fft.irfft(white * falling, samples)
    return widened(draws.between(*_NOISE), 1) * wave / wave.std(1, keepdim=True)


def _hum(draws: Draws, samples: int) -> Tensor:
    pitch, phase = draws.between(0.05, 0.95), draws.between(0, 2 * math.pi)
    loud = draws.between(*_HUM)
    turns = math.pi * widened(pitch, 1) * torch.arange(samples)
    return widened(loud, 1) * (turns + widened(phase, 1)).sin()


def _events(draws: Draws, labels: Tensor, samples: int) -> Tensor:
    """[B, samples] of the classes [B]."""
    # All classes take the same numbers.
    long, lowest, sweep = draws.between(*_LONG), draws.between(*_LOWEST), draws.between(*_SWEEP)
    start = draws.between(0, 1) * (1 - long)
    loud, phase = draws.between(*_LOUD), draws.between(0, 2 * math.pi)
    time = (torch.arange(samples) + 0.5) / samples
    within = (time - widened(start, 1)) / widened(long, 1)
    found = torch.empty(draws.count, samples)
    for label, make in enumerate(_MAKERS):
        rows = labels == label
        if bool(rows.any()):
            pitch, highest = widened(lowest[rows], 1), widened((lowest * sweep)[rows], 1)
            made = make(within[rows], pitch, highest, widened(phase[rows], 1), long[rows])
            found[rows] = widened(loud[rows], 1) * made
    return found


def _tone(pitch: Tensor, phase: Tensor) -> Tensor:
    """Of a pitch [B, samples] that may change, as a share of half of the rate."""
    return (math.pi * pitch.double().cumsum(1) + phase).sin().float()


def _faded(within: Tensor, edge: float) -> Tensor:
    """1 from 0 to 1, but for its ends, and 0 outside."""
    return (torch.minimum(within, 1 - within) / edge).clamp(0, 1)


def _rising(within: Tensor, low: Tensor, high: Tensor, phase: Tensor, long: Tensor) -> Tensor:
    return _faded(within, _EDGE) * _tone(low + (high - low) * within.clamp(0, 1), phase)


def _falling(within: Tensor, low: Tensor, high: Tensor, phase: Tensor, long: Tensor) -> Tensor:
    return _faded(within, _EDGE) * _tone(high + (low - high) * within.clamp(0, 1), phase)


def _bursts(within: Tensor, low: Tensor, high: Tensor, phase: Tensor, long: Tensor) -> Tensor:
    # As long as the pauses between them, of which there is one less.
    turn = within * (_REPEATS - 0.5)
    burst = torch.where((within >= 0) & (within <= 1), 2 * (turn % 1), -1.0)
    return _faded(burst, 2 * _EDGE) * _tone(low.expand_as(within), phase)


def _warble(within: Tensor, low: Tensor, high: Tensor, phase: Tensor, long: Tensor) -> Tensor:
    swing = _DEPTH * (2 * math.pi * _SWINGS * within).sin()
    return _faded(within, _EDGE) * _tone(low + _DEPTH + swing, phase)


def _clicks(within: Tensor, low: Tensor, high: Tensor, phase: Tensor, long: Tensor) -> Tensor:
    # Samples from the nearest of their middles.
    samples = widened(long, 1) * within.shape[1]
    middles = (torch.arange(_REPEATS) + 0.5) / _REPEATS
    found = torch.zeros_like(within)
    for middle in middles.tolist():
        away = (within - middle) * samples
        envelope = (-0.5 * (away / _CLICK_WIDTH).square()).exp()
        found = found + envelope * (math.pi * high * away + phase).cos()
    return _CLICK * found


_Maker = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
_MAKERS: tuple[_Maker, ...] = (_rising, _falling, _bursts, _warble, _clicks)

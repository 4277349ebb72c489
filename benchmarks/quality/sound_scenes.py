"""Sounds of which it is known when the event is: placed at a random time in a background."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pyxai_fast.audio import read_audio

FADE_SECONDS = 0.01
PEAK = 0.5


@dataclass(frozen=True)
class Clip:
    """A recording of an event.

    Attributes:
        name: of the file.
        waveform: [samples].
        labels: classes of the model that name the event. None: the class that is predicted.
        kind: what tells clips of one kind of event from those of another.
    """

    name: str
    waveform: Tensor
    labels: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class Scene:
    """A sound with an event between two times.

    Attributes:
        name: of the clip of the event.
        waveform: [samples].
        start, end: of the event, in samples.
        labels: as of the clip.
    """

    name: str
    waveform: Tensor
    start: int
    end: int
    labels: tuple[int, ...]


def read_clips(
    folder: Path, rate: int, table: Path | None = None, labels: str = "labels", kind: str = "kind"
) -> list[Clip]:
    """The sounds of a folder.

    Args:
        table: a CSV file whose columns are file, `labels` (classes of the model, with spaces
            between) and `kind`, the last two if there are any; only sounds that it names are read.
    """
    if table is None:
        rows = [{"file": file.name} for file in sorted(folder.iterdir()) if file.is_file()]
    else:
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
    return [
        Clip(
            row["file"],
            read_audio(folder / row["file"], rate)[0],
            tuple(int(label) for label in row.get(labels, "").split()),
            row.get(kind, row["file"]),
        )
        for row in rows
    ]


def loudest(waveform: Tensor, length: int) -> int:
    """Where the `length` samples of the most energy begin."""
    if len(waveform) <= length:
        return 0
    energy = functional.pad(waveform.double().square().cumsum(0), (1, 0))
    return int((energy[length:] - energy[:-length]).argmax())


def pink_noise(samples: int, generator: torch.Generator) -> Tensor:
    """Noise with the same power in each octave, [samples], of mean square 1."""
    shape = torch.fft.rfft(torch.randn(samples, generator=generator, dtype=torch.float64))
    shape = shape / torch.arange(len(shape)).clamp(min=1).double().sqrt()
    shape[0] = 0
    found = torch.fft.irfft(shape, samples)
    return (found / found.square().mean().sqrt()).float()


def placed(event: Tensor, background: Tensor, start: int, snr_db: float, fade: int) -> Tensor:
    """An event in a background [samples], faded in and out over `fade` samples.

    The event's mean power is so many decibels above that of the background; the loudest sample is
    of PEAK.
    """
    ramp = torch.linspace(0, 1, fade + 2)[1:-1]
    faded = event.clone()
    faded[:fade] *= ramp
    faded[len(event) - fade :] *= ramp.flip(0)
    power = faded.square().mean() / background.square().mean().clamp(min=1e-20)
    whole = background * (power.sqrt() * 10 ** (-snr_db / 20))
    whole[start : start + len(event)] += faded
    return whole * (PEAK / whole.abs().max().clamp(min=1e-20))


def scene_of(
    clip: Clip, others: list[Clip], rate: int, seconds: float, event_seconds: float,
    snr_db: float, background: str, seed: int,
) -> Scene:  # fmt: skip
    """The loudest part of a clip at a random time in something else.

    Args:
        others: clips of which one of another kind is the background, repeated where it is short.
        background: "noise" (pink) or "clips".
    """
    generator = torch.Generator().manual_seed(seed)
    samples, length = round(seconds * rate), min(round(event_seconds * rate), len(clip.waveform))
    begin = loudest(clip.waveform, length)
    event = clip.waveform[begin : begin + length]
    start = int(torch.randint(samples - length + 1, (1,), generator=generator))
    if background == "noise":
        behind = pink_noise(samples, generator)
    else:
        strangers = [other for other in others if other.kind != clip.kind]
        if not strangers:
            raise SystemExit("sound_localisation: --background clips needs clips of another kind")
        other = strangers[int(torch.randint(len(strangers), (1,), generator=generator))].waveform
        behind = other.repeat(-(-samples // len(other)))[:samples].clone()
    fade = min(round(FADE_SECONDS * rate), length // 2)
    waveform = placed(event, behind, start, snr_db, fade)
    return Scene(clip.name, waveform, start, start + length, clip.labels)

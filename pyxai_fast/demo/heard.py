"""What a network hears: a sound of the demo, explained by DAX over time and frequency."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pyxai_fast.audio import (
    Spectrum,
    WaveformModel,
    audible,
    audible_figure,
    time_frequency_tiles,
    write_audio,
)
from pyxai_fast.demo.sound_model import accuracy, load_sound_model
from pyxai_fast.demo.sounds import CLASS_NAMES, Sound, example
from pyxai_fast.explanation import Explanation
from pyxai_fast.front_door import explain

# Fewer than by default: seconds instead of a minute.
N_QUERIES = 600
FILES = ("sound.png", "sound.wav", "sound.heard.wav")


@dataclass(frozen=True)
class Heard:
    """A sound, why the network takes it for what it does, and how well that fits the event.

    Attributes:
        explanation: of the parts of its spectrum.
        mask: [F, T] in [0, 1].
        inside: share of the mask within the event's time and frequencies.
        area: share of all times and frequencies that these are.
        accuracy: of the network, on other sounds.
    """

    sound: Sound
    spectrum: Spectrum
    explanation: Explanation
    mask: Tensor
    inside: float
    area: float
    accuracy: float
    seconds: float


def hear(*, progress: bool = False) -> Heard:
    """Train the network, and explain the example."""
    started = time.perf_counter()
    model, sound = load_sound_model(), example()
    spectrum, samples = Spectrum(model.sample_rate), len(sound.waveform)
    parts = spectrum.of(sound.waveform[None])
    explanation = explain(
        WaveformModel(model, spectrum, samples),
        parts,
        method="dax",
        baselines=0.0,
        segments=time_frequency_tiles(spectrum, parts.shape),
        class_names=model.class_names,
        memory_format="contiguous",
        progress=progress,
        n_queries=N_QUERIES,
    )
    assert isinstance(explanation.attributions, Tensor)
    mask = explanation.attributions[0, 0]
    event = event_of(sound, spectrum, mask.shape[1])
    return Heard(
        sound,
        spectrum,
        explanation,
        mask,
        inside=float(mask[event].sum() / mask.sum()),
        area=float(event.double().mean()),
        accuracy=accuracy(model),
        seconds=time.perf_counter() - started,
    )


def event_of(sound: Sound, spectrum: Spectrum, frames: int) -> Tensor:
    """Which bins and frames the event is in, bool [F, T]: those nearest to its ends count."""
    apart_hertz, apart_seconds = spectrum.rate / spectrum.n_fft, spectrum.hop / spectrum.rate

    def between(at: Tensor, ends: tuple[float, float], apart: float) -> Tensor:
        return (at >= ends[0] - apart / 2) & (at <= ends[1] + apart / 2)

    high = between(spectrum.hertz(), sound.hertz, apart_hertz)
    when = between(spectrum.seconds(frames), sound.seconds, apart_seconds)
    return high[:, None] & when


def save(heard: Heard, out: Path) -> None:
    """Writes FILES into a folder."""
    from pyxai_fast.plots import class_and_probability, save_figure

    explanation, sound = heard.explanation, heard.sound
    assert isinstance(explanation.inputs, Tensor)
    name, probability = class_and_probability(explanation, 0)
    samples = len(sound.waveform)
    figure = audible_figure(
        heard.spectrum,
        explanation.inputs,
        heard.mask,
        samples,
        class_name=name,
        probability=probability,
    )
    picture, whole, part = (out / file for file in FILES)
    save_figure(figure, picture)
    write_audio(whole, sound.waveform, heard.spectrum.rate)
    through = audible(heard.spectrum, explanation.inputs, heard.mask[None, None], samples)[0]
    write_audio(part, through, heard.spectrum.rate)


def section(heard: Heard) -> str:
    """What table.md says of it."""
    sound, cost = heard.sound, heard.explanation.cost
    assert heard.explanation.target is not None
    taken = CLASS_NAMES[int(heard.explanation.target[0])]
    (begin, end), (low, high) = sound.seconds, sound.hertz
    return (
        f"A sound: {CLASS_NAMES[sound.label]}, from {low:.0f} to {high:.0f} Hz and {begin:.2f} to "
        f"{end:.2f} s, taken for {taken} by a network that hears {heard.accuracy:.0%} of others "
        f"right. Of the mask of dax {heard.inside:.0%} lies within the event, which takes up "
        f"{heard.area:.0%} of the spectrogram; {cost.queries} queries, {heard.seconds:.1f} s with "
        "the training of the network."
    )

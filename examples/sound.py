"""Sound: where in time and frequency a network hears a rising tone.

    python examples/sound.py [FOLDER]

Trains a small network on sounds that are made up (seconds), and learns which tiles of the
spectrogram it needs. Writes FOLDER/sound.png, in colour where it is heard; FOLDER/sound.heard.wav,
that part alone; and prints how much of the mask lies where the tone is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyxai_fast import explain
from pyxai_fast.audio import (
    Spectrum,
    WaveformModel,
    audible_figure,
    time_frequency_tiles,
    write_audio,
)
from pyxai_fast.demo.sound_model import load_sound_model
from pyxai_fast.demo.sounds import CLASS_NAMES, RATE, example
from pyxai_fast.plots import save_figure


def main(folder: str = ".") -> float:
    sound, spectrum = example(), Spectrum(RATE)
    samples = len(sound.waveform)
    parts = spectrum.of(sound.waveform[None])  # [1, 2, F, T]: real and imaginary
    hears = WaveformModel(load_sound_model(), spectrum, samples)
    found = explain(
        hears,
        parts,
        method="dax",
        baselines=0.0,  # what is hidden is silent
        segments=time_frequency_tiles(spectrum, parts.shape, hertz=500, seconds=0.25),
        n_queries=600,
    )
    mask = found.attributions[0, 0]  # [F, T], from 0 to 1

    high, when = spectrum.hertz(), spectrum.seconds(mask.shape[1])
    (low, top), (begin, end) = sound.hertz, sound.seconds
    event = ((high >= low) & (high <= top))[:, None] & ((when >= begin) & (when <= end))
    inside = float(mask[event].sum() / mask.sum())
    name, sure = CLASS_NAMES[int(found.target[0])], float(found.outputs[0].max())
    print(f"heard as {name!r} with probability {sure:.2f}; {found.cost.queries} queries")
    print(f"the tone: {event.double().mean():.0%} of the spectrogram, {inside:.0%} of the mask")

    figure = audible_figure(spectrum, parts, mask, samples, class_name=name, probability=sure)
    save_figure(figure, Path(folder) / "sound.png")
    heard = hears.audible(parts, mask[None, None])[0]
    write_audio(Path(folder) / "sound.heard.wav", heard, RATE)
    return inside


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Pictures of sound: in colour what is heard, in grey what is not, in seconds and Hz."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyxai_fast.audio import Spectrum, audible, audible_figure
from pyxai_fast.plots import save_figure

pytest.importorskip("matplotlib")

SPECTRUM = Spectrum(8000)
SAMPLES = 6000


def sound() -> tuple[Tensor, Tensor]:
    """A tone of 1 kHz in the middle of faint noise, and a mask of its time."""
    time = torch.arange(SAMPLES) / 8000
    tone = 0.5 * torch.sin(2 * math.pi * 1000 * time) * ((time > 0.25) & (time < 0.5))
    noise = 0.01 * torch.randn(SAMPLES, generator=torch.Generator().manual_seed(0))
    parts = SPECTRUM.of((tone + noise)[None])[0]
    seconds = SPECTRUM.seconds(parts.shape[2])
    inside = ((seconds > 0.2) & (seconds < 0.55)).float()
    return parts, inside.expand(parts.shape[1:])


def drawn(**settings: Any) -> Any:
    parts, mask = sound()
    return audible_figure(SPECTRUM, parts, mask, SAMPLES, **settings)


def test_what_is_heard_is_in_colour_and_the_rest_is_grey() -> None:
    figure = drawn()
    picture = np.asarray(figure.axes[0].images[0].get_array()).astype(int)
    _, mask = sound()
    assert picture.shape == (*mask.shape, 3)
    spread = picture.max(-1) - picture.min(-1)
    assert (spread[mask.numpy() == 0] == 0).all()
    assert spread[32, 45] > 30  # the tone
    # Of what is not heard, the louder is the darker.
    half = audible_figure(SPECTRUM, sound()[0], mask * 0, SAMPLES)
    grey = np.asarray(half.axes[0].images[0].get_array()).astype(int)[..., 0]
    assert grey[32, 45] + 60 < grey[100, 5]


def test_axes_are_in_seconds_and_hz() -> None:
    figure = drawn()
    spectrogram, waveforms = figure.axes[:2]
    assert spectrogram.get_xlim() == waveforms.get_xlim() == (0, SAMPLES / 8000)
    assert spectrogram.get_ylim() == (0, 4000)
    assert spectrogram.get_ylabel() == "frequency (Hz)"
    assert waveforms.get_xlabel() == "time (s)"
    left, right, bottom, top = spectrogram.images[0].get_extent()
    bins, frames = sound()[1].shape
    # Bins and frames are centred on their frequency and time.
    assert (left + right) / 2 == pytest.approx((frames - 1) / 2 * 64 / 8000)
    assert (bottom + top) / 2 == pytest.approx((bins - 1) / 2 * 8000 / 256)
    assert drawn(max_hertz=2000).axes[0].get_ylim() == (0, 2000)
    assert drawn(max_hertz=1e6).axes[0].get_ylim() == (0, 4000)


def test_the_waveform_below_is_what_is_heard() -> None:
    parts, mask = sound()
    whole, heard = drawn().axes[1].collections
    low, high = (c.get_paths()[0].vertices[:, 1].min() for c in (whole, heard))
    expected = audible(SPECTRUM, parts[None], mask[None, None], SAMPLES)
    assert high == pytest.approx(float(expected.min()))
    assert low == pytest.approx(float(SPECTRUM.waveform(parts[None], SAMPLES).min()))


def test_titles_say_what_was_explained() -> None:
    figure = drawn(class_name="dog bark", probability=0.873, note="kept 12%")
    assert figure.texts[0].get_text() == "dog bark  87.3%,  kept 12%"
    assert drawn().texts[0].get_text() == ""


@pytest.mark.parametrize("samples", [256, 257, 40000])
def test_sounds_of_any_length_are_drawn(samples: int, tmp_path: Path) -> None:
    parts = torch.zeros(1, *SPECTRUM.shape(samples))  # silence, too
    mask = torch.ones(1, 1, *parts.shape[2:])
    figure = audible_figure(SPECTRUM, parts, mask, samples)
    save_figure(figure, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": torch.zeros(2, 129, 9)}, r"parts must be \[2, 129, 95\] for 6000 samples, got"),
        ({"mask": torch.zeros(129, 9)}, r"mask must be \[129, 95\] for 6000 samples, got \[129, 9"),
        ({"mask": torch.zeros(2, 129, 95)}, r"mask must be .*got \[2, 129, 95\]"),
        ({"floor_db": 0.0}, "floor_db must be below 0, got 0.0"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    parts, mask = sound()
    arguments = {"parts": parts, "mask": mask, "length": SAMPLES, **change}
    with pytest.raises(ValueError, match=f"audible_figure: {message}"):
        audible_figure(SPECTRUM, **arguments)

"""Sound files come back as they were written, and rates change without aliases."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assertions import assert_same_bits
from torch import Tensor

from pyxai_fast.audio import AudioError, read_audio, resample, write_audio
from pyxai_fast.models.errors import MissingDependency

needs_soundfile = pytest.mark.skipif(
    importlib.util.find_spec("soundfile") is None, reason="soundfile is not installed"
)


def sine(hertz: float, rate: int, samples: int, phase: float = 0.3) -> Tensor:
    time = torch.arange(samples, dtype=torch.float64) / rate
    return (0.5 * torch.sin(2 * math.pi * hertz * time + phase)).float()


# ---------------------------------------------------------------- files


@needs_soundfile
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_samples_of_16_bits_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    waveform = torch.arange(-(2**15), 2**15) / 2**15
    write_audio(tmp_path / f"all{suffix}", waveform, 8000)
    found, rate = read_audio(tmp_path / f"all{suffix}")
    assert rate == 8000
    assert_same_bits(found, waveform)


@needs_soundfile
def test_samples_are_rounded_to_the_nearest_and_clipped(tmp_path: Path) -> None:
    waveform = torch.tensor([0.9, 1.1, -0.9, -3.1, 40000.0, -40000.0]) / 2**15
    write_audio(tmp_path / "x.wav", waveform, 16000)
    found, _ = read_audio(str(tmp_path / "x.wav"))
    assert (found * 2**15).tolist() == [1, 1, -1, -3, 2**15 - 1, -(2**15)]


@needs_soundfile
def test_channels_become_their_mean(tmp_path: Path) -> None:
    import soundfile

    stereo = np.array([[16384, -16384], [8192, 0], [-32768, -32768]], np.int16)
    soundfile.write(tmp_path / "stereo.wav", stereo, 22050)
    found, rate = read_audio(tmp_path / "stereo.wav")
    assert rate == 22050 and found.tolist() == [0.0, 0.125, -1.0]


@needs_soundfile
def test_a_rate_that_is_asked_for_is_given(tmp_path: Path) -> None:
    waveform = sine(440, 22050, 4000)
    write_audio(tmp_path / "x.flac", waveform, 22050)
    kept, rate = read_audio(tmp_path / "x.flac", 22050)
    assert rate == 22050 and kept.shape == (4000,)
    found, rate = read_audio(tmp_path / "x.flac", 16000)
    assert rate == 16000
    assert_same_bits(found, resample(kept, 22050, 16000))


@needs_soundfile
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path) -> None:
    import soundfile

    noise = np.random.default_rng(0).bytes(2000)
    (tmp_path / "noise.wav").write_bytes(noise)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "noise.raw").write_bytes(noise)
    soundfile.write(tmp_path / "silent.wav", np.zeros(0, np.int16), 8000)
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan]), 8000, subtype="FLOAT")
    (tmp_path / "folder.wav").mkdir()
    for name, reason in {
        "missing.wav": "no such file",
        "missing": "no such file",
        "folder.wav": "is a folder, not a sound file",
        "noise.wav": "not a sound file that libsndfile can read (",
        "noise.raw": "not a sound file that libsndfile can read (",
        "empty.wav": "not a sound file that libsndfile can read (",
        "silent.wav": "holds no samples",
        "nan.wav": "holds samples that are not finite",
    }.items():
        with pytest.raises(AudioError) as caught:
            read_audio(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {reason}")
        assert "\n" not in str(caught.value)
        assert str(caught.value).count(str(tmp_path)) == 1


@needs_soundfile
def test_what_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    for name, waveform, reason in (
        ("x.txt", torch.zeros(4), "must end in .wav, .flac or .ogg to be written"),
        ("x", torch.zeros(4), "must end in .wav, .flac or .ogg to be written"),
        ("none/x.wav", torch.zeros(4), "no such folder"),
        ("x.wav", torch.tensor([0.0, torch.nan]), "samples that are not finite cannot be"),
    ):
        with pytest.raises(AudioError) as caught:
            write_audio(tmp_path / name, waveform, 8000)
        assert str(caught.value).startswith(f"{tmp_path / name}: {reason}")
    assert list(tmp_path.iterdir()) == []


@needs_soundfile
@pytest.mark.parametrize(
    ("waveform", "got"),
    [
        (torch.zeros(1, 4), r"\[1, 4\]"),
        (torch.zeros(4, dtype=torch.int16), "int16"),
        ([0.0], "list"),
    ],
)
def test_what_is_no_waveform_is_named(tmp_path: Path, waveform: Any, got: str) -> None:
    with pytest.raises(TypeError, match=f"write_audio: waveform must be .*got .*{got}"):
        write_audio(tmp_path / "x.wav", waveform, 8000)


@needs_soundfile
def test_a_file_is_replaced_when_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soundfile

    path = tmp_path / "x.wav"
    write_audio(path, sine(100, 8000, 50), 8000)
    before = path.read_bytes()

    def broken(file: str, samples: Any, rate: int) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk is full")

    monkeypatch.setattr(soundfile, "write", broken)
    with pytest.raises(AudioError, match=r"x\.wav: not written \(disk is full\)"):
        write_audio(path, torch.zeros(50), 8000)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for use in (
        lambda: read_audio(tmp_path / "x.wav"),
        lambda: write_audio(tmp_path / "x.wav", torch.zeros(4), 8000),
    ):
        with pytest.raises(MissingDependency, match=r"pip install pyxai-fast\[audio\]"):
            use()


# ---------------------------------------------------------------- rates

RATES = [(44100, 16000), (16000, 44100), (48000, 16000), (8000, 16000), (16000, 15999)]


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.88])
def test_a_sine_stays_the_same_sine(rate: int, new_rate: int, share: float) -> None:
    """Frequencies up to 0.88 of the lower Nyquist frequency, away from the ends."""
    hertz = share * min(rate, new_rate) / 2
    found = resample(sine(hertz, rate, 4000), rate, new_rate)
    expected = sine(hertz, new_rate, len(found))
    margin = 60 * math.ceil(new_rate / min(rate, new_rate))
    assert float((found - expected)[margin:-margin].abs().max()) < 1e-4  # of 0.5: -74 dB


@pytest.mark.parametrize(("rate", "new_rate"), [(44100, 16000), (48000, 16000), (16000, 15000)])
def test_what_the_new_rate_cannot_hold_is_gone(rate: int, new_rate: int) -> None:
    hertz = 1.01 * new_rate / 2
    found = resample(sine(hertz, rate, 4000), rate, new_rate)
    assert float(found[60:-60].abs().max()) < 1e-4


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
def test_constants_stay_what_they_are(rate: int, new_rate: int) -> None:
    found = resample(torch.full((4000,), 0.7), rate, new_rate)
    margin = 60 * math.ceil(new_rate / min(rate, new_rate))
    assert torch.allclose(found[margin:-margin], torch.tensor(0.7), rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 2, 160, 161, 999])
@pytest.mark.parametrize(("rate", "new_rate"), [(3, 7), (7, 3), (1, 5), (5, 1)])
def test_lengths_are_those_of_the_same_time(samples: int, rate: int, new_rate: int) -> None:
    found = resample(torch.ones(samples), rate, new_rate)
    assert len(found) == math.ceil(samples * new_rate / rate)
    assert bool(found.isfinite().all())


def test_waveforms_are_resampled_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["pyxai_fast.audio.resample"]
    batch = torch.rand(2, 3, 500, generator=torch.Generator().manual_seed(0))
    found = resample(batch, 441, 160)
    assert found.shape == (2, 3, 182)
    assert torch.allclose(found[1, 2], resample(batch[1, 2], 441, 160), rtol=0, atol=1e-6)
    monkeypatch.setattr(module, "_MAX_WINDOWS", 5000)
    assert torch.allclose(resample(batch, 441, 160), found, rtol=0, atol=1e-6)


def test_the_same_rate_changes_nothing() -> None:
    waveform = sine(100, 8000, 50)
    assert_same_bits(resample(waveform, 8000, 8000), waveform)


@pytest.mark.parametrize(
    ("waveform", "rates", "message"),
    [
        (torch.zeros(9), (0, 8000), "rate must be a whole number of at least 1, got 0"),
        (torch.zeros(9), (8000, 0.5), "new_rate must be a whole number of at least 1, got 0.5"),
        (torch.zeros(0), (8000, 16000), r"waveform must be floating point .*float32 \[0\]"),
        (torch.zeros(9).int(), (8000, 16000), r"waveform must be floating point .*int32 \[9\]"),
    ],
)
def test_what_is_no_rate_or_waveform_is_named(
    waveform: Tensor, rates: tuple[Any, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"resample: {message}"):
        resample(waveform, *rates)

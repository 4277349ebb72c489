"""The demo's sound: what is known of it, the network that hears it, and its explanation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")  # of the demo as a whole

from pyxai_fast.audio import Spectrum, read_audio
from pyxai_fast.demo import heard, sound_model, sounds


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def found() -> heard.Heard:
    return heard.hear()


@pytest.mark.parametrize("label", range(len(sounds.CLASS_NAMES)))
def test_the_event_is_where_it_is_said_to_be(label: int) -> None:
    spectrum = Spectrum(sounds.RATE)
    sound = sounds.make_sound(label, torch.Generator().manual_seed(label))
    assert sound.waveform.shape == (sounds.SAMPLES,) and sound.waveform.dtype == torch.float32
    assert float(sound.waveform.abs().max()) <= 1
    parts = spectrum.of(sound.waveform[None])
    event = heard.event_of(sound, spectrum, parts.shape[3])
    if sounds.CLASS_NAMES[label] == "nothing":
        assert event.sum() <= 1
        return
    power = parts.square().sum(1)[0]
    # As loud as anything there is at the same frequencies, for as long as it lasts.
    when = event.any(0)
    bins = event.any(1)
    assert float(power[bins][:, when].mean()) > 8 * float(power[bins][:, ~when].median())
    assert 0 < float(event.double().mean()) < 0.2


def test_sounds_are_the_same_every_time_and_differ_from_each_other() -> None:
    first, labels = sounds.make_sounds(10, seed=3)
    again, _ = sounds.make_sounds(10, seed=3)
    assert torch.equal(first, again) and labels.tolist() == [0, 1, 2, 3, 4] * 2
    other, _ = sounds.make_sounds(10, seed=4)
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[0], first[5])


def test_the_network_tells_the_events_apart() -> None:
    before = torch.random.get_rng_state()
    model = sound_model.load_sound_model()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert sound_model.accuracy(model, 100) > 0.9
    assert int(model(sounds.example().waveform[None]).argmax()) == sounds.example().label


def test_most_of_the_mask_lies_within_the_event(found: heard.Heard) -> None:
    assert found.mask.min() >= 0 and found.mask.max() <= 1
    assert found.inside > 3 * found.area
    event = heard.event_of(found.sound, found.spectrum, found.mask.shape[1])
    assert float(found.mask[event].mean()) > 4 * float(found.mask[~event].mean())


def test_the_section_says_how_much(found: heard.Heard) -> None:
    said = heard.section(found)
    assert f"{found.inside:.0%} lies within the event" in said
    assert f"{found.area:.0%} of the spectrogram" in said
    assert "taken for rising" in said


def test_the_sound_is_written_with_what_is_heard_of_it(found: heard.Heard, tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    pytest.importorskip("matplotlib")
    heard.save(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(heard.FILES)
    whole, rate = read_audio(tmp_path / "sound.wav")
    part, _ = read_audio(tmp_path / "sound.heard.wav")
    assert rate == sounds.RATE and whole.shape == part.shape
    assert float(part.square().sum()) < float(whole.square().sum())

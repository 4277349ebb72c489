"""Spectra and back: nothing is lost, decibels and mels mean something, models hear what is left."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from assertions import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pyxai_fast import BlackBox, IntegratedGradients
from pyxai_fast.audio import (
    Spectrum,
    WaveformModel,
    audible,
    mel_filters,
    time_frequency_tiles,
)
from pyxai_fast.ops import mask_segments, pack_coalitions
from pyxai_fast.segments import n_segments, segments_for

RATE = 8000


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return drawn * 2 - 1


def sine(hertz: float, samples: int = 4000, rate: int = RATE) -> Tensor:
    time = torch.arange(samples, dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * hertz * time)[None]


class Loudness(nn.Module):
    """Three scores: mean power below and above 1 kHz, and of all."""

    def forward(self, waveform: Tensor) -> Tensor:
        power = torch.fft.rfft(waveform).abs().square() / waveform.shape[1] ** 2
        edge = round(1000 / (RATE / 2) * (power.shape[1] - 1))
        low, high = power[:, :edge].sum(1), power[:, edge:].sum(1)
        return torch.stack([low, high, low + high], 1)


# ---------------------------------------------------------------- there and back


@given(
    n_fft=st.sampled_from([2, 8, 30, 64]),
    share=st.floats(0, 1),
    samples=st.integers(64, 400),
    padding=st.sampled_from(["reflect", "constant"]),
    batch=st.integers(1, 3),
)
def test_the_inverse_gives_the_waveform_back(
    n_fft: int, share: float, samples: int, padding: str, batch: int
) -> None:
    hop = 1 + round(share * (n_fft // 2 - 1))
    spectrum = Spectrum(RATE, n_fft, hop, padding=padding)
    waveform = noise(batch, samples)
    parts = spectrum.of(waveform)
    assert parts.dtype == torch.float32
    assert parts.shape == (batch, *spectrum.shape(samples))
    assert torch.allclose(spectrum.waveform(parts, samples), waveform, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rate", "n_fft"), [(8000, 256), (16000, 512), (22050, 512), (44100, 1024), (48000, 2048)]
)
def test_frames_are_about_32_milliseconds_long(rate: int, n_fft: int) -> None:
    spectrum = Spectrum(rate)
    assert (spectrum.n_fft, spectrum.hop) == (n_fft, n_fft // 4)
    waveform = noise(1, rate)
    again = spectrum.waveform(spectrum.of(waveform), rate)
    assert torch.allclose(again, waveform, rtol=0, atol=1e-6)


def test_float64_is_exact_to_its_own_rounding() -> None:
    spectrum, waveform = Spectrum(RATE), noise(2, 1001, dtype=torch.float64)
    parts = spectrum.of(waveform)
    assert parts.dtype == torch.float64
    assert torch.allclose(spectrum.waveform(parts, 1001), waveform, rtol=0, atol=1e-14)


@pytest.mark.parametrize("samples", [1, 5, 255])
def test_silence_continues_sounds_of_any_length(samples: int) -> None:
    spectrum, waveform = Spectrum(RATE, padding="constant"), noise(1, samples)
    again = spectrum.waveform(spectrum.of(waveform), samples)
    assert torch.allclose(again, waveform, rtol=0, atol=1e-6)


def test_the_parts_are_those_of_torch() -> None:
    spectrum, waveform = Spectrum(RATE, 64, 16, padding="constant"), noise(2, 320)
    parts = spectrum.of(waveform)
    expected = torch.stft(
        waveform, 64, 16, window=torch.hann_window(64), pad_mode="constant", return_complex=True
    )
    assert_same_bits(parts, torch.stack([expected.real, expected.imag], 1))


def test_derivatives_go_both_ways() -> None:
    spectrum = Spectrum(RATE, 8, 3)
    waveform = noise(1, 16, dtype=torch.float64).requires_grad_()
    parts = spectrum.of(waveform.detach()).requires_grad_()
    assert torch.autograd.gradcheck(spectrum.of, waveform)
    assert torch.autograd.gradcheck(lambda p: spectrum.waveform(p, 16), parts)


def test_spectra_stay_on_the_device_of_the_sound(device: torch.device) -> None:
    spectrum, waveform = Spectrum(RATE), noise(2, 1000)
    parts = spectrum.of(waveform.to(device))
    heard = audible(spectrum, parts, torch.ones_like(parts[:, :1]), 1000)
    shown = (spectrum.log_magnitude(parts), spectrum.log_mel(parts))
    assert {tensor.device.type for tensor in (parts, heard, *shown)} == {device.type}
    assert torch.allclose(heard.cpu(), waveform, rtol=0, atol=1e-6)


def test_bins_and_frames_have_frequencies_and_times() -> None:
    spectrum = Spectrum(RATE, 256, 64)
    parts = spectrum.of(sine(1000))
    hertz, seconds = spectrum.hertz(), spectrum.seconds(parts.shape[3])
    assert float(hertz[0]) == 0 and float(hertz[-1]) == RATE / 2
    loudest = parts.square().sum(1)[0].sum(1).argmax()
    assert float(hertz[loudest]) == 1000
    click = torch.zeros(1, 4000)
    click[0, 1600] = 1.0
    loudest = spectrum.of(click).square().sum(1)[0].sum(0).argmax()
    assert float(seconds[loudest]) == 1600 / RATE


# ---------------------------------------------------------------- decibels and mels


@pytest.mark.parametrize("amplitude", [1.0, 0.1])
def test_a_sine_at_the_middle_of_a_bin_has_its_decibels(amplitude: float) -> None:
    spectrum = Spectrum(RATE, 256, 64)
    shown = spectrum.log_magnitude(spectrum.of(amplitude * sine(1000)))
    assert shown.shape == (1, 1, 129, 64)
    assert float(shown[0, 0, 32, 5:-5].mean()) == pytest.approx(20 * math.log10(amplitude))
    assert float(shown[0, 0, 64, 5:-5].max()) == -80  # far away


def test_silence_is_the_floor_and_has_a_derivative() -> None:
    spectrum = Spectrum(RATE)
    parts = torch.zeros(2, *spectrum.shape(1000), requires_grad=True)
    for shown in (spectrum.log_magnitude(parts, -60), spectrum.log_mel(parts, 20, -60)):
        assert bool((shown == -60).all())
        (slope,) = torch.autograd.grad(shown.sum(), parts)
        assert bool((slope == 0).all())


def test_mels_are_the_power_under_their_filters() -> None:
    spectrum = Spectrum(RATE, 256)
    parts = spectrum.of(noise(2, 1000, dtype=torch.float64))
    filters = mel_filters(30, 256, RATE, low=100, high=3000)
    power = torch.einsum("mf,bcft->bmt", filters, parts.square()) / (256 / 4) ** 2
    found = spectrum.log_mel(parts, 30, -200, low=100, high=3000)
    assert found.shape == (2, 1, 30, parts.shape[3])
    assert torch.allclose(found[:, 0], 10 * power.log10())
    assert spectrum.log_mel(parts.float()).shape == (2, 1, 64, parts.shape[3])


@pytest.mark.parametrize(
    ("n_mels", "n_fft", "rate", "low", "high"),
    [(64, 512, 16000, 0.0, None), (128, 2048, 44100, 0.0, None), (40, 512, 16000, 125.0, 7500.0)],
)
def test_mel_filters_are_triangles_that_cover_their_range(
    n_mels: int, n_fft: int, rate: int, low: float, high: float | None
) -> None:
    filters = mel_filters(n_mels, n_fft, rate, low=low, high=high)
    assert filters.shape == (n_mels, n_fft // 2 + 1)
    assert bool(((filters >= 0) & (filters <= 1)).all())
    hertz = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * rate / n_fft
    mel = 2595 * torch.log10(1 + hertz / 700)
    ends = 2595 * torch.log10(1 + torch.tensor([low, high or rate / 2]).double() / 700)
    step = float(ends.diff()) / (n_mels + 1)
    # Between the first and the last middle, filters add up to one.
    inside = (mel >= ends[0] + step) & (mel <= ends[1] - step)
    assert torch.allclose(filters.sum(0)[inside], torch.ones(int(inside.sum())).double())
    assert bool((filters.sum(0)[(mel <= ends[0]) | (mel >= ends[1])] < 1e-12).all())
    for number, one in enumerate(filters):
        there = one > 1e-12
        middle = float(ends[0]) + step * (number + 1)
        # Straight up to the middle and straight down again, two steps wide.
        assert torch.allclose(one[there], 1 - (mel[there] - middle).abs() / step)
        assert bool(((mel - middle).abs()[there] < step).all())
        assert bool(there.any())


def test_a_sine_is_under_the_filter_of_its_frequency() -> None:
    spectrum = Spectrum(16000)
    filters = mel_filters(64, 512, 16000)
    found = spectrum.log_mel(spectrum.of(sine(2000, 8000, 16000)))[0, 0].mean(1)
    assert int(found.argmax()) == int(filters[:, 64].argmax())  # bin 64 is 2000 Hz


# ---------------------------------------------------------------- what a mask lets through


def test_a_mask_of_ones_gives_the_waveform_back_and_of_zeros_silence() -> None:
    spectrum, waveform = Spectrum(RATE), noise(2, 1000)
    parts = spectrum.of(waveform)
    mask = torch.ones(2, 1, *parts.shape[2:])
    assert torch.allclose(audible(spectrum, parts, mask, 1000), waveform, rtol=0, atol=1e-6)
    assert bool((audible(spectrum, parts, 0 * mask, 1000) == 0).all())


def test_a_mask_and_its_complement_add_up_to_the_waveform() -> None:
    spectrum, waveform = Spectrum(RATE), noise(2, 1000)
    parts = spectrum.of(waveform)
    mask = noise(1, 1, *parts.shape[2:]).abs()  # one for both
    model = WaveformModel(Loudness(), spectrum, 1000)
    both = model.audible(parts, mask) + model.audible(parts, 1 - mask)
    assert torch.allclose(both, waveform, rtol=0, atol=2e-6)


def test_only_what_is_let_through_is_heard() -> None:
    spectrum = Spectrum(RATE)
    low, high = sine(500), sine(3000)
    parts = spectrum.of(low + high)
    mask = (spectrum.hertz() < 1500).double()[None, None, :, None].expand(1, 1, *parts.shape[2:])
    heard = audible(spectrum, parts, mask, 4000)
    assert float((heard - low)[:, 300:-300].abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 2, 129, 17), r"mask must be \[B, 1, F, T\] for parts \[2, 2, 129, 17\]"),
        (torch.ones(3, 1, 129, 17), r"mask must be .*got \[3, 1, 129, 17\]"),
        (torch.ones(129, 17), r"mask must be .*got \[129, 17\]"),
        (torch.full((1, 1, 129, 17), 1.5), r"mask must be in \[0, 1\], got values from 1.5 to 1.5"),
        (torch.full((1, 1, 129, 17), torch.nan), r"mask must be in \[0, 1\], got values from nan"),
    ],
)
def test_masks_that_do_not_fit_are_named(mask: Tensor, message: str) -> None:
    spectrum = Spectrum(RATE)
    parts = spectrum.of(noise(2, 1000))
    with pytest.raises(ValueError, match=f"audible: {message}"):
        audible(spectrum, parts, mask, 1000)


# ---------------------------------------------------------------- models


def test_a_model_hears_the_waveform_of_the_parts() -> None:
    spectrum, waveform = Spectrum(RATE), noise(2, 1000)
    model = WaveformModel(Loudness().eval(), spectrum, 1000)
    assert not model.training
    assert torch.allclose(model(spectrum.of(waveform)), Loudness()(waveform))


def test_paths_of_parts_add_up_to_the_difference_of_scores() -> None:
    spectrum, waveform = Spectrum(RATE), noise(2, 1000)
    parts = spectrum.of(waveform)
    model = WaveformModel(Loudness().eval(), spectrum, 1000)
    found = IntegratedGradients(model).attribute(parts, target=0, n_steps=8)
    assert found.shape == parts.shape
    total = found.sum((1, 2, 3))
    assert torch.allclose(total, Loudness()(waveform)[:, 0], rtol=1e-3)


def test_a_model_that_only_answers_is_asked_about_tiles() -> None:
    """Two sounds one after the other at other frequencies: each tile does what it should."""
    spectrum = Spectrum(RATE)
    waveform = torch.cat([sine(500, 4000), 0.5 * sine(3500, 4000)], 1).float()
    parts = spectrum.of(waveform)
    ask = BlackBox(WaveformModel(lambda heard: Loudness()(heard).numpy(), spectrum, 8000))
    tiles = time_frequency_tiles(spectrum, parts.shape, hertz=1000, seconds=0.5)
    count = n_segments(tiles)
    assert count == 8
    alone = mask_segments(parts, tiles, pack_coalitions(torch.eye(count).bool()), 0.0)
    low, high, _ = ask(alone).unbind(1)
    assert int(low.argmax()) == 0 and int(high.argmax()) == 7
    assert ask.queries == count


# ---------------------------------------------------------------- tiles


@given(
    frames=st.integers(1, 90),
    hertz=st.floats(1, 1e5),
    seconds=st.floats(1e-3, 1e3),
    n_fft=st.sampled_from([16, 64, 256]),
)
def test_tiles_cover_every_bin_once_and_are_equal(
    frames: int, hertz: float, seconds: float, n_fft: int
) -> None:
    spectrum = Spectrum(RATE, n_fft)
    bins = n_fft // 2 + 1
    tiles = time_frequency_tiles(spectrum, (2, bins, frames), hertz=hertz, seconds=seconds)
    assert tiles.dtype == torch.int32 and tiles.shape == (1, 1, bins, frames)
    count = n_segments(tiles)
    sizes = torch.bincount(tiles.flatten(), minlength=count)
    assert int(sizes.min()) >= 1
    # Rectangles, whose sides differ by no more than one.
    heights, widths = set(), set()
    for number in range(count):
        rows, columns = (tiles[0, 0] == number).nonzero().unbind(1)
        high, wide = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert high * wide == int(sizes[number])
        heights.add(high)
        widths.add(wide)
    assert max(heights) - min(heights) <= 1 and max(widths) - min(widths) <= 1


def test_tiles_have_the_size_that_was_asked_for() -> None:
    spectrum = Spectrum(16000)
    parts = torch.zeros(3, *spectrum.shape(5 * 16000))
    tiles = time_frequency_tiles(spectrum, parts.shape, hertz=1000, seconds=0.5)[0, 0]
    assert n_segments(tiles) == 8 * 10
    bands = tiles[:, 0].unique_consecutive(return_counts=True)[1]
    moments = tiles[0].unique_consecutive(return_counts=True)[1]
    assert bool(((bands * 16000 / 512 - 1000).abs() <= 32).all())
    assert bool(((moments * 128 / 16000 - 0.5).abs() <= 0.01).all())
    assert_same_bits(segments_for(parts, tiles[None, None]), tiles[None, None])


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((2, 128, 9), {}, r"shape must be \[..., 129, T\], got \[2, 128, 9\]"),
        ((129, 9), {}, r"shape must be .*got \[129, 9\]"),
        ((2, 129, 9), {"hertz": 0}, "hertz must be above 0, got 0"),
        ((2, 129, 9), {"seconds": -1.0}, "seconds must be above 0, got -1.0"),
    ],
)
def test_tiles_that_are_none_are_named(
    shape: tuple[int, ...], sizes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"time_frequency_tiles: {message}"):
        time_frequency_tiles(Spectrum(RATE), shape, **sizes)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 0}, "rate must be a whole number of at least 1, got 0"),
        ({"rate": 16e3}, "rate must be a whole number of at least 1, got 16000.0"),
        ({"rate": RATE, "n_fft": 9}, "n_fft must be an even number of at least 2, got 9"),
        ({"rate": RATE, "n_fft": 0}, "n_fft must be an even number of at least 2, got 0"),
        ({"rate": RATE, "n_fft": 16, "hop": 9}, "hop must be .* to n_fft // 2 = 8, got 9"),
        ({"rate": RATE, "hop": 0}, "hop must be a whole number from 1 .*got 0"),
        ({"rate": RATE, "padding": "reflekt"}, "padding must be .*did you mean reflect"),
    ],
)
def test_spectra_that_are_none_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Spectrum: {message}"):
        Spectrum(**arguments)


def test_waveforms_and_parts_that_do_not_fit_are_named() -> None:
    spectrum = Spectrum(RATE)
    with pytest.raises(ValueError, match=r"waveform must be floating point .*got .* \[500\]"):
        spectrum.of(torch.zeros(500))
    with pytest.raises(ValueError, match=r"at least n_fft = 256 samples to be reflected, got 255"):
        spectrum.of(torch.zeros(1, 255))
    with pytest.raises(ValueError, match=r"parts must be \[B, 2, 129, T >= 2\], got \[1, 129, 5\]"):
        spectrum.waveform(torch.zeros(1, 129, 5), 100)
    with pytest.raises(ValueError, match="length must be from 1 to 256, what 5 frames hold, got 2"):
        spectrum.waveform(torch.zeros(1, 2, 129, 5), 257)


@pytest.mark.parametrize(
    ("n_mels", "ends", "message"),
    [
        (0, {}, "n_mels must be a whole number of at least 1, got 0"),
        (128, {}, "n_mels must be so few that each filter holds .* n_fft = 512, got 128"),
        (10, {"low": 500.0, "high": 400.0}, "low and high must be .*got 500.0 and 400.0"),
        (10, {"high": 9000.0}, "low and high must be .* <= rate / 2 = 8000, got 0.0 and 9000.0"),
    ],
)
def test_filters_that_are_none_are_named(n_mels: int, ends: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"mel_filters: {message}"):
        mel_filters(n_mels, 512, 16000, **ends)

"""Models of sound, explained over time and frequency: as if a sound were an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from .spectrum import Spectrum


class WaveformModel(nn.Module):
    """A model of waveforms as a model of their spectra: every method for images explains it.

    Called with parts [R, 2, F, T] as `Spectrum.of` gives them, it answers what the model answers to
    the waveforms [R, length] that have these parts. It is differentiable if the model is. One that
    only answers may be wrapped whole: ``BlackBox(WaveformModel(ask, spectrum, length))``.

    Args:
        model: called as model(waveform [R, length], ...).
        spectrum: of the waveforms.
        length: samples of each waveform.

    Example:
        >>> spectrum = Spectrum(16000)
        >>> waveform = torch.rand(1, 16000) * 2 - 1
        >>> loud = WaveformModel(lambda x: x.square().mean(1, keepdim=True), spectrum, 16000)
        >>> loud(spectrum.of(waveform)).shape
        torch.Size([1, 1])
    """

    def __init__(self, model: Callable[..., Any], spectrum: Spectrum, length: int) -> None:
        super().__init__()
        self.model = model
        self.spectrum = spectrum
        self.length = length
        self.training = bool(getattr(model, "training", False))

    def forward(self, parts: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.model(self.spectrum.waveform(parts, self.length), *args, **kwargs)

    def audible(self, parts: Tensor, mask: Tensor) -> Tensor:
        """The waveforms [B, length] of what a mask lets through: see `audible`."""
        return audible(self.spectrum, parts, mask, self.length)


def audible(spectrum: Spectrum, parts: Tensor, mask: Tensor, length: int) -> Tensor:
    """What a mask lets through, as sound: the mask times the spectrum, transformed back.

    Args:
        spectrum: of the parts.
        parts: [B, 2, F, T].
        mask: [B, 1, F, T] or [1, 1, F, T] in [0, 1]; 1 is heard, 0 is silent.
        length: samples.

    Returns:
        [B, length]; a mask of ones gives the waveform back, and what a mask and its complement let
        through adds up to it.

    Raises:
        ValueError: a mask that does not fit or is not in [0, 1].
    """
    fits = mask.dim() == 4 and parts.dim() == 4 and mask.shape[0] in (1, parts.shape[0])
    if not fits or mask.shape[1:] != (1, *parts.shape[2:]):
        raise ArgumentError(
            f"audible: mask must be [B, 1, F, T] for parts {list(parts.shape)}, got "
            f"{list(mask.shape)}"
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ArgumentError(
            "audible: mask must be in [0, 1], got values from "
            f"{mask.min().item():.4g} to {mask.max().item():.4g}"
        )
    return spectrum.waveform(parts * mask.to(parts), length)


def time_frequency_tiles(
    spectrum: Spectrum,
    shape: Sequence[int],
    *,
    hertz: float = 500.0,
    seconds: float = 0.25,
) -> Tensor:
    """Numbers tiles of a spectrum: segments that are so high and so long, or nearly.

    The sizes are those nearest to what is asked that cut the spectrum into equal tiles (but for one
    bin or frame).

    Args:
        spectrum: says what a bin and a frame are.
        shape: of parts, [2, F, T] or [B, 2, F, T], or of what has the same frames and bins.
        hertz: height of a tile.
        seconds: length of a tile.

    Returns:
        int32 [1, 1, F, T], from 0; the first tiles are at the lowest frequencies, time counts
        fastest.

    Raises:
        ValueError: sizes that are not above 0, or another shape.
    """
    bins = spectrum.n_fft // 2 + 1
    if len(shape) not in (3, 4) or shape[-2] != bins or shape[-1] < 1:
        raise ArgumentError(
            f"time_frequency_tiles: shape must be [..., {bins}, T], got {list(shape)}"
        )
    for name, value in (("hertz", hertz), ("seconds", seconds)):
        if not value > 0:
            raise ArgumentError(f"time_frequency_tiles: {name} must be above 0, got {value!r}")
    band, _ = _cut(bins, hertz * spectrum.n_fft / spectrum.rate)
    moment, n_moments = _cut(shape[-1], seconds * spectrum.rate / spectrum.hop)
    return (band[:, None] * n_moments + moment)[None, None]


def _cut(extent: int, size: float) -> tuple[Tensor, int]:
    """Which of equal pieces of about this size each element is in, int32 [extent]; their number."""
    count = min(extent, max(1, round(extent / size)))
    return (torch.arange(extent) * count // extent).int(), count

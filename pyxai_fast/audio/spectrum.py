"""Sound over time and frequency, and back: the short-time Fourier transform and what it shows."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ArgumentError, near

PADDINGS = ("reflect", "constant")
WINDOW_SECONDS = 0.032


class Spectrum:
    """The short-time Fourier transform of sounds at one rate, with an exact inverse.

    Frame t is the Fourier transform of the waveform around sample t * hop, under a periodic Hann
    window of n_fft samples. The inverse is that of Griffin and Lim, "Signal estimation from
    modified short-time Fourier transform" (1984): of parts that no waveform has, such as masked
    ones, the waveform whose parts are nearest. Both are linear and differentiable.

    Args:
        rate: samples per second.
        n_fft: samples per frame, even; by default the power of two that is nearest to 32 ms (512
            at 16 kHz).
        hop: samples from frame to frame, from 1 to n_fft // 2; n_fft // 4 by default.
        padding: what continues the waveform beyond its ends: "reflect" or "constant" (silence).

    Raises:
        ValueError: an argument that does not fit, naming it.

    Example:
        >>> spectrum = Spectrum(16000)
        >>> parts = spectrum.of(torch.zeros(1, 16000))
        >>> parts.shape, spectrum.waveform(parts, 16000).shape
        (torch.Size([1, 2, 257, 126]), torch.Size([1, 16000]))
    """

    def __init__(
        self,
        rate: int,
        n_fft: int | None = None,
        hop: int | None = None,
        *,
        padding: str = "reflect",
    ) -> None:
        if not isinstance(rate, int) or rate < 1:
            raise ArgumentError(
                f"Spectrum: rate must be a whole number of at least 1, got {rate!r}"
            )
        if n_fft is None:
            n_fft = 2 ** max(1, round(math.log2(WINDOW_SECONDS * rate)))
        if not isinstance(n_fft, int) or n_fft < 2 or n_fft % 2:
            raise ArgumentError(
                f"Spectrum: n_fft must be an even number of at least 2, got {n_fft!r}"
            )
        if hop is None:
            hop = max(1, n_fft // 4)
        if not isinstance(hop, int) or not 1 <= hop <= n_fft // 2:
            raise ArgumentError(
                f"Spectrum: hop must be a whole number from 1 to n_fft // 2 = {n_fft // 2}, got "
                f"{hop!r}"
            )
        if padding not in PADDINGS:
            raise ArgumentError(
                f"Spectrum: padding must be one of {', '.join(PADDINGS)}, got {padding!r}"
                f"{near(str(padding), PADDINGS)}"
            )
        self.rate = rate
        self.n_fft = n_fft
        self.hop = hop
        self.padding = padding

    def of(self, waveform: Tensor) -> Tensor:
        """Real and imaginary parts, as an image with two channels.

        Args:
            waveform: [B, samples]; at least n_fft samples where they are reflected.

        Returns:
            [B, 2, F, T] float32 (float64 for float64), F = n_fft // 2 + 1 from 0 Hz, T = 1 +
            ceil(samples / hop).
        """
        if not waveform.is_floating_point() or waveform.dim() != 2 or waveform.shape[1] == 0:
            raise ArgumentError(
                "Spectrum: waveform must be floating point [B, samples], got "
                f"{waveform.dtype} {list(waveform.shape)}"
            )
        samples = waveform.shape[1]
        if self.padding == "reflect" and samples < self.n_fft:
            raise ArgumentError(
                f"Spectrum: waveform must have at least n_fft = {self.n_fft} samples to be "
                f"reflected, got {samples}; padding='constant' takes any"
            )
        # As many whole hops, so that the last frame is centred on the end or behind it.
        rest = -samples % self.hop
        half = self.n_fft // 2
        wave = waveform if waveform.dtype == torch.float64 else waveform.float()
        wave = functional.pad(wave, (half, half + rest), mode=self.padding)
        found = torch.stft(
            wave, self.n_fft, self.hop, window=self._window(wave), center=False, return_complex=True
        )
        return torch.stack([found.real, found.imag], 1)

    def waveform(self, parts: Tensor, length: int) -> Tensor:
        """The inverse of `of`.

        Args:
            parts: [B, 2, F, T].
            length: samples of the waveform, at most (T - 1) * hop.

        Returns:
            [B, length], of the dtype of the parts.
        """
        self._check(parts)
        if not 1 <= length <= (parts.shape[3] - 1) * self.hop:
            raise ArgumentError(
                f"Spectrum: length must be from 1 to {(parts.shape[3] - 1) * self.hop}, what "
                f"{parts.shape[3]} frames hold, got {length}"
            )
        together = torch.complex(parts[:, 0], parts[:, 1])
        found: Tensor = torch.istft(
            together, self.n_fft, self.hop, window=self._window(parts), center=True, length=length
        )
        return found

    def shape(self, samples: int) -> tuple[int, int, int]:
        """[2, F, T] of a waveform."""
        return 2, self.n_fft // 2 + 1, 1 + -(-samples // self.hop)

    def hertz(self) -> Tensor:
        """The frequency of each bin, [F] float64."""
        return torch.arange(self.n_fft // 2 + 1, dtype=torch.float64) * (self.rate / self.n_fft)

    def seconds(self, frames: int) -> Tensor:
        """The time at the middle of each frame, [T] float64."""
        return torch.arange(frames, dtype=torch.float64) * (self.hop / self.rate)

    def log_magnitude(self, parts: Tensor, floor_db: float = -80.0) -> Tensor:
        """Magnitudes in decibels, [B, 2, F, T] -> [B, 1, F, T].

        0 dB is a sine of amplitude 1 at the middle of a bin; what is below the floor becomes the
        floor.
        """
        self._check(parts)
        return self._decibels(parts.square().sum(1, keepdim=True), floor_db)

    def log_mel(
        self,
        parts: Tensor,
        n_mels: int = 64,
        floor_db: float = -80.0,
        *,
        low: float = 0.0,
        high: float | None = None,
    ) -> Tensor:
        """Power under each of n_mels filters, in decibels: [B, 2, F, T] -> [B, 1, n_mels, T].

        See `mel_filters`, and `log_magnitude` for what 0 dB is.
        """
        self._check(parts)
        filters = mel_filters(n_mels, self.n_fft, self.rate, low=low, high=high).to(parts)
        return self._decibels(filters @ parts.square().sum(1, keepdim=True), floor_db)

    def _decibels(self, power: Tensor, floor_db: float) -> Tensor:
        # A sine of amplitude 1 has half of the window's sum in its bin.
        full = (self.n_fft / 4) ** 2
        return 10 * (power / full).clamp(min=10 ** (floor_db / 10)).log10()

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.n_fft, dtype=like.dtype, device=like.device)

    def _check(self, parts: Tensor) -> None:
        bins = self.n_fft // 2 + 1
        if parts.dim() != 4 or parts.shape[1:3] != (2, bins) or parts.shape[3] < 2:
            raise ArgumentError(
                f"Spectrum: parts must be [B, 2, {bins}, T >= 2], got {list(parts.shape)}"
            )

    def __repr__(self) -> str:
        return f"Spectrum({self.rate}, {self.n_fft}, {self.hop}, padding={self.padding!r})"


def mel_filters(
    n_mels: int, n_fft: int, rate: int, *, low: float = 0.0, high: float | None = None
) -> Tensor:
    """Triangular filters that are equally wide and equally far apart on the mel scale.

    ``mel(f) = 2595 log10(1 + f / 700)`` (O'Shaughnessy, "Speech Communication", 1987, and HTK).
    Each filter rises from the middle of the one before to 1 at its own and falls to the middle of
    the next, linear in mel, so that between the first and the last middle they add up to 1.

    Args:
        n_mels: how many.
        n_fft: samples of the Fourier transform.
        rate: samples per second.
        low, high: in Hz, where the first begins and the last ends; high is rate / 2 by default.

    Returns:
        [n_mels, n_fft // 2 + 1] float64, in [0, 1].

    Raises:
        ValueError: frequencies that do not fit, or so many filters that one holds no bin.
    """
    high = rate / 2 if high is None else high
    if not isinstance(n_mels, int) or n_mels < 1:
        raise ArgumentError(
            f"mel_filters: n_mels must be a whole number of at least 1, got {n_mels!r}"
        )
    if not 0 <= low < high <= rate / 2:
        raise ArgumentError(
            f"mel_filters: low and high must be 0 <= low < high <= rate / 2 = {rate / 2:g}, got "
            f"{low!r} and {high!r}"
        )
    bins = _mel(torch.arange(n_fft // 2 + 1, dtype=torch.float64) * (rate / n_fft))
    ends = _mel(torch.tensor([low, high], dtype=torch.float64))
    step = (ends[1] - ends[0]) / (n_mels + 1)
    middles = ends[0] + step * torch.arange(1, n_mels + 1, dtype=torch.float64)
    filters = (1 - (bins - middles[:, None]).abs() / step).clamp(min=0)
    if bool((filters.sum(1) == 0).any()):
        raise ArgumentError(
            f"mel_filters: n_mels must be so few that each filter holds a frequency of n_fft = "
            f"{n_fft}, got {n_mels}; a larger n_fft has more"
        )
    return filters


def _mel(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz / 700)

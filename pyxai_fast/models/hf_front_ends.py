"""From waveforms to what an audio classifier of Hugging Face takes, with derivatives.

The feature extractors of transformers are NumPy, through which no slope comes back. Three of them,
which most audio classifiers have, are written here with torch from their settings; the others are
asked as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ArgumentError


class FrontEnd:
    """What stands between waveforms and a model.

    Args:
        extractor: of transformers.
    """

    def __init__(self, extractor: Any) -> None:
        self.extractor = extractor
        self.input_name: str = extractor.model_input_names[0]

    def features(self, waveforms: Tensor) -> Tensor:
        """Of waveforms [R, samples]: log-mel spectra as images [R, 1, F, T], low frequencies first;
        waveforms [R, samples]; or what an extractor that is not known here gives."""
        raise NotImplementedError(f"{type(self).__name__} must define features")

    def arguments(self, features: Tensor) -> dict[str, Tensor]:
        """Keyword arguments of the model, from features."""
        return {self.input_name: features}

    def arguments_of(self, waveforms: Tensor) -> dict[str, Tensor]:
        """Keyword arguments of the model, from waveforms [R, samples]."""
        return self.arguments(self.features(waveforms))


class AsExtracted(FrontEnd):
    """Any extractor, asked as it is: without derivatives, one waveform after the other."""

    def features(self, waveforms: Tensor) -> Tensor:
        return self.arguments_of(waveforms)[self.input_name]

    def arguments_of(self, waveforms: Tensor) -> dict[str, Tensor]:
        name = type(self.extractor).__name__
        if torch.is_grad_enabled() and waveforms.requires_grad:
            raise ArgumentError(
                f"waveforms: slopes must be taken at the features, because {name} has no "
                "derivatives: explain model.classify at model.features(waveforms); the methods "
                "dax, kernel_shap, lime and rise need none"
            )
        rows = list(waveforms.detach().cpu().float().numpy())
        found = self.extractor(
            rows, sampling_rate=self.extractor.sampling_rate, return_tensors="pt"
        )
        return {key: value.to(waveforms.device) for key, value in found.items()}


class NormalisedWave(FrontEnd):
    """Wav2Vec2FeatureExtractor: each waveform with mean 0 and variance 1, or as it is."""

    def features(self, waveforms: Tensor) -> Tensor:
        if not self.extractor.do_normalize:
            return waveforms
        variance, mean = torch.var_mean(waveforms, 1, correction=0, keepdim=True)
        return (waveforms - mean) / (variance + 1e-7).sqrt()


class KaldiLogMel(FrontEnd):
    """ASTFeatureExtractor: logarithms of mel powers as Kaldi computes them, cut or filled up with
    zeros to one length, and shifted and scaled.

    Of each frame of 25 ms, 10 ms apart, the mean is taken away, then 0.97 times the sample before
    each sample, and what is left goes under a symmetric Hann window.
    """

    frame, hop, n_fft = 400, 160, 512
    emphasis, least = 0.97, 2.0**-23

    def __init__(self, extractor: Any) -> None:
        super().__init__(extractor)
        from transformers.audio_utils import mel_filter_bank

        rate = extractor.sampling_rate
        filters = mel_filter_bank(
            num_frequency_bins=self.n_fft // 2 + 1,
            num_mel_filters=extractor.num_mel_bins,
            min_frequency=20,
            max_frequency=rate // 2,
            sampling_rate=rate,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        self.filters = torch.from_numpy(filters)  # [bins, mels]

    def features(self, waveforms: Tensor) -> Tensor:
        if waveforms.shape[1] < self.frame:
            raise ArgumentError(
                f"waveforms: must have at least {self.frame} samples, got {waveforms.shape[1]}"
            )
        # As the extractor: in float64 up to the logarithm, of which small powers need it.
        frames = waveforms.double().unfold(1, self.frame, self.hop)
        frames = frames - frames.mean(2, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], 2)
        window = torch.hann_window(self.frame, periodic=False, dtype=frames.dtype)
        heard = (frames - self.emphasis * before) * window.to(frames.device)
        spectrum = torch.fft.rfft(heard, self.n_fft)
        power = spectrum.real.square() + spectrum.imag.square()
        mels = (power @ self.filters.to(power)).clamp(min=self.least).log()  # [R, T, F]
        length = self.extractor.max_length
        mels = functional.pad(mels[:, :length], (0, 0, 0, max(0, length - mels.shape[1])))
        if self.extractor.do_normalize:
            mels = (mels - self.extractor.mean) / (2 * self.extractor.std)
        images: Tensor = mels.to(waveforms.dtype).mT[:, None]
        return images

    def arguments(self, features: Tensor) -> dict[str, Tensor]:
        return {self.input_name: features[:, 0].mT}


class WhisperLogMel(FrontEnd):
    """WhisperFeatureExtractor: logarithms of mel powers over a fixed length, at most 80 dB below
    the loudest."""

    def features(self, waveforms: Tensor) -> Tensor:
        extractor = self.extractor
        length = extractor.n_samples
        waves = functional.pad(
            waveforms[:, :length],
            (0, max(0, length - waveforms.shape[1])),
            value=extractor.padding_value,
        )
        window = torch.hann_window(extractor.n_fft, dtype=waves.dtype, device=waves.device)
        spectrum = torch.stft(
            waves, extractor.n_fft, extractor.hop_length, window=window, return_complex=True
        )[..., :-1]
        power = spectrum.real.square() + spectrum.imag.square()
        filters = torch.from_numpy(extractor.mel_filters).to(power)
        mels = (filters.T @ power).clamp(min=1e-10).log10()  # [R, F, T]
        mels = torch.maximum(mels, mels.amax((1, 2), keepdim=True) - 8)
        return ((mels + 4) / 4)[:, None]

    def arguments(self, features: Tensor) -> dict[str, Tensor]:
        return {self.input_name: features[:, 0]}


def front_end_of(extractor: Any) -> FrontEnd:
    """What does what an extractor does, with derivatives where they are known."""
    kind = type(extractor).__name__
    if kind == "Wav2Vec2FeatureExtractor":
        return NormalisedWave(extractor)
    # At other rates its two implementations have different frames.
    if kind == "ASTFeatureExtractor" and extractor.sampling_rate == 16000:
        return KaldiLogMel(extractor)
    if kind == "WhisperFeatureExtractor" and not getattr(extractor, "dither", 0.0):
        return WhisperLogMel(extractor)
    return AsExtracted(extractor)

"""The demo's classifier of sounds: trained where it is needed, in seconds."""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyxai_fast.audio import Spectrum
from pyxai_fast.demo.sounds import CLASS_NAMES, RATE, make_sounds
from pyxai_fast.runtime.random_state import seeded

_MELS, _FLOOR_DB = 40, -60.0
_SOUNDS, _EPOCHS, _BATCH, _LEARNING_RATE = 250, 8, 10, 4e-3


class SoundClassifier(nn.Module):
    """Three convolutions over a log-mel spectrogram; what is strongest anywhere decides.

    Attributes:
        sample_rate: of the waveforms.
        class_names: of the outputs.
    """

    sample_rate = RATE
    class_names: ClassVar = list(CLASS_NAMES)

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = Spectrum(RATE, 256, 128)
        self.features = nn.Sequential(
            nn.Conv2d(1, 12, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(24, len(CLASS_NAMES))

    def forward(self, waveforms: Tensor) -> Tensor:
        """Logits [R, 5] of waveforms [R, samples] in [-1, 1]."""
        return self.classify(self.log_mel(waveforms))

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """[R, 1, mels, frames], from 0 at -60 dB to 1 at 0 dB."""
        decibels = self.spectrum.log_mel(self.spectrum.of(waveforms), _MELS, _FLOOR_DB)
        return 1 - decibels / _FLOOR_DB

    def classify(self, log_mel: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(log_mel).amax((2, 3)))
        return logits


@functools.cache
def load_sound_model() -> SoundClassifier:
    """Train it, once in a process: the same sounds and weights every time."""
    with seeded(0):
        model = SoundClassifier()
        waveforms, labels = make_sounds(_SOUNDS, seed=0)
        seen = torch.cat([model.log_mel(some) for some in waveforms.split(_BATCH)])
        steps = _EPOCHS * (_SOUNDS // _BATCH)
        optimiser = torch.optim.Adam(model.parameters(), _LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, steps)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(_SOUNDS).split(_BATCH):
                loss = functional.cross_entropy(model.classify(seen[rows]), labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(model: nn.Module, count: int = 100) -> float:
    """Of sounds that it was not trained on."""
    waveforms, labels = make_sounds(count, seed=1)
    return float((model(waveforms).argmax(1) == labels).double().mean())

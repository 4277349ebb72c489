"""Sound: files, spectra, models of waveforms explained over time and frequency, and pictures."""

from .files import AudioError, read_audio, write_audio
from .heard import WaveformModel, audible, time_frequency_tiles
from .plots import audible_figure
from .resample import resample
from .spectrum import Spectrum, mel_filters

__all__ = [
    "AudioError",
    "Spectrum",
    "WaveformModel",
    "audible",
    "audible_figure",
    "mel_filters",
    "read_audio",
    "resample",
    "time_frequency_tiles",
    "write_audio",
]

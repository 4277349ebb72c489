"""Sound files to samples, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.errors import MissingDependency
from ..runtime.training import write_whole
from .resample import check_rate, resample

Name = str | os.PathLike[str]


class AudioError(ValueError):
    """A file that cannot be read or written as sound; the message is one line: path, reason."""


def read_audio(path: Name, rate: int | None = None) -> tuple[Tensor, int]:
    """Read one sound file.

    Args:
        path: any file that libsndfile reads: WAV, FLAC, OGG, MP3, AIFF...
        rate: samples per second that are wanted; the file's own by default.

    Returns:
        waveform: [samples] float32, the mean of the channels, in [-1, 1]. (Files of floating-point
            samples may hold more, and are not clipped.)
        rate: samples per second.

    Raises:
        AudioError: missing, corrupt, empty, of a rate too far from the one wanted, or with samples
            that are not finite.
        ValueError: rate is no whole number of at least 1.
        MissingDependency: soundfile is not installed.
    """
    soundfile = _soundfile()
    if rate is not None:
        check_rate("read_audio", "rate", rate)
    name = Path(path)
    try:
        samples, own_rate = soundfile.read(os.fspath(name), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError, MemoryError) as error:
        raise AudioError(f"{name}: {_unreadable(name, error)}") from error
    if not len(samples):
        raise AudioError(f"{name}: holds no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: holds samples that are not finite")
    waveform = torch.from_numpy(samples.mean(axis=1))
    if rate is None:
        return waveform, int(own_rate)
    try:
        return resample(waveform, int(own_rate), rate), rate
    except ArgumentError as error:
        raise AudioError(f"{name}: {str(error).removeprefix('resample: ')}") from error


def write_audio(path: Name, waveform: Tensor, rate: int) -> None:
    """Write one sound file, with samples of 16 bits: the file is there when it is complete.

    Args:
        path: its suffix names the format: .wav, .flac, .ogg...
        waveform: [samples] floating point, in [-1, 1]; clipped beyond.
        rate: samples per second.

    Raises:
        AudioError: a suffix that names no format, a folder that is not there, or samples that are
            not finite.
        TypeError, ValueError: another waveform.
        MissingDependency: soundfile is not installed.
    """
    soundfile = _soundfile()
    if not isinstance(waveform, Tensor) or not waveform.is_floating_point() or waveform.dim() != 1:
        got = type(waveform).__name__
        if isinstance(waveform, Tensor):
            got = f"{waveform.dtype} {list(waveform.shape)}"
        raise TypeError(
            f"write_audio: waveform must be a floating-point tensor [samples], got {got}"
        )
    name = Path(path)
    formats = {known.lower() for known in soundfile.available_formats()}
    if name.suffix[1:].lower() not in formats:
        raise AudioError(f"{name}: must end in .wav, .flac or .ogg to be written")
    samples = waveform.detach().to("cpu", torch.float32)
    if not bool(samples.isfinite().all()):
        raise AudioError(f"{name}: samples that are not finite cannot be written")
    # Rounded here: libsndfile would cut off what does not fit into 16 bits.
    whole = (samples * 2**15).round().clamp(-(2**15), 2**15 - 1).to(torch.int16).numpy()
    try:
        write_whole(name, lambda new: soundfile.write(os.fspath(new), whole, rate))
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        where = "no such folder" if not name.parent.is_dir() else f"not written ({_reason(error)})"
        raise AudioError(f"{name}: {where}") from error


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: it finds no libsndfile
        raise MissingDependency(
            "audio: soundfile is needed to read and write sound files; run: "
            "pip install pyxai-fast[audio]"
        ) from error
    return soundfile


def _unreadable(name: Path, error: Exception) -> str:
    if not name.exists():
        return "no such file"
    if name.is_dir():
        return "is a folder, not a sound file"
    return f"not a sound file that libsndfile can read ({_reason(error)})"


def _reason(error: Exception) -> str:
    """In one line; libsndfile's own begins with the name of the file."""
    said = (str(error).strip().splitlines() or [""])[0].rpartition(": ")[2].rstrip(".")
    return said or type(error).__name__

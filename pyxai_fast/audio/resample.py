"""Sound at another number of samples per second."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ArgumentError

# The low-pass filter, a sinc under Kaiser's window (Oppenheim and Schafer, "Discrete-Time Signal
# Processing", section 7.5.3), has so many zeros on each side and keeps 80 dB from its images.
_ZEROS = 48
_ATTENUATION = 80.0
_BETA = 0.1102 * (_ATTENUATION - 8.7)
# Its transition, as a share of the lower of the two Nyquist frequencies, ends at that frequency.
_TRANSITION = (_ATTENUATION - 8) / (2.285 * 2 * _ZEROS * math.pi)
_CUTOFF = 1 - _TRANSITION / 2
_MAX_WINDOWS = 2**22  # numbers gathered at once
# What rates without a common divisor make large: the numbers of all filters, and the result.
_MAX_FILTERS, _MAX_SAMPLES = 2**25, 2**30


def resample(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """A waveform at another rate, free of aliases; what is beyond its ends counts as silence.

    ``y[n] = sum_k x[k] h(n * rate / new_rate - k)``, where h is a low-pass filter for the lower of
    both rates, flat up to 0.89 of that rate's Nyquist frequency.

    Args:
        waveform: [..., samples], float32 or float64.
        rate, new_rate: samples per second, now and then.

    Returns:
        [..., ceil(samples * new_rate / rate)]; the waveform itself where the rates are equal.

    Raises:
        ValueError: rates that are no whole numbers of at least 1, or so far apart that filters or
            result would take gigabytes; no samples.
    """
    for name, value in (("rate", rate), ("new_rate", new_rate)):
        check_rate("resample", name, value)
    if not waveform.is_floating_point() or waveform.dim() == 0 or waveform.shape[-1] == 0:
        raise ArgumentError(
            "resample: waveform must be floating point [..., samples], got "
            f"{waveform.dtype} {list(waveform.shape)}"
        )
    if rate == new_rate:
        return waveform
    divisor = math.gcd(rate, new_rate)
    up, down = new_rate // divisor, rate // divisor
    count = -(-waveform.shape[-1] * up // down)
    if 2 * up * _reach(up, down) > _MAX_FILTERS or count > _MAX_SAMPLES:
        raise ArgumentError(
            "resample: rates must be nearer to each other, or have a larger common divisor, got "
            f"{rate} and {new_rate} for {waveform.shape[-1]} samples"
        )
    filters, reach = _filters(up, down), _reach(up, down)
    filters = filters.to(waveform)
    taps = filters.shape[1]
    # A sample's window starts `reach - 1` samples before the one that it follows.
    windows = functional.pad(waveform, (reach - 1, reach)).unfold(-1, taps, 1)
    number = torch.arange(count, device=waveform.device)
    parts = []
    per_chunk = max(1, _MAX_WINDOWS // (taps * max(1, waveform[..., 0].numel())))
    for some in number.split(per_chunk):
        first, phase = some * down // up, some * down % up
        parts.append((windows[..., first, :] * filters[phase]).sum(-1))
    return torch.cat(parts, -1)


def check_rate(op: str, name: str, value: object) -> None:
    if not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{op}: {name} must be a whole number of at least 1, got {value!r}")


def _reach(up: int, down: int) -> int:
    """Samples of a filter on each side."""
    return math.ceil(_support(up, down))


def _support(up: int, down: int) -> float:
    return _ZEROS / (_CUTOFF * min(1.0, up / down))


def _filters(up: int, down: int) -> Tensor:
    """One filter for each position p / up between two samples, [up, 2 * reach]."""
    cutoff = _CUTOFF * min(1.0, up / down)
    support, reach = _support(up, down), _reach(up, down)
    position = torch.arange(up, dtype=torch.float64)[:, None] / up
    distance = position - torch.arange(1 - reach, reach + 1, dtype=torch.float64)
    inside = (1 - (distance / support) ** 2).clamp(min=0).sqrt()
    # Kaiser's window at any distance, not at whole ones alone; and nothing beyond its support.
    window = torch.special.i0(_BETA * inside) * (distance.abs() <= support)
    filters = torch.special.sinc(cutoff * distance) * window
    normalised: Tensor = filters / filters.sum(1, keepdim=True)  # constants stay what they are
    return normalised

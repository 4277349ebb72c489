"""Pictures of sound: what a mask lets through, over time and frequency, and its waveform."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError
from ..plots import INK, MUTED, caption, new_figure
from .heard import audible
from .spectrum import Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From silence to the loudest: in colour where it is heard, in grey where it is not. Silence is pale
# in both, because it does not matter whether it is heard.
_HEARD = ((255, 240, 222), (254, 205, 150), (250, 140, 95), (216, 66, 108), (142, 30, 128),
          (74, 18, 110), (20, 8, 54))  # fmt: skip
_NOT_HEARD = ((250, 250, 250), (146, 146, 146))
_LINE = "#b63679"
_PALE = "#c4c4c4"
# Of a waveform, that many pieces are drawn, each from its least to its greatest sample.
_PIECES = 1400

# In inches.
_WIDTH, _HIGH, _WAVE_HIGH = 5.6, 2.5, 0.85
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM = 0.62, 1.0, 0.42, 0.12, 0.48


def audible_figure(
    spectrum: Spectrum,
    parts: Tensor,
    mask: Tensor,
    length: int,
    *,
    class_name: str | None = None,
    probability: float | None = None,
    note: str | None = None,
    floor_db: float = -60.0,
    max_hertz: float | None = None,
) -> Figure:
    """A sound over time and frequency, coloured where a mask lets it through; below, as a waveform.

    Args:
        spectrum: of the parts.
        parts: [2, F, T] or [1, 2, F, T].
        mask: [F, T], or with dimensions of 1 before them, in [0, 1]; 1 is heard.
        length: samples of the sound.
        class_name: the class that was explained.
        probability: of that class, in [0, 1].
        note: written behind class and probability.
        floor_db: what is drawn as silence, below the loudest of the sound.
        max_hertz: the highest frequency that is drawn; all by default.

    Raises:
        ValueError: parts or a mask that do not fit, or a mask that is not in [0, 1].
        MissingDependency: matplotlib is not installed.
    """
    shape = spectrum.shape(length)
    for name, tensor, wanted in (("parts", parts, shape), ("mask", mask, shape[1:])):
        if tensor.numel() != np.prod(wanted) or tensor.shape[-len(wanted) :] != wanted:
            raise ArgumentError(
                f"audible_figure: {name} must be {list(wanted)} for {length} samples, got "
                f"{list(tensor.shape)}"
            )
    if not floor_db < 0:
        raise ArgumentError(f"audible_figure: floor_db must be below 0, got {floor_db!r}")
    parts = parts.detach().reshape(1, *shape).cpu()
    mask = mask.detach().reshape(1, 1, *shape[1:]).cpu()
    heard = audible(spectrum, parts, mask, length)[0].numpy()
    whole = spectrum.waveform(parts, length)[0].numpy()

    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + _HIGH + _GAP + _WAVE_HIGH + _BOTTOM
    figure = new_figure(width, height)

    def add_axes(left: float, bottom: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, bottom / height, wide / width, high / height))

    said = ",  ".join(part for part in (caption(class_name, probability), note) if part)
    figure.text(
        _LEFT / width, 1 - 0.16 / height, said, va="top", fontsize=11, fontweight="bold", color=INK
    )
    above = _BOTTOM + _WAVE_HIGH + _GAP
    axes = add_axes(_LEFT, above, _WIDTH, _HIGH)
    _draw_spectrum(axes, spectrum, parts, mask, floor_db)
    axes.set_xlim(0, length / spectrum.rate)
    axes.set_ylim(0, min(max_hertz or spectrum.rate / 2, spectrum.rate / 2))
    below = add_axes(_LEFT, _BOTTOM, _WIDTH, _WAVE_HIGH)
    _draw_waveforms(below, whole, heard, spectrum.rate)
    below.set_xlim(0, length / spectrum.rate)
    for number, (name, stops) in enumerate((("heard", _HEARD), ("not", _NOT_HEARD))):
        strip = add_axes(_LEFT + _WIDTH + 0.14 + 0.16 * number, above, 0.12, _HIGH - 0.5)
        _draw_scale(strip, name, stops, floor_db, labelled=number == 1)
    return figure


def _draw_spectrum(
    axes: Axes, spectrum: Spectrum, parts: Tensor, mask: Tensor, floor_db: float
) -> None:
    # Below what can be heard or drawn, whatever the sound's own loudness.
    decibels = spectrum.log_magnitude(parts, -200.0)[0, 0].double().numpy()
    loudness = ((decibels - decibels.max()) / -floor_db + 1).clip(0, 1)
    share = mask[0, 0].double().numpy()[..., None]
    picture = share * _colours(loudness, _HEARD) + (1 - share) * _colours(loudness, _NOT_HEARD)
    frame, bin_width = spectrum.hop / spectrum.rate, spectrum.rate / spectrum.n_fft
    bins, frames = loudness.shape
    axes.imshow(
        np.rint(picture).astype(np.uint8),
        extent=(-frame / 2, (frames - 0.5) * frame, -bin_width / 2, (bins - 0.5) * bin_width),
        origin="lower",
        aspect="auto",
        interpolation="antialiased",
    )
    axes.set_ylabel("frequency (Hz)", fontsize=8.5, color=INK)
    axes.tick_params(labelbottom=False)
    _tidy(axes)


def _draw_waveforms(
    axes: Axes, whole: NDArray[np.float32], heard: NDArray[np.float32], rate: int
) -> None:
    for samples, colour, name in ((whole, _PALE, "whole"), (heard, _LINE, "heard")):
        least, greatest, starts = _envelope(samples)
        axes.fill_between(
            starts / rate, least, greatest, step="post", color=colour, linewidth=0.4, label=name
        )
    top = float(max(np.abs(whole).max(), np.abs(heard).max())) or 1.0
    axes.set_ylim(-1.08 * top, 1.08 * top)
    axes.set_yticks([])
    axes.set_xlabel("time (s)", fontsize=8.5, color=INK)
    axes.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, handlelength=0.9,
        labelcolor=MUTED,
    )  # fmt: skip
    _tidy(axes)


def _envelope(
    samples: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Least and greatest sample of each piece, and the sample that it starts with."""
    starts = np.unique(np.linspace(0, len(samples), _PIECES, endpoint=False).astype(np.int64))
    # A piece reaches to the first sample of the next, so that there are no gaps between them.
    following = np.append(samples[starts[1:]], samples[-1])
    least = np.minimum(np.minimum.reduceat(samples, starts), following)
    greatest = np.maximum(np.maximum.reduceat(samples, starts), following)
    return least, greatest, starts


def _draw_scale(
    axes: Axes,
    name: str,
    stops: tuple[tuple[int, int, int], ...],
    floor_db: float,
    *,
    labelled: bool,
) -> None:
    colours = np.rint(_colours(np.linspace(0, 1, 256)[:, None], stops)).astype(np.uint8)
    axes.imshow(colours, aspect="auto", extent=(0, 1, floor_db, 0), origin="lower")
    axes.set_title(name, fontsize=8, color=MUTED, pad=4, rotation=90)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    ticks = [0.0, floor_db / 2, floor_db] if labelled else []
    axes.set_yticks(ticks)
    axes.set_yticklabels([f"{tick:.0f} dB".replace("-", "\u2212") for tick in ticks])
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.tick_params(labelsize=7.5, color=MUTED, labelcolor=MUTED, width=0.6, length=2.5)
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")
        spine.set_linewidth(0.6)


def _colours(
    values: NDArray[np.float64], stops: tuple[tuple[int, int, int], ...]
) -> NDArray[np.float64]:
    """Values [...] in [0, 1] to colours [..., 3] in [0, 255], linear between equidistant stops."""
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(values, at, [stop[c] for stop in stops]) for c in range(3)], axis=-1)

"""Pictures of attributions: maps, overlays on the input, galleries, and bars for tabular inputs.

Colours are computed in NumPy; matplotlib is imported only to lay out figures, always through
``matplotlib.figure.Figure``, so no global state is touched and no window is ever opened.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pyxai_fast.images import gaussian_blur
from pyxai_fast.models.errors import MissingDependency

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyxai_fast.explanation import Explanation

Values = Tensor | ArrayLike
FloatArray = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]

REDUCTIONS = ("signed_sum", "abs_sum", "max_abs")
DPI = 150

# From -1 to 1: dark blue, blue, white, red, dark red (ColorBrewer's RdBu, colour-blind safe).
_DIVERGING = (
    (-1.00, (5, 48, 97)),
    (-0.75, (33, 102, 172)),
    (-0.50, (67, 147, 195)),
    (-0.25, (146, 197, 222)),
    (0.00, (255, 255, 255)),
    (0.25, (253, 190, 160)),
    (0.50, (239, 110, 80)),
    (0.75, (203, 30, 45)),
    (1.00, (103, 0, 31)),
)
# Over a picture the hue carries the sign and the opacity the size, so the ends stay saturated.
_TINTS = ((-1.0, (0, 60, 170)), (-0.25, (20, 110, 240)), (0.25, (245, 40, 30)), (1.0, (180, 0, 20)))
INK = "#222222"
MUTED = "#666666"
# Bars that are so much shorter than the longest are zero but for rounding.
ROUNDING = 1e-6


def reduce_channels(attributions: Values, how: str = "signed_sum") -> FloatArray:
    """Attributions [C, H, W] (or [H, W]) to one map [H, W] float32.

    Args:
        attributions: One value per channel and pixel.
        how: "signed_sum" keeps the sign: opposite channels cancel, and completeness is kept;
            "abs_sum" sums sizes; "max_abs" takes the largest size.

    Raises:
        ValueError: Another ``how``, or another number of dimensions.
    """
    values = _array(attributions)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3:
        raise ValueError(
            "reduce_channels: attributions must be [C, H, W] or [H, W], "
            f"got shape {tuple(values.shape)}"
        )
    if how == "signed_sum":
        return np.asarray(values.sum(axis=0), dtype=np.float32)
    if how == "abs_sum":
        return np.asarray(np.abs(values).sum(axis=0), dtype=np.float32)
    if how == "max_abs":
        return np.asarray(np.abs(values).max(axis=0), dtype=np.float32)
    raise ValueError(f"reduce_channels: how must be one of {', '.join(REDUCTIONS)}, got {how!r}")


def normalise_map(values: Values, percentile: float = 99.5) -> FloatArray:
    """A map of any scale to [-1, 1], zero staying zero.

    The value that becomes 1 is the given percentile of the sizes, so that a few outliers do not
    leave the rest invisible. Maps of zeros stay zeros. Values that are not finite become zero,
    with a RuntimeWarning.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"normalise_map: percentile must be in (0, 100], got {percentile}")
    array = _finite(_array(values))
    sizes = np.abs(array)
    top = float(np.percentile(sizes, percentile)) if sizes.size else 0.0
    if top == 0.0 and sizes.size:
        top = float(sizes.max())  # so sparse that the percentile falls among the zeros
    if top == 0.0:
        return np.zeros_like(array)
    # In float64: the quotient of two subnormal numbers must not overflow.
    return np.clip(array.astype(np.float64) / top, -1.0, 1.0).astype(np.float32)


def overlay(
    pixels: Values,
    attributions: Values,
    *,
    how: str = "signed_sum",
    percentile: float = 99.5,
    opacity: float = 0.9,
    gamma: float = 0.85,
    smooth: float | None = None,
) -> UInt8Array:
    """Attributions in colour over the picture in pale grey: red for, blue against.

    Args:
        pixels: [C, H, W], C = 1 or 3, in [0, 1]; other ranges are stretched to it.
        attributions: [C, H, W] or [H, W], of the same height and width.
        how: As in ``reduce_channels``.
        percentile: As in ``normalise_map``.
        opacity: Of the strongest attributions, in [0, 1].
        gamma: Opacity grows with size ** gamma; the lower, the more weak attributions show.
        smooth: Standard deviation, in pixels, of a Gaussian blur of the map before it is coloured.
            Neighbouring pixels of opposite sign would otherwise mix to grey. None chooses: nothing
            up to 64 pixels, else 1/112 of the longer side (2 pixels at 224). 0 turns it off.

    Returns:
        uint8 array [H, W, 3].
    """
    reduced = _finite(reduce_channels(attributions, how))
    grey = _luminance(_displayable(pixels))
    if grey.shape != reduced.shape:
        raise ValueError(
            "overlay: attributions must have the height and width of pixels, "
            f"got {reduced.shape} and {grey.shape}"
        )
    if smooth is None:
        smooth = _default_smoothing(reduced.shape)
    if smooth > 0 and reduced.size:
        reduced = gaussian_blur(torch.from_numpy(reduced)[None, None], smooth)[0, 0].numpy()
    values = normalise_map(reduced, percentile)
    return _blend(grey, values, opacity=opacity, gamma=gamma)


def map_image(
    attributions: Values, *, how: str = "signed_sum", percentile: float = 99.5
) -> UInt8Array:
    """Attributions [C, H, W] or [H, W] as colours on white, uint8 [H, W, 3]."""
    values = normalise_map(reduce_channels(attributions, how), percentile)
    return np.rint(_colours(values, _DIVERGING)).astype(np.uint8)


def pixel_image(pixels: Values) -> UInt8Array:
    """Pixels [C, H, W], C = 1 or 3, in [0, 1] (other ranges are stretched) as uint8 [H, W, 3]."""
    shown = _displayable(pixels)
    if shown.shape[0] == 1:
        shown = np.repeat(shown, 3, axis=0)
    return np.asarray(np.rint(shown.transpose(1, 2, 0) * 255.0), dtype=np.uint8)


def save_image(array: UInt8Array, path: str | os.PathLike[str]) -> None:
    """Write a uint8 array [H, W, 3] or [H, W] to a file whose suffix names the format."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependency(
            "save_image: Pillow is needed to write image files; run: pip install pyxai-fast[image]"
        ) from error
    Image.fromarray(np.ascontiguousarray(array)).save(path)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a file whose suffix names the format (.png, .pdf, .svg)."""
    figure.savefig(path, dpi=DPI, facecolor="white")


def overlay_figure(
    pixels: Values,
    attributions: Values,
    *,
    class_name: str | None = None,
    probability: float | None = None,
    method: str | None = None,
    note: str | None = None,
    how: str = "signed_sum",
    percentile: float = 99.5,
) -> Figure:
    """Input, attribution map and overlay side by side, with a colour bar.

    Args:
        pixels: [C, H, W] in [0, 1].
        attributions: [C, H, W] or [H, W].
        class_name: The class that was explained.
        probability: Of that class, in [0, 1].
        method: Name of the method, written over the map.
        note: Written behind class and probability.
        how: As in ``reduce_channels``.
        percentile: As in ``normalise_map``.
    """
    drawn = map_image(attributions, how=how, percentile=percentile)
    smoothed = " (smoothed)" if _default_smoothing(drawn.shape[:2]) else ""
    panels: Panels = {
        "input": pixel_image(pixels),
        method or "attributions": drawn,
        f"overlay{smoothed}": overlay(pixels, attributions, how=how, percentile=percentile),
    }
    parts = [part for part in (caption(class_name, probability), note) if part]
    # Sizes alone speak neither for nor against.
    signed = how == "signed_sum" and bool((_array(attributions) < 0).any())
    return panel_grid(
        [(None, panels)], title=",  ".join(parts) or None, bar=bar_strip(signed=signed)
    )


@dataclass(frozen=True)
class GalleryRow:
    """One input of a gallery.

    Attributes:
        pixels: [C, H, W] in [0, 1].
        attributions: Column title (a method's name) to attributions [C, H, W] or [H, W].
        class_name: The class that was explained, written beside the input.
        probability: Of that class, in [0, 1].
    """

    pixels: Values
    attributions: Mapping[str, Values] = field(default_factory=dict)
    class_name: str | None = None
    probability: float | None = None


def gallery(
    *rows: GalleryRow,
    style: str = "overlay",
    how: str = "signed_sum",
    percentile: float = 99.5,
    title: str | None = None,
) -> Figure:
    """A grid: one row per input, the input in the first column, then one column per method.

    Each map has its own scale, because methods have different units. All rows have one width.

    Args:
        rows: At least one. Columns are the union of their methods, in order of appearance; a row
            without one of them leaves that place empty.
        style: "overlay" or "map".
        how: As in ``reduce_channels``.
        percentile: As in ``normalise_map``.
        title: Over the whole figure.
    """
    if not rows:
        raise ValueError("gallery: rows must hold at least one GalleryRow, got none")
    if style not in ("overlay", "map"):
        raise ValueError(f"gallery: style must be 'overlay' or 'map', got {style!r}")
    columns = list(dict.fromkeys(name for row in rows for name in row.attributions))
    drawn: list[tuple[str | None, Panels]] = []
    for row in rows:
        panels: Panels = {"input": pixel_image(row.pixels)}
        for name in columns:
            values = row.attributions.get(name)
            if values is None:
                panels[name] = None
            elif style == "overlay":
                panels[name] = overlay(row.pixels, values, how=how, percentile=percentile)
            else:
                panels[name] = map_image(values, how=how, percentile=percentile)
        drawn.append((caption(row.class_name, row.probability), panels))
    strip = bar_strip(signed=how == "signed_sum", tinted=style == "overlay")
    return panel_grid(drawn, title=title, bar=strip)


def bars(
    attributions: Values,
    *,
    feature_names: Sequence[str] | None = None,
    feature_values: Values | None = None,
    captions: Sequence[str | None] | None = None,
    top: int = 15,
    label: str = "attribution",
    title: str | None = None,
) -> Figure:
    """Horizontal bars, the largest attributions first: red for, blue against.

    Args:
        attributions: [D], or [B, D]. Up to four inputs get a panel each, with the features in one
            common order; for more, one panel shows the mean size over all inputs.
        feature_names: D names; "feature 0", ... by default.
        feature_values: Same shape as ``attributions``; written beside the names of a single input.
        captions: One per input, over its panel.
        top: How many features are drawn. The rest are added up in one last bar, if attributions
            have signs; of sizes and masks, which do not add up to anything, the largest is named.
        label: Of the axis.
        title: Over the whole figure.
    """
    values = np.atleast_2d(_array(attributions))
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"bars: attributions must be [D] or [B, D], got {tuple(values.shape)}")
    if top < 1:
        raise ValueError(f"bars: top must be at least 1, got {top}")
    n_features = values.shape[1]
    names = [f"feature {i}" for i in range(n_features)]
    if feature_names is not None:
        names = [_shortened(str(name)) for name in feature_names]
    if len(names) != n_features:
        raise ValueError(f"bars: feature_names must have {n_features} names, got {len(names)}")
    values = _finite(values)
    if feature_values is not None and len(values) == 1:
        shown = np.atleast_2d(_array(feature_values))[0]
        names = [f"{name} = {_figure(value)}" for name, value in zip(names, shown, strict=True)]
    titles: list[str | None] = list(captions) if captions is not None else [None] * len(values)
    if len(titles) != len(values):
        raise ValueError(f"bars: captions must have {len(values)} entries, got {len(titles)}")
    if len(values) > _MAX_BAR_PANELS:
        titles = [f"mean over {len(values)} inputs"]
        values, label = np.abs(values).mean(axis=0, keepdims=True), f"mean |{label}|"
    return _bar_figure(values, names, titles, top=top, label=label, title=title)


def curves_figure(x: Values, lines: Mapping[str, Values], label: str) -> Figure:
    """Lines over x, with a legend.

    Args:
        x: One number for each point, [N].
        lines: Names to values [N]; what is not finite is left out.
        label: Of the axis of x.
    """
    figure = new_figure(5.6, 3.2)
    axes = figure.add_axes((0.09, 0.16, 0.64, 0.78))
    for name, line in lines.items():
        axes.plot(_array(x), _array(line), marker="o", markersize=3, linewidth=1.4, label=name)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
    axes.set_xlabel(label, fontsize=8.5, color=INK)
    axes.tick_params(labelsize=7.5, color=MUTED, labelcolor=MUTED, width=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
        spine.set_linewidth(0.6)
    return figure


def explanation_figure(
    explanation: Explanation,
    *,
    feature_names: Sequence[str] | None = None,
    how: str = "signed_sum",
    max_rows: int = 8,
) -> Figure:
    """The picture that suits an explanation: one image, several images, or bars for tabular inputs.

    Args:
        explanation: With attributions [B, C, H, W] (C = 1 or 3) or [B, D].
        feature_names: Names for tabular inputs, in place of those that the explanation has.
        how: As in ``reduce_channels``.
        max_rows: Of a batch of images, how many are drawn.

    Raises:
        ValueError: Inputs that are neither pictures nor rows of a table.
    """
    attributions, inputs = explanation.attributions, explanation.inputs
    if isinstance(attributions, tuple) or isinstance(inputs, tuple):
        raise ValueError(
            "plot: an explanation must be of one input tensor to be drawn, got a tuple; draw its "
            "parts with plots.overlay_figure or plots.bars"
        )
    captions = [class_and_probability(explanation, i) for i in range(len(attributions))]
    if attributions.ndim == 2:
        return bars(
            attributions,
            feature_names=explanation.feature_names if feature_names is None else feature_names,
            feature_values=inputs if len(attributions) == 1 else None,
            captions=[
                caption(*each) or _answered(explanation, i) for i, each in enumerate(captions)
            ],
            label=f"attribution, {explanation.method.replace('_', ' ')}",
        )
    if attributions.ndim != 4 or attributions.shape[1] not in (1, 3):
        raise ValueError(
            "plot: attributions must be [B, 1 or 3, H, W] or [B, D] to be drawn, "
            f"got shape {tuple(attributions.shape)}"
        )
    method = explanation.method
    if len(attributions) == 1:
        name, probability = captions[0]
        return overlay_figure(
            inputs[0],
            attributions[0],
            class_name=name,
            probability=probability,
            method=method,
            how=how,
        )
    rows = [
        GalleryRow(inputs[i], {method: attributions[i]}, *captions[i])
        for i in range(min(max_rows, len(attributions)))
    ]
    hidden = len(attributions) - len(rows)
    return gallery(
        *rows, how=how, title=f"first {len(rows)} of {len(attributions)} inputs" if hidden else None
    )


def class_and_probability(explanation: Explanation, i: int) -> tuple[str | None, float | None]:
    """Name of the class that was explained for example i, and its probability in [0, 1].

    Either is None where there is none: a model with one output has no classes.
    """
    outputs = explanation.outputs[i].detach().double()
    if explanation.target is None or explanation.target.ndim != 1 or outputs.ndim != 1:
        return None, None
    target = int(explanation.target[i])
    names = explanation.class_names
    name = names[target] if names and target < len(names) else f"class {target}"
    if outputs.numel() < 2:
        return name, None
    kind = explanation.settings.get("output", "logit")
    if kind == "prob":
        probability = float(outputs[target])
    elif kind == "logprob":
        probability = float(outputs[target].exp())
    else:
        # Margins are logits less the largest logit, but for that one, whose margin is above zero.
        logits = outputs.clamp(max=0.0) if kind == "margin" else outputs
        probability = float(logits.softmax(-1)[target])
    return name, probability if np.isfinite(probability) else None


def _answered(explanation: Explanation, i: int) -> str | None:
    """What a model with one output answered to example i."""
    outputs = explanation.outputs[i]
    return f"answer {_figure(float(outputs))}" if outputs.numel() == 1 else None


# ---------------------------------------------------------------- values


def _array(values: Values) -> FloatArray:
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float32).numpy()
    return np.asarray(values, dtype=np.float32)


def _finite(array: FloatArray) -> FloatArray:
    """The array, with zeros for what is not finite, and a warning if there was any."""
    finite = np.isfinite(array)
    if finite.all():
        return array
    warnings.warn(
        f"plots: {int((~finite).sum())} of {array.size} attributions are not finite; "
        "drawn as neutral",
        RuntimeWarning,
        stacklevel=3,
    )
    return np.where(finite, array, np.float32(0))


def _displayable(pixels: Values) -> FloatArray:
    """[C, H, W] in [0, 1]; stretched if the values are not in that range to begin with."""
    array = _array(pixels)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise ValueError(f"plots: pixels must be [1 or 3, H, W], got shape {tuple(array.shape)}")
    array = np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=0.0)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 1.0)
    if low < -1e-3 or high > 1.0 + 1e-3:
        array = (array - low) / max(high - low, 1e-12)
    return np.asarray(array.clip(0.0, 1.0), dtype=np.float32)


def _luminance(pixels: FloatArray) -> FloatArray:
    if pixels.shape[0] == 1:
        return np.asarray(pixels[0])
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.asarray(np.tensordot(weights, pixels, axes=1), dtype=np.float32)


def _colours(
    values: NDArray[Any], stops: tuple[tuple[float, tuple[int, int, int]], ...]
) -> FloatArray:
    """Values [...] in [-1, 1] to colours [..., 3] in [0, 255], linear between the stops."""
    positions = [position for position, _ in stops]
    channels = [
        np.interp(values, positions, [colour[channel] for _, colour in stops])
        for channel in range(3)
    ]
    return np.stack(channels, axis=-1).astype(np.float32)


def _default_smoothing(shape: tuple[int, ...]) -> float:
    """Standard deviation, in pixels, of the blur of an overlay of this height and width."""
    longer = max(shape)
    return longer / 112.0 if longer > 64 else 0.0


def _blend(
    grey: FloatArray, values: FloatArray, *, opacity: float = 0.9, gamma: float = 0.85
) -> UInt8Array:
    """Tints of ``values`` over a grey picture, both [H, W], as uint8 [H, W, 3]."""
    # Neither black nor white: both colours must show on every part of the picture.
    base = (0.42 + 0.53 * grey)[:, :, None] * 255.0
    alpha = (opacity * np.abs(values) ** gamma)[:, :, None]
    blended = base * (1.0 - alpha) + _colours(values, _TINTS) * alpha
    return np.rint(blended).clip(0, 255).astype(np.uint8)


def caption(class_name: str | None, probability: float | None) -> str | None:
    if class_name is None and probability is None:
        return None
    percent = None if probability is None else f"{100.0 * probability:.1f}%"
    if class_name is None:
        return percent
    # ImageNet names list synonyms; the first says enough on a picture.
    name = _shortened(class_name.split(",")[0].strip())
    return name if percent is None else f"{name}  {percent}"


def _shortened(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:31].rstrip()}\u2026"


def _figure(value: float) -> str:
    """A number in four digits, with the sign that is as wide as a plus."""
    return f"{value:.4g}".replace("-", "\u2212")


# ---------------------------------------------------------------- layout, in inches

Panels = dict[str, UInt8Array | None]


@dataclass(frozen=True)
class Bar:
    """A colour bar.

    Attributes:
        colours: from the strongest to the weakest, uint8 [256, 1, 3].
        ticks: where it is labelled, from -1 or 0 to 1.
        labels: what is written there.
    """

    colours: UInt8Array
    ticks: tuple[int, ...]
    labels: tuple[str, ...]


_PANEL, _GAP, _MARGIN, _HEADER, _CAPTION_HEIGHT = 2.1, 0.10, 0.18, 0.30, 0.32
_BAR_SPACE, _BAR_WIDTH, _MAX_BAR_PANELS = 0.95, 0.11, 4


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; MissingDependency where there is no matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(
            "plots: matplotlib is needed to draw figures; run: pip install pyxai-fast[plot]"
        ) from error
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def panel_grid(rows: Sequence[tuple[str | None, Panels]], *, title: str | None, bar: Bar) -> Figure:
    """Rows of panels of one width; every length is in inches, so that all figures look alike."""
    n_columns = max(len(panels) for _, panels in rows)
    heights = [_PANEL * _aspect(panels) for _, panels in rows]
    captions = [_CAPTION_HEIGHT if caption else _GAP for caption, _ in rows]
    top_space = _MARGIN + _HEADER + (0.26 if title else 0.0)
    grid_width = n_columns * _PANEL + (n_columns - 1) * _GAP
    width = _MARGIN + grid_width + _BAR_SPACE
    height = top_space + sum(heights) + sum(captions) + _MARGIN - _GAP
    figure = new_figure(width, height)

    def add_axes(left: float, bottom: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, bottom / height, wide / width, high / height))

    if title:
        figure.text(
            _MARGIN / width,
            1 - _MARGIN / height,
            title,
            ha="left",
            va="top",
            fontsize=11,
            fontweight="bold",
            color=INK,
        )
    top = height - top_space
    for number, ((caption, panels), high) in enumerate(zip(rows, heights, strict=True)):
        for column, (name, image) in enumerate(panels.items()):
            left = _MARGIN + column * (_PANEL + _GAP)
            if number == 0:
                figure.text(
                    (left + _PANEL / 2) / width,
                    (top + 0.08) / height,
                    name.replace("_", " "),
                    ha="center",
                    va="bottom",
                    fontsize=9,
                    color=MUTED if column == 0 else INK,
                )
            if image is not None:
                _draw(add_axes(left, top - high, _PANEL, high), image)
        if caption:
            figure.text(
                _MARGIN / width,
                (top - high - 0.06) / height,
                caption,
                ha="left",
                va="top",
                fontsize=8.5,
                color=INK,
            )
        top -= high + captions[number]
    bar_height = min(sum(heights), max(heights[0], 2.1))
    bar_left = _MARGIN + grid_width + 0.16
    _colour_bar(add_axes(bar_left, height - top_space - bar_height, _BAR_WIDTH, bar_height), bar)
    return figure


def _aspect(panels: Panels) -> float:
    shape = next(image.shape for image in panels.values() if image is not None)
    return float(np.clip(shape[0] / shape[1], 0.25, 4.0))


def _draw(axes: Axes, image: UInt8Array) -> None:
    # Small pictures keep crisp pixels; large ones are resampled without moire.
    small = max(image.shape[:2]) <= 96
    axes.imshow(image, interpolation="nearest" if small else "antialiased", aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")
        spine.set_linewidth(0.6)


def bar_strip(
    *,
    signed: bool,
    tinted: bool = False,
    labels: tuple[str, str, str] = ("against", "0", "for"),
) -> Bar:
    """The colours of maps, or as overlays show them (tinted)."""
    values = np.linspace(1.0, -1.0 if signed else 0.0, 256, dtype=np.float32)[:, None]
    if tinted:
        colours = _blend(np.full_like(values, 0.7), values)
    else:
        colours = np.rint(_colours(values, _DIVERGING)).astype(np.uint8)
    return Bar(colours, (-1, 0, 1), labels) if signed else Bar(colours, (0, 1), ("0", "strong"))


def _colour_bar(axes: Axes, bar: Bar) -> None:
    extent = (0.0, 1.0, float(bar.ticks[0]), 1.0)
    axes.imshow(bar.colours, aspect="auto", extent=extent, interpolation="bilinear")
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks(bar.ticks)
    axes.set_yticklabels(bar.labels, color=MUTED)
    axes.tick_params(axis="y", length=2, width=0.6, labelsize=8, color=MUTED)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
        spine.set_color("#bbbbbb")


def _bar_figure(
    values: FloatArray,
    names: list[str],
    titles: Sequence[str | None],
    *,
    top: int,
    label: str,
    title: str | None,
) -> Figure:
    order = np.argsort(-np.abs(values).mean(axis=0), kind="stable")
    kept, rest = order[:top], order[top:]
    labels = [names[i] for i in kept]
    drawn = values[:, kept]
    if len(rest) == 1:  # its own bar says more than "1 other"
        labels, drawn = [*labels, names[rest[0]]], values[:, order]
    elif len(rest) and values.min() >= 0:
        labels = [*labels, f"{len(rest)} others, at most {values[:, rest].max():.2g}"]
    elif len(rest):
        labels = [*labels, f"{len(rest)} others, summed"]
        drawn = np.concatenate([drawn, values[:, rest].sum(axis=1, keepdims=True)], axis=1)
    # The last row may be a remark without a bar.
    n_rows, n_bars, n_panels = len(labels), drawn.shape[1], len(values)
    label_width = 0.35 + 0.068 * max(len(name) for name in labels)
    panel_width, row_height = (3.6 if n_panels == 1 else 2.3), 0.24
    head = 0.18 + (0.24 if title else 0.0) + (0.26 if any(titles) else 0.0)
    foot, gap = 0.50, 0.16
    width = label_width + n_panels * panel_width + (n_panels - 1) * gap + 0.2
    height = head + n_rows * row_height + 0.1 + foot
    figure = new_figure(width, height)
    if title:
        figure.text(
            0.12 / width, 1 - 0.12 / height, title, va="top", fontsize=11, fontweight="bold",
            color=INK,
        )  # fmt: skip
    limit = float(np.abs(drawn).max()) or 1.0
    lowest = float(drawn.min())
    positions = np.arange(n_rows)[::-1]
    for panel in range(n_panels):
        left = label_width + panel * (panel_width + gap)
        axes = figure.add_axes(
            (left / width, foot / height, panel_width / width, (n_rows * row_height + 0.1) / height)
        )
        colours = ["#cb1e2d" if value >= 0 else "#2166ac" for value in drawn[panel]]
        axes.barh(positions[:n_bars], drawn[panel], height=0.68, color=colours)
        axes.axvline(0.0, color=INK, linewidth=0.8)
        axes.set_xlim(-max(-1.28 * lowest, 0.4 * limit) if lowest < 0 else 0.0, 1.28 * limit)
        axes.set_ylim(-0.7, n_rows - 0.3)
        axes.set_yticks(positions)
        axes.set_yticklabels(labels if panel == 0 else [], fontsize=8.5, color=INK)
        for position, value in zip(positions[:n_bars], drawn[panel], strict=True):
            if abs(value) < ROUNDING * limit:
                text = "0"
            else:
                text = f"{value:+.2g}" if lowest < 0 else f"{value:.2g}"
            axes.annotate(
                text.replace("-", "\u2212"),
                (float(value), float(position)),
                xytext=(3 if value >= 0 else -3, 0),
                textcoords="offset points",
                ha="left" if value >= 0 else "right",
                va="center",
                fontsize=7,
                color=MUTED,
            )
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=7.5, color=MUTED, labelcolor=MUTED, width=0.6)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(label, fontsize=8.5, color=MUTED)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color("#bbbbbb")
        caption = titles[panel]
        if caption:
            axes.set_title(caption, fontsize=9, color=INK, loc="left", pad=4)
    return figure

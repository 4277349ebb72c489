"""SIC and AIC: what is left of a class in a picture that has been blurred to so many bytes.

Source: Kapishnikov, Bolukbasi, Viégas and Terry, "XRAI: Better Attributions Through Regions"
(2019), performance information curves; what the paper leaves open is as in its authors' package,
`saliency`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import ops
from ..errors import ArgumentError, check_bool
from ..models.errors import MissingDependency
from ..models.score import RowScore
from .asked import (
    Asked,
    check_attributions,
    check_count,
    check_inputs,
    check_size,
    comes_first,
    is_target,
    of_target,
    random_key,
)
from .curve import Curve
from .ranking import some_fractions

# Of the random numbers; see the streams of paths, gradients and queries.
STREAM = 2**15 + 2**13 + 4
THRESHOLDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75)

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class InformationCurve(Curve):
    """Scores, from 0 (blurred) to 1 (the picture), over information, measured likewise.

    Attributes:
        fractions: float64 [S], from 0 to 1, of the bytes that the picture has more than the blurred
            one when both are compressed.
        scores: float64 [S, B]; NaN for pictures that cannot be used.
    """

    @property
    def used(self) -> Tensor:
        """bool [B]: the model is sure enough of the picture, and surer than of the blurred one,
        which is smaller when compressed; and all that it answers is finite."""
        return ~self.scores[0].isnan()

    @property
    def median(self) -> Tensor:
        """[S], over the pictures that are used; NaN where there are none."""
        if not bool(self.used.any()):
            return torch.full_like(self.scores[:, 0], float("nan"))
        return self.scores[:, self.used].quantile(0.5, dim=1)

    @property
    def median_area(self) -> float:
        """The area under the median, the figure that is published. Large is good."""
        return float(torch.trapezoid(self.median, self.fractions.to(self.scores.device)))


@dataclass(frozen=True)
class InformationCurves:
    """What is left of a class as a picture gets its information back.

    Attributes:
        sic: of the score; aic: of whether the class is the first.
        compression: what measured information: "webp" (lossless, as published), or "zlib" where
            Pillow, or its WebP, is not installed: figures of the two do not compare.
    """

    sic: InformationCurve
    aic: InformationCurve
    compression: str


def performance_information(
    model: Any,
    inputs: Tensor,
    attributions: Tensor,
    target: Any = None,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    start: Tensor | float = 0.01,
    min_prediction: float = 0.8,
    monotone: bool = True,
    n_points: int = 1000,
    seed: int = 0,
    **asking: Any,
) -> InformationCurves:
    """The softmax and the accuracy information curve of each picture.

    Of a picture only a few random pixels are known at first, and between them it is interpolated
    linearly. Then those come back that rank first by their attribution, summed over channels, with
    its sign; give `attributions.abs()` to rank by size. Pictures are rounded to 8 bits.

    Blurring and compressing run on the CPU, one picture at a time; the model is asked in batches.

    Args:
        model, target, asking: as in `Asked`.
        inputs: pixels [B, 1 or 3, H, W] in [0, 1]; a model that takes others needs `preprocessing`.
        attributions: shaped as the inputs, or with one channel.
        thresholds: shares of the pixels that come back.
        start: the share of pixels that are known at first, drawn for each picture; or which they
            are, bool [1 or B, H, W]. Corners always are.
        min_prediction: pictures whose own score is lower are not used.
        monotone: a score counts as no lower than those at smaller thresholds, as published.
        n_points: of each curve, besides its end.
        seed: of the known pixels, with the inputs' numbers: counter-based.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
        ImportError: SciPy is needed, and is not installed.
    """
    op = "performance_information"
    check_askable(op, inputs)
    pixels = (inputs.detach().double() * 255).round().to(torch.uint8)
    asked = Asked(op, model, pixels.to(inputs.dtype) / 255, target, **asking)
    ranked = check_attributions(op, attributions, asked.inputs).double().sum(1)
    shares = some_fractions(op, "thresholds", thresholds).tolist()
    check_count(op, "n_points", n_points)
    check_size(op, "min_prediction", min_prediction)
    check_bool(op, "monotone", monotone)
    first = _known_first(asked, start, seed)
    compression, size_of = _compression()

    maps, pictures = ranked.cpu().numpy(), np.moveaxis(pixels.cpu().numpy(), 1, 3)
    sizes = np.zeros((len(shares) + 1, len(pictures)))

    def shown(example: int, step: int) -> Tensor:
        known = first[example]
        if step:
            known = known | (maps[example] >= np.quantile(maps[example], 1 - shares[step - 1]))
        picture = blurred(pictures[example], known)
        sizes[step, example] = size_of(picture)
        return torch.from_numpy(np.moveaxis(picture, 2, 0))

    def rows(examples: slice, steps: slice) -> Tensor:
        made = [
            shown(example, step)
            for step in range(steps.start, steps.stop)
            for example in range(examples.start, examples.stop)
        ]
        values = torch.stack(made).to(asked.inputs.device, asked.inputs.dtype) / 255
        return asked.model_inputs(values)

    def read(outputs: Tensor, of: RowScore) -> Tensor:
        return torch.stack((of_target(outputs, of), is_target(outputs, of)), 1)

    scores = asked.scores(len(sizes), rows, "blurred", read).cpu().numpy()
    right = comes_first(asked.outputs, asked.target)
    clean = torch.stack((asked.clean, right), 1).cpu().numpy()
    whole = np.array([size_of(picture) for picture in pictures], np.float64)
    points = np.append(np.linspace(0, 1, n_points, endpoint=False), 1.0)

    def curve(kind: int) -> InformationCurve:
        found = np.full((len(points), len(pictures)), np.nan)
        for b in range(len(pictures)):
            begin, end = scores[0, b, kind], clean[b, kind]
            known = np.isfinite(scores[:, b, kind]).all()
            if known and end >= min_prediction and begin < end and sizes[0, b] < whole[b]:
                information = _normalised(sizes[1:, b], sizes[0, b], whole[b])
                score = _normalised(scores[1:, b, kind], begin, end)
                if monotone:
                    score = np.maximum.accumulate(score)
                found[:, b] = _interpolated(points, information, score)
        values = torch.from_numpy(found).to(asked.inputs.device)
        return InformationCurve(torch.from_numpy(points), values)

    return InformationCurves(curve(0), curve(1), compression)


def blurred(picture: Bytes, known: Mask) -> Bytes:
    """A picture [H, W, C] of which only some pixels [H, W], and the corners, are known.

    The others are interpolated linearly in the triangles of a Delaunay triangulation.
    """
    known = known.copy()
    known[np.ix_((0, -1), (0, -1))] = True
    if known.all():
        return picture
    between = _interpolator()(np.argwhere(known), picture[known])
    values = between(np.argwhere(~known))
    # On the rim a point may be outside of all triangles, by rounding.
    values = np.where(np.isnan(values), picture.mean((0, 1)), values)
    found = picture.copy()
    # Halves are frequent: float32 has them where float64 may just miss them.
    found[~known] = np.round(values.astype(np.float32))
    return found


def _normalised(values: NDArray[np.float64], begin: float, end: float) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.clip((values - begin) / (end - begin), 0.0, 1.0)
    return shares


def _interpolated(
    points: NDArray[np.float64], information: NDArray[np.float64], score: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The curve through what was measured, (0, 0) and (1, 1)."""
    x, y = np.append(information, (0.0, 1.0)), np.append(score, (0.0, 1.0))
    order = np.argsort(x, kind="stable")
    found: NDArray[np.float64] = np.interp(points, x[order], y[order])
    found[-1] = 1.0
    return found


def check_askable(op: str, inputs: Any) -> None:
    """Refuses inputs that are no pictures with pixels in [0, 1], and any where SciPy is missing."""
    _interpolator(op)
    check_inputs(op, inputs)
    if inputs.dim() != 4 or inputs.shape[1] not in (1, 3) or min(inputs.shape[2:]) < 2:
        raise ArgumentError(
            f"{op}: inputs must be pictures [B, 1 or 3, H, W] with H, W >= 2, got "
            f"{list(inputs.shape)}"
        )
    if not bool(((inputs >= 0) & (inputs <= 1)).all()):
        raise ArgumentError(
            f"{op}: inputs must be pixels in [0, 1], got {float(inputs.min()):g} to "
            f"{float(inputs.max()):g}; give preprocessing= for a model that takes others"
        )


def _known_first(asked: Asked, start: Any, seed: int) -> Mask:
    """Which pixels are known at first, bool [B, H, W]."""
    op, shape = asked.op, (len(asked.inputs), *asked.inputs.shape[2:])
    if isinstance(start, Tensor):
        if start.dtype != torch.bool or tuple(start.shape) not in (shape, (1, *shape[1:])):
            raise ArgumentError(
                f"{op}: start must be a share of the pixels, or bool [1 or {shape[0]}, "
                f"{shape[1]}, {shape[2]}], got {start.dtype} {list(start.shape)}"
            )
        chosen: Mask = start.expand(shape).cpu().numpy()
        return chosen
    if isinstance(start, bool) or not isinstance(start, (int, float)) or not 0 <= start <= 1:
        raise ArgumentError(f"{op}: start must be a share from 0 to 1, or a mask, got {start!r}")
    key, numbers = random_key(op, seed, STREAM), asked.numbers.cpu()
    drawn = ops.perturb(torch.zeros(shape), 1, 1.0, key, examples=numbers)
    drawn_first: Mask = (ops.ranks_of(drawn) < int(start * shape[1] * shape[2])).numpy()
    return drawn_first


def _interpolator(op: str = "performance_information") -> Any:
    try:
        from scipy.interpolate import LinearNDInterpolator  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependency(
            f"{op}: SciPy is needed to blur pictures; run: pip install pyxai-fast[metrics]"
        ) from error
    return LinearNDInterpolator


def _compression() -> tuple[str, Callable[[Bytes], int]]:
    """The name of a lossless compression, and what gives a picture's size [H, W, C] in bytes."""
    try:
        from PIL import Image, features
    except ImportError:
        return "zlib", _zlib_size
    if not features.check("webp"):
        return "zlib", _zlib_size

    def webp_size(picture: Bytes) -> int:
        file = io.BytesIO()
        shown = picture[..., 0] if picture.shape[2] == 1 else picture
        Image.fromarray(shown).save(file, format="webp", lossless=True, quality=100)
        return len(file.getvalue())

    return "webp", webp_size


def _zlib_size(picture: Bytes) -> int:
    """As in a PNG file each byte less the one before it in its row, deflated."""
    before = np.pad(picture, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return len(zlib.compress((picture - before).tobytes(), 9))

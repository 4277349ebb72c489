"""Segments by name: from a short text such as ``slic:n_segments=60`` to an integer map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, near
from ..ops.checks import check_pixels, check_whole
from .superpixels import ALGORITHMS, TOLERANCE, superpixels
from .tiles import tiles

USAGES = ("quickshift", "slic:n_segments=60", "felzenszwalb", "tiles:16", "tiles:8x16", "features")
SPECS = (*ALGORITHMS, "tiles", "grid", "features")

# From this many pixels in height and width, pictures have edges worth following.
MIN_SIDE = 96
# Segments may leave numbers out, but few.
MOST_NUMBERS = 2**16
# About as many tiles are chosen otherwise.
TILES = 64


def segments_for(inputs: Tensor, spec: Tensor | str | None = None, *, cache: Any = True) -> Tensor:
    """The segments of inputs: which segment each feature belongs to.

    Args:
        inputs: [B, ...]: tables [B, D], or channels first. For superpixels pictures [B, 1 or 3, H,
            W]; each one whose values are not in [0, 1] is stretched to it first.
        spec: a map of segments (int32 or int64, shaped like the inputs, or with 1 in place of the
            batch or of dimension 1, or without either: [H, W] is one for all pictures), which is
            returned on the inputs' device, or a text:

            - "quickshift", "slic" or "felzenszwalb": superpixels of each picture; options after a
              colon, as in "slic:n_segments=60,sigma=2".
            - "tiles:16" or "grid:16": tiles of this side, in features; "tiles:8x16" has one for
              each dimension but the channels.
            - "features": each feature of a table [B, D] is a segment.

            None chooses: features for tables, quickshift for pictures of at least 96 pixels in
            height and width, else at most 64 tiles (8x8 of a picture).
        cache: of superpixels: see `superpixels`.

    Returns:
        int32 or int64, as `ops.mask_segments` takes it: the batch has its own segments or 1,
        dimension 1 is 1 where there are more.

    Raises:
        ValueError, TypeError: inputs or a spec that do not fit, naming what.
        MissingDependency: scikit-image is needed and not installed.

    Example:
        >>> segments_for(torch.zeros(5, 3), "features")
        tensor([[0, 1, 2]], dtype=torch.int32)
    """
    if not isinstance(inputs, Tensor) or inputs.dim() < 2:
        got = list(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ArgumentError(f"segments: inputs must be a tensor [B, ...], got {got}")
    if isinstance(spec, Tensor):
        return _checked(spec, inputs)
    if spec is None:
        spec = _chosen(inputs.shape)
    if not isinstance(spec, str):
        raise TypeError(
            f"segments: must be an int32 or int64 tensor, a text or None, got {type(spec).__name__}"
        )
    name, _, rest = spec.partition(":")
    if name in ALGORITHMS:
        return superpixels(_pixels(inputs, spec), name, cache=cache, **_options(spec, rest))
    if name in ("tiles", "grid"):
        return tiles(inputs.shape[1:], _sizes(spec, rest, inputs.dim())).to(inputs.device)
    if spec == "features":
        if inputs.dim() != 2:
            raise ArgumentError(
                "segments: inputs must be tables [B, D] for features, got shape "
                f"{list(inputs.shape)}; tiles:1 makes segments of single pixels"
            )
        return tiles(inputs.shape[1:], 1).to(inputs.device)
    raise ArgumentError(
        f"segments: must be like one of {', '.join(USAGES)}, got {spec!r}{near(name, SPECS)}"
    )


def n_segments(segments: Tensor) -> int:
    """How many segments a coalition needs to tell apart: one more than the largest number.

    In a batch some inputs may have fewer. Waits for the device.

    Raises:
        TypeError: segments are not int32 or int64.
        ValueError: there are none.
    """
    check_whole("n_segments", "segments", segments, (torch.int32, torch.int64))
    if segments.numel() == 0:
        raise ArgumentError(f"n_segments: segments must not be empty, got {list(segments.shape)}")
    return int(segments.max()) + 1


def _checked(segments: Tensor, inputs: Tensor) -> Tensor:
    check_whole("segments_for", "segments", segments, (torch.int32, torch.int64))
    segments = segments.to(inputs.device)
    # Dimensions that are not there are the batch's and the channels'.
    segments = segments.reshape(*[1] * (inputs.dim() - segments.dim()), *segments.shape)
    check_pixels("segments_for", "segments", segments, inputs)
    low, high = (int(end) for end in segments.aminmax()) if segments.numel() else (0, 0)
    # More than there are features are no segments, and would each take memory.
    most = max(MOST_NUMBERS, inputs.shape[1:].numel())
    if low < 0 or high >= most:
        raise ArgumentError(
            f"segments_for: segments must be numbered from 0 to {most - 1} at most, got {low} to "
            f"{high}"
        )
    return segments


def _chosen(shape: Sequence[int]) -> str:
    extents = shape[2:]
    if not extents:
        return "features"
    if len(extents) == 2 and shape[1] in (1, 3) and min(extents) >= MIN_SIDE:
        return "quickshift"
    along = round(TILES ** (1 / len(extents)))
    return "tiles:" + "x".join(str(max(1, -(-extent // along))) for extent in extents)


def _pixels(inputs: Tensor, spec: str) -> Tensor:
    """Pictures with values in [0, 1]."""
    if inputs.dim() != 4 or inputs.shape[1] not in (1, 3) or not inputs.is_floating_point():
        raise ArgumentError(
            f"segments: inputs must be pictures [B, 1 or 3, H, W] for {spec!r}, got shape "
            f"{list(inputs.shape)}"
        )
    pixels = inputs.detach().float()
    low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
    stretched = (pixels - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    in_range = (low >= -TOLERANCE) & (high <= 1 + TOLERANCE)
    return torch.where(in_range, pixels, stretched)


def _options(spec: str, text: str) -> dict[str, float]:
    """Of "n_segments=60,sigma=2"."""
    options: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError as error:
            raise ArgumentError(
                f"segments: options must be name=number, got {part!r} in {spec!r}"
            ) from error
        options[name.strip()] = int(number) if number.is_integer() else number
    return options


def _sizes(spec: str, text: str, dims: int) -> int | list[int]:
    """Of "16" or "8x16"."""
    parts = text.split("x")
    if all(part.isdecimal() and int(part) > 0 for part in parts):
        sizes = [int(part) for part in parts]
        if len(sizes) == 1:
            return sizes[0]
        if len(sizes) == max(1, dims - 2):
            return sizes
    raise ArgumentError(
        "segments: tiles must have one size, as in tiles:16, or one for each dimension but the "
        f"channels, as in tiles:8x16, got {spec!r}"
    )

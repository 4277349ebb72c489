"""The affine map, and the geometry, between pixels in [0, 1] and what a model was trained on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import is_one_of

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


@dataclass(frozen=True)
class Affine:
    """points * scale + shift, for each channel: what turns pixels into model inputs.

    Attributes:
        scale, shift: [C], on the inputs' device.
    """

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become model inputs: ``model_input = pixels * scale + shift``, per channel.

    Pixels are always in [0, 1]. The geometry (``resize``, then ``size``) is applied when a file is
    read; the colours (``mean``, ``std``) are applied to pixel tensors, and can be undone, so that
    baselines, noise levels and step sizes can be given in the units of the picture.

    Args:
        mean: Mean of each channel, in pixel units; one value stands for all channels.
        std: Standard deviation of each channel, in pixel units; one value stands for all channels.
        size: (height, width) fed to the model; None leaves the size of the picture alone.
        resize: What is done before a centre crop to ``size``: an int scales the shorter side to it,
            (height, width) scales to exactly that; None scales straight to ``size`` without a crop,
            which changes the aspect ratio of pictures that are not of that shape.
        interpolation: One of ``INTERPOLATIONS``; all but "nearest" are antialiased.
        channels: 3 (RGB) or 1 (grey).

    Raises:
        ValueError: A length, size, channel count or interpolation that makes no sense, or std <= 0.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    channels: int = 3

    def __post_init__(self) -> None:
        """Expand single statistics to all channels and refuse what makes no sense."""
        if isinstance(self.channels, Tensor) or self.channels not in (1, 3):
            raise ValueError(f"Preprocessing: channels must be 1 or 3, got {self.channels}")
        for name in ("mean", "std"):
            given = getattr(self, name)
            try:
                values = tuple(float(v) for v in given)
            except (TypeError, ValueError, RuntimeError) as error:
                raise ValueError(
                    f"Preprocessing: {name} must be a sequence of numbers, got {given!r}"
                ) from error
            if len(values) == 1:
                values *= self.channels
            if len(values) != self.channels:
                raise ValueError(
                    f"Preprocessing: {name} must have 1 or {self.channels} values, "
                    f"got {len(values)}"
                )
            if not all(math.isfinite(v) for v in values):
                raise ValueError(f"Preprocessing: {name} must be finite, got {values}")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise ValueError(f"Preprocessing: std must be positive, got {self.std}")
        if self.size is not None:
            object.__setattr__(self, "size", _height_width("size", self.size))
        if isinstance(self.resize, int):
            if self.resize < 1:
                raise ValueError(f"Preprocessing: resize must be positive, got {self.resize}")
        elif self.resize is not None:
            object.__setattr__(self, "resize", _height_width("resize", self.resize))
        if not is_one_of(self.interpolation, INTERPOLATIONS):
            raise ValueError(
                f"Preprocessing: interpolation must be one of {', '.join(INTERPOLATIONS)}, "
                f"got {self.interpolation!r}"
            )

    @property
    def scale(self) -> Tensor:
        """Tensor [C] float64, 1 / std."""
        return torch.tensor([1.0 / s for s in self.std], dtype=torch.float64)

    @property
    def shift(self) -> Tensor:
        """Tensor [C] float64, -mean / std."""
        return torch.tensor(
            [-m / s for m, s in zip(self.mean, self.std, strict=True)], dtype=torch.float64
        )

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels [..., C, H, W] in [0, 1] to model inputs of the same shape, dtype and device."""
        self._check("normalise", pixels)
        return (pixels - self._per_channel(self.mean, pixels)) / self._per_channel(self.std, pixels)

    def to_pixels(self, x: Tensor) -> Tensor:
        """Model inputs [..., C, H, W] back to pixels: the inverse of ``normalise``, no clamp."""
        self._check("to_pixels", x)
        return x * self._per_channel(self.std, x) + self._per_channel(self.mean, x)

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values for JSON."""
        return asdict(self)

    def _check(self, caller: str, x: Tensor) -> None:
        if not x.is_floating_point():
            raise ValueError(
                f"Preprocessing.{caller}: tensor must be floating point in [0, 1] units, "
                f"got {x.dtype}; divide integer pixels by 255 first"
            )
        if x.ndim < 3 or x.shape[-3] != self.channels:
            raise ValueError(
                f"Preprocessing.{caller}: tensor must be [..., {self.channels}, H, W], "
                f"got shape {tuple(x.shape)}"
            )

    @staticmethod
    def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def _height_width(name: str, value: tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = (int(v) for v in value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        height = width = 0
    if min(height, width) < 1:
        raise ValueError(f"Preprocessing: {name} must be (height, width) >= 1, got {value!r}")
    return height, width

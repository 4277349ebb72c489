"""Pictures of one object on a textured background, made from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError
from .draws import Draws, check_extents, widened
from .examples import Examples
from .shapes import REACH, SHAPES, STRAY, Shape

CLASS_NAMES = (*SHAPES, "nothing")
SIDE = 64
LEAST_SIDE = 24

# Lengths in shorter sides, frequencies in cycles over one, light and colours in [0, 1].
_RADIUS = (0.13, 0.21)
_WAVES, _CYCLES, _HEIGHT = 8, (0.7, 6.0), 0.2
_PATCHES, _PATCH, _FINE = 2, (0.1, 0.22), (7.0, 12.0)
_BRIGHT, _SLANT, _NOISE = (0.75, 1.1), 0.35, 0.03
# Two colours of an object are at least so far apart in each channel.
_CONTRAST = 0.4
# Places that are tried for a second object, of which it takes the one furthest from the first.
_TRIED = 8


@dataclass(frozen=True)
class _Placed:
    """Where shapes lie: middles [B], radii [B], and the angles [B] that they are turned by."""

    x: Tensor
    y: Tensor
    radius: Tensor
    angle: Tensor


def make_pictures(
    count: int, seed: int, size: int | tuple[int, int] = SIDE, *, strays: float = 0.0
) -> Examples:
    """Pictures with one object each, whose kind is their class.

    An object is one of SHAPES in two colours of its own, anywhere, of any angle; it takes 1 to 14 %
    of a square picture. Behind it are waves, and patches of finer waves, which are decoys. Light
    falls on everything from some side, and everything has a little noise. Colours say nothing about
    the class.

    Args:
        count: how many; classes are in equal shares.
        seed: of everything. Another seed gives other pictures of the same kind.
        size: side, or height and width, in pixels, at least 24.
        strays: how many of the pictures have a second object too, from 0 to 1: a half disc, which
            is of no class. It is a decoy, and in `without`; the first object may cover some of it.

    Returns:
        Examples: inputs [count, 3, H, W] in [0, 1], masks [count, 1, H, W].

    Raises:
        ValueError: an argument that does not fit, naming it.
    """
    height, width = (size, size) if isinstance(size, int) else size
    draws = Draws("make_pictures", count, seed)
    if not 0 <= strays <= 1:
        raise ArgumentError(f"make_pictures: strays must be from 0 to 1, got {strays!r}")
    check_extents("make_pictures", "size", (height, width), LEAST_SIDE)
    y, x = _grid(height, width)
    labels = draws.labels(len(SHAPES))
    ground = _waves(draws, x, y)
    ground, decoys = _patched(draws, ground, x, y)
    place = _placed(draws, height, width)
    if strays > 0:
        second = _away_from(place, [_placed(draws, height, width) for _ in range(_TRIED)])
        with_stray, there = _painted(draws, ground, [STRAY], 0 * labels, second, x, y)
        there = there & widened(draws.between(0, 1, 1) < strays, 2)
        ground, decoys = torch.where(there, with_stray, ground), decoys | there
    whole, masks = _painted(draws, ground, list(SHAPES.values()), labels, place, x, y)
    light = _light(draws, x, y)
    noise = _NOISE * draws.normal(3, height, width)
    inputs, without = ((light * scene + noise).clamp(0, 1) for scene in (whole, ground))
    return Examples(inputs, labels, masks, without, decoys & ~masks)


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Middles of pixels, in shorter sides: [H, 1] and [1, W]."""
    side = min(height, width)
    down = (torch.arange(height) + 0.5) / side
    right = (torch.arange(width) + 0.5) / side
    return down[:, None], right[None]


def _waves(draws: Draws, x: Tensor, y: Tensor) -> Tensor:
    """Plane waves of all directions around a colour, the longer the higher: [B, 3, H, W]."""
    found = widened(draws.between(0.3, 0.7, 3), 2).expand(
        -1, -1, *torch.broadcast_shapes(x.shape, y.shape)
    )
    lowest, highest = (math.log(cycles) for cycles in _CYCLES)
    for _ in range(_WAVES):
        cycles = draws.between(lowest, highest).exp()
        colour = draws.between(-1, 1, 3) * _HEIGHT / (1 + cycles[:, None]).sqrt()
        found = found + widened(colour, 2) * _wave(draws, cycles, x, y)[:, None]
    return found


def _wave(draws: Draws, cycles: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """[B, H, W] from -1 to 1, of random directions and phases."""
    angle, phase = draws.between(0, 2 * math.pi), draws.between(0, 2 * math.pi)
    along_x, along_y = (
        widened(2 * math.pi * cycles * part, 2) for part in (angle.cos(), angle.sin())
    )
    return (along_x * x + along_y * y + widened(phase, 2)).sin()


def _patched(draws: Draws, ground: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """With soft patches of another colour and a finer wave, and where these are, [B, 1, H, W]."""
    high, wide = float(y.max()), float(x.max())
    there = torch.zeros(draws.count, 1, *ground.shape[2:], dtype=torch.bool)
    for _ in range(_PATCHES):
        radius = widened(draws.between(*_PATCH), 2)
        middle_x, middle_y = widened(draws.between(0, wide), 2), widened(draws.between(0, high), 2)
        away = ((x - middle_x).square() + (y - middle_y).square()) / radius.square()
        share = (-away.square()).exp()[:, None]
        colour = widened(draws.between(0.1, 0.9, 3), 2)
        grain = widened(draws.between(-0.25, 0.25, 3), 2)
        fine = _wave(draws, draws.between(*_FINE), x, y)[:, None]
        ground = torch.lerp(ground, colour + grain * fine, 0.8 * share)
        there = there | (share > 0.5)
    return ground, there


def _placed(draws: Draws, height: int, width: int) -> _Placed:
    """Anywhere within the picture."""
    side = min(height, width)
    radius = draws.between(*_RADIUS)
    right, down = (
        REACH * radius + draws.between(0, 1) * (extent / side - 2 * REACH * radius)
        for extent in (width, height)
    )
    return _Placed(right, down, radius, draws.between(0, 2 * math.pi))


def _away_from(first: _Placed, tried: list[_Placed]) -> _Placed:
    """Of each, the one whose middle is furthest from the first's."""
    apart = torch.stack([(t.x - first.x).square() + (t.y - first.y).square() for t in tried])
    best = apart.argmax(0)[None]

    def chosen(numbers: list[Tensor]) -> Tensor:
        return torch.stack(numbers).gather(0, best)[0]

    return _Placed(
        chosen([t.x for t in tried]),
        chosen([t.y for t in tried]),
        chosen([t.radius for t in tried]),
        chosen([t.angle for t in tried]),
    )


def _painted(
    draws: Draws, ground: Tensor, shapes: list[Shape], kinds: Tensor, place: _Placed,
    x: Tensor, y: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """With a shape of each kind [B] on the ground, and where it is, bool [B, 1, H, W]."""
    cos, sin = widened(place.angle.cos(), 2), widened(place.angle.sin(), 2)
    right, down = x - widened(place.x, 2), y - widened(place.y, 2)
    u = (cos * right + sin * down) / widened(place.radius, 2)
    v = (cos * down - sin * right) / widened(place.radius, 2)
    texture, inside = torch.empty_like(u), torch.empty(u.shape, dtype=torch.bool)
    for kind, shape in enumerate(shapes):
        rows = kinds == kind
        texture[rows], inside[rows] = (
            shape.texture(u[rows], v[rows]),
            shape.inside(u[rows], v[rows]),
        )
    first = draws.between(0.05, 0.95, 3)
    # Away from the first in every channel, to the side where there is more room.
    second = first + torch.where(first < 0.5, 1.0, -1.0) * draws.between(_CONTRAST, 0.5, 3)
    colours = torch.lerp(widened(first, 2), widened(second, 2), texture[:, None])
    return torch.where(inside[:, None], colours, ground), inside[:, None]


def _light(draws: Draws, x: Tensor, y: Tensor) -> Tensor:
    """[B, 1, H, W], brighter at one side."""
    angle, bright = draws.between(0, 2 * math.pi), widened(draws.between(*_BRIGHT), 2)
    slant = _SLANT * (widened(angle.cos(), 2) * (x - 0.5) + widened(angle.sin(), 2) * (y - 0.5))
    return (bright * (1 + slant))[:, None]

"""Flat shapes with a texture each, as functions of the plane."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Plane = Callable[[Tensor, Tensor], Tensor]

# No shape reaches further from its middle, in radii.
REACH = 1.14

_SQUARE, _RING, _ARM, _LONG = 0.8, 0.5, 0.34, 1.0


@dataclass(frozen=True)
class Shape:
    """A shape around (0, 0) that reaches about 1 from there.

    Attributes:
        inside: of u and v, which are of one shape: which of these points are within it, bool.
        texture: how much of the second of its two colours is there, from 0 to 1.
        area: of it.
    """

    inside: Plane
    texture: Plane
    area: float


def _disc(u: Tensor, v: Tensor) -> Tensor:
    return u.square() + v.square() <= 1


def _square(u: Tensor, v: Tensor) -> Tensor:
    return (u.abs() <= _SQUARE) & (v.abs() <= _SQUARE)


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    # Half planes, half a radius from the middle, of an equilateral one.
    slope = math.sqrt(3) / 2
    return (v <= 0.5) & (slope * u - 0.5 * v <= 0.5) & (-slope * u - 0.5 * v <= 0.5)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    across = (u.abs() <= _LONG) & (v.abs() <= _ARM)
    return across | ((v.abs() <= _LONG) & (u.abs() <= _ARM))


def _ring(u: Tensor, v: Tensor) -> Tensor:
    away = u.square() + v.square()
    return (away <= 1) & (away >= _RING**2)


def _half_disc(u: Tensor, v: Tensor) -> Tensor:
    return _disc(u, v) & (u >= 0)


def _dots(u: Tensor, v: Tensor) -> Tensor:
    return 0.5 + 0.5 * (8 * u).cos() * (8 * v).cos()


def _checks(u: Tensor, v: Tensor) -> Tensor:
    return ((2.5 * u).floor() + (2.5 * v).floor()) % 2


def _stripes(u: Tensor, v: Tensor) -> Tensor:
    return 0.5 + 0.5 * (10 * v).sin()


def _quarters(u: Tensor, v: Tensor) -> Tensor:
    return (u * v > 0).to(u.dtype)


def _spokes(u: Tensor, v: Tensor) -> Tensor:
    # v may be far from the shape, and (0, 0) is not within it.
    return 0.5 + 0.5 * (8 * v.atan2(u)).cos()


def _plain(u: Tensor, v: Tensor) -> Tensor:
    return 0 * u + 0.5


SHAPES = {
    "disc": Shape(_disc, _dots, math.pi),
    "square": Shape(_square, _checks, 4 * _SQUARE**2),
    "triangle": Shape(_triangle, _stripes, 3 * math.sqrt(3) / 4),
    "cross": Shape(_cross, _quarters, 8 * _ARM * _LONG - 4 * _ARM**2),
    "ring": Shape(_ring, _spokes, math.pi * (1 - _RING**2)),
}
# Of no class.
STRAY = Shape(_half_disc, _plain, math.pi / 2)

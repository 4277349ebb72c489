"""Nodes and weights of the integral over a path's parameter from 0 to 1."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError, is_one_of


def _riemann_left(n: int) -> tuple[Tensor, Tensor]:
    return torch.arange(n, dtype=torch.float64) / n, torch.full((n,), 1 / n, dtype=torch.float64)


def _riemann_right(n: int) -> tuple[Tensor, Tensor]:
    return torch.arange(1, n + 1, dtype=torch.float64) / n, _riemann_left(n)[1]


def _riemann_middle(n: int) -> tuple[Tensor, Tensor]:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n, _riemann_left(n)[1]


def _trapezoid(n: int) -> tuple[Tensor, Tensor]:
    if n == 1:
        return _riemann_middle(1)
    weights = torch.full((n,), 1 / (n - 1), dtype=torch.float64)
    weights[[0, -1]] /= 2
    return torch.linspace(0, 1, n, dtype=torch.float64), weights


def _riemann_trapezoid(n: int) -> tuple[Tensor, Tensor]:
    # captum divides by n where the trapezoid rule divides by n - 1, so its weights add up to
    # (n - 1) / n. The name keeps captum's numbers; "trapezoid" is the rule itself.
    alphas, weights = _trapezoid(n)
    return (alphas, weights * ((n - 1) / n)) if n > 1 else (alphas, weights)


def _gausslegendre(n: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(0.5 * (1.0 + nodes)), torch.from_numpy(0.5 * weights)


def _clenshaw_curtis(n: int) -> tuple[Tensor, Tensor]:
    # Waldvogel, "Fast construction of the Fejer and Clenshaw-Curtis quadrature rules" (2006): the
    # integral of the interpolation in the extrema of a Chebyshev polynomial.
    if n == 1:
        return _riemann_middle(1)
    intervals = n - 1
    k = torch.arange(n, dtype=torch.float64)
    j = torch.arange(1, intervals // 2 + 1, dtype=torch.float64)
    terms = torch.where(2 * j == intervals, 1.0, 2.0) / (4 * j * j - 1)
    weights = 1 - (terms * torch.cos(2 * torch.pi / intervals * j * k[:, None])).sum(1)
    weights[1:-1] *= 2
    # The sine keeps nodes near 0 exact; the middle and the end are what they should be.
    alphas = torch.sin(torch.pi / (2 * intervals) * k) ** 2
    alphas[-1] = 1.0
    return alphas, weights / (2 * intervals)


QUADRATURES: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "gausslegendre": _gausslegendre,
    "clenshaw_curtis": _clenshaw_curtis,
    "riemann_left": _riemann_left,
    "riemann_middle": _riemann_middle,
    "riemann_right": _riemann_right,
    "riemann_trapezoid": _riemann_trapezoid,
    "trapezoid": _trapezoid,
}


def quadrature(method: str, n_steps: int) -> tuple[Tensor, Tensor]:
    """Nodes in [0, 1] and weights of a rule, both float64 [n_steps] on the CPU, nodes ascending.

    "gausslegendre" is exact for polynomials up to degree 2 n_steps - 1 and the best choice for
    smooth models; "clenshaw_curtis" is exact up to degree n_steps - 1, has both ends, and with
    2^k + 1 nodes has those of every smaller k; "riemann_middle" is exact up to degree 1 and robust
    for jumps; "riemann_left", "riemann_right", "riemann_trapezoid" are captum's, to its numbers;
    "trapezoid" is normalised.
    """
    check_quadrature(method, n_steps)
    return QUADRATURES[method](operator.index(n_steps))


def check_quadrature(method: str, n_steps: int, name: str = "n_steps") -> None:
    """Raises ArgumentError; `name` is what the caller calls the number of steps."""
    if not is_one_of(method, QUADRATURES):
        raise ArgumentError(
            f"quadrature: method must be one of {', '.join(QUADRATURES)}, got {method!r}"
        )
    try:
        valid = not isinstance(n_steps, bool) and operator.index(n_steps) >= 1
    except TypeError:
        valid = False
    if not valid:
        raise ArgumentError(f"attribute: {name} must be an integer >= 1, got {n_steps!r}")


DEFAULT_RULE = "gausslegendre"


def check_rule_left_alone(path: str, method: str, own: str) -> None:
    """Raises for a rule that was asked of a path that has its own argument for it."""
    if method != DEFAULT_RULE:
        raise ArgumentError(
            f"attribute: method must be left alone with {path}, which has {own}, got {method!r}"
        )

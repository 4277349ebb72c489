"""Random paths on which every feature goes from baseline to input at a pace of its own."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError, is_one_of
from ..models.input_numbers import numbers_of
from ..models.preprocessing import Affine
from ..reference.path import memory_format_of
from .aggregation import check_aggregate
from .many_paths import ManyPathsTrace, Piece
from .quadrature import check_quadrature, check_rule_left_alone
from .refining_paths import NODES_OF_A_STEP, RefiningPaths

RULES = {"middle": 0.5, "left": 0.0, "right": 1.0}
DEFAULT_RULE = "middle"
# Of the random numbers; far from those of SmoothGrad, which count from 0, and of the gradients.
FIRST_STREAM = 2**13


class StickBreaking:
    """Paths whose progress, feature by feature, is a Dirichlet process: sticks broken off a unit.

    Jeon, Jeong and Choi, "Beyond Single Path Integrated Gradients for Reliable Input Attribution
    via Randomized Path Sampling" (2023): stick-breaking path integration, SPI. With F(t) ~
    Beta(alpha t, alpha (1 - t)) for every feature, ``gamma(t) = baseline + F(t) (input -
    baseline)``. Increments are drawn again where gradients are contracted, so that memory does not
    grow with the paths; see `pyxai_fast.ops.dirichlet_points`.

    Args:
        alpha: concentration. Large: paths close to the straight line. Small: few large jumps.
        n_paths: paths for each input; each has n_steps points.
        per: "feature", or "pixel", where the channels of a pixel go together.
        aggregate: of the paths' attributions: "mean", with which they add up to the difference of
            the scores; "median" (holds the maps of all paths), "variance" (weighted by the inverse
            of each map's variance), "probability" (SPI-P: of being among the top 5 % of features).
        rule: where in a step its point lies. "middle" is exact for quadratic scores on every path;
            "left" and "right" are off by half the curvature times the squared jumps, and serve to
            compare with figures that were published with them.
        seed: of the paths. A path depends on it, on the input's number and on the path's.
        numbers: of the inputs: those with the same number have the same paths in every batch. 0, 1,
            ... by default.
    """

    def __init__(
        self,
        alpha: float = 10.0,
        n_paths: int = 50,
        per: Literal["feature", "pixel"] = "feature",
        aggregate: str = "mean",
        rule: str = DEFAULT_RULE,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> None:
        number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
        if not number or not 0 < alpha < math.inf:
            raise ArgumentError(f"StickBreaking: alpha must be a number > 0, got {alpha!r}")
        try:
            valid = not isinstance(n_paths, bool) and operator.index(n_paths) >= 1
        except TypeError:
            valid = False
        if not valid:
            raise ArgumentError(f"StickBreaking: n_paths must be an integer >= 1, got {n_paths!r}")
        if not is_one_of(per, ("feature", "pixel")):
            raise ArgumentError(f"StickBreaking: per must be 'feature' or 'pixel', got {per!r}")
        if not is_one_of(rule, RULES):
            raise ArgumentError(
                f"StickBreaking: rule must be one of {', '.join(RULES)}, got {rule!r}"
            )
        check_aggregate("StickBreaking", aggregate)
        self.alpha, self.n_paths, self.per = float(alpha), operator.index(n_paths), per
        self.aggregate, self.rule, self.seed = aggregate, rule, seed
        self.numbers = numbers

    def __repr__(self) -> str:
        return (
            f"StickBreaking(alpha={self.alpha:g}, n_paths={self.n_paths}, per={self.per!r}, "
            f"aggregate={self.aggregate!r}, rule={self.rule!r}, seed={self.seed})"
        )

    @property
    def complete(self) -> bool:
        return self.aggregate == "mean"

    def start(self, inputs: Tensor, baselines: Tensor) -> Tensor:
        return baselines

    def trace(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        method: str,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> StickBreakingTrace:
        check_quadrature(method, n_steps)
        check_rule_left_alone("StickBreaking", method, "rule=...")
        trace = StickBreakingTrace(inputs, baselines, n_steps, self, affine, stream)
        trace.numbers = numbers_of("StickBreaking", self.numbers, len(inputs)).to(inputs.device)
        return trace

    def rules(self, n_steps: int) -> list[int]:
        if self.rule != DEFAULT_RULE:
            raise ArgumentError(
                f"StickBreaking: rule must be {DEFAULT_RULE!r} with a tolerance, which has rules "
                f"of its own, got {self.rule!r}"
            )
        return [self.n_paths * n_steps * nodes for nodes in NODES_OF_A_STEP]

    def refining(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        level: int,
        examples: Tensor,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> RefiningPaths:
        trace = StickBreakingTrace(inputs, baselines, n_steps, self, affine, stream)
        if self.numbers is None:
            trace.numbers = examples
        else:
            trace.numbers = torch.tensor(self.numbers, device=examples.device)[examples]
        return RefiningPaths(trace, level)


class StickBreakingTrace(ManyPathsTrace):
    def __init__(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        law: StickBreaking,
        affine: Affine | None,
        stream: int,
    ) -> None:
        super().__init__(inputs, baselines, n_steps, law.n_paths, law.aggregate, affine)
        self.law = law
        self.key = ops.random_key(law.seed, FIRST_STREAM + stream, device=inputs.device)
        self.numbers = torch.arange(inputs.shape[0], device=inputs.device)

    def _of_piece(self, piece: Piece, examples: slice) -> dict[str, Any]:
        return {
            "concentration": self.law.alpha,
            "n_steps": self.n_steps,
            "first_step": piece.steps.start,
            "count": piece.steps.stop - piece.steps.start,
            "first_path": piece.path,
            "per": self.law.per,
            "examples": self.numbers[examples],
        }

    def write_points(
        self, piece: Piece, examples: slice, out: Tensor, position: float | None = None
    ) -> None:
        ops.dirichlet_points(
            self.inputs[examples],
            self.starts(examples),
            self.key,
            position=RULES[self.law.rule] if position is None else position,
            scale=self.scale,
            shift=self.shift,
            out=out,
            **self._of_piece(piece, examples),
        )

    def add_slopes(self, piece: Piece, grads: Tensor, examples: slice, total: Tensor) -> None:
        # The sums of one of several targets do not lie together.
        together = total.is_contiguous(memory_format=memory_format_of(total))
        sums = total if together else total.contiguous()
        ops.dirichlet_accumulate(grads, self.key, total=sums, **self._of_piece(piece, examples))
        if sums is not total:
            total.copy_(sums)

    def add_squares(self, piece: Piece, variances: Tensor, examples: slice, total: Tensor) -> None:
        # The way from 0 to 1, in float64, shows the progress itself.
        unit = torch.ones(1, dtype=torch.float64, device=total.device).expand(total.shape)
        begin, end = (
            ops.dirichlet_points(
                unit, 0.0, self.key, position=place, **self._of_piece(piece, examples)
            )
            for place in (0.0, 1.0)
        )
        squares = (end - begin).square_().mul_(variances).unflatten(0, (-1, total.shape[0]))
        # What is multiplied by zero is known, however little its slope is.
        for square in squares:
            total += square.nan_to_num_(nan=0.0, posinf=math.inf)

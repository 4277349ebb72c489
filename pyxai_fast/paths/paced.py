"""Paths given by the pace of each feature: as tokens of a path model, or drawn from one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.preprocessing import Affine
from ..path_models.codec import Codec
from ..path_models.config import PathModelConfig
from ..path_models.pace import progress_of
from ..reference.path import by_channel, compute_dtype
from .many_paths import ManyPathsTrace, Piece
from .quadrature import check_quadrature, check_rule_left_alone


class GivenPaths:
    """Paths with given tokens, in the space of a codec: what guides learn from.

    Args:
        tokens: [N, B, T, P] of N paths for each example; see `pyxai_fast.path_models.pace`.
        config: what tokens mean.
        codec: the space that paths lie in.
        aggregate: of the paths' attributions, as for StickBreaking.
    """

    has_mean_slope = False

    def __init__(
        self, tokens: Tensor, config: PathModelConfig, codec: Codec, aggregate: str = "mean"
    ) -> None:
        self.tokens, self.config, self.codec, self.aggregate = tokens, config, codec, aggregate
        self.n_paths, self.complete = tokens.shape[0], aggregate == "mean"

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
    ) -> PacedTrace:
        check_paced("GivenPaths", self.config, inputs, n_steps, method, stream)
        trace = PacedTrace(
            inputs,
            baselines,
            n_steps,
            self.n_paths,
            self.config,
            self.codec,
            self.aggregate,
            affine,
        )
        trace.tokens = self.tokens.to(inputs.device)
        return trace


def check_paced(
    name: str, config: PathModelConfig, inputs: Tensor, n_steps: int, method: str, stream: int
) -> None:
    check_quadrature(method, n_steps)
    check_rule_left_alone(name, method, "midpoints between its own points")
    if stream > 0:
        raise ArgumentError(f"{name}: inputs must be one tensor, got a tuple of several")
    if n_steps < config.points:
        raise ArgumentError(
            f"attribute: n_steps must be at least the path model's {config.points} with {name}, "
            f"got {n_steps}"
        )


class PacedTrace(ManyPathsTrace):
    """Paths of T + 1 decoded points each, whose ends are the baseline and the input themselves.

    Between points a path is straight. Steps cut it into n_steps pieces of equal share, a gradient
    is taken in the middle of each, and counts times the way from one end of the piece to the other:

        A_i = sum_m ds/dx_i((p_m + p_{m+1}) / 2) (p_{m+1} - p_m)_i

    What is kept of a path are its tokens: points are decoded for the steps that are asked for.

    Attributes:
        codes, first_codes: of the inputs [B, *shape] and the baselines [1 or B, *shape].
        tokens: of the paths, [N, B, T, P], to be set before points are asked for.
    """

    tokens: Tensor

    def __init__(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        n_paths: int,
        config: PathModelConfig,
        codec: Codec,
        aggregate: str,
        affine: Affine | None,
    ) -> None:
        super().__init__(inputs, baselines, n_steps, n_paths, aggregate, affine)
        self.config, self.codec = config, codec
        dtype = compute_dtype(inputs.dtype)
        common = (1, *inputs.shape[1:])
        self.begin = (baselines.expand(common) if baselines.dim() == 0 else baselines).to(dtype)
        self.end = inputs.to(dtype)
        self.codes = codec.encode(self.end)
        self.first_codes = codec.encode(self.begin)
        if tuple(self.codes.shape[1:]) != tuple(config.shape):
            raise ArgumentError(
                f"DiffusionPaths: inputs must have codes of the path model's shape, "
                f"{list(config.shape)}, got {list(self.codes.shape[1:])}"
            )
        self._last: tuple[Piece, slice, Tensor] | None = None

    def knots(self, path: int, examples: slice, first: int, last: int) -> Tensor:
        """Points first to last of the T + 1 of a path, decoded, [last - first + 1, E, ...]."""
        end = self.end[examples]
        start = self._of(self.begin, examples)
        steps, rows = self.config.points, len(end)
        progress = progress_of(self.tokens[path, examples].to(end), self.config.spread)
        code, origin = self.codes[examples], self._of(self.first_codes, examples)
        inner = [k for k in range(first, last + 1) if 0 < k < steps]
        points = end.new_empty((last - first + 1, *end.shape))
        if inner:
            at = progress[:, inner].transpose(0, 1).flatten(0, 1)
            paces = self.config.over_code(at).unflatten(0, (len(inner), rows))
            codes = origin + paces * (code - origin)
            decoded = self.codec.decode(codes.flatten(0, 1)).to(end)
            points[inner[0] - first : inner[-1] - first + 1] = decoded.reshape(-1, *end.shape)
        if first == 0:
            points[0] = start
        if last == steps:
            points[-1] = end
        return points

    def path_points(self, piece: Piece, examples: slice) -> Tensor:
        """The ends of a piece's steps, [S + 1, E, ...], in the caller's units."""
        total, points = self.n_steps, self.config.points
        # Step s ends at knot s * points / total: in whole numbers, so that ends are met exactly.
        cuts = [s * points for s in range(piece.steps.start, piece.steps.stop + 1)]
        below = [min(cut // total, points - 1) for cut in cuts]
        share = [(cut - k * total) / total for cut, k in zip(cuts, below, strict=True)]
        knots = self.knots(piece.path, examples, below[0], below[-1] + 1)
        index = torch.tensor([k - below[0] for k in below], device=knots.device)
        weight = torch.tensor(share, dtype=knots.dtype, device=knots.device)
        weight = weight.reshape(-1, *[1] * (knots.dim() - 1))
        return knots[index] * (1 - weight) + knots[index + 1] * weight

    def write_points(
        self, piece: Piece, examples: slice, out: Tensor, position: float | None = None
    ) -> None:
        ends = self.path_points(piece, examples)
        self._last = piece, examples, ends
        share = 0.5 if position is None else position
        points = (ends[:-1] * (1 - share) + ends[1:] * share).flatten(0, 1)
        if self.scale is not None and self.shift is not None:
            points = points * by_channel(self.scale, points, points.dtype)
            points += by_channel(self.shift, points, points.dtype)
        out.copy_(points)

    def add_slopes(self, piece: Piece, grads: Tensor, examples: slice, total: Tensor) -> None:
        ways = self._ways(piece, examples)
        for slope, way in zip(grads.reshape(ways.shape), ways, strict=True):
            total += slope.double() * way.double()

    def add_squares(self, piece: Piece, variances: Tensor, examples: slice, total: Tensor) -> None:
        ways = self._ways(piece, examples)
        for variance, way in zip(variances.reshape(ways.shape), ways, strict=True):
            total += variance.double() * way.double().square()

    def _ways(self, piece: Piece, examples: slice) -> Tensor:
        # A chunk of one piece has its points still; more of them would be a chunk's worth each.
        if self._last is None or self._last[:2] != (piece, examples):
            return self.path_points(piece, examples).diff(dim=0)
        return self._last[2].diff(dim=0)

    def way(self, examples: slice) -> Tensor:
        """Slopes were multiplied by the way already, but for the affine map's part in it."""
        inputs = self.inputs[examples]
        ones = torch.ones_like(inputs, dtype=torch.float64)
        return ones if self.scale is None else ones * by_channel(self.scale, inputs, torch.float64)

    @staticmethod
    def _of(rows: Tensor, examples: slice) -> Tensor:
        return rows[examples] if rows.shape[0] > 1 else rows

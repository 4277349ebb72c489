"""Geometrically guided Integrated Gradients: climb from every point, keep the greatest slope."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from ..gradients import Gradient, Slopes
from ..models.preprocessing import Preprocessing
from ..models.score import ForwardFunc, Score
from ..paths import Trace
from ..paths.climbing_points import ClimbingPoints
from ..reference.path import compute_dtype
from ..runtime.chunks import Chunk, length
from ..runtime.cost import Cost
from ..runtime.inference import outside_inference_mode
from .attribution import AttributionMethod, Recipe
from .loop import LoopOptions, Run, contract

SELECTIONS = ("max", "absmax")


@dataclass(frozen=True)
class Climb:
    """How points climb, and what is kept of their gradients.

    Attributes:
        n_ascent: gradients taken at and above each point.
        step_size: of a move, in the caller's units.
        select: "max" or "absmax".
        normalised: moves are of length step_size, whatever the gradient's.
    """

    n_ascent: int
    step_size: float
    select: str
    normalised: bool


class GeometricallyGuidedIG(AttributionMethod):
    """The greatest gradient of each feature, met on climbs of the score from a straight path.

    From each of the points ``x' + k / n (x - x')`` gradient ascent of m steps sets out, and

    ``attribution_i = max over k and j of ds/dz_i (z_kj)``,
    ``z_k,j+1 = z_kj + step_size * ds/dz (z_kj)``.

    "Geometrically Guided Integrated Gradients" (2022). The points climb side by side, as many as
    fit, rather than one after the other. There is no completeness: attributions are slopes, and the
    greatest that were met, not their mean. With n_ascent=1 nothing climbs, and it is the maximum of
    the gradients of Integrated Gradients.

    Args:
        forward_func, gradient, memory_format, output, select_output, preprocessing: see
            AttributionMethod.
        multiply_by_inputs: whether slopes are multiplied by (x - x').
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        multiply_by_inputs: bool = False,
        *,
        gradient: Gradient | None = None,
        memory_format: str = "auto",
        output: str = "logit",
        select_output: Callable[[Any], Tensor] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(
            forward_func,
            gradient=gradient,
            memory_format=memory_format,
            output=output,
            select_output=select_output,
            preprocessing=preprocessing,
        )
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs

    def has_standard_error(self) -> bool:
        return False

    def check_call(
        self,
        n_steps: int = 50,
        n_ascent: int = 20,
        step_size: float = 1e-4,
        select: str = "max",
        normalised: bool = False,
        first_point: int = 0,
        **options: Any,
    ) -> None:
        for name, value, least in (("n_steps", n_steps, 1), ("n_ascent", n_ascent, 1)):
            if not _whole(value) or value < least:
                raise ArgumentError(
                    f"attribute: {name} must be an integer >= {least}, got {value!r}"
                )
        if not _whole(first_point) or not 0 <= first_point <= n_steps:
            raise ArgumentError(
                f"attribute: first_point must be an integer from 0 to n_steps, got {first_point!r}"
            )
        if not isinstance(step_size, (int, float)) or not step_size >= 0:
            raise ArgumentError(f"attribute: step_size must be a number >= 0, got {step_size!r}")
        if select not in SELECTIONS:
            raise ArgumentError(
                f"attribute: select must be one of {', '.join(SELECTIONS)}, got {select!r}"
            )

    def steps_of(
        self, n_steps: int = 50, n_ascent: int = 20, first_point: int = 0, **options: Any
    ) -> int:
        return (n_steps + 1 - first_point) * n_ascent

    @outside_inference_mode
    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        n_ascent: int = 20,
        step_size: float = 1e-4,
        select: str = "max",
        normalised: bool = False,
        first_point: int = 0,
        *,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
        return_standard_error: bool = False,
        cost: Cost | None = None,
    ) -> Any:
        """Slopes shaped as the inputs, in the caller's units.

        Args:
            n_steps: n: there are n + 1 points, both ends among them.
            n_ascent: m, gradients for each point: the first at the point itself.
            step_size: of a move, times the gradient: in the units of the inputs, squared, to that
                of the score. 1e-4 is the paper's for MNIST.
            select: "max", the greatest, so that what is negative everywhere shows its least
                negative slope; "absmax" the one of the greatest magnitude, with its sign.
            normalised: gradients are scaled to length 1 before a move, so that step_size is the
                distance that a point moves, whatever the scale of the score.
            first_point: k of the first point. 1 leaves out the baseline, which speaks of the
                classes as such, and not of the input.
            return_standard_error: must be False: the maximum of estimates has none that is known.
            inputs, baselines, target, additional_forward_args, internal_batch_size, show_progress,
                cost: as in IntegratedGradients.attribute.

        Raises:
            TypeError, ValueError: naming the argument, what it must be and what it is.
        """
        self.check_call(n_steps, n_ascent, step_size, select, normalised, first_point)
        if return_standard_error:
            raise ArgumentError(
                "attribute: return_standard_error must be False for a maximum, got True"
            )
        climb = Climb(n_ascent, float(step_size), select, normalised)
        attributions, _ = self._attribute(
            inputs,
            baselines,
            target,
            additional_forward_args,
            Recipe(
                ClimbingPoints(first_point),
                n_steps + 1 - first_point,
                "riemann_left",
                self._multiply_by_inputs,
            ),
            LoopOptions(internal_batch_size, self.memory_format, False, show_progress, False),
            Cost() if cost is None else cost,
            loop=functools.partial(contract, run=functools.partial(ClimbingRun, climb)),
        )
        return attributions


class ClimbingRun(Run):
    """Chunks of points climb together; of each chunk the greatest gradients are taken over."""

    def __init__(
        self,
        climb: Climb,
        score: Score,
        gradient: Gradient,
        inputs: tuple[Tensor, ...],
        traces: tuple[Trace, ...],
        memory_format: torch.memory_format,
        options: LoopOptions,
    ) -> None:
        self.climb = climb
        super().__init__(score, gradient, inputs, traces, memory_format, options)
        if score.several:
            raise ArgumentError(
                "GeometricallyGuidedIG: target must be one class for each input, got Targets: "
                "points climb one score"
            )

    @property
    def repeats(self) -> int:
        return self.climb.n_ascent

    def _zeros(self) -> list[Tensor]:
        start = 0.0 if self.climb.select == "absmax" else -torch.inf
        return [
            torch.full_like(x, start, dtype=compute_dtype(x.dtype), memory_format=f)
            for x, f in zip(self.inputs, self.formats, strict=True)
        ]

    def __call__(self, chunk: Chunk) -> None:
        absolute = self.climb.select == "absmax"
        scales = [getattr(trace, "scale", None) for trace in self.traces]
        try:
            with torch.no_grad():
                points = tuple(self._points(i, chunk) for i in range(len(self.inputs)))
            rows = self.score.rows(chunk.examples, chunk.steps, self.traces[0].steps)
            best = [total[chunk.examples].clone() for total in self.sums]
            for _ in range(self.climb.n_ascent):
                slopes: Slopes = self.gradient(rows, points)
                sizes = self._step_sizes(slopes, scales)
                for i, grad in enumerate(slopes.values):
                    like = grad.to(points[i].dtype).contiguous(memory_format=self.formats[i])
                    ops.ascend_max(
                        points[i], like, sizes, best[i], scale=scales[i], absolute=absolute
                    )
        except BaseException:
            self.buffers = [None] * len(self.inputs)  # memory for the next, smaller try
            raise
        for total, found in zip(self.sums, best, strict=True):
            total[chunk.examples] = found
        self.steps_done[chunk.examples] += length(chunk.steps)

    def _step_sizes(self, slopes: Slopes, scales: list[Tensor | None]) -> Tensor | float:
        """Of each row; lengths are those of the gradients in the caller's units."""
        if not self.climb.normalised:
            return self.climb.step_size
        squares: Tensor | float = 0.0
        for grad, scale in zip(slopes.values, scales, strict=True):
            wide = grad.double()
            if scale is not None:
                wide = wide * scale.view(-1, *[1] * (grad.dim() - 2))
            squares = squares + wide.flatten(1).square().sum(1)
        assert isinstance(squares, Tensor)
        norms = squares.sqrt()
        return torch.where(norms > 0, self.climb.step_size / norms, 0.0)


def _whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)

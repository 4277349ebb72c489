"""Guided Integrated Gradients: the path keeps away from where the score is steep."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError, check_bool
from ..gradients import Gradient
from ..models.preprocessing import Affine, Preprocessing
from ..models.score import ForwardFunc, Score
from ..paths import Trace
from ..paths.guided import GuidedWalk
from ..paths.quadrature import check_quadrature
from ..paths.straight_line import StraightTrace
from ..reference.path import by_channel, compute_dtype, step_of
from ..runtime.chunks import Chunk, length
from ..runtime.cost import Cost
from ..runtime.inference import outside_inference_mode
from .arguments import input_tensors
from .attribution import as_asked
from .gradient_method import GradientMethod, Recipe
from .loop import LoopOptions, Run, contract


@dataclass(frozen=True)
class Guidance:
    """Steps of the path, and how they are chosen: see GuidedIG.attribute."""

    n_steps: int
    fraction: float
    max_dist: float


class GuidedIG(GradientMethod):
    """Integrated Gradients along a path that each input finds for itself.

    At each of n steps the features with the smallest slopes go first, near the straight line from
    baseline to input, so that the path keeps out of regions where the score is steep for reasons of
    its own. Kapishnikov, Venugopalan, Avci, Wedin, Terry and Bolukbasi, "Guided Integrated
    Gradients: an Adaptive Path Method for Removing Noise" (2021); see `paths.guided.GuidedWalk`.

    ``attribution_i = sum over steps k of ds/dx_i (x_k) * (x_k+1,i - x_k,i)``

    Attributions add up to s(x) - s(x') as far as n steps go. All inputs of a batch step together,
    with one call of the model a step for as many as memory holds. For a tuple of inputs the
    features of all tensors are ranked together. There is no `tolerance`: with other steps the path
    is another, along which the gradients of this one were not taken.

    Args:
        forward_func, gradient, memory_format, output, select_output, preprocessing: see
            GradientMethod.
        multiply_by_inputs: False gives the mean slope on the path, without the factor (x - x').
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        multiply_by_inputs: bool = True,
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
        check_bool(type(self).__name__, "multiply_by_inputs", multiply_by_inputs)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        return self.gradient.explains_score

    def has_standard_error(self) -> bool:
        return False

    def check_call(
        self,
        n_steps: int = 200,
        fraction: float = 0.25,
        max_dist: float = 0.02,
        **options: Any,
    ) -> None:
        check_quadrature("riemann_left", n_steps)
        for name, value in (("fraction", fraction), ("max_dist", max_dist)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value <= 1:
                raise ArgumentError(
                    f"attribute: {name} must be a number from 0 to 1, got {value!r}"
                )

    def steps_of(self, n_steps: int = 200, **options: Any) -> int:
        return n_steps

    @outside_inference_mode
    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 200,
        fraction: float = 0.25,
        max_dist: float = 0.02,
        *,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        show_progress: bool = False,
        return_standard_error: bool = False,
        cost: Cost | None = None,
    ) -> Any:
        """Attributions shaped as the inputs, in the caller's units.

        Args:
            n_steps: of the path, and gradients for each input.
            fraction: of the features, that moves together; those with the smallest magnitudes of
                gradient.
            max_dist: how far a feature may be ahead of the straight line or behind it, as a share
                of its way: 0 is the straight line, and Integrated Gradients with riemann_left; 1
                lets each feature go whenever it is its turn.
            return_standard_error: must be False: the path itself follows the slopes, so that what
                their errors do to the attributions is not known.
            inputs, baselines, target, additional_forward_args, internal_batch_size,
                return_convergence_delta, show_progress, cost: as in IntegratedGradients.attribute.

        Raises:
            TypeError, ValueError: naming the argument, what it must be and what it is.
        """
        self._check_delta_wanted(return_convergence_delta)
        if return_standard_error:
            raise ArgumentError(
                "attribute: return_standard_error must be False for a path that follows the "
                "slopes, got True"
            )
        self.check_call(n_steps, fraction, max_dist)
        guidance = Guidance(operator.index(n_steps), float(fraction), float(max_dist))
        self.check_budget(input_tensors(inputs, self.forward_func)[0].shape[0] * guidance.n_steps)
        cost = Cost() if cost is None else cost
        found = self._attribute(
            inputs,
            baselines,
            target,
            additional_forward_args,
            Recipe(_WholePath(), 1, "riemann_left", self._multiply_by_inputs),
            LoopOptions(internal_batch_size, self.memory_format, False, show_progress, False),
            cost,
            loop=functools.partial(
                contract,
                run=functools.partial(GuidedRun, guidance),
                repeats=guidance.n_steps,
            ),
        )
        delta = None
        if return_convergence_delta:
            delta = self._delta(
                found,
                baselines,
                inputs,
                target,
                additional_forward_args,
                internal_batch_size,
                cost,
            )
        return as_asked(found.attributions, delta)


class _WholePath:
    """One step for the loop: where the path goes is known only on the way."""

    complete = True

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
    ) -> StraightTrace:
        once = torch.zeros(1, dtype=torch.float64)
        return StraightTrace(inputs, baselines, once, once, affine)


class GuidedRun(Run):
    """The examples of a chunk go their paths together; sums are mean slopes on them.

    Positions are rows of features in the order in which the points lie in memory.
    """

    def __init__(
        self,
        guidance: Guidance,
        score: Score,
        gradient: Gradient,
        inputs: tuple[Tensor, ...],
        traces: tuple[Trace, ...],
        memory_format: torch.memory_format,
        options: LoopOptions,
    ) -> None:
        self.guidance = guidance
        super().__init__(score, gradient, inputs, traces, memory_format, options)
        if score.several:
            raise ArgumentError(
                "GuidedIG: target must be one class for each input, got Targets: the path follows "
                "the slopes of one score"
            )

    @property
    def repeats(self) -> int:
        return self.guidance.n_steps

    def __call__(self, chunk: Chunk) -> None:
        with torch.no_grad():
            means = self._mean_slopes(chunk)
        for total, found in zip(self.sums, means, strict=True):
            total[chunk.examples] = found
        self.steps_done[chunk.examples] += length(chunk.steps)

    def _mean_slopes(self, chunk: Chunk) -> list[Tensor]:
        lines = [
            _Line(trace, chunk.examples, f)
            for trace, f in zip(self.traces, self.formats, strict=True)
            if isinstance(trace, StraightTrace)
        ]
        n = self.guidance.n_steps
        ways = [line.way for line in lines]
        walk = GuidedWalk(_side_by_side(ways), n, self.guidance.fraction, self.guidance.max_dist)
        sizes = [way.shape[1] for way in ways]
        totals = [torch.zeros_like(way, dtype=torch.float64) for way in ways]
        once = torch.ones(1, dtype=torch.float64, device=ways[0].device)
        for step in range(n):
            for line, progress in zip(lines, walk.progress.split(sizes, 1), strict=True):
                line.go_to(progress)
            rows = self.score.rows(chunk.examples, slice(step, step + 1), n)
            slopes = self.gradient(rows, tuple(line.points for line in lines))
            grads = [
                line.rows(grad).to(way.dtype)
                for line, way, grad in zip(lines, ways, slopes.values, strict=True)
            ]
            in_units = [
                line.in_callers_units(grad) for line, grad in zip(lines, grads, strict=True)
            ]
            moved = walk.step(step, _side_by_side(in_units))
            for total, grad, part in zip(totals, grads, moved.split(sizes, 1), strict=True):
                ops.path_accumulate(grad * part, once, total=total)
        return [line.as_inputs(total) for line, total in zip(lines, totals, strict=True)]


class _Line:
    """The straight line of one tensor of inputs, and points beside it.

    Attributes:
        way: [E, D] from baselines to inputs, in the caller's units.
        points: [E, ...] model inputs.
    """

    def __init__(
        self, trace: StraightTrace, examples: slice, memory_format: torch.memory_format
    ) -> None:
        inputs = trace.inputs[examples]
        self.last = memory_format == torch.channels_last
        wide = compute_dtype(inputs.dtype)
        starts = trace.starts(examples).to(wide).expand(inputs.shape)
        self.way = self.rows(step_of(inputs, starts)).contiguous()
        self.scale = None
        self._model_way = self.way
        if trace.scale is not None and trace.shift is not None:
            scale = by_channel(trace.scale, inputs, wide)
            starts = starts * scale + by_channel(trace.shift, inputs, wide)
            self.scale = self.rows(scale.expand(inputs.shape)[:1])
            self._model_way = self.way * self.scale
        self._start = self.rows(starts)
        self.points = torch.empty(
            inputs.shape, dtype=inputs.dtype, device=inputs.device, memory_format=memory_format
        )

    def rows(self, values: Tensor) -> Tensor:
        """[E, ...] as [E, D], in the order of the points' memory."""
        ordered = values.permute(0, 2, 3, 1) if self.last else values
        return ordered.flatten(1) if ordered.dim() > 1 else ordered[:, None]

    def as_inputs(self, rows: Tensor) -> Tensor:
        """What `rows` has made rows."""
        if not self.last:
            return rows.reshape(self.points.shape)
        examples, channels, *sides = self.points.shape
        return rows.reshape(examples, *sides, channels).permute(0, 3, 1, 2)

    def go_to(self, progress: Tensor) -> None:
        """Points where each feature has come so far."""
        target = self.rows(self.points)
        if target.dtype == progress.dtype:
            torch.addcmul(self._start, self._model_way, progress, out=target)
        else:
            target.copy_(torch.addcmul(self._start, self._model_way, progress))

    def in_callers_units(self, grads: Tensor) -> Tensor:
        """Gradients by the model's inputs as those by the caller's."""
        return grads if self.scale is None else grads * self.scale


def _side_by_side(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

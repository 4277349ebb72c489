"""Geometrically guided Integrated Gradients: climb from every point, keep the greatest slope."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError, check_bool, is_one_of
from ..gradients import Gradient, Slopes
from ..models.preprocessing import Preprocessing
from ..models.score import ForwardFunc, RowScore, Score
from ..paths import Trace
from ..paths.climbing_points import ClimbingPoints
from ..paths.row_sums import row_sums
from ..reference.path import compute_dtype
from ..runtime.chunks import Chunk, length
from ..runtime.cost import Cost
from ..runtime.inference import outside_inference_mode
from .gradient_method import GradientMethod, Recipe
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
        early_stop: a point whose greatest gradients change by no more than this share of their
            size stays where it is from then on; 0 lets all of them climb to the end.
    """

    n_ascent: int
    step_size: float
    select: str
    normalised: bool
    early_stop: float = 0.0

    @property
    def absolute(self) -> bool:
        return self.select == "absmax"

    @property
    def start(self) -> float:
        """What every gradient is greater than."""
        return 0.0 if self.absolute else -torch.inf


class GeometricallyGuidedIG(GradientMethod):
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
            GradientMethod.
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
        check_bool(type(self).__name__, "multiply_by_inputs", multiply_by_inputs)
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
        early_stop: float = 0.0,
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
        for name, size in (("step_size", step_size), ("early_stop", early_stop)):
            number = isinstance(size, (int, float)) and not isinstance(size, bool)
            if not number or not 0 <= size < math.inf:
                raise ArgumentError(f"attribute: {name} must be a number >= 0, got {size!r}")
        check_bool("attribute", "normalised", normalised)
        if not is_one_of(select, SELECTIONS):
            raise ArgumentError(
                f"attribute: select must be one of {', '.join(SELECTIONS)}, got {select!r}"
            )

    def steps_of(
        self,
        n_steps: int = 50,
        n_ascent: int = 20,
        first_point: int = 0,
        early_stop: float = 0.0,
        **options: Any,
    ) -> int:
        # How many there are with early_stop, nobody knows: no fewer than these.
        return (n_steps + 1 - first_point) * (min(n_ascent, 2) if early_stop else n_ascent)

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
        early_stop: float = 0.0,
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
            early_stop: saves gradients: a point is climbed from no further once a step changed its
                own greatest gradients by no more than this share of their size, the sum of their
                changes over the sum of their magnitudes. A climb that would have found more behind
                a plateau is cut short, so that the map may be smaller than that of 0, which lets
                every climb take its n_ascent gradients. A network of ReLUs is all plateaus, linear
                from piece to piece: there, small steps end climbs at once.
            return_standard_error: must be False: the maximum of estimates has none that is known.
            inputs, baselines, target, additional_forward_args, internal_batch_size, show_progress,
                cost: as in IntegratedGradients.attribute.

        Raises:
            TypeError, ValueError: naming the argument, what it must be and what it is.
        """
        self.check_call(n_steps, n_ascent, step_size, select, normalised, first_point, early_stop)
        if return_standard_error:
            raise ArgumentError(
                "attribute: return_standard_error must be False for a maximum, got True"
            )
        climb = Climb(n_ascent, float(step_size), select, normalised, float(early_stop))
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
            loop=functools.partial(
                contract, run=functools.partial(ClimbingRun, climb), repeats=n_ascent
            ),
        )
        return attributions


class ClimbingRun(Run):
    """Chunks of points climb together; of each chunk the greatest gradients are taken over."""

    rounds_points = False  # climbs go on from them

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
        self.taken = float(climb.n_ascent)
        self.scales: list[Tensor | None] = [getattr(trace, "scale", None) for trace in traces]
        super().__init__(score, gradient, inputs, traces, memory_format, options)
        if score.several:
            raise ArgumentError(
                "GeometricallyGuidedIG: target must be one class for each input, got Targets: "
                "points climb one score"
            )

    @property
    def repeats(self) -> float:
        """The mean, where some points stop early."""
        return self.taken

    def _zeros(self) -> list[Tensor]:
        return [
            torch.full_like(x, self.climb.start, dtype=compute_dtype(x.dtype), memory_format=f)
            for x, f in zip(self.inputs, self.formats, strict=True)
        ]

    def __call__(self, chunk: Chunk) -> None:
        try:
            with torch.no_grad():
                points = [self._points(i, chunk) for i in range(len(self.inputs))]
            rows = self.score.rows(chunk.examples, chunk.steps, self.traces[0].steps)
            best = [total[chunk.examples].clone() for total in self.sums]
            if self.climb.early_stop:
                self._climb_until_nothing_changes(rows, points, best)
            else:
                for _ in range(self.climb.n_ascent):
                    self._step(rows, points, best)
        except BaseException:
            self.buffers = [None] * len(self.inputs)  # memory for the next, smaller try
            raise
        for total, found in zip(self.sums, best, strict=True):
            total[chunk.examples] = found
        self.steps_done[chunk.examples] += length(chunk.steps)

    def _step(self, rows: RowScore, points: list[Tensor], best: list[Tensor]) -> None:
        """Takes the gradients into `best`, of examples or of rows, and moves the points."""
        slopes: Slopes = self.gradient(rows, tuple(points))
        sizes = self._step_sizes(slopes, self.scales)
        for i, grad in enumerate(slopes.values):
            like = grad.to(points[i].dtype).contiguous(memory_format=self.formats[i])
            ops.ascend_max(
                points[i],
                like,
                sizes,
                best[i],
                scale=self.scales[i],
                absolute=self.climb.absolute,
            )

    def _climb_until_nothing_changes(
        self, rows: RowScore, points: list[Tensor], best: list[Tensor]
    ) -> None:
        """Each point climbs by itself, with greatest gradients of its own, until they stay."""
        own = [
            torch.full_like(p, self.climb.start, dtype=b.dtype)
            for p, b in zip(points, best, strict=True)
        ]
        climbing = torch.arange(len(rows), device=points[0].device)
        taken = 0
        for step in range(self.climb.n_ascent):
            before = [b[climbing] for b in own]
            after = [
                torch.empty_like(b, memory_format=f).copy_(b)
                for b, f in zip(before, self.formats, strict=True)
            ]
            self._step(rows, points, after)
            taken += len(rows)
            for b, new in zip(own, after, strict=True):
                b[climbing] = new
            if step == 0 or step == self.climb.n_ascent - 1:
                continue
            going = _changed(before, after, self.climb.early_stop).nonzero()[:, 0]
            if len(going) == 0:
                break
            if len(going) < len(rows):
                rows, climbing = rows.take(going), climbing[going]
                points = [
                    p[going].contiguous(memory_format=f)
                    for p, f in zip(points, self.formats, strict=True)
                ]
        # Point after point, as the definition's loop: nothing here is moved any more.
        for b, total in zip(own, best, strict=True):
            ops.ascend_max(torch.zeros_like(b), b, 0.0, total, absolute=self.climb.absolute)
        self.taken = taken / max(1, len(own[0]))

    def _step_sizes(self, slopes: Slopes, scales: list[Tensor | None]) -> Tensor | float:
        """Of each row; lengths are those of the gradients in the caller's units."""
        if not self.climb.normalised:
            return self.climb.step_size
        squares: Tensor | float = 0.0
        for grad, scale in zip(slopes.values, scales, strict=True):
            wide = grad.double()
            if scale is not None:
                wide = wide * scale.view(-1, *[1] * (grad.dim() - 2))
            squares = squares + row_sums(wide.flatten(1).square())[:, 0]
        assert isinstance(squares, Tensor)
        norms = squares.sqrt()
        return torch.where(norms > 0, self.climb.step_size / norms, 0.0)


def _changed(before: list[Tensor], after: list[Tensor], share: float) -> Tensor:
    """Of each row whether its numbers changed by more than this share of their size; bool [R].

    A row with numbers that are not finite, or with zeros alone, has not. Sums are of integers small
    enough to be exact in every order, so that nothing depends on the rows that are together.
    """
    sizes = [new.flatten(1) for new in after]
    changes = [(new - old).flatten(1) for old, new in zip(before, after, strict=True)]
    features = sum(size.shape[1] for size in sizes)
    greatest = torch.zeros(len(sizes[0]), 1, dtype=torch.float64, device=sizes[0].device)
    for part in (*sizes, *changes):
        if part.shape[1]:
            greatest = torch.maximum(greatest, part.abs().amax(1, keepdim=True).double())
    whole = 2.0 ** (52 - features.bit_length())

    def total(parts: list[Tensor]) -> Tensor:
        shares = (part.double().abs_().div_(greatest).mul_(whole).round_() for part in parts)
        return torch.stack([each.sum(1) for each in shares]).sum(0)

    return total(changes) > share * total(sizes)


def _whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)

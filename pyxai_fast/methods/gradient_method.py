"""Methods that contract slopes taken along the points of a path."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..gradients import Autograd, Gradient, Slopes
from ..models.black_box import BlackBox
from ..models.input_numbers import numbers_of
from ..models.preprocessing import Preprocessing
from ..models.score import ForwardFunc, Score
from ..paths import Path, Trace
from ..paths.quadrature import check_quadrature
from ..reference.path import compute_dtype, memory_format_of
from ..runtime.cost import Cost
from .arguments import as_given, baseline_tensors, each, input_tensors
from .attribution import Attributed, AttributionMethod, timed
from .loop import Interrupted, LoopOptions, contract
from .unfinished import Unfinished


@dataclass(frozen=True)
class Recipe:
    """What a method does with slopes: along which path, by which rule, times what.

    Attributes:
        path: gives the points, and how gradients at them are contracted.
        n_steps: points for each example.
        rule: the quadrature rule's name.
        multiply_by_inputs: whether the mean slope is multiplied by the way from baseline to input.
    """

    path: Path
    n_steps: int
    rule: str
    multiply_by_inputs: bool

    def __post_init__(self) -> None:
        check_quadrature(self.rule, self.n_steps)


class GradientMethod(AttributionMethod):
    """A method that contracts gradients taken along the points of a path.

    Args:
        gradient: how slopes are found; Autograd() by default. LikelihoodRatio() for a model that
            can only be asked.
        forward_func, memory_format, output, select_output, preprocessing: see AttributionMethod.
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        *,
        gradient: Gradient | None = None,
        memory_format: str = "auto",
        output: str = "logit",
        select_output: Callable[[Any], Tensor] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(
            forward_func,
            memory_format=memory_format,
            output=output,
            select_output=select_output,
            preprocessing=preprocessing,
        )
        self.gradient: Gradient = Autograd() if gradient is None else gradient
        if isinstance(gradient, type) or not hasattr(self.gradient, "needs_autograd"):
            raise TypeError(
                f"{type(self).__name__}: gradient must be a gradient, such as Autograd() or "
                f"LikelihoodRatio(), got {gradient!r}"
            )
        if self.gradient.needs_autograd and isinstance(forward_func, BlackBox):
            raise ArgumentError(
                f"{type(self).__name__}: gradient must be one that only asks, such as "
                f"LikelihoodRatio(), for a model that only answers, got {self.gradient!r}; "
                "the methods dax, kernel_shap, lime and rise need none"
            )

    def has_standard_error(self) -> bool:
        return True

    def is_estimate(self) -> bool:
        return not self.gradient.needs_autograd

    @property
    def _evaluations(self) -> int | None:
        return None if getattr(self.gradient, "tolerance", None) else self.gradient.evaluations

    def _without_delta(self) -> str:
        return f"{self.gradient!r}, whose slopes are not those of the score"

    def _attribute(
        self,
        inputs: Any,
        baselines: Any,
        target: Any,
        additional_forward_args: Any,
        recipe: Recipe,
        options: LoopOptions,
        cost: Cost,
        last: Callable[[Tensor, Tensor], Tensor] = lambda attributions, inputs: attributions,
        loop: Callable[..., Slopes] = contract,
    ) -> Attributed:
        """Attributions and standard errors in the form of the inputs.

        `last(attributions, inputs)` is what is done with those of each tensor of inputs at the end;
        `loop` takes the place of `contract`.
        """
        with timed(cost):
            tensors = input_tensors(inputs, self.forward_func)
            starts = baseline_tensors(baselines, tensors)
            if not options.create_graph:
                tensors = tuple(x.detach() for x in tensors)
                starts = tuple(b.detach() for b in starts)
            score = self._score(tensors, target, additional_forward_args, cost)
            score.numbers = numbers_of(type(self).__name__, self.numbers, score.batch).to(
                tensors[0].device
            )
            # A gradient that only asks perturbs points in the caller's units.
            white = self.gradient.needs_autograd
            traces = tuple(
                recipe.path.trace(
                    x, b, recipe.n_steps, recipe.rule, affine if white else None, stream
                )
                for stream, (x, b, affine) in enumerate(
                    zip(tensors, starts, score.affines, strict=True)
                )
            )
            self.check_budget(tensors[0].shape[0] * traces[0].steps)
            finish = functools.partial(
                self._finish, inputs, tensors, traces, score, recipe, options.create_graph, last
            )
            try:
                return finish(
                    loop(score, self.gradient, tensors, traces, options, type(self).__name__)
                )
            except Interrupted as stopped:
                done = finish(stopped.totals)
                raise Unfinished(
                    stopped.error,
                    stopped.finished,
                    _of_examples(done.attributions, stopped.finished),
                    _of_examples(done.standard_errors, stopped.finished),
                ) from stopped.error

    def _finish(
        self,
        inputs: Any,
        tensors: tuple[Tensor, ...],
        traces: tuple[Trace, ...],
        score: Score,
        recipe: Recipe,
        create_graph: bool,
        last: Callable[[Tensor, Tensor], Tensor],
        totals: Slopes,
    ) -> Attributed:
        """From sums of slopes to attributions and standard errors, in the form of the inputs."""

        def finished(trace: Trace, total: Tensor, x: Tensor) -> Tensor:
            done = trace.attributions(total, recipe.multiply_by_inputs).to(compute_dtype(x.dtype))
            return done if score.several else done.contiguous(memory_format=memory_format_of(x))

        with torch.set_grad_enabled(create_graph):
            attributions = as_given(tuple(map(finished, traces, totals.values, tensors)), inputs)
            # In the type of what the caller gave, which may be integers.
            attributions = each(last, attributions, inputs)
        if totals.variances is None:
            return Attributed(attributions, None)
        with torch.no_grad():
            # What is multiplied by zero is known, however little its slope is.
            errors = []
            for trace, variance, x in zip(traces, totals.variances, tensors, strict=True):
                error = finished(trace, variance.sqrt(), x).abs()
                errors.append(error.masked_fill(error.isnan() & variance.isinf(), 0.0))
        return Attributed(attributions, as_given(tuple(errors), inputs))


def _of_examples(maps: Any, examples: Tensor) -> Any:
    if maps is None or len(examples) == 0:
        return None
    if isinstance(maps, tuple):
        return tuple(m[examples.to(m.device)] for m in maps)
    return maps[examples.to(maps.device)]

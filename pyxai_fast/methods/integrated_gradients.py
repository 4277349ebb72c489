"""Integrated Gradients: the mean slope along a path, times the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import ArgumentError, check_bool
from ..gradients import Gradient
from ..models.preprocessing import Preprocessing
from ..models.score import ForwardFunc
from ..paths import Path, StraightLine
from ..paths.quadrature import check_rule_left_alone
from ..paths.refining import Refinable
from ..reference.path import compute_dtype
from ..runtime.cost import Cost
from ..runtime.inference import outside_inference_mode
from .arguments import as_given, baseline_tensors, input_tensors
from .attribution import Attributed, as_asked, timed
from .gradient_method import GradientMethod, Recipe
from .loop import LoopOptions
from .refinement import check_tolerance, refined


class IntegratedGradients(GradientMethod):
    """Integrated Gradients, with captum's constructor and call.

    ``attribution_i = (x_i - x'_i) * integral over t in [0, 1] of ds/dx_i (x' + t (x - x'))``

    Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017), equation 1.
    Attributions add up to s(x) - s(x') (completeness) as far as the quadrature goes.

    Memory does not grow with n_steps: points are made, asked and contracted in chunks, and the
    result does not depend on the chunks as far as the model's own gradients do not.

    Args:
        forward_func: the model, or any function of its inputs, returning [B] or [B, ...].
        multiply_by_inputs: False gives the mean slope, without the factor (x - x').
        path: from baselines to inputs; StraightLine() by default.
        gradient, memory_format, output, select_output, preprocessing: see GradientMethod.
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        multiply_by_inputs: bool = True,
        *,
        path: Path | None = None,
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
        self.path: Path = StraightLine() if path is None else path
        if not hasattr(self.path, "trace"):
            raise ArgumentError(
                "IntegratedGradients: path must be a path, such as StickBreaking(), got "
                f"{self.path!r}"
            )
        mean_slope = self.path.complete and getattr(self.path, "has_mean_slope", True)
        if not multiply_by_inputs and not mean_slope:
            raise ArgumentError(
                "IntegratedGradients: multiply_by_inputs must be True with a path whose "
                f"attributions are not a mean slope times the way, got False with {self.path!r}"
            )

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        return self.gradient.explains_score and self.path.complete

    def _without_delta(self) -> str:
        if not self.gradient.explains_score:
            return super()._without_delta()
        return (
            f"the path {self.path!r}, whose attributions do not add up to the difference of the "
            "scores"
        )

    def has_standard_error(self) -> bool:
        return self.path.complete

    def starts(self, inputs: tuple[Tensor, ...], baselines: Any) -> tuple[Tensor, ...]:
        given = super().starts(inputs, baselines)
        return tuple(self.path.start(x, b) for x, b in zip(inputs, given, strict=True))

    def check_call(
        self,
        n_steps: int = 50,
        method: str = "gausslegendre",
        return_standard_error: bool = False,
        tolerance: float | None = None,
        create_graph: bool = False,
        **options: Any,
    ) -> None:
        Recipe(self.path, n_steps, method, self._multiply_by_inputs)
        check_bool("attribute", "return_standard_error", return_standard_error)
        if tolerance is not None:
            check_tolerance(tolerance)
            check_rule_left_alone("a tolerance", method, "rules of its own, not method")
            self._check_refinable(n_steps, create_graph, return_standard_error)
        if return_standard_error and not self.has_standard_error():
            raise ArgumentError(
                "attribute: return_standard_error must be False with a path whose attributions are "
                f"not a mean, got True with {self.path!r}"
            )

    def _check_refinable(
        self, n_steps: int, create_graph: bool, return_standard_error: bool
    ) -> None:
        reason = None
        if not self._multiply_by_inputs:
            reason = "multiply_by_inputs=False, of which nothing is complete"
        elif create_graph:
            reason = "create_graph=True"
        elif return_standard_error:
            reason = "return_standard_error=True: its slopes are no estimates"
        elif not self.gradient.explains_score or not self.gradient.needs_autograd:
            reason = f"slopes that are estimates, got {self.gradient!r}"
        elif not hasattr(self.path, "refining"):
            reason = f"{self.path!r}, which has no nested rules"
        if reason is not None:
            raise ArgumentError(f"attribute: tolerance must be None with {reason}")
        cast(Refinable, self.path).rules(n_steps)

    def _refine(
        self,
        inputs: Any,
        baselines: Any,
        target: Any,
        additional_forward_args: Any,
        n_steps: int,
        tolerance: float,
        options: LoopOptions,
        cost: Cost,
    ) -> Any:
        with timed(cost):
            tensors = tuple(x.detach() for x in input_tensors(inputs, self.forward_func))
            starts = tuple(b.detach() for b in baseline_tensors(baselines, tensors))
            score = self._score(tensors, target, additional_forward_args, cost)
            with torch.no_grad():
                outputs = self._forward(score, tensors, options.max_rows)
                begin = self.starts(tensors, baselines)
                way = self._way(score, tensors, begin, outputs, options.max_rows)
            maps = refined(
                score,
                self.gradient,
                tensors,
                starts,
                way,
                cast(Refinable, self.path),
                n_steps,
                tolerance,
                options,
                type(self).__name__,
            )
            typed = (m.to(compute_dtype(x.dtype)) for m, x in zip(maps, tensors, strict=True))
            return as_given(tuple(typed), inputs)

    def steps_of(self, n_steps: int = 50, **options: Any) -> int:
        return n_steps * getattr(self.path, "n_paths", 1)

    @outside_inference_mode
    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        tolerance: float | None = None,
        create_graph: bool = False,
        show_progress: bool = False,
        return_standard_error: bool = False,
        cost: Cost | None = None,
    ) -> Any:
        """Attributions of a batch.

        Args:
            inputs: [B, ...], or a tuple of such tensors; floating point. Moved to the model's
                device where they are not on it.
            baselines: where paths start: None (zeros), a number, a tensor shaped as its input or
                [1, ...]; a tuple of these for a tuple of inputs.
            target: which output is explained: None (one output for each example), an int, a tuple
                of ints (outputs with more than two dimensions), a tensor or list with one of these
                for each example; or Targets(...), several of these, from the same evaluations of
                the model.
            additional_forward_args: further arguments of the model, without attributions; tensors
                [B, ...] are repeated with their examples.
            n_steps: number of quadrature nodes, of each path.
            method: "gausslegendre", "riemann_left", "riemann_right", "riemann_middle",
                "riemann_trapezoid" (captum's five), "trapezoid" (normalised) or
                "clenshaw_curtis".
            internal_batch_size: rows sent through the model at once, at most, also below B; None
                chooses by memory.
            return_convergence_delta: also return the completeness gap of each example.
            tolerance: refine each input's own quadrature until its completeness gap is at most
                this share of the difference of the scores, by nested rules, of which a finer one
                takes gradients at its new nodes only: on the straight line Clenshaw-Curtis with 9,
                17, 33, ... nodes, up to n_steps; on random paths 1, 3, 7 or 15 nodes within each of
                the n_steps steps. The gap is one number; that it is small says little of a single
                attribution. With several Targets the gaps of all. Takes 8 bytes a feature for each
                rule to come.
            create_graph: attributions can be differentiated, for training on them; the graph of
                all steps is kept.
            show_progress: a progress bar (needs tqdm).
            return_standard_error: also return the standard errors of the attributions, for a
                gradient that is an estimate; of the points of a random path they say nothing.
            cost: filled in with what the call cost.

        Returns:
            Attributions shaped as the inputs, on their device: float32, or float64 for float64
            inputs; [B, n, ...] for n Targets. With return_convergence_delta also the gaps, [B] or
            [B, n], and with return_standard_error the errors, shaped as the attributions.

        Raises:
            TypeError, ValueError: naming the argument, what it must be and what it is, before the
                model is asked (a target is checked with the model's first answer).
        """
        self._check_delta_wanted(return_convergence_delta)
        self.check_call(n_steps, method, return_standard_error, tolerance, create_graph)
        cost = Cost() if cost is None else cost
        options = LoopOptions(
            internal_batch_size,
            self.memory_format,
            create_graph,
            show_progress,
            return_standard_error,
        )
        given = inputs, baselines, target, additional_forward_args
        if tolerance is None:
            found = self._attribute(
                *given,
                Recipe(self.path, n_steps, method, self._multiply_by_inputs),
                options,
                cost,
            )
        else:
            found = Attributed(self._refine(*given, n_steps, tolerance, options, cost), None)
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
        return as_asked(found.attributions, delta, found.standard_errors)

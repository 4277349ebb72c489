"""Integrated Gradients: the mean slope along a path, times the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..gradients import Gradient
from ..models.preprocessing import Preprocessing
from ..models.query_error import QueryError
from ..models.score import ForwardFunc
from ..paths import Path, StraightLine
from ..runtime.cost import Cost
from ..runtime.inference import outside_inference_mode
from .attribution import AttributionMethod, Recipe
from .loop import LoopOptions
from .unfinished import Unfinished


class IntegratedGradients(AttributionMethod):
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
        gradient, memory_format, output, select_output, preprocessing: see AttributionMethod.
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
        self._multiply_by_inputs = multiply_by_inputs
        self.path: Path = StraightLine() if path is None else path
        if not multiply_by_inputs and not self.path.complete:
            raise ArgumentError(
                "IntegratedGradients: multiply_by_inputs must be True with a path whose "
                f"attributions are not a mean, got False with {self.path!r}"
            )

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        return self.gradient.explains_score and self.path.complete

    def has_standard_error(self) -> bool:
        return self.path.complete

    def check_call(
        self,
        n_steps: int = 50,
        method: str = "gausslegendre",
        return_standard_error: bool = False,
        **options: Any,
    ) -> None:
        Recipe(self.path, n_steps, method, self._multiply_by_inputs)
        if return_standard_error and not self.has_standard_error():
            raise ArgumentError(
                "attribute: return_standard_error must be False with a path whose attributions are "
                f"not a mean, got True with {self.path!r}"
            )

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
            n_steps: number of quadrature nodes.
            method: "gausslegendre", "riemann_left", "riemann_right", "riemann_middle",
                "riemann_trapezoid" (captum's five), or "trapezoid" (normalised).
            internal_batch_size: rows sent through the model at once, at most, also below B; None
                chooses by memory.
            return_convergence_delta: also return the completeness gap of each example.
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
        if return_convergence_delta and not self.has_convergence_delta():
            reason = (
                f"the path {self.path!r}, whose attributions do not add up to the difference of the"
                " scores"
                if self.gradient.explains_score
                else f"{self.gradient!r}, whose slopes are not those of the score"
            )
            raise ArgumentError(
                f"attribute: return_convergence_delta must be False with {reason}, got True"
            )
        self.check_call(n_steps, method, return_standard_error)
        cost = Cost() if cost is None else cost
        attributions, errors = self._attribute(
            inputs,
            baselines,
            target,
            additional_forward_args,
            Recipe(self.path, n_steps, method, self._multiply_by_inputs),
            LoopOptions(
                internal_batch_size,
                self.memory_format,
                create_graph,
                show_progress,
                return_standard_error,
            ),
            cost,
        )
        if not return_convergence_delta:
            return (attributions, errors) if return_standard_error else attributions
        try:
            delta = self.compute_convergence_delta(
                attributions,
                baselines,
                inputs,
                target,
                additional_forward_args,
                internal_batch_size=internal_batch_size,
                cost=cost,
            )
        except QueryError as error:
            count = (inputs[0] if isinstance(inputs, tuple) else inputs).shape[0]
            raise Unfinished(error, torch.arange(count), attributions, errors) from error
        results = attributions, delta
        return (*results, errors) if return_standard_error else results

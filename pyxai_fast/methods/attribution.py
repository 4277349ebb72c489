"""What the methods have in common: captum's call, scores at single points, and the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..gradients import Autograd, Gradient
from ..models.outputs import OUTPUT_KINDS
from ..models.preprocessing import Preprocessing
from ..models.score import ForwardFunc, Score, owner_of
from ..paths import Affine, Path
from ..paths.quadrature import check_quadrature
from ..reference.path import compute_dtype
from ..runtime.chunks import ChunkPlanner, chunks
from ..runtime.cost import Cost
from ..runtime.memory_format import check_memory_format
from .arguments import (
    as_given,
    baseline_tensors,
    input_tensors,
    to_device,
)
from .loop import LoopOptions, contract


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


class AttributionMethod:
    """A method that contracts gradients taken along the points of a path.

    Args:
        forward_func: the model, or any function of its inputs, returning [B] or [B, ...].
        gradient: how slopes are found; Autograd() by default.
        memory_format: of image inputs: "auto" (the faster of the two, measured once for each model
            and shape), "contiguous" or "channels_last". Formats agree to rounding, so fix one where
            reruns must agree in every bit.
        output: what of the model is explained: "logit" (its output as it is), "prob", "logprob" or
            "margin".
        select_output: picks the output tensor from what the model returns; tensors, `.logits`,
            dicts with "logits" or "out", and tuples are understood without it.
        preprocessing: given when inputs, baselines and attributions are in pixels: turns pixels
            into model inputs, within the kernels.
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
        name = type(self).__name__
        if not callable(forward_func):
            raise TypeError(
                f"{name}: forward_func must be a callable, got {type(forward_func).__name__}"
            )
        if output not in OUTPUT_KINDS:
            raise ValueError(
                f"{name}: output must be one of {', '.join(OUTPUT_KINDS)}, got {output!r}"
            )
        check_memory_format(memory_format)
        self.forward_func = forward_func
        self.gradient: Gradient = Autograd() if gradient is None else gradient
        self.memory_format = memory_format
        self.output = output
        self.select_output = select_output
        self.preprocessing = preprocessing

    @property
    def multiplies_by_inputs(self) -> bool:
        return False

    def has_convergence_delta(self) -> bool:
        return False

    def attribute(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define attribute")

    def attribute_future(self) -> None:
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    def outputs(
        self, inputs: Any, additional_forward_args: Any = None, cost: Cost | None = None
    ) -> Tensor:
        """The model's outputs [B, ...] for inputs in the caller's units, without gradients."""
        tensors = input_tensors(inputs, self.forward_func)
        cost = Cost() if cost is None else cost
        with _timed(cost):
            score = self._score(tensors, None, additional_forward_args)
            return self._forward(score, tensors, cost)

    def _score(
        self, inputs: tuple[Tensor, ...], target: Any, additional_forward_args: Any
    ) -> Score:
        return Score(
            self.forward_func,
            inputs[0].shape[0],
            inputs[0].device,
            target,
            to_device(additional_forward_args, inputs[0].device),
            self.output,
            self.select_output,
        )

    def _affine(self, inputs: Tensor) -> Affine | None:
        if self.preprocessing is None:
            return None
        return Affine(
            self.preprocessing.scale.to(inputs.device), self.preprocessing.shift.to(inputs.device)
        )

    def _attribute(
        self,
        inputs: Any,
        baselines: Any,
        target: Any,
        additional_forward_args: Any,
        recipe: Recipe,
        options: LoopOptions,
        cost: Cost,
    ) -> Any:
        """Attributions in the form of the inputs."""
        check_quadrature(recipe.rule, recipe.n_steps)
        with _timed(cost):
            tensors = input_tensors(inputs, self.forward_func)
            starts = baseline_tensors(baselines, tensors)
            if not options.create_graph:
                tensors = tuple(x.detach() for x in tensors)
                starts = tuple(b.detach() for b in starts)
            score = self._score(tensors, target, additional_forward_args)
            traces = tuple(
                recipe.path.trace(x, b, recipe.n_steps, recipe.rule, self._affine(x), stream)
                for stream, (x, b) in enumerate(zip(tensors, starts, strict=True))
            )
            totals = contract(
                score, self.gradient, tensors, traces, options, cost, type(self).__name__
            )
            with torch.set_grad_enabled(options.create_graph):
                attributions = tuple(
                    trace.attributions(total, recipe.multiply_by_inputs).to(compute_dtype(x.dtype))
                    for trace, total, x in zip(traces, totals, tensors, strict=True)
                )
            return as_given(attributions, inputs)

    def _forward(self, score: Score, inputs: tuple[Tensor, ...], cost: Cost) -> Tensor:
        """Outputs [B, ...] at rows of inputs (caller's units), in chunks, without gradients."""
        with torch.no_grad():
            inputs = tuple(self._model_inputs(x.detach()) for x in inputs)
            planner = ChunkPlanner(owner_of(score.forward), inputs, None)
            answers = []
            # A forward pass keeps less than the forward and backward that the planner measures.
            for chunk in chunks(score.batch, 1, planner.rows):
                rows = score.rows(chunk.examples, 1)
                answers.append(rows.outputs(tuple(x[chunk.examples] for x in inputs)))
                cost.queries += chunk.rows
            if not answers:  # an empty batch still has outputs of some shape
                answers.append(score.rows(slice(0, 0), 1).outputs(inputs))
        return answers[0] if len(answers) == 1 else torch.cat(answers)

    def _model_inputs(self, inputs: Tensor) -> Tensor:
        affine = self._affine(inputs)
        if affine is None:
            return inputs
        shape = (-1, *[1] * (inputs.dim() - 2))
        points = inputs * affine.scale.reshape(shape) + affine.shift.reshape(shape)
        return points.to(inputs.dtype)

    def compute_convergence_delta(
        self,
        attributions: Tensor | tuple[Tensor, ...],
        start_point: Any,
        end_point: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        outputs: Tensor | None = None,
        cost: Cost | None = None,
    ) -> Tensor:
        """Completeness gap of each example: sum(attributions) - (s(end_point) - s(start_point)).

        Args:
            attributions: [B, ...], or a tuple for a tuple of inputs.
            start_point: the baselines, in any form that `attribute` takes.
            end_point: the inputs.
            target, additional_forward_args: as in `attribute`.
            outputs: the model's outputs at end_point, where they are known already.
            cost: filled in with what the call cost.

        Returns:
            [B], in the type of the attributions. Zero but for quadrature and rounding.
        """
        cost = Cost() if cost is None else cost
        with _timed(cost), torch.no_grad():
            inputs = input_tensors(end_point, self.forward_func)
            starts = baseline_tensors(start_point, inputs)
            maps = attributions if isinstance(attributions, tuple) else (attributions,)
            for x, a in zip(inputs, maps, strict=True):
                if a.shape[0] != x.shape[0]:
                    raise ValueError(
                        "compute_convergence_delta: attributions must have the batch size of "
                        f"end_point, {x.shape[0]}, got {a.shape[0]}"
                    )
            score = self._score(inputs, target, additional_forward_args)
            if outputs is None:
                outputs = self._forward(score, inputs, cost)
            end = score.select(outputs).double()
            way = end - self._start_scores(score, inputs, starts, cost).double()
            total = sum((a.double().flatten(1).sum(1) if a.dim() > 1 else a.double()) for a in maps)
            return (total - way.to(maps[0].device)).to(maps[0].dtype)

    def _start_scores(
        self,
        score: Score,
        inputs: tuple[Tensor, ...],
        starts: tuple[Tensor, ...],
        cost: Cost,
    ) -> Tensor:
        batch = inputs[0].shape[0]
        shared = all(b.dim() == 0 or b.shape[0] == 1 for b in starts)
        if shared and not score.additional_forward_args:
            # One baseline for all examples is asked once.
            one = tuple(b.expand(1, *x.shape[1:]) for b, x in zip(starts, inputs, strict=True))
            single = self._score(one, None, None)
            outputs = self._forward(single, self._same_type(one, inputs), cost)
            return score.select(outputs.expand(batch, *outputs.shape[1:]))
        full = tuple(b.expand(x.shape) for b, x in zip(starts, inputs, strict=True))
        return score.select(self._forward(score, self._same_type(full, inputs), cost))

    @staticmethod
    def _same_type(tensors: tuple[Tensor, ...], like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(t.to(x.dtype) for t, x in zip(tensors, like, strict=True))


@contextmanager
def _timed(cost: Cost) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        cost.seconds += time.perf_counter() - start

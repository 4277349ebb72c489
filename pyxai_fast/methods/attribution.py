"""What all methods have in common: captum's call, and scores at single points."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError, is_one_of
from ..models.black_box import check_remaining
from ..models.outputs import OUTPUT_KINDS
from ..models.preprocessing import Affine, Preprocessing
from ..models.query_error import QueryError
from ..models.score import ForwardFunc, Score, owner_of
from ..runtime.chunks import Chunk, ChunkPlanner, run_chunks
from ..runtime.cost import Cost
from ..runtime.memory_format import check_memory_format
from ..runtime.prepared import Prepared
from .arguments import (
    baseline_tensors,
    input_tensors,
    to_device,
)
from .unfinished import Unfinished


class Attributed(NamedTuple):
    """Attributions and, for estimates that were asked for it, their standard errors."""

    attributions: Any
    standard_errors: Any


class AttributionMethod:
    """A method with captum's call: `attribute(inputs, ..., target=...)`.

    Args:
        forward_func: the model, or any function of its inputs, returning [B] or [B, ...].
        memory_format: of image inputs: "auto" (the faster of the two, measured once for each model
            and shape), "contiguous" or "channels_last". Formats agree to rounding, so fix one where
            reruns must agree in every bit.
        output: what of the model is explained: "logit" (its output as it is), "prob", "logprob" or
            "margin".
        select_output: picks the output tensor from what the model returns; tensors, `.logits`,
            dicts with "logits" or "out", and tuples are understood without it.
        preprocessing: given when inputs, baselines and attributions are in pixels: turns pixels
            into model inputs, within the kernels.

    The model inputs of a chunk lie in a buffer that the next chunk overwrites: a hook that keeps
    them must copy them.
    """

    numbers: Sequence[int] | None = None
    """Of the inputs of the calls to come, by which whatever is drawn at random tells them apart: an
    input has the same map in every batch. 0, 1, ... where they are None."""

    def __init__(
        self,
        forward_func: ForwardFunc,
        *,
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
        if not is_one_of(output, OUTPUT_KINDS):
            raise ValueError(
                f"{name}: output must be one of {', '.join(OUTPUT_KINDS)}, got {output!r}"
            )
        check_memory_format(memory_format)
        if select_output is not None and not callable(select_output):
            raise TypeError(
                f"{name}: select_output must be a function of what the model returns, got "
                f"{type(select_output).__name__}"
            )
        if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
            raise TypeError(
                f"{name}: preprocessing must be a Preprocessing, got {type(preprocessing).__name__}"
            )
        self.forward_func = forward_func
        self.memory_format = memory_format
        self.output = output
        self.select_output = select_output
        self.preprocessing = preprocessing

    @property
    def multiplies_by_inputs(self) -> bool:
        return False

    def has_convergence_delta(self) -> bool:
        return False

    @classmethod
    def get_name(cls) -> str:
        """The class's name in words: "Input X Gradient"."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", cls.__name__)

    def has_standard_error(self) -> bool:
        """Whether attributions that are estimates come with a standard error."""
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
        with timed(cost):
            score = self._score(tensors, None, additional_forward_args, cost).exact()
            return self._forward(score, tensors)

    def starts(self, inputs: tuple[Tensor, ...], baselines: Any) -> tuple[Tensor, ...]:
        """From where attributions count, in the caller's units, for each tensor of inputs:
        [], [1, ...] or [B, ...]."""
        return baseline_tensors(baselines, inputs)

    def is_estimate(self) -> bool:
        """Whether attributions vary with a seed, so that their standard error is worth having."""
        return False

    @property
    def _evaluations(self) -> int | None:
        """Rows that the model is asked for each point; None where nobody knows before."""
        return 1

    def check_call(self, **options: Any) -> None:
        """Raises for options of `attribute` that do not fit, before the model is asked."""

    def steps_of(self, **options: Any) -> int:
        """Points of each input at which the model is asked, with these options."""
        return 1

    def check_budget(self, points: int, rows: int = 0) -> None:
        """Refuses what a model with a budget could not answer in full, before it is asked.

        Where answers may come from a cache, or asking may stop early, nobody knows what is needed.

        Args:
            points: that `steps_of` counts.
            rows: that are asked besides.

        Raises:
            BudgetExceeded: it is not enough.
        """
        each = self._evaluations
        if each is None:
            return
        besides = f", and {rows} besides" if rows else ""
        check_remaining(
            self.forward_func,
            points * each + rows,
            f"{points} points, {each} each{besides}",
            "samples, steps or inputs",
        )

    def _check_delta_wanted(self, return_convergence_delta: bool) -> None:
        if return_convergence_delta and not self.has_convergence_delta():
            raise ArgumentError(
                f"attribute: return_convergence_delta must be False with {self._without_delta()}, "
                "got True"
            )

    def _without_delta(self) -> str:
        """What keeps attributions from adding up to a difference of scores."""
        return type(self).__name__

    def _score(
        self, inputs: tuple[Tensor, ...], target: Any, additional_forward_args: Any, cost: Cost
    ) -> Score:
        if isinstance(self.forward_func, Prepared):
            self.forward_func.refresh()
        return Score(
            self.forward_func,
            inputs[0].shape[0],
            inputs[0].device,
            target,
            to_device(additional_forward_args, inputs[0].device),
            self.output,
            self.select_output,
            cost,
            affines=tuple(self._affine(x) for x in inputs),
        )

    def _affine(self, inputs: Tensor) -> Affine | None:
        if self.preprocessing is None:
            return None
        return Affine(
            self.preprocessing.scale.to(inputs.device), self.preprocessing.shift.to(inputs.device)
        )

    def _forward(
        self, score: Score, inputs: tuple[Tensor, ...], max_rows: int | None = None
    ) -> Tensor:
        """Outputs [B, ...] at rows of inputs (caller's units), in chunks, without gradients."""
        answers: dict[int, Tensor] = {}

        def run(chunk: Chunk) -> None:
            rows = tuple(self._model_inputs(x[chunk.examples]) for x in inputs)
            answers[chunk.examples.start] = score.rows(chunk.examples).outputs(rows)

        with torch.no_grad():
            inputs = tuple(x.detach() for x in inputs)
            if score.batch == 0:  # an empty batch still has outputs of some shape
                return score.rows(slice(0, 0)).outputs(inputs)
            # What a forward pass takes says little of the forward and backward that come next.
            run_chunks(
                Chunk(slice(0, score.batch), slice(0, 1)),
                ChunkPlanner(owner_of(score.forward), inputs, max_rows, static=score.static),
                run,
                score.cost,
                measure=False,
            )
        parts = [answers[begin] for begin in sorted(answers)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _model_inputs(self, inputs: Tensor) -> Tensor:
        """Inputs on their way into the model, as the path kernels send them."""
        affine = self._affine(inputs)
        if affine is None:
            return inputs
        end = torch.ones(1, dtype=torch.float64, device=inputs.device)
        return ops.path_points(
            inputs, 0.0, end, scale=affine.scale, shift=affine.shift, dtype=inputs.dtype
        )

    def compute_convergence_delta(
        self,
        attributions: Tensor | tuple[Tensor, ...],
        start_point: Any,
        end_point: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        outputs: Tensor | None = None,
        internal_batch_size: int | None = None,
        cost: Cost | None = None,
    ) -> Tensor:
        """Completeness gap of each example: sum(attributions) - (s(end_point) - s(start_point)).

        Args:
            attributions: [B, ...], or a tuple for a tuple of inputs.
            start_point: the baselines, in any form that `attribute` takes.
            end_point: the inputs.
            target, additional_forward_args: as in `attribute`.
            outputs: the model's outputs at end_point, where they are known already.
            internal_batch_size: rows sent through the model at once, at most.
            cost: filled in with what the call cost.

        Returns:
            [B], in the type of the attributions. Zero but for quadrature and rounding.
        """
        cost = Cost() if cost is None else cost
        with timed(cost), torch.no_grad():
            inputs = input_tensors(end_point, self.forward_func)
            starts = self.starts(inputs, start_point)
            maps = attributions if isinstance(attributions, tuple) else (attributions,)
            for x, a in zip(inputs, maps, strict=True):
                if a.shape[0] != x.shape[0]:
                    raise ArgumentError(
                        "compute_convergence_delta: attributions must have the batch size of "
                        f"end_point, {x.shape[0]}, got {a.shape[0]}"
                    )
            score = self._score(inputs, target, additional_forward_args, cost).exact()
            if outputs is None:
                outputs = self._forward(score, inputs, internal_batch_size)
            way = self._way(score, inputs, starts, outputs, internal_batch_size)
            lead = way.dim()  # [B], or [B, n] for several targets
            total = sum(
                (a.double().flatten(lead).sum(lead) if a.dim() > lead else a.double()) for a in maps
            )
            return (total - way.to(maps[0].device)).to(maps[0].dtype)

    def _delta(
        self,
        found: Attributed,
        start_point: Any,
        end_point: Any,
        target: Any,
        additional_forward_args: Any,
        internal_batch_size: int | None,
        cost: Cost,
    ) -> Tensor:
        """The gaps of what `attribute` has found, which is not lost where the model fails here.

        Raises:
            Unfinished: with all that was found.
        """
        try:
            return self.compute_convergence_delta(
                found.attributions,
                start_point,
                end_point,
                target,
                additional_forward_args,
                internal_batch_size=internal_batch_size,
                cost=cost,
            )
        except QueryError as error:
            first = end_point[0] if isinstance(end_point, tuple) else end_point
            raise Unfinished(error, torch.arange(first.shape[0]), *found) from error

    def _way(
        self,
        score: Score,
        inputs: tuple[Tensor, ...],
        starts: tuple[Tensor, ...],
        outputs: Tensor,
        max_rows: int | None,
    ) -> Tensor:
        """Differences of the scores of inputs, with these outputs, and starts; float64."""
        end = score.select(outputs).double()
        return end - self._start_scores(score, inputs, starts, max_rows).double()

    def _start_scores(
        self,
        score: Score,
        inputs: tuple[Tensor, ...],
        starts: tuple[Tensor, ...],
        max_rows: int | None,
    ) -> Tensor:
        batch = inputs[0].shape[0]
        shared = all(b.dim() == 0 or b.shape[0] == 1 for b in starts)
        if shared and not score.additional_forward_args and batch > 0:
            # One baseline for all examples is asked once.
            one = tuple(b.expand(1, *x.shape[1:]) for b, x in zip(starts, inputs, strict=True))
            one = self._same_type(one, inputs)
            asked = self._score(one, None, None, score.cost)
            asked.forward = score.forward
            outputs = self._forward(asked, one, max_rows)
            return score.select(outputs.expand(batch, *outputs.shape[1:]))
        full = tuple(b.expand(x.shape) for b, x in zip(starts, inputs, strict=True))
        return score.select(self._forward(score, self._same_type(full, inputs), max_rows))

    @staticmethod
    def _same_type(tensors: tuple[Tensor, ...], like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(t.to(x.dtype) for t, x in zip(tensors, like, strict=True))


def as_asked(attributions: Any, *besides: Any) -> Any:
    """Attributions alone, or in a tuple with what else is not None."""
    given = tuple(one for one in besides if one is not None)
    return (attributions, *given) if given else attributions


@contextmanager
def timed(cost: Cost) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        cost.seconds += time.perf_counter() - start

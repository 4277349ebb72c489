"""What metrics ask: a model's score of one class of each input, as the inputs change."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError, is_one_of
from ..models.black_box import check_remaining
from ..models.input_numbers import numbers_of
from ..models.outputs import OUTPUT_KINDS, convert_output
from ..models.preprocessing import Affine, Preprocessing
from ..models.row_planner import row_planner
from ..models.score import RowScore, Score, model_device
from ..runtime.chunks import Chunk, length, run_chunks
from ..runtime.cost import Cost
from .maps import check_tensor


class Rows(Protocol):
    """Makes the model inputs of some steps of some examples, steps outermost."""

    def __call__(self, examples: slice, steps: slice) -> Tensor: ...


# Reads a number for each row, [R], or k of them, [R, k], from the model's outputs [R, n] for rows.
Read = Callable[[Tensor, RowScore], Tensor]


def of_target(outputs: Tensor, rows: RowScore) -> Tensor:
    """The score of each row's class."""
    return outputs.gather(1, _target_of(rows))[:, 0]


def is_target(outputs: Tensor, rows: RowScore) -> Tensor:
    """Whether each row's class comes first; see `comes_first`."""
    return comes_first(outputs, _target_of(rows)[:, 0])


def comes_first(outputs: Tensor, classes: Tensor) -> Tensor:
    """1 where the class of a row has the largest of its outputs [R, n], else 0: float64 [R].

    NaN where the largest is not finite: a model that answers NaN says nothing of any class.
    """
    right = (outputs.argmax(1) == classes).double()
    return right.masked_fill(~outputs.amax(1).isfinite(), torch.nan)


class Asked:
    """A model, inputs, and a class of each that is watched while the inputs change.

    The model is not asked before something of what it answers is needed.

    Args:
        op: whose arguments these are, in messages.
        model: a torch module in eval mode, or any function that answers, such as a BlackBox;
            returns [B, n].
        inputs: [B, ...], with at least one input: pixels where `preprocessing` is given, else what
            the model takes.
        target: a class, or [B] of them; None watches what the model predicts.
        output: of the score, as in `explain`; metrics watch the probability.
        preprocessing: turns pixels into model inputs.
        select_output: picks the output tensor from what the model returns.
        internal_batch_size: rows sent through the model at once, at most.
        cost: where rows that the model answers are counted.
        numbers: of the inputs, [B], by which random draws tell them apart: an input with the same
            number has the same draws in any batch. 0, 1, ... by default.

    Attributes:
        inputs: detached, on the device of the model's weights, where it has any.
        numbers: int64 [B], on the inputs' device.
        affine: what turns the inputs' units into the model's, or None.
        outputs: float64 [B, n], of the inputs as they are.
        target: int64 [B], on the inputs' device.
        clean: float64 [B], the scores of the inputs as they are.
    """

    def __init__(
        self,
        op: str,
        model: Any,
        inputs: Tensor,
        target: Any = None,
        *,
        output: str = "prob",
        preprocessing: Preprocessing | None = None,
        select_output: Callable[[Any], Tensor] | None = None,
        internal_batch_size: int | None = None,
        cost: Cost | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"{op}: model must be callable, got {type(model).__name__}")
        check_inputs(op, inputs)
        if not is_one_of(output, OUTPUT_KINDS):
            raise ArgumentError(
                f"{op}: output must be one of {', '.join(OUTPUT_KINDS)}, got {output!r}"
            )
        if internal_batch_size is not None:
            check_count(op, "internal_batch_size", internal_batch_size)
        check_select_output(op, select_output)
        if preprocessing is not None:
            _check_preprocessing(op, preprocessing, inputs)
        device = model_device(model)
        self.op = op
        self.inputs = inputs.detach().to(inputs.device if device is None else device)
        self.numbers = numbers_of(op, numbers, len(inputs)).to(self.inputs.device)
        self.affine = None
        if preprocessing is not None:
            self.affine = Affine(
                preprocessing.scale.to(self.inputs.device),
                preprocessing.shift.to(self.inputs.device),
            )
        self._target, self._output = target, output
        self._score = Score(
            model,
            len(inputs),
            self.inputs.device,
            select_output=select_output,
            cost=cost,
            affines=(self.affine,),
            max_rows=internal_batch_size,
        )

    @property
    def scaling(self) -> dict[str, Any]:
        """What an op that writes model inputs takes for `affine`."""
        if self.affine is None:
            return {}
        return {"scale": self.affine.scale, "shift": self.affine.shift}

    def model_inputs(self, values: Tensor) -> Tensor:
        """Values [R, ...] in the inputs' units as the model takes them."""
        if self.affine is None:
            return values
        end = torch.ones(1, dtype=torch.float64, device=values.device)
        return ops.path_points(values, 0.0, end, **self.scaling)

    @cached_property
    def outputs(self) -> Tensor:
        parts: dict[int, Tensor] = {}

        def run(chunk: Chunk) -> None:
            made = self.model_inputs(self.inputs[chunk.examples])
            parts[chunk.examples.start] = self._answers(made, self._score.rows(chunk.examples))

        self._run(1, run, "outputs")
        return torch.cat([parts[start] for start in sorted(parts)])

    @cached_property
    def target(self) -> Tensor:
        return classes_of(self.op, self._target, self.outputs)

    @property
    def clean(self) -> Tensor:
        return self.outputs.gather(1, self.target[:, None])[:, 0]

    def scores(self, n_steps: int, rows: Rows, purpose: str, read: Read = of_target) -> Tensor:
        """What is read of every step of every input.

        Args:
            rows: of some examples and steps; called for chunks that fit, steps in ascending order.
            purpose: of the rows; each is measured by itself to size the chunks.
            read: a number for each row, or k of them, from the model's (converted) outputs,
                float64.

        Returns:
            float64 [n_steps, B], or [n_steps, B, k].
        """
        batch = len(self.inputs)
        asked = "outputs" in self.__dict__
        check_remaining(
            self._score.forward,
            (n_steps + (not asked)) * batch,
            f"{self.op}: {n_steps} steps of {batch} inputs" + ("" if asked else ", and themselves"),
            "steps or inputs",
        )
        self._score.targets = (self.target[:, None],)
        found: list[Tensor] = []

        def run(chunk: Chunk) -> None:
            of_rows = self._score.rows(chunk.examples, chunk.steps, n_steps)
            told = read(self._answers(rows(chunk.examples, chunk.steps), of_rows), of_rows)
            told = told.double().unflatten(0, (length(chunk.steps), -1))
            if not found:
                found.append(told.new_empty(n_steps, batch, *told.shape[2:]))
            found[0][chunk.steps, chunk.examples] = told

        self._run(n_steps, run, purpose)
        return found[0]

    @torch.no_grad()
    def _run(self, n_steps: int, run: Callable[[Chunk], None], purpose: str) -> None:
        self._score.cost.backend = ops.backend_of(self.inputs.device)
        work = Chunk(slice(0, len(self.inputs)), slice(0, n_steps))
        run_chunks(work, row_planner(self._score, (self.inputs,), purpose), run, self._score.cost)

    def _answers(self, made: Tensor, rows: RowScore) -> Tensor:
        """What the model answers, converted: float64 [R, n]."""
        outputs = rows.outputs((made,))
        if outputs.dim() != 2:
            raise ArgumentError(
                f"{self.op}: model must return [B, n], a score for each class, got "
                f"{list(outputs.shape)}"
            )
        return convert_output(outputs.double(), self._output)


def _target_of(rows: RowScore) -> Tensor:
    (target,) = rows.targets
    assert isinstance(target, Tensor)
    return target


# --- arguments -----------------------------------------------------------------------------------


def check_inputs(op: str, inputs: Any) -> None:
    check_tensor(op, "inputs", inputs)
    if inputs.dim() < 2 or not len(inputs) or not inputs.is_floating_point():
        raise ArgumentError(
            f"{op}: inputs must be floating-point [B, ...] with B >= 1, got {inputs.dtype} "
            f"{list(inputs.shape)}"
        )


def check_attributions(op: str, attributions: Any, inputs: Tensor) -> Tensor:
    """Attributions shaped as the inputs, or with one channel for all, on their device."""
    check_tensor(op, "attributions", attributions)
    shape, wanted = list(attributions.shape), list(inputs.shape)
    one_channel = [wanted[0], 1, *wanted[2:]] if len(wanted) > 2 else wanted
    if shape not in (wanted, one_channel):
        alternative = "" if one_channel == wanted else f", or {one_channel}"
        raise ArgumentError(
            f"{op}: attributions must be shaped as the inputs, {wanted}{alternative}, got {shape}"
        )
    if not attributions.is_floating_point():
        raise TypeError(f"{op}: attributions must be floating-point, got {attributions.dtype}")
    maps: Tensor = attributions.detach().to(inputs.device)
    if not bool(maps.isfinite().all()):
        raise ArgumentError(f"{op}: attributions must be finite, got NaN or infinity")
    return maps


def samples_of(op: str, name: str, given: Any, inputs: Tensor, besides: str = "") -> Tensor:
    """What is given for each sample of inputs [B, ...], [n_samples, 1 or B, ...], as they are.

    Args:
        besides: what else the argument may be, in messages.
    """
    check_tensor(op, name, given)
    shape, wanted = list(given.shape), list(inputs.shape)
    if shape[1:] not in (wanted, [1, *wanted[1:]]) or not shape[0]:
        raise ArgumentError(
            f"{op}: {name} must be {besides}[n_samples, 1 or B, ...] of inputs {wanted}, got "
            f"{shape}"
        )
    samples: Tensor = given.detach().to(inputs)
    return samples


def classes_of(op: str, target: Any, outputs: Tensor) -> Tensor:
    """int64 [B]: the classes that are named, or those that the outputs [B, n] predict."""
    batch, classes = outputs.shape
    try:
        chosen = outputs.argmax(1) if target is None else torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{op}: target must be a class, or [{batch}] classes, got {target!r}"
        ) from error
    wrong = chosen.is_floating_point() or chosen.dtype == torch.bool
    if wrong or tuple(chosen.shape) not in ((), (1,), (batch,)):
        raise ArgumentError(
            f"{op}: target must be a class, or [{batch}] classes, got {chosen.dtype} "
            f"{list(chosen.shape)}"
        )
    chosen = chosen.to(outputs.device).long().expand(batch).contiguous()
    if not bool(((chosen >= 0) & (chosen < classes)).all()):
        raise ArgumentError(f"{op}: target must be from 0 to {classes - 1}, got {chosen.tolist()}")
    return chosen


def check_select_output(op: str, select_output: Any) -> None:
    if select_output is not None and not callable(select_output):
        raise TypeError(
            f"{op}: select_output must be a function of what the model returns, got "
            f"{type(select_output).__name__}"
        )


def _check_preprocessing(op: str, preprocessing: Any, inputs: Tensor) -> None:
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            f"{op}: preprocessing must be a Preprocessing, got {type(preprocessing).__name__}"
        )
    if inputs.shape[1] != preprocessing.channels:
        raise ArgumentError(
            f"{op}: inputs must have the channels of the preprocessing, {preprocessing.channels}, "
            f"got {list(inputs.shape)}"
        )


def random_key(op: str, seed: Any, stream: int, device: torch.device | None = None) -> Tensor:
    """As `ops.random_key` makes it; what is wrong with a seed is told in the metric's name."""
    try:
        return ops.random_key(seed, stream, device=device)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ArgumentError
        raise kind(f"{op}: {str(error).removeprefix('random_key: ')}") from error


def check_count(op: str, name: str, value: Any, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(f"{op}: {name} must be an integer >= {least}, got {value!r}")


def check_size(op: str, name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= sys.float_info.max:
        raise ArgumentError(f"{op}: {name} must be a finite number >= 0, got {value!r}")

"""The one loop: make model inputs -> ask the model -> contract the answers into input space."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError, check_bool
from ..gradients import Gradient, Slopes
from ..models.black_box import query_error_of
from ..models.query_error import QueryError
from ..models.score import Score, module_of, owner_of
from ..paths import Trace
from ..runtime.chunks import Chunk, ChunkPlanner, length, run_chunks
from ..runtime.memory_format import FORMATS, choose_memory_format
from ..runtime.progress import progress_bar

# Queries of the points that an estimate is made for at once, about: a batch is full long before,
# and points that are finished are kept when the model fails.
ASKED_TOGETHER = 8192


@dataclass(frozen=True)
class LoopOptions:
    """How the loop runs; none of it changes what is computed.

    Attributes:
        max_rows: rows sent through the model at once, at most; None lets the planner choose.
        memory_format: "auto", "contiguous" or "channels_last" model inputs.
        create_graph: keep the graph, so that attributions can be differentiated.
        show_progress: a progress bar over the rows that the model is asked.
        variances: also those of the sums, for a gradient that is an estimate.
    """

    max_rows: int | None = None
    memory_format: str = "auto"
    create_graph: bool = False
    show_progress: bool = False
    variances: bool = False

    def __post_init__(self) -> None:
        check_bool("attribute", "create_graph", self.create_graph)
        check_bool("attribute", "return_standard_error", self.variances)
        try:
            rows = None if self.max_rows is None else operator.index(self.max_rows)
        except TypeError:
            rows = 0
        if rows is not None and rows < 1:
            raise ArgumentError(
                "attribute: internal_batch_size must be None or an integer >= 1, got "
                f"{self.max_rows!r}"
            )


class Interrupted(Exception):
    """A black box failed; the sums of the examples that were finished are right.

    Attributes:
        error: what it said.
        finished: [F], these examples.
        totals: as `contract` returns them, of all examples.
    """

    def __init__(self, error: QueryError, finished: Tensor, totals: Slopes) -> None:
        super().__init__(str(error))
        self.error, self.finished, self.totals = error, finished, totals


def contract(
    score: Score,
    gradient: Gradient,
    inputs: tuple[Tensor, ...],
    traces: tuple[Trace, ...],
    options: LoopOptions,
    description: str = "",
    run: Callable[..., Run] | None = None,
    repeats: int = 1,
) -> Slopes:
    """Sums of the gradients along the traces, [B, ...] (or [B, n, ...]) for each tensor of inputs.

    float64; differentiable with create_graph. `run` makes another Run, which does something else
    than adding up, and takes up to `repeats` gradients for each point, one after the other.

    Raises:
        Interrupted: where the model raised a QueryError, or a BlackBox any other error of its own.
    """
    cost = score.cost
    score.max_rows = options.max_rows
    score.keeps_graph = options.create_graph
    if options.create_graph and score.slope_of_copy:
        raise ArgumentError(
            "attribute: create_graph must be False with a model in low precision, whose weights "
            f"are copies, got {score.forward!r}"
        )
    work = Chunk(slice(0, inputs[0].shape[0]), slice(0, traces[0].steps))
    cost.backend = ops.backend_of(inputs[0].device)
    rows = work.rows * repeats * gradient.evaluations
    cost.memory_format = _memory_format(score, gradient, inputs, rows, options)
    make = Run if run is None else run
    state = make(score, gradient, inputs, traces, FORMATS[cost.memory_format], options)
    planner = ChunkPlanner(
        owner_of(score.forward),
        inputs,
        _most_points(gradient, options),
        repeats=lambda: state.repeats,
        static=score.static,
    )
    # A graph that is kept is not bounded by chunks, and says nothing about those that are.
    measure = gradient.needs_autograd and not options.create_graph
    bar = progress_bar(options.show_progress, rows, description)
    score.answered = bar.update
    try:
        run_chunks(work, planner, state, cost, measure)
    except Exception as error:
        failed = query_error_of(error, score.forward)
        if failed is None:
            raise
        finished = (state.steps_done == work.steps.stop).nonzero()[:, 0]
        raise Interrupted(failed, finished, state.totals()) from error
    finally:
        bar.close()
    return state.totals()


def _most_points(gradient: Gradient, options: LoopOptions) -> int | None:
    """Points that the gradient is asked for at once, at most."""
    if gradient.needs_autograd:
        return options.max_rows
    most = max(1, ASKED_TOGETHER // gradient.evaluations)
    return most if options.max_rows is None else min(most, options.max_rows)


def _memory_format(
    score: Score,
    gradient: Gradient,
    inputs: tuple[Tensor, ...],
    work: int,
    options: LoopOptions,
) -> str:
    """The memory format for so many rows; those spent on measuring are counted as probes."""
    counted = score.cost.gradients, score.cost.queries

    def trial(points: tuple[Tensor, ...]) -> None:
        rows = score.rows(slice(0, points[0].shape[0]))
        if gradient.needs_autograd:
            gradient(rows, points)
        else:
            with torch.no_grad():
                rows(points)

    name = choose_memory_format(
        options.memory_format,
        module_of(score.forward),
        inputs,
        work,
        options.max_rows,
        trial,
    )
    score.cost.probes += score.cost.gradients + score.cost.queries - sum(counted)
    score.cost.gradients, score.cost.queries = counted
    return name


class Run:
    """The state of one loop: the sums, and the buffers of points that every chunk reuses."""

    # Whether points are only handed on to the model, and may be rounded as it rounds them.
    rounds_points = True

    def __init__(
        self,
        score: Score,
        gradient: Gradient,
        inputs: tuple[Tensor, ...],
        traces: tuple[Trace, ...],
        memory_format: torch.memory_format,
        options: LoopOptions,
    ) -> None:
        self.score = score
        self.gradient = gradient
        self.inputs = inputs
        self.traces = traces
        self.formats = [memory_format if x.dim() == 4 else torch.contiguous_format for x in inputs]
        self.create_graph = options.create_graph
        self.want_variances = options.variances
        self.buffers: list[Tensor | None] = [None] * len(inputs)
        self.sums = self._zeros()
        self.variances = self._zeros() if options.variances else []
        self.steps_done = torch.zeros(inputs[0].shape[0], dtype=torch.long)

    @property
    def repeats(self) -> float:
        """Gradients that were taken for each point of the last chunk, one after the other."""
        return 1

    def totals(self) -> Slopes:
        return Slopes(tuple(self.sums), tuple(self.variances) if self.want_variances else None)

    def _zeros(self) -> list[Tensor]:
        n = (self.score.n_targets,) if self.score.several else ()
        # Sums are laid out as the gradients that are added to them.
        estimates = n or not self.gradient.needs_autograd
        return [
            torch.empty(
                (x.shape[0], *n, *x.shape[1:]),
                dtype=torch.float64,
                device=x.device,
                memory_format=torch.contiguous_format if estimates else f,
            ).zero_()
            for x, f in zip(self.inputs, self.formats, strict=True)
        ]

    def __call__(self, chunk: Chunk) -> None:
        try:
            with torch.set_grad_enabled(self.create_graph):
                points = tuple(self._points(i, chunk) for i in range(len(self.inputs)))
            rows = self.score.rows(chunk.examples, chunk.steps, self.traces[0].steps)
            with self._timed_model():
                slopes = self.gradient(
                    rows, points, create_graph=self.create_graph, variances=self.want_variances
                )
        except BaseException:
            self.buffers = [None] * len(self.inputs)  # memory for the next, smaller try
            raise
        with torch.set_grad_enabled(self.create_graph):
            self._add(chunk, slopes)
        self.steps_done[chunk.examples] += length(chunk.steps)

    @contextmanager
    def _timed_model(self) -> Iterator[None]:
        """Adds what a white box takes to the cost, on a CPU: a GPU would have to be waited for, and
        other gradients add what the model takes themselves."""
        if self.inputs[0].is_cuda or not self.gradient.needs_autograd:
            yield
            return
        start = time.perf_counter()
        yield
        self.score.cost.add_parts({"model": time.perf_counter() - start})

    def _points(self, i: int, chunk: Chunk) -> Tensor:
        x, trace = self.inputs[i], self.traces[i]
        if self.create_graph:
            return trace.points(chunk.examples, chunk.steps, self.formats[i], None)
        buffer = self.buffers[i]
        if buffer is None or buffer.shape[0] < chunk.rows:
            buffer = self.buffers[i] = torch.empty(
                (chunk.rows, *x.shape[1:]),
                dtype=self.score.takes(x) if self.rounds_points else x.dtype,
                device=x.device,
                memory_format=self.formats[i],
            )
        return trace.points(chunk.examples, chunk.steps, self.formats[i], buffer[: chunk.rows])

    def _add(self, chunk: Chunk, slopes: Slopes) -> None:
        examples = chunk.examples
        for i, variance in enumerate(slopes.variances or ()):
            self.traces[i].add_variances(
                variance, examples, chunk.steps, self.variances[i][examples]
            )
        for i, (grad, trace) in enumerate(zip(slopes.values, self.traces, strict=True)):
            if self.create_graph:  # sums that are differentiated cannot be added to in place
                part = self.sums[i][examples] + trace.add(grad, examples, chunk.steps, None)
                self.sums[i] = torch.slice_scatter(
                    self.sums[i], part, 0, examples.start, examples.stop
                )
            else:
                trace.add(grad, examples, chunk.steps, self.sums[i][examples])

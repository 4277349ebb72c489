"""The one loop: make model inputs -> ask the model -> contract the answers into input space."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gradients import Gradient
from ..models.score import RowScore, Score, module_of, owner_of
from ..paths import Trace
from ..runtime.chunks import (
    Chunk,
    ChunkPlanner,
    chunks,
    count_saved_bytes,
    is_out_of_memory,
    length,
)
from ..runtime.cost import Cost
from ..runtime.memory_format import FORMATS, choose_memory_format
from ..runtime.progress import progress_bar


@dataclass(frozen=True)
class LoopOptions:
    """How the loop runs; none of it changes what is computed.

    Attributes:
        max_rows: rows sent through the model at once, at most; None lets the planner choose.
        memory_format: "auto", "contiguous" or "channels_last" model inputs.
        create_graph: keep the graph, so that attributions can be differentiated.
        show_progress: a progress bar over rows.
    """

    max_rows: int | None = None
    memory_format: str = "auto"
    create_graph: bool = False
    show_progress: bool = False

    def __post_init__(self) -> None:
        rows = self.max_rows
        if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
            raise ValueError(
                f"attribute: internal_batch_size must be None or an integer >= 1, got {rows!r}"
            )


def contract(
    score: Score,
    gradient: Gradient,
    inputs: tuple[Tensor, ...],
    traces: tuple[Trace, ...],
    options: LoopOptions,
    cost: Cost,
    description: str = "",
) -> tuple[Tensor, ...]:
    """Sums of the gradients along the traces, one tensor [B, ...] for each tensor of inputs.

    float64; differentiable with create_graph.
    """
    steps = traces[0].steps
    batch = inputs[0].shape[0]
    module = module_of(score.forward)
    planner = ChunkPlanner(owner_of(score.forward), inputs, options.max_rows)
    cost.memory_format, spent = choose_memory_format(
        options.memory_format,
        module,
        inputs,
        batch * steps,
        lambda rows: gradient(score.rows(slice(0, rows[0].shape[0]), 1), rows),
    )
    cost.probes += spent
    run = _Run(score, gradient, inputs, traces, options, cost, planner)
    bar = progress_bar(options.show_progress, batch * steps, description)
    try:
        for chunk in chunks(batch, steps, planner.rows):
            run.chunk(chunk)
            bar.update(chunk.rows)
    finally:
        bar.close()
    return tuple(run.sums)


class _Run:
    """The state of one loop: the sums, and the buffers that every chunk reuses."""

    def __init__(
        self,
        score: Score,
        gradient: Gradient,
        inputs: tuple[Tensor, ...],
        traces: tuple[Trace, ...],
        options: LoopOptions,
        cost: Cost,
        planner: ChunkPlanner,
    ) -> None:
        self.score = score
        self.gradient = gradient
        self.inputs = inputs
        self.traces = traces
        self.create_graph = options.create_graph
        self.cost = cost
        self.planner = planner
        self.buffers: list[Tensor | None] = [None] * len(inputs)
        self.sums = [
            torch.empty(
                x.shape, dtype=torch.float64, device=x.device, memory_format=self._format(x)
            ).zero_()
            for x in inputs
        ]

    def _format(self, x: Tensor) -> torch.memory_format:
        return FORMATS[self.cost.memory_format] if x.dim() == 4 else torch.contiguous_format

    def chunk(self, chunk: Chunk) -> None:
        try:
            grads = self._gradients(chunk)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or chunk.rows == 1:
                raise
        else:
            self._add(chunk, grads)
            return
        # Here the failed chunk's graph is gone with its exception.
        self.cost.out_of_memory += 1
        self.planner.halve(chunk.rows)
        self.buffers = [None] * len(self.inputs)
        if self.planner.device.type == "cuda":
            torch.cuda.empty_cache()
        for half in chunk.halves():
            self.chunk(half)

    def _gradients(self, chunk: Chunk) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(self.create_graph):
            points = tuple(self._points(i, chunk) for i in range(len(self.inputs)))
        rows = self.score.rows(chunk.examples, length(chunk.steps))
        self.cost.rows_per_chunk = max(chunk.rows, self.cost.rows_per_chunk)
        if self.planner.measured or self.create_graph or not self.gradient.needs_autograd:
            grads = self.gradient(rows, points, self.create_graph)
        else:
            grads = self._measured_gradients(rows, points, chunk.rows)
        self.cost.gradients += chunk.rows
        return grads

    def _measured_gradients(
        self, rows: RowScore, points: tuple[Tensor, ...], count: int
    ) -> tuple[Tensor, ...]:
        with contextlib.ExitStack() as stack:
            saved = stack.enter_context(count_saved_bytes(module_of(self.score.forward)))
            grads = self.gradient(rows, points, self.create_graph)
        self.planner.learn(saved.total, count)
        return grads

    def _points(self, i: int, chunk: Chunk) -> Tensor:
        x, trace = self.inputs[i], self.traces[i]
        if self.create_graph:
            return trace.points(chunk.examples, chunk.steps, self._format(x), None)
        buffer = self.buffers[i]
        if buffer is None or buffer.shape[0] < chunk.rows:
            buffer = torch.empty(
                (chunk.rows, *x.shape[1:]),
                dtype=x.dtype,
                device=x.device,
                memory_format=self._format(x),
            )
            self.buffers[i] = buffer
        return trace.points(chunk.examples, chunk.steps, self._format(x), buffer[: chunk.rows])

    def _add(self, chunk: Chunk, grads: tuple[Tensor, ...]) -> None:
        examples = chunk.examples
        for i, (grad, trace) in enumerate(zip(grads, self.traces, strict=True)):
            if self.create_graph:  # sums that are differentiated cannot be added to in place
                part = self.sums[i][examples] + trace.add(grad, examples, chunk.steps, None)
                self.sums[i] = torch.slice_scatter(
                    self.sums[i], part, 0, examples.start, examples.stop
                )
            else:
                trace.add(grad, examples, chunk.steps, self.sums[i][examples])

"""Cutting the work into chunks that fit, and into smaller ones when they do not.

The work is a grid of examples x steps, and a chunk a rectangle of it: one model call. Chunks visit
each example's steps in ascending order, and a kernel's sums follow that order, so the numbers do
not depend on the chunks; only speed and memory do.
"""

from __future__ import annotations

import functools
import math
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .cost import Cost
from .free_memory import free_bytes, most_bytes
from .heap import HEAP
from .memory import is_out_of_memory, measured_bytes

# Bytes of the largest tensor that a chunk makes the model write. Measured on two conv nets, a
# ResNet-50 and a ViT at 3x224x224 and a net of digits, in float32 and bfloat16: the time for each
# row falls until the largest tensor has 20 to 30 MB, by a few per cent from 12 MB on. Tensors of
# more than 32 MB are not kept in the heap (see heap.py), and cost up to twice as much.
CPU_TENSOR_BYTES = 24 * 2**20
# Rows that a chunk has however large their tensors are: deep layers, with small tensors, want them.
FEWEST_ROWS = 4
# What a chunk may make the model write in all, forward and backward together, and the share of the
# free memory that it may be. Chunks that write little do without knowing what is free.
CPU_CHUNK_BYTES = 2 * 2**30
CPU_CHUNK_SHARE = 0.5
LITTLE_BYTES = 64 * 2**20
# The same for models whose tensors are elsewhere, of which only the points are known.
ANSWER_CHUNK_BYTES = 96 * 2**20
# On a GPU, the share of the free memory that a chunk may take at its peak.
CUDA_CHUNK_SHARE = 0.5
# Rows of the first chunk, of which nothing is known yet: these, or as many as have 2 MB of inputs.
FIRST_CHUNK_ROWS = 64
FIRST_CHUNK_BYTES = 2 * 2**20
# Its share of the memory that a machine, or a container, has: activations of deep networks are some
# hundred times as large as their inputs. Not of what is free: the first chunks of a process are
# like those of the next.
FIRST_CHUNK_SHARE = 2**-10

# Steps of an example that are worth having in one chunk: its sums, eight bytes a feature, are read
# and written once for all of them.
STEPS_TOGETHER = 4


@dataclass(frozen=True)
class Chunk:
    examples: slice
    steps: slice

    @property
    def rows(self) -> int:
        return length(self.examples) * length(self.steps)


def length(part: slice) -> int:
    return int(part.stop) - int(part.start)


def chunks(work: Chunk, rows: Callable[[], int]) -> Iterator[Chunk]:
    """Chunks that cover a rectangle of work, of at most rows() rows each; asked for every chunk.

    Examples are taken in blocks of nearly equal size, small enough for some steps of a block to fit
    together; all steps of one block come after the other, as many at a time as fit.
    """
    together = min(STEPS_TOGETHER, length(work.steps))
    begin = work.examples.start
    while begin < work.examples.stop:
        left = work.examples.stop - begin
        end = begin + ceil_div(left, ceil_div(left, max(1, rows() // together)))
        done = work.steps.start
        while done < work.steps.stop:
            fit = rows()
            count = min(max(1, fit // (end - begin)), work.steps.stop - done)
            # After memory ran out, even one step of the block may not fit at once.
            first = begin
            while first < end:
                last = min(end, first + rows())
                yield Chunk(slice(first, last), slice(done, done + count))
                first = last
            done += count
        begin = end


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def first_rows(row_bytes: int, device: torch.device) -> int:
    """Rows of the first chunk, of which only the bytes of its inputs are known."""
    most = None if device.type == "cuda" else most_bytes()
    share = FIRST_CHUNK_BYTES if most is None else int(most * FIRST_CHUNK_SHARE)
    fit = min(FIRST_CHUNK_BYTES, share) // max(1, row_bytes)
    return max(1, min(FIRST_CHUNK_ROWS, fit))


# Measured bytes per row, of all tensors and of the largest, by model and shape of its inputs.
_known_costs: weakref.WeakKeyDictionary[Any, dict[Any, tuple[int, int]]] = (
    weakref.WeakKeyDictionary()
)


class ChunkPlanner:
    """How many rows to send through the model at once.

    Args:
        owner: what the cost belongs to (the model); remembered between calls where it can be.
        inputs: the tensors of which rows are made, [B, ...].
        max_rows: the caller's bound, or None. Whoever sets one has chosen: on a CPU it is then not
            asked how much memory is free, and reruns have the same chunks.
        purpose: what is done with the rows; each purpose is measured by itself.
        rows_per_step: rows that one step of one example takes, where they come in groups. Counts of
            rows below are then counts of groups.
        cpu_bytes: what a chunk may write on a CPU, in all; by default what is fastest.
        repeats: how often the last chunk asked the model for its rows, one time after the other.
        static: the model is compiled for numbers of rows that are powers of two.
    """

    def __init__(
        self,
        owner: Any,
        inputs: tuple[Tensor, ...],
        max_rows: int | None,
        purpose: str = "gradient",
        rows_per_step: int = 1,
        cpu_bytes: int | None = None,
        repeats: Callable[[], float] = lambda: 1.0,
        static: bool = False,
    ) -> None:
        self._static = static
        self.device = inputs[0].device
        self._cpu_bytes = cpu_bytes
        row_bytes = sum(x[0].numel() * x.element_size() for x in inputs if x.shape[0])
        self.row_bytes = row_bytes * rows_per_step
        # On a GPU what counts is the peak, however often it is reached.
        self._repeats = (lambda: 1.0) if self.device.type == "cuda" else repeats
        self.max_rows = None if max_rows is None else max(1, max_rows // rows_per_step)
        self._key = (purpose, rows_per_step, self.device, *((x.shape[1:], x.dtype) for x in inputs))
        try:
            self._costs = _known_costs.setdefault(owner, {})
        except TypeError:  # not every callable can be remembered weakly
            self._costs = {}
        self._free: int | None = None

    @property
    def measured(self) -> bool:
        return self._key in self._costs

    @property
    def bytes_per_row(self) -> int:
        """What a row makes the model write, as far as it is known."""
        return self._costs.get(self._key, (self.row_bytes, 0))[0]

    def learn(self, written: int, rows: int, largest: int = 0) -> None:
        """Takes in what a chunk of `rows` rows made the model write, in all and in its largest
        tensor; points come on top."""
        each = math.ceil(written / (rows * self._repeats())) + self.row_bytes
        self._costs[self._key] = max(1, each), max(ceil_div(largest, rows), self.row_bytes, 1)

    def shrink(self, rows: int) -> None:
        """Called when a chunk of `rows` rows did not fit: from now on at most half as many."""
        _, largest = self._costs.get(self._key, (0, 1))
        self._costs[self._key] = ceil_div(self._budget(), max(1, rows // 2)), largest

    def rows(self, most: int = sys.maxsize) -> int:
        """Of the next chunk of work that has `most` rows in all."""
        if self.measured:
            written, largest = self._costs[self._key]
            rows = self._budget() // written
            if self.device.type != "cuda" and self._cpu_bytes is None:
                rows = min(rows, max(CPU_TENSOR_BYTES // largest, FEWEST_ROWS))
            asked = self.device.type != "cuda" and self.max_rows is None
            if asked and min(rows, most) * written > LITTLE_BYTES:
                rows = min(rows, self._share_of_free() // written)
        else:
            rows = first_rows(self.row_bytes, self.device)
        if self.max_rows is not None:
            rows = min(rows, self.max_rows)
        rows = max(1, rows)
        return 1 << (rows.bit_length() - 1) if self._static else rows

    def _share_of_free(self) -> int:
        """Asked for once: what the chunks of this work hold is free again for the next."""
        if self._free is None:
            free = free_bytes()
            self._free = sys.maxsize if free is None else free + HEAP.free_bytes()
        return int(CPU_CHUNK_SHARE * self._free)

    def _budget(self) -> int:
        if self.device.type != "cuda":
            return CPU_CHUNK_BYTES if self._cpu_bytes is None else self._cpu_bytes
        free, _ = torch.cuda.mem_get_info(self.device)
        reusable = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(
            self.device
        )
        return int((free + reusable) * CUDA_CHUNK_SHARE)


def _counting_once(run: Callable[[Chunk], None], chunk: Chunk, cost: Cost) -> Callable[[], None]:
    """The work of a chunk, whose rows count once even where it is done again."""
    before = cost.gradients, cost.queries

    def work() -> None:
        cost.gradients, cost.queries = before
        run(chunk)

    return work


def run_chunks(
    work: Chunk,
    planner: ChunkPlanner,
    run: Callable[[Chunk], None],
    cost: Cost,
    measure: bool = True,
) -> None:
    """Runs all of the work, in chunks that the planner sizes and memory allows.

    `run` must change nothing when it raises. It is measured once for each model and shape of
    inputs; `measure=False` leaves that to another call.
    """
    keeping = nullcontext() if planner.device.type == "cuda" else HEAP.kept()
    with keeping:
        _run_chunks(work, planner, run, cost, measure)


def _run_chunks(
    work: Chunk,
    planner: ChunkPlanner,
    run: Callable[[Chunk], None],
    cost: Cost,
    measure: bool,
) -> None:
    for chunk in chunks(work, functools.partial(planner.rows, work.rows)):
        try:
            if measure and not planner.measured:
                written = measured_bytes(_counting_once(run, chunk, cost), planner.device)
                planner.learn(written.total, chunk.rows, written.largest)
            else:
                run(chunk)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or chunk.rows == 1:
                raise
        else:
            if planner.device.type != "cuda":
                HEAP.wrote(chunk.rows * planner.bytes_per_row)
            continue
        # Here the exception, and with it the failed chunk's graph, is gone.
        cost.out_of_memory += 1
        planner.shrink(chunk.rows)
        if planner.device.type == "cuda":
            torch.cuda.empty_cache()
        _run_chunks(chunk, planner, run, cost, measure)

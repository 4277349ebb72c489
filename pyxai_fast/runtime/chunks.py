"""Cutting the work into chunks that fit, and halving them when they do not.

The work is a grid of examples x steps, and a chunk a rectangle of it: one model call. Chunks visit
each example's steps in ascending order, and a kernel's sums follow that order, so the numbers do
not depend on the chunks; only speed and memory do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Rows of a chunk are bounded by what they make the model keep for its backward pass. On a CPU more
# is slower: measured on two conv nets at 3x224x224, time per row is lowest while that stays within
# the last-level cache and below 32 MB an allocation (where malloc starts to map and unmap pages),
# and has doubled at ten times that.
CPU_CHUNK_BYTES = 48 * 2**20
# On a GPU, the share of the free memory.
CUDA_CHUNK_SHARE = 0.5
# Rows of the first chunk, of which nothing is known yet: as many as have 2 MB of inputs.
FIRST_CHUNK_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Chunk:
    examples: slice
    steps: slice

    @property
    def rows(self) -> int:
        return length(self.examples) * length(self.steps)

    def halves(self) -> tuple[Chunk, Chunk]:
        """The chunk in two, earlier steps first; of one step, in two blocks of examples."""
        if length(self.steps) > 1:
            first, second = halve(self.steps)
            return Chunk(self.examples, first), Chunk(self.examples, second)
        first, second = halve(self.examples)
        return Chunk(first, self.steps), Chunk(second, self.steps)


def length(part: slice) -> int:
    return int(part.stop) - int(part.start)


def halve(part: slice) -> tuple[slice, slice]:
    middle = part.start + length(part) // 2
    return slice(part.start, middle), slice(middle, part.stop)


def chunks(batch: int, steps: int, rows: Callable[[], int]) -> Iterator[Chunk]:
    """Chunks that cover batch x steps, of at most rows() rows each; rows() is asked every time.

    Examples are taken in blocks of nearly equal size that fit, all steps of one block after the
    other, as many steps at a time as fit.
    """
    begin = 0
    while begin < batch:
        left = batch - begin
        end = begin + ceil_div(left, ceil_div(left, rows()))
        done = 0
        while done < steps:
            fit = rows()
            count = min(max(1, fit // (end - begin)), steps - done)
            # After memory ran out, even one step of the block may not fit at once.
            for first in range(begin, end, fit):
                yield Chunk(slice(first, min(end, first + fit)), slice(done, done + count))
            done += count
        begin = end


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass
class SavedBytes:
    total: int = 0


@contextmanager
def count_saved_bytes(module: nn.Module | None) -> Iterator[SavedBytes]:
    """Counts what autograd keeps for the backward pass within the block, weights not included."""
    counted = SavedBytes()
    seen: set[int] = set()
    if module is not None:
        for tensor in (*module.parameters(), *module.buffers()):
            seen.add(tensor.untyped_storage().data_ptr())

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter) and tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                counted.total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield counted


def budget(device: torch.device) -> int:
    """Bytes that a chunk may take on a device."""
    if device.type != "cuda":
        return CPU_CHUNK_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int((free + reusable) * CUDA_CHUNK_SHARE)


# Measured bytes per row, by model and by the shape of its inputs.
_known_costs: weakref.WeakKeyDictionary[Any, dict[Any, int]] = weakref.WeakKeyDictionary()


class ChunkPlanner:
    """How many rows to send through the model at once.

    Args:
        owner: what the cost belongs to (the model); remembered between calls where it can be.
        inputs: the tensors of which rows are made, [B, ...].
        max_rows: the caller's bound, or None.
    """

    def __init__(self, owner: Any, inputs: tuple[Tensor, ...], max_rows: int | None) -> None:
        self.device = inputs[0].device
        self.row_bytes = sum(x[0].numel() * x.element_size() for x in inputs if x.shape[0])
        self.max_rows = max_rows
        self.limit: int | None = None  # lowered when memory runs out
        self._key = (self.device, *((x.shape[1:], x.dtype) for x in inputs))
        try:
            self._costs = _known_costs.setdefault(owner, {})
        except TypeError:  # not every callable can be remembered weakly
            self._costs = {}

    @property
    def measured(self) -> bool:
        return self._key in self._costs

    def learn(self, saved_bytes: int, rows: int) -> None:
        """Takes in what a chunk of `rows` rows made the model keep."""
        # Points and their gradients come on top.
        self._costs[self._key] = max(1, saved_bytes // rows + 2 * self.row_bytes)

    def rows(self) -> int:
        if self.measured:
            rows = budget(self.device) // self._costs[self._key]
        else:
            rows = FIRST_CHUNK_BYTES // max(1, self.row_bytes)
        for bound in (self.max_rows, self.limit):
            if bound is not None:
                rows = min(rows, bound)
        return max(1, rows)

    def halve(self, rows: int) -> None:
        """Called when a chunk of `rows` rows did not fit."""
        self.limit = max(1, rows // 2)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

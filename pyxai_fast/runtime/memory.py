"""How much memory a piece of work takes, and whether there was enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _WrittenBytes(TorchDispatchMode):
    """Adds up the storages that ops make: every activation, its gradient and temporaries."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.largest = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch's way to say that this mode does not care; saying so saves importing the compiler.
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        # A result that lies in an argument's storage is a view or in place, and nothing new.
        old = {_storage(leaf) for leaf in tree_leaves((args, kwargs))}
        new = {_storage(leaf) for leaf in tree_leaves(results)} - old
        self.total += sum(size for _, size in new)
        self.largest = max(self.largest, *(size for _, size in new), 0)
        return results


def _storage(leaf: Any) -> tuple[int, int]:
    if not isinstance(leaf, Tensor) or leaf.layout != torch.strided:
        return 0, 0
    storage = leaf.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


class Written(NamedTuple):
    """Bytes that work takes: on a GPU at its peak, on a CPU of all that it writes; and of its
    largest tensor, where every one was seen."""

    total: int
    largest: int = 0


def measured_bytes(work: Callable[[], None], device: torch.device) -> Written:
    """Runs `work` once, and returns the bytes it takes.

    Work that cannot be watched (some compiled and transformed functions) is run unwatched, for 0
    bytes.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return Written(int(torch.cuda.max_memory_allocated(device) - before))
    try:
        with _WrittenBytes() as written:
            work()
    except (RuntimeError, NotImplementedError, MemoryError) as error:
        if is_out_of_memory(error):
            raise
        work()
        return Written(0)
    return Written(int(written.total), int(written.largest))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any of torch's allocators and libraries."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    texts = ("out of memory", "allocate memory", "enough memory", "ALLOC_FAILED", "bad_alloc")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)

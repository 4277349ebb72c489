"""Pictures read ahead, by processes of their own, while the model explains those before."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..images import ImageError, read_image
from ..models.preprocessing import Preprocessing
from .items import Item, Items

# Batches that each process has ready, or is reading.
PREFETCH = 2
# Seconds before a storage that failed is tried again.
PAUSES = (0.1, 1.0)
# What is wrong with a file, or its name, and is so tomorrow. Decoders that are led astray go to
# where there is nothing: EINVAL. Any other number is the storage's, or this machine's.
_OF_THE_FILE = frozenset(
    (
        errno.EACCES, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT,
        errno.ENOTDIR, errno.ENXIO, errno.EOVERFLOW, errno.EPERM,
    )
)  # fmt: skip


class StorageError(ImageError):
    """It is not the picture that is at fault: it could not be read, and may be another time."""


@dataclass(frozen=True)
class Span:
    """Items [first, last) of a shard that are read, and explained, together."""

    shard: int
    first: int
    last: int


@dataclass
class Group:
    """Pictures of one size.

    Attributes:
        numbers: of the items.
        pixels: [n, C, H, W] float32 in [0, 1].
        targets: the classes to explain, where they are given.
    """

    numbers: list[int]
    pixels: Tensor
    targets: list[int] | None

    def only(self, rows: list[int]) -> Group:
        """Those of some rows."""
        targets = None if self.targets is None else [self.targets[row] for row in rows]
        return Group([self.numbers[row] for row in rows], self.pixels[rows], targets)


@dataclass
class Batch:
    """A span that was read.

    Attributes:
        keys: of all items of the span.
        groups: those that could be read, by size, in the order of their first.
        bad: why the others could not, by number.
        failed: why reading ended before the span did; None where it did not.
    """

    span: Span
    keys: list[str]
    groups: list[Group]
    bad: dict[int, str]
    failed: str | None = None

    def pin_memory(self) -> Batch:
        """Called by DataLoader."""
        for group in self.groups:
            group.pixels = group.pixels.pin_memory()
        return self


def read_item(item: Item, preprocessing: Preprocessing) -> Tensor:
    """Pixels [C, H, W] of an item. What may pass is tried again after a pause.

    Raises:
        ImageError: it cannot be read; the message is its key and the reason.
        StorageError: again and again, it was the storage that failed.
    """
    for pause in PAUSES:
        try:
            return _read_once(item, preprocessing)
        except ImageError as error:
            if not _may_pass(error):
                raise
        time.sleep(pause)
    try:
        return _read_once(item, preprocessing)
    except ImageError as error:
        if not _may_pass(error):
            raise
        raise StorageError(str(error)) from error.__cause__


def _may_pass(error: ImageError) -> bool:
    cause = error.__cause__
    if isinstance(cause, OSError):  # also what Pillow raises of a picture, without a number
        return cause.errno is not None and cause.errno not in _OF_THE_FILE
    return isinstance(cause, MemoryError)


def _read_once(item: Item, preprocessing: Preprocessing) -> Tensor:
    if item.member is None:
        return read_image(item.path, preprocessing, name=item.key)
    try:
        with open(item.path, "rb") as file:
            file.seek(item.offset or 0)
            data = file.read(item.size)
    except OSError as error:
        raise ImageError(f"{item.key}: {error.strerror or error}") from error
    return read_image(io.BytesIO(data), preprocessing, name=item.key)


def read_span(items: Sequence[Item], span: Span, preprocessing: Preprocessing) -> Batch:
    """Reads the items of a span, whatever may be wrong with some of them."""
    found: dict[tuple[int, ...], list[tuple[int, Tensor, int | None]]] = {}
    bad: dict[int, str] = {}
    keys, failed = [], None
    for number in range(span.first, span.last):
        item = items[number]
        keys.append(item.key)
        try:
            pixels = read_item(item, preprocessing)
        except StorageError as error:
            failed = f"storage or memory failed, again and again, at {error}"
            break
        except ImageError as error:
            bad[number] = str(error).removeprefix(f"{item.key}: ")
            continue
        if not all(pixels.shape):
            bad[number] = f"has no pixels: {pixels.shape[1]}x{pixels.shape[2]}"
            continue
        found.setdefault(tuple(pixels.shape), []).append((number, pixels, item.target))
    return Batch(span, keys, [_group(members) for members in found.values()], bad, failed)


def _group(members: list[tuple[int, Tensor, int | None]]) -> Group:
    numbers, pixels, targets = zip(*members, strict=True)
    given = [target for target in targets if target is not None]
    return Group(list(numbers), torch.stack(pixels), given or None)


def reader_died(error: BaseException) -> bool:
    """Whether an error says that a process that reads is gone. DataLoader's signal handler may
    raise it in the midst of whatever this process does."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


class SpanReader:
    """Reads spans in the order that they are asked for.

    Args:
        folder: of the job.
        preprocessing: geometry and channels.
        workers: processes that read ahead, as long as this lives; 0 reads when asked. They are
            started afresh, so that the main module of a program that asks for them must be fit to
            be imported, as for all of `multiprocessing`.
        device: where the pictures go.
    """

    def __init__(
        self, folder: Path, preprocessing: Preprocessing, workers: int, device: torch.device
    ) -> None:
        self._device, self.workers = device, workers
        self._order = _Order()
        options: dict[str, Any] = {}
        if workers:
            # Not by fork: this process has threads, whose locks a copy would wait for in vain.
            options = {
                "multiprocessing_context": _context(),
                "persistent_workers": True,
                "prefetch_factor": PREFETCH,
                "worker_init_fn": _end_with_parent,
            }
        self._loader: DataLoader[Batch] = DataLoader(
            _Spans(Items(folder), preprocessing),
            batch_size=None,  # a span is a batch already
            sampler=self._order,
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # of a seed that nobody uses; the global one stays
            **options,
        )

    def read(self, spans: Iterable[Span]) -> Iterator[Batch]:
        """Batches, with their pixels on their way to the device. Spans are taken some ahead."""
        self._order.spans = spans
        batches = iter(self._loader)
        return _sent_ahead(batches, self._device) if self._device.type == "cuda" else batches

    def close(self) -> None:
        """Ends the processes that read."""
        del self._loader


class _Order:
    """What is to be read next: DataLoader asks for it when it begins, and begins many times."""

    spans: Iterable[Span] = ()

    def __iter__(self) -> Iterator[Span]:
        return iter(self.spans)


class _Spans(Dataset[Batch]):
    def __init__(self, items: Items, preprocessing: Preprocessing) -> None:
        self._items, self._preprocessing = items, preprocessing

    def __getitem__(self, span: Span) -> Batch:
        return read_span(self._items, span, self._preprocessing)


def _end_with_parent(number: int) -> None:
    """Ends a process that reads when the one that it reads for is killed. DataLoader itself only
    looks for the fork server, which waits for this one."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _as_it_is(batch: Any) -> Any:
    return batch


def _context() -> Any:
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        # torch is then imported once, and not by every process.
        context.set_forkserver_preload([__name__])
    return context


def _sent_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, each copied to the GPU while the one before it is explained."""
    stream = torch.cuda.Stream(device)

    def sent(batch: Batch) -> Batch:
        with torch.cuda.stream(stream):
            for group in batch.groups:
                group.pixels = group.pixels.to(device, non_blocking=True)
        return batch

    ahead: Batch | None = None
    for batch in batches:
        following = sent(batch)
        if ahead is not None:
            yield ahead
        ahead = following
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for group in following.groups:
            group.pixels.record_stream(current)
    if ahead is not None:
        yield ahead

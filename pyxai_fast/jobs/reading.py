"""Pictures read ahead, by processes of their own, while the model explains those before."""

from __future__ import annotations

import errno
import io
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..images import ImageError, read_image
from ..models.preprocessing import Preprocessing
from .items import Item, Items
from .processes import ProcessEndedError, ThrowawayProcess, end_with_parent, process_context

# Batches that each process has ready, or is reading.
PREFETCH = 2
# Seconds before a storage that failed is tried again.
PAUSES = (0.1, 1.0)
# Processes in a row that may die while no picture is at fault.
DEATHS_FOR_NOTHING = 3
# Pictures in a row that may be too large: then it is memory that is too small, for any of them.
KILLED_IN_A_ROW = 3
# What is said of pictures that end what reads them. A crash has several signals, from time to time.
CRASHES = "crashes its decoder: two processes that read it died"
TOO_LARGE = "takes more memory than there is: two processes that read it were killed"
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


@dataclass(frozen=True)
class Reading:
    """What came of reading an item: one of

    Attributes:
        pixels: [C, H, W] float32 in [0, 1].
        bad: what is wrong with it.
        failed: what is wrong, but not with it, so that reading cannot go on.
    """

    pixels: Tensor | None = None
    bad: str | None = None
    failed: str | None = None


def read_item_or_say_why(item: Item, preprocessing: Preprocessing) -> Reading:
    """Reads an item, whatever may be wrong with it."""
    try:
        pixels = read_item(item, preprocessing)
    except StorageError as error:
        return Reading(failed=f"storage or memory failed, again and again, at {error}")
    except ImageError as error:
        return Reading(bad=str(error).removeprefix(f"{item.key}: "))
    if not all(pixels.shape):
        return Reading(bad=f"has no pixels: {pixels.shape[1]}x{pixels.shape[2]}")
    return Reading(pixels)


def read_span(
    items: Sequence[Item],
    span: Span,
    preprocessing: Preprocessing,
    read: Callable[[Item], Reading] | None = None,
) -> Batch:
    """Reads the items of a span, whatever may be wrong with some of them.

    Args:
        read: how each of them is; by default in this process.
    """
    read = read or partial(read_item_or_say_why, preprocessing=preprocessing)
    found: dict[tuple[int, ...], list[tuple[int, Tensor, int | None]]] = {}
    bad: dict[int, str] = {}
    keys, failed = [], None
    for number in range(span.first, span.last):
        item = items[number]
        keys.append(item.key)
        reading = read(item)
        if reading.failed is not None:
            failed = reading.failed
            break
        if reading.bad is not None:
            bad[number] = reading.bad
        elif reading.pixels is not None:
            pixels = reading.pixels
            found.setdefault(tuple(pixels.shape), []).append((number, pixels, item.target))
    return Batch(span, keys, [_group(members) for members in found.values()], bad, failed)


def _group(members: list[tuple[int, Tensor, int | None]]) -> Group:
    numbers, pixels, targets = zip(*members, strict=True)
    given = [target for target in targets if target is not None]
    return Group(list(numbers), torch.stack(pixels), given or None)


def first_line(error: BaseException) -> str:
    """Of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reader_died(error: BaseException) -> bool:
    """Whether an error says that a process that reads is gone. DataLoader's signal handler may
    raise it in the midst of whatever this process does."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


class SpanReader:
    """Reads spans in the order that they are asked for.

    A picture that ends the process that reads it is a bad file. When one of these processes is
    gone, what was asked for is read one picture at a time, and the processes are started anew.

    Args:
        folder: of the job.
        preprocessing: geometry and channels.
        workers: processes that read ahead, as long as this lives; 0 reads when asked, in this
            process, which then ends with the first picture that ends it. They are started afresh,
            so that the main module of a program that asks for them must be fit to be imported, as
            for all of `multiprocessing`.
        device: where the pictures go.

    Attributes:
        asked: the spans that are being read, or dealt with.
    """

    def __init__(
        self, folder: Path, preprocessing: Preprocessing, workers: int, device: torch.device
    ) -> None:
        self.workers = workers
        self.asked: deque[Span] = deque()
        self._items, self._preprocessing, self._device = Items(folder), preprocessing, device
        self._order = _Order()
        self._loader = self._new_loader()

    def _new_loader(self) -> DataLoader[Batch]:
        options: dict[str, Any] = {}
        if self.workers:
            options = {
                "multiprocessing_context": process_context(),
                "persistent_workers": True,
                "prefetch_factor": PREFETCH,
                "worker_init_fn": end_with_parent,
            }
        return DataLoader(
            _Spans(self._items, self._preprocessing),
            batch_size=None,  # a span is a batch already
            sampler=self._order,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # of a seed that nobody uses; the global one stays
            **options,
        )

    def read(self, spans: Iterable[Span]) -> Iterator[Batch]:
        """Batches, with their pixels on their way to the device. Spans are taken some ahead.

        Where reading fails, the last batch says so. What `spans` raises comes after the batches of
        those that it gave.
        """
        batches = self._read(spans)
        return _sent_ahead(batches, self._device) if self._device.type == "cuda" else batches

    def _read(self, spans: Iterable[Span]) -> Iterator[Batch]:
        stopped: list[Exception] = []
        self.asked.clear()
        self._order.spans = self._noted(spans, stopped)
        for_nothing = 0
        while True:
            died = None
            try:
                for batch in self._loader:
                    yield batch
                    self.asked.popleft()
                    for_nothing = 0
            except Exception as error:  # DataLoader's, or of sockets that nobody listens at
                if not self.workers or (for_nothing == DEATHS_FOR_NOTHING and not self.asked):
                    raise
                died = first_line(error)
            if died is None:
                break
            if for_nothing == DEATHS_FOR_NOTHING:
                yield self._failed(died)
                break
            self._loader = self._new_loader()
            crashed = yield from self._read_one_by_one(died)
            for_nothing = 0 if crashed else for_nothing + 1
        if stopped:
            raise stopped[0]

    def _noted(self, spans: Iterable[Span], stopped: list[Exception]) -> Iterator[Span]:
        """The spans; they end where no more can be given."""
        try:
            for span in spans:
                self.asked.append(span)
                yield span
        except Exception as error:  # of who gives out shards, and not of who reads
            stopped.append(error)

    def _read_one_by_one(self, died: str) -> Generator[Batch, None, bool]:
        """What was asked for. Returns whether a picture of it ends the process that reads it."""
        place = self._place()
        with _ReaderAlone(self._preprocessing) as read:
            while self.asked:
                try:
                    batch = read_span(self._items, self.asked[0], self._preprocessing, read)
                except Exception as error:  # it cannot be started, or the list is damaged
                    batch = self._failed(first_line(error))
                yield batch
                self.asked.popleft()
        if not read.found:
            warnings.warn(
                f"jobs: a process that reads pictures died somewhere in {place}, and none of them "
                f"was at fault ({died}): memory ran out, perhaps; ask for fewer workers",
                stacklevel=2,
            )
        return read.found

    def _failed(self, died: str) -> Batch:
        return Batch(self.asked[0], [], [], {}, self.what_died(died))

    def what_died(self, died: str) -> str:
        """What is said of processes that read, where that is the end."""
        return (
            f"a process that reads pictures died somewhere in {self._place()} ({died}): "
            "memory ran out, or there is too little that processes share; resume with fewer "
            "workers, or with workers=0 (--workers 0)"
        )

    def _place(self) -> str:
        if not self.asked:
            return "no items"
        first, last = self.asked[0], self.asked[-1]
        return f"items {first.first} to {last.last - 1}, from shard {first.shard} on"

    def close(self) -> None:
        """Ends the processes that read."""
        del self._loader


class _ReaderAlone:
    """Reads items in a process that they may end.

    An item that does so twice is bad: once could be chance, or what was read before. The second
    process has read nothing else.

    Attributes:
        found: whether there were any.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.found = False
        self._process = ThrowawayProcess(partial(read_item_or_say_why, preprocessing=preprocessing))
        self._killed = 0

    def __call__(self, item: Item) -> Reading:
        for _ in range(2):
            try:
                reading = self._process(item)
            except ProcessEndedError as error:
                code = error.code
            else:
                self._killed = 0
                return reading
        self.found = True
        if code != -signal.SIGKILL:
            return Reading(bad=CRASHES)
        self._killed += 1
        if self._killed == KILLED_IN_A_ROW:
            return Reading(failed=f"memory failed, for one picture after the other, at {item.key}")
        return Reading(bad=TOO_LARGE)

    def __enter__(self) -> _ReaderAlone:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.end()


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


def _as_it_is(batch: Any) -> Any:
    return batch


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

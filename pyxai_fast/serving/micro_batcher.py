"""Small requests in, batches of equal work out, on one thread that owns the model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from pyxai_fast.serving.fair_queue import FairQueue

LOG = logging.getLogger("pyxai_fast.serving")

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Work = Callable[[Any, list[Item]], Sequence[Answer]]


class QueueFull(Exception):
    """More would wait than may wait; nothing of the call was taken.

    Attributes:
        waiting: how many wait.
    """

    def __init__(self, waiting: int) -> None:
        super().__init__(f"the queue is full: {waiting} wait")
        self.waiting = waiting


class Closed(Exception):
    """Nothing is taken any more."""


@dataclass(eq=False)
class _Waiting(Generic[Item, Answer]):
    """An item in its queue; removed from it when its future is cancelled."""

    item: Item
    future: Future[Answer] = field(default_factory=Future)


class MicroBatcher(Generic[Item, Answer]):
    """Queues of items with equal keys, worked off in batches by a single thread.

    A batch starts when it is full, or when its first item has waited long enough. Of several such
    batches lanes take turns, in a lane keys, and in a batch the calls that brought the items: who
    asks for much waits longer for it, and nobody else does. While one is computed the next fills,
    so that under load batches are large and nobody waits for the clock. After a batch of one, the
    next item does not wait either: a client that is alone would wait for nobody.

    Args:
        work: called as work(key, items) on the thread; gives an answer for each item. An exception
            for one item of several is found by working on each alone, so that the others get their
            answers nevertheless.
        max_batch: the most items of a batch.
        largest: the same for a key, where it is less.
        lane: of a key; there should be few lanes, as each has an equal part of the thread's turns.
        max_wait: seconds that an item waits for others, at most, while the thread has nothing to
            do.
        max_queue: the most items that wait.
        hopeless: exceptions that would only come again for each item alone.
        on_batch: called as on_batch(key, size, seconds) after each batch.

    Attributes:
        broken: the thread has ended without being asked to; nothing is taken any more.
    """

    def __init__(
        self,
        work: Work[Item, Answer],
        *,
        max_batch: int = 16,
        max_wait: float = 0.002,
        max_queue: int = 256,
        hopeless: tuple[type[Exception], ...] = (),
        on_batch: Callable[[Any, int, float], None] = lambda key, size, seconds: None,
        largest: Callable[[Any], int] | None = None,
        lane: Callable[[Any], Hashable] = lambda key: None,
    ) -> None:
        for name, value in (("max_batch", max_batch), ("max_queue", max_queue)):
            if value < 1:
                raise ValueError(f"MicroBatcher: {name} must be at least 1, got {value}")
        if not max_wait >= 0:
            raise ValueError(f"MicroBatcher: max_wait must not be negative, got {max_wait}")
        self.max_batch, self.max_wait, self.max_queue = max_batch, max_wait, max_queue
        self._work, self._hopeless = work, hopeless
        self._on_batch, self._lane = on_batch, lane
        self._largest = (lambda key: max_batch) if largest is None else largest
        self._queues: dict[Hashable, FairQueue[_Waiting[Item, Answer]]] = {}  # the next key first
        self._served: dict[Hashable, int] = {}  # the latest turn of each lane
        self._turn = 0
        self._waiting = 0
        self._company = True  # the batch before had several items
        self._closed = False
        self.broken = False
        self._changed = threading.Condition()
        # A daemon: a process that fails elsewhere does not wait for a model to finish.
        self._thread = threading.Thread(target=self._run, name="micro-batcher", daemon=True)

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return self._waiting

    def start(self) -> None:
        self._thread.start()

    def submit(self, key: Hashable, items: Sequence[Item]) -> list[Future[Answer]]:
        """A future for each item, which may be cancelled until its batch starts.

        Raises:
            QueueFull: not all of the items may wait.
            Closed: after `close`.
        """
        arrived = time.monotonic()
        new = [_Waiting[Item, Answer](item) for item in items]
        with self._changed:
            if self._closed:
                raise Closed
            if self._waiting + len(new) > self.max_queue:
                raise QueueFull(self._waiting)
            queue = self._queues.setdefault(key, FairQueue())
            queue.add(arrived, new)
            self._waiting += len(new)
            # The thread need not wake for what neither starts a clock nor fills a batch.
            if len(queue) == len(new) or len(queue) >= self._room(key):
                self._changed.notify()
        for waiting in new:
            waiting.future.add_done_callback(partial(self._forget, key, waiting))
        return [waiting.future for waiting in new]

    def hurry(self) -> None:
        """From now on no batch waits to be filled."""
        with self._changed:
            self.max_wait = 0.0
            self._changed.notify()

    def close(self, *, drain: bool = True, timeout: float | None = None) -> bool:
        """Takes nothing more, and ends the thread; whether it has ended in time.

        Args:
            drain: work on what waits; else its futures fail with Closed.
            timeout: in seconds.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        if not drain:
            self._drop_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _drop_all(self) -> None:
        with self._changed:
            queues, self._queues, self._waiting = self._queues, {}, 0
        for queue in queues.values():
            for waiting in queue.take(len(queue)):
                if waiting.future.set_running_or_notify_cancel():
                    waiting.future.set_exception(Closed())

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                key, waiting = batch
                # What was cancelled between the queue and here.
                taken = [each for each in waiting if each.future.set_running_or_notify_cancel()]
                if taken:
                    self._compute(key, taken)
                del batch, waiting, taken  # pictures are not kept while the thread sleeps
        except BaseException:
            LOG.exception("the thread of the model has ended: nothing is computed any more")
            with self._changed:
                self.broken = self._closed = True
            self._drop_all()

    def _next(self) -> tuple[Hashable, list[_Waiting[Item, Answer]]] | None:
        """Waits for the next batch; None when there will be none."""
        with self._changed:
            while True:
                now, oldest, ripe = time.monotonic(), None, []
                wait = self.max_wait if self._company else 0.0
                for key, queue in self._queues.items():
                    arrived = queue.arrived
                    oldest = arrived if oldest is None else min(oldest, arrived)
                    if self._closed or len(queue) >= self._room(key) or arrived + wait <= now:
                        ripe.append(key)
                if ripe:
                    chosen = min(ripe, key=lambda key: self._served.get(self._lane(key), 0))
                    return chosen, self._take(chosen)
                if self._closed:
                    return None
                self._changed.wait(None if oldest is None else oldest + wait - now)

    def _room(self, key: Hashable) -> int:
        return max(1, min(self.max_batch, self._largest(key)))

    def _take(self, key: Hashable) -> list[_Waiting[Item, Answer]]:
        room = self._room(key)
        queue = self._queues.pop(key)
        taken = queue.take(room)
        if len(queue):
            self._queues[key] = queue  # behind the others
        self._turn += 1
        self._served[self._lane(key)] = self._turn
        self._waiting -= len(taken)
        self._company = len(taken) > 1
        return taken

    def _compute(self, key: Hashable, taken: list[_Waiting[Item, Answer]]) -> None:
        started = time.perf_counter()
        try:
            answers = self._work(key, [each.item for each in taken])
            if len(answers) != len(taken):
                raise ValueError(f"work gave {len(answers)} answers to {len(taken)} items")
        except BaseException as error:  # a model that exits must not take the thread with it
            if len(taken) > 1 and not isinstance(error, self._hopeless):
                for each in taken:
                    self._compute(key, [each])
                return
            for each in taken:
                each.future.set_exception(_as_exception(error))
            return
        try:
            self._on_batch(key, len(taken), time.perf_counter() - started)
        except Exception:
            LOG.exception("a batch could not be counted")
        for each, answer in zip(taken, answers, strict=True):
            each.future.set_result(answer)

    def _forget(
        self, key: Hashable, waiting: _Waiting[Item, Answer], future: Future[Answer]
    ) -> None:
        """Makes room for others as soon as an item is cancelled."""
        if not future.cancelled():
            return
        with self._changed:
            queue = self._queues.get(key)
            if queue is None or not queue.drop(waiting):
                return
            self._waiting -= 1
            if not queue:
                del self._queues[key]


def _as_exception(error: BaseException) -> Exception:
    """What may be raised in whoever waits, without ending them too."""
    if isinstance(error, Exception):
        return error
    wrapped = RuntimeError(f"work raised {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped

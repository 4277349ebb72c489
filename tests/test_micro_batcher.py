"""Batches form, fill, fail and end as promised; nothing here depends on how long anything takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxai_fast.serving.micro_batcher import Closed, MicroBatcher, QueueFull

FOREVER = 3600.0
SOON = 30.0  # seconds after which a test has failed


class Worker:
    """Doubles numbers, and remembers the batches.

    Attributes:
        batches: (key, items) in order.
        entered: set when work on a batch has begun.
        gate: work goes on while it is set.
        bad: what raises when it is worked on.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[Any, list[int]]] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.bad: dict[int, Exception] = {}

    def __call__(self, key: Any, items: list[int]) -> list[int]:
        self.batches.append((key, items))
        self.entered.set()
        assert self.gate.wait(SOON)
        for item in items:
            if item in self.bad:
                raise self.bad[item]
        return [2 * item for item in items]

    def sizes(self) -> list[int]:
        return [len(items) for _, items in self.batches]


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def batcher(worker: Worker) -> Iterator[Callable[..., MicroBatcher[int, int]]]:
    made: list[MicroBatcher[int, int]] = []

    def make(**options: Any) -> MicroBatcher[int, int]:
        batcher = MicroBatcher(worker, **{"max_wait": FOREVER, "max_batch": 4, **options})
        made.append(batcher)
        batcher.start()
        return batcher

    yield make
    worker.gate.set()
    for each in made:
        assert each.close(drain=False, timeout=SOON)


def held(worker: Worker, batcher: MicroBatcher[int, int]) -> Any:
    """A batch of its own that is being worked on until the gate opens."""
    worker.gate.clear()
    futures = batcher.submit("held", [0] * batcher.max_batch)
    assert worker.entered.wait(SOON)
    return futures


def test_a_full_batch_does_not_wait(worker: Worker, batcher: Any) -> None:
    futures = batcher().submit("a", [1, 2, 3, 4])
    assert [future.result(SOON) for future in futures] == [2, 4, 6, 8]
    assert worker.batches == [("a", [1, 2, 3, 4])]


def test_what_came_apart_is_computed_together(worker: Worker, batcher: Any) -> None:
    running = batcher()
    futures = [running.submit("a", [item])[0] for item in range(4)]
    assert [future.result(SOON) for future in futures] == [0, 2, 4, 6]
    assert worker.sizes() == [4]


def test_a_batch_that_does_not_fill_goes_when_its_first_item_has_waited(batcher: Any) -> None:
    assert batcher(max_wait=0.01).submit("a", [7])[0].result(SOON) == 14


def test_without_a_wait_an_item_goes_at_once(batcher: Any) -> None:
    assert batcher(max_wait=0.0).submit("a", [7])[0].result(SOON) == 14


def test_whoever_was_alone_does_not_wait_again(worker: Worker, batcher: Any) -> None:
    running = batcher()
    future = running.submit("a", [1])[0]
    running.hurry()
    assert future.result(SOON) == 2
    running.max_wait = FOREVER
    assert running.submit("a", [2])[0].result(SOON) == 4
    # Once there is company again, so is the wait.
    held(worker, running)
    worker.gate.set()
    late = running.submit("a", [3])[0]
    running.submit("b", [1, 2, 3, 4])[3].result(SOON)
    assert not late.done()


def test_the_next_batch_fills_while_one_is_computed(worker: Worker, batcher: Any) -> None:
    running = batcher(max_wait=0.0)
    held(worker, running)
    futures = [running.submit("a", [item])[0] for item in range(7)]
    assert running.waiting == 7
    worker.gate.set()
    assert [future.result(SOON) for future in futures] == [2 * item for item in range(7)]
    assert worker.sizes() == [4, 4, 3]
    assert running.waiting == 0


def test_a_batch_has_one_key(worker: Worker, batcher: Any) -> None:
    running = batcher(max_wait=0.0)
    held(worker, running)
    futures = [running.submit(key, [i])[0] for i, key in enumerate("abaab")]
    worker.gate.set()
    assert [future.result(SOON) for future in futures] == [0, 2, 4, 6, 8]
    assert worker.batches[1:] == [("a", [0, 2, 3]), ("b", [1, 4])]


def test_keys_take_turns_and_nobody_starves(worker: Worker, batcher: Any) -> None:
    running = batcher(max_wait=0.0)
    held(worker, running)
    running.submit("busy", list(range(12)))
    running.submit("other", list(range(20, 28)))
    running.submit("rare", [100])
    worker.gate.set()
    running.close(timeout=SOON)
    served = [key for key, _ in worker.batches[1:]]
    assert served == ["busy", "other", "rare", "busy", "other", "busy"]


def test_lanes_have_equal_turns_however_many_keys_they_have(worker: Worker, batcher: Any) -> None:
    running = batcher(max_wait=0.0, lane=lambda key: key[0])
    held(worker, running)
    for key in ("a1", "a2", "a3", "b1"):
        running.submit(key, list(range(8)))
    worker.gate.set()
    running.close(timeout=SOON)
    served = [key for key, _ in worker.batches[1:]]
    assert served == ["a1", "b1", "a2", "b1", "a3", "a1", "a2", "a3"]


def test_calls_of_a_key_share_its_batches(worker: Worker, batcher: Any) -> None:
    running = batcher(max_wait=0.0)
    held(worker, running)
    running.submit("a", list(range(8)))
    small = running.submit("a", [100])
    worker.gate.set()
    running.close(timeout=SOON)
    assert [items for _, items in worker.batches[1:]] == [[0, 100, 1, 2], [3, 4, 5, 6], [7]]
    assert small[0].result(0) == 200


def test_a_key_may_have_smaller_batches(worker: Worker, batcher: Any) -> None:
    running = batcher(largest=lambda key: {"costly": 2, "absurd": 0}.get(key, 100))
    for key in ("costly", "absurd", "cheap"):
        running.submit(key, [1, 2, 3, 4])[3].result(SOON)
    assert worker.sizes() == [2, 2, 1, 1, 1, 1, 4]


def test_a_full_batch_goes_before_one_that_waits(worker: Worker, batcher: Any) -> None:
    running = batcher()
    early = running.submit("early", [1])[0]
    running.submit("full", [1, 2, 3, 4])[3].result(SOON)
    assert not early.done()
    assert worker.batches == [("full", [1, 2, 3, 4])]


def test_more_than_may_wait_are_refused_all_of_them(worker: Worker, batcher: Any) -> None:
    running = batcher(max_queue=5)
    held(worker, running)
    running.submit("a", [1, 2, 3])
    with pytest.raises(QueueFull) as full:
        running.submit("b", [4, 5, 6])
    assert full.value.waiting == running.waiting == 3
    running.submit("b", [4, 5])


def test_what_is_cancelled_while_it_waits_is_never_computed(worker: Worker, batcher: Any) -> None:
    running = batcher(max_wait=0.0, max_queue=4)
    held(worker, running)
    futures = running.submit("a", [1, 2, 3]) + running.submit("b", [4])
    assert futures[1].cancel() and futures[3].cancel()
    assert running.waiting == 2
    running.submit("c", [5, 6])  # there is room again
    worker.gate.set()
    assert [futures[0].result(SOON), futures[2].result(SOON)] == [2, 6]
    with pytest.raises(CancelledError):
        futures[1].result(SOON)
    running.close(timeout=SOON)
    assert worker.batches[1:] == [("a", [1, 3]), ("c", [5, 6])]


def test_what_is_being_computed_cannot_be_cancelled(worker: Worker, batcher: Any) -> None:
    running = batcher()
    futures = held(worker, running)
    assert not futures[0].cancel()
    worker.gate.set()
    assert futures[0].result(SOON) == 0


def test_one_bad_item_fails_alone(worker: Worker, batcher: Any) -> None:
    worker.bad = {3: ValueError("three")}
    futures = batcher().submit("a", [1, 2, 3, 4])
    assert [futures[i].result(SOON) for i in (0, 1, 3)] == [2, 4, 8]
    with pytest.raises(ValueError, match="three"):
        futures[2].result(SOON)
    assert worker.sizes() == [4, 1, 1, 1, 1]


def test_what_is_hopeless_is_not_tried_again(worker: Worker, batcher: Any) -> None:
    worker.bad = {3: ConnectionError("gone")}
    futures = batcher(hopeless=(ConnectionError,)).submit("a", [1, 2, 3, 4])
    for future in futures:
        with pytest.raises(ConnectionError, match="gone"):
            future.result(SOON)
    assert worker.sizes() == [4]


def test_work_goes_on_after_a_failure(worker: Worker, batcher: Any) -> None:
    running = batcher(max_wait=0.0)
    worker.bad = {1: ValueError("one")}
    with pytest.raises(ValueError, match="one"):
        running.submit("a", [1])[0].result(SOON)
    assert running.submit("a", [2])[0].result(SOON) == 4


def test_too_few_answers_fail_the_batch_and_not_the_thread(batcher: Any) -> None:
    short: MicroBatcher[int, int] = MicroBatcher(lambda key, items: [1], max_wait=0.0, max_batch=2)
    short.start()
    for future in short.submit("a", [1, 2]):
        assert future.exception(SOON) is None or isinstance(future.exception(), ValueError)
    assert short.submit("a", [1])[0].result(SOON) == 1
    assert short.close(timeout=SOON)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_work_that_exits_ends_neither_the_thread_nor_who_waits(
    worker: Worker, batcher: Any, kind: Any
) -> None:
    running = batcher()
    worker.bad = {3: kind()}
    futures = running.submit("a", [1, 2, 3, 4])
    assert [futures[i].result(SOON) for i in (0, 1, 3)] == [2, 4, 8]
    with pytest.raises(RuntimeError, match=f"work raised {kind.__name__}"):
        futures[2].result(SOON)
    assert running.submit("a", [5, 6, 7, 8])[0].result(SOON) == 10
    assert not running.broken


def test_what_cannot_be_counted_is_answered_nevertheless(batcher: Any) -> None:
    def count(*_: object) -> None:
        raise ValueError("no such counter")

    running = batcher(max_wait=0.0, on_batch=count)
    assert running.submit("a", [1])[0].result(SOON) == 2
    assert running.submit("a", [2])[0].result(SOON) == 4


def test_a_thread_that_ends_leaves_nobody_waiting(worker: Worker, batcher: Any) -> None:
    def lane(key: Any) -> Any:
        if key == "fatal":
            raise SystemExit
        return key

    running = batcher(max_wait=0.0, lane=lane)
    held(worker, running)
    futures = running.submit("fatal", [1]) + running.submit("a", [2])
    worker.gate.set()
    for future in futures:
        with pytest.raises(Closed):
            future.result(SOON)
    assert running.broken
    with pytest.raises(Closed):
        running.submit("a", [3])


def test_closing_answers_what_waits_and_takes_no_more(worker: Worker, batcher: Any) -> None:
    running = batcher()
    held(worker, running)
    futures = running.submit("a", [1]) + running.submit("b", [2, 3])
    closer = threading.Thread(target=running.close)
    closer.start()
    while True:  # until the other thread has got there
        try:
            futures += running.submit("b", [4])
        except Closed:
            break
        except QueueFull:
            continue
    worker.gate.set()
    closer.join(SOON)
    assert [future.result(0) for future in futures[:3]] == [2, 4, 6]
    assert all(future.result(0) == 8 for future in futures[3:])


def test_closing_without_draining_fails_what_waits(worker: Worker, batcher: Any) -> None:
    running = batcher()
    computed = held(worker, running)
    waits, cancelled = running.submit("a", [1, 2])
    cancelled.cancel()
    assert not running.close(drain=False, timeout=0.0)
    with pytest.raises(Closed):
        waits.result(SOON)
    worker.gate.set()
    assert computed[0].result(SOON) == 0
    assert running.close(timeout=SOON)


def test_hurry_waits_for_no_more(worker: Worker, batcher: Any) -> None:
    running = batcher()
    future = running.submit("a", [1])[0]
    running.hurry()
    assert future.result(SOON) == 2
    assert running.submit("a", [2])[0].result(SOON) == 4


def test_batches_are_told_of(worker: Worker, batcher: Any) -> None:
    told: list[tuple[Any, int]] = []
    running = batcher(on_batch=lambda key, size, seconds: told.append((key, size)))
    running.submit("a", [1, 2, 3, 4])[0].result(SOON)
    assert told == [("a", 4)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch must be at least 1, got 0"),
        ({"max_queue": 0}, "max_queue must be at least 1, got 0"),
        ({"max_wait": -1.0}, "max_wait must not be negative, got -1.0"),
        ({"max_wait": float("nan")}, "max_wait must not be negative, got nan"),
    ],
)
def test_options_are_checked(worker: Worker, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MicroBatcher(worker, **options)


@given(
    calls=st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 9), min_size=1, max_size=6)),
        max_size=20,
    ),
    max_batch=st.integers(1, 5),
    cancelled=st.sets(st.integers(0, 100)),
)
@settings(max_examples=40)
def test_every_item_is_answered_once_in_batches_of_its_key(
    calls: list[tuple[str, list[int]]], max_batch: int, cancelled: set[int]
) -> None:
    worker = Worker()
    batcher = MicroBatcher(worker, max_batch=max_batch, max_wait=0.0, max_queue=1000)
    batcher.start()
    futures = [(f, item) for key, items in calls for f, item in
               zip(batcher.submit(key, items), items, strict=True)]  # fmt: skip
    dropped = [f for i, (f, _) in enumerate(futures) if i in cancelled and f.cancel()]
    assert batcher.close(timeout=SOON)
    for future, item in futures:
        if future not in dropped:
            assert future.result(0) == 2 * item
    assert all(1 <= size <= max_batch for size in worker.sizes())
    worked = sum(worker.sizes())
    assert worked == len(futures) - len(dropped)
    for key in "abc":
        order = [item for k, items in worker.batches for item in items if k == key]
        sent = [item for k, items in calls for item in items if k == key]
        assert sorted(order) == sorted(sent) if not dropped else len(order) <= len(sent)


def test_many_threads_lose_nothing(worker: Worker, batcher: Any) -> None:
    running = batcher(max_wait=0.001, max_queue=10_000)
    results: dict[int, int] = {}

    def client(start: int) -> None:
        for item in range(start, start + 100):
            results[item] = running.submit(item % 3, [item])[0].result(SOON)

    threads = [threading.Thread(target=client, args=(100 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert results == {item: 2 * item for item in range(800)}
    assert running.waiting == 0

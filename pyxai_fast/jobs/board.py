"""What the ranks of a job tell each other, and how they notice that one is gone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import torch

from .telling import Teller
from .worker import KEPT, JobStopped

# Seconds until ranks that were started together have met.
MEET = 600.0
# Seconds without a sign of life after which a rank is taken for dead.
SILENT = 300.0
# Seconds between signs of life.
_BEAT = 5.0
# Seconds between looks at what others have done.
_LOOK = 0.2
# Seconds until rank 0 leaves, the job being done, whoever has not heard of it.
_LEAVE = 60.0


class Board:
    """A few words and counters in the store of the ranks' launcher, for one round.

    A round lasts from one start of all ranks to the next. The store lasts longer, and torchrun
    does not say which round it is: it counts restarts on each machine by itself, and none where a
    machine joins or leaves. So rank 0 gives each round a name of its own, and nothing is read
    under another.

    While the block runs each rank gives a sign of life from time to time, and who waits for
    another listens: torchrun ends the others where a process dies, but not where a machine does.

    Args:
        rank: of this process.
        count: of all ranks.
        store: that all of them reach, a torch.distributed.Store.

    Raises:
        JobStopped: not all ranks are there. Also of each method that waits, where one that it
            waits for is gone.
    """

    def __init__(self, rank: int, count: int, store: Any) -> None:
        self._rank, self._count = rank, count
        self._launch = _part_of(store, "pyxai_fast")
        self._round: Any = self._named() if rank == 0 else self._found()
        self._begun, self._told = False, 0
        self._left = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Board:
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._beating.join()

    # ------------------------------------------------------------ how a round begins

    def _named(self) -> Any:
        """Rank 0 names the round, and confirms the names that the others answer with."""
        name = uuid4().hex
        there = _part_of(self._launch, name)
        self._launch.set("round", name)
        answers = {rank: f"answers/{rank}" for rank in range(1, self._count)}
        last = time.monotonic() + MEET
        while absent := [rank for rank, key in answers.items() if not there.check([key])]:
            if time.monotonic() > last:
                raise JobStopped(f"jobs: stopped, for {_ranks(absent)} did not begin in {MEET:g} s")
            time.sleep(_LOOK)
        for key in answers.values():
            there.set(f"met/{there.get(key).decode()}", "")
        return there

    def _found(self) -> Any:
        """Another answers with a name of its own to whatever round is named, until rank 0 confirms
        it: that of a round before, which may still be named, never will."""
        mine = uuid4().hex
        last = time.monotonic() + MEET
        while time.monotonic() <= last:
            if self._launch.check(["round"]):
                there = _part_of(self._launch, self._launch.get("round").decode())
                there.set(f"answers/{self._rank}", mine)
                if there.check([f"met/{mine}"]):
                    return there
            time.sleep(_LOOK)
        raise JobStopped(
            f"jobs: stopped, for rank 0 did not begin with rank {self._rank} in {MEET:g} s"
        )

    @property
    def begun_before(self) -> bool:
        """Whether a round before this one has begun the job, as far as the store knows."""
        return bool(self._launch.check(["begun"]))

    def begin(self, record: str, missing: Sequence[int]) -> None:
        """Rank 0 has begun: what job.json says, and the shards that are not done."""
        self._begun = True
        self._launch.set("begun", "")
        self._round.set("begun", json.dumps([record, list(missing)]))

    def give_up(self) -> None:
        """If rank 0 has not begun, it will not; others need not wait for it."""
        if not self._begun:
            self._round.set("begun", json.dumps(None))

    def wait_for_beginning(self) -> tuple[str, list[int]] | None:
        """What rank 0 has begun, which may first list pictures for hours; None where it could
        not."""
        self._wait(lambda: self._round.check(["begun"]), [0])
        said = json.loads(self._round.get("begun"))
        return None if said is None else (said[0], said[1])

    # ------------------------------------------------------------ how the work is shared

    def taken(self, missing: Sequence[int]) -> Iterator[int]:
        """Shards for this rank, until there are none: a slow one takes fewer."""
        while (place := self._round.add("taken", 1) - 1) < len(missing):
            yield missing[place]

    def count(self, items: int, teller: Teller) -> None:
        """So many more items were dealt with here; tells of all that were, anywhere."""
        done = self._round.add("items", items)
        teller.update(done - self._told)
        self._told = done

    # ------------------------------------------------------------ how a round ends

    def wait_for_others(self, teller: Teller) -> None:
        """Rank 0 waits until all others have done their part."""

        def ended() -> bool:
            self.count(0, teller)
            return bool(self._round.add("ended", 0) == self._count - 1)

        self._wait(ended, range(1, self._count))

    def wait_for_end(self) -> None:
        """Another has done its part, and waits until rank 0 says that all is done: torchrun starts
        nobody anew on a machine whose ranks have left."""
        self._round.add("ended", 1)
        self._wait(lambda: self._round.check(["done"]), [0])
        self._round.add("left", 1)

    def end(self) -> None:
        """Rank 0 says that all is done, and leaves after the others: the store may be with it."""
        self._round.set("done", "")
        last = time.monotonic() + _LEAVE
        while self._round.add("left", 0) < self._count - 1 and time.monotonic() < last:
            time.sleep(_LOOK)

    # ------------------------------------------------------------ who is alive

    def _beat(self) -> None:
        """Signs of life, until this rank leaves or the store is gone, which it will notice."""
        try:
            while not self._left.wait(_BEAT):
                self._round.add(f"beats/{self._rank}", 1)
        except RuntimeError:
            return

    def _wait(self, until: Callable[[], bool], ranks: Sequence[int]) -> None:
        """Waits while these ranks give signs of life. Silence is counted in looks, so that none is
        thought dead because this process was halted."""
        heard, silent = dict.fromkeys(ranks, -1), dict.fromkeys(ranks, 0.0)
        listened = time.monotonic()
        while not until():
            time.sleep(_LOOK)
            if time.monotonic() < listened + _BEAT:
                continue
            listened = time.monotonic()
            for rank in ranks:
                beats = self._round.add(f"beats/{rank}", 0)
                silent[rank] = silent[rank] + _BEAT if beats == heard[rank] else 0.0
                heard[rank] = beats
            if gone := [rank for rank in ranks if silent[rank] >= SILENT]:
                raise JobStopped(
                    f"jobs: stopped, for {_ranks(gone)} gave no sign of life for {SILENT:g} s; "
                    f"{KEPT}"
                )


def _part_of(store: Any, name: str) -> Any:
    distributed: Any = torch.distributed  # whose names are not all typed
    return distributed.PrefixStore(name, store)


def _ranks(ranks: Sequence[int]) -> str:
    named = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {named}"

"""A job in the processes that torchrun starts, which share its shards among them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from .board import Board
from .items import Items
from .job import FILE, Job, MakeExplainer
from .run import Begun, begin, finish, job_of
from .sources import Source
from .summary import JobSummary
from .taking_part import take_part
from .telling import Teller
from .worker import JobStopped, ShardWorker

# Seconds until a file that one machine has written is to be seen by another.
SEEN = 300.0
# Seconds between looks at what others have done.
_LOOK = 0.2


@dataclass(frozen=True)
class Ranks:
    """The processes of which this is one.

    Attributes:
        rank: of this process, from 0.
        count: of all.
        local: rank of this process on its machine.
    """

    rank: int
    count: int
    local: int = 0

    @classmethod
    def here(cls) -> Ranks | None:
        """Those that torchrun has started this process with; None where it has not."""
        said = os.environ
        if "TORCHELASTIC_RUN_ID" not in said or "RANK" not in said:
            return None
        return cls(int(said["RANK"]), int(said["WORLD_SIZE"]), int(said["LOCAL_RANK"]))


def explain_on_ranks(
    make_explainer: MakeExplainer,
    source: Source | Sequence[Source],
    out: str | PathLike[str],
    ranks: Ranks,
    *,
    batch_size: int = 16,
    shard_size: int = 256,
    workers: int = 0,
    store: str = "fp32",
    limit: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> JobSummary | None:
    """`explain_dataset` by all ranks together, each of which calls this with the same arguments.

    Rank 0 begins the job, holds its folder and finishes it; each rank takes the next shard that
    nobody has taken, until there is none, and stays until all are done. Where one dies torchrun
    starts all of them anew, if it may (--max-restarts), and they go on with what is missing. They
    talk through torchrun's own store: there is no process group that could wait for one that is
    gone.

    Returns:
        What explain_dataset returns, for rank 0. None for others, also where rank 0 could not
        begin, which says why.

    Raises:
        JobStopped: also where files of another machine are not seen on this one, where this one
            would compute something else, or where ranks that this one waits for are gone.
        As explain_dataset, for rank 0.
    """
    began = time.perf_counter()
    with Board(ranks.rank, ranks.count, _store(ranks)) as board:
        if ranks.rank > 0:
            begun_there = board.wait_for_beginning()
            if begun_there is not None:
                record, missing = begun_there
                if missing:
                    there = _seen_job(Path(out), record, make_explainer)
                    _explain(take_part(there, workers), missing, board, Teller(False, 0))
                board.wait_for_end()
            return None
        again = board.begun_before
        try:
            with begin(
                make_explainer,
                source,
                out,
                batch_size=batch_size,
                shard_size=shard_size,
                store=store,
                limit=limit,
                resume=resume or again,
                overwrite=overwrite and not again,
                settings=settings,
            ) as begun:
                summary = _lead(begun, board, workers, progress, began)
        except BaseException:
            board.give_up()
            raise
        board.end()
        return summary


def _store(ranks: Ranks) -> Any:
    """That of their launcher."""
    distributed: Any = torch.distributed  # whose names are not all typed
    found, _, _ = next(
        distributed.rendezvous("env://", ranks.rank, ranks.count, timeout=timedelta(minutes=10))
    )
    return found


def _lead(begun: Begun, board: Board, workers: int, progress: bool, began: float) -> JobSummary:
    """The part of rank 0."""
    job, missing = begun.job, begun.job.missing()
    board.begin((job.folder / FILE).read_text(encoding="utf-8"), missing)
    total = sum(len(job.items_of(shard)) for shard in missing)
    teller = Teller(progress, total)
    try:
        if begun.explainer is not None:
            worker = ShardWorker(
                job, explainer=begun.explainer, workers=workers, measured=begun.measured
            )
            _explain(worker, missing, board, teller)
        board.wait_for_others(teller)
    finally:
        teller.close()
    _until(
        lambda: not job.missing(),
        f"shards that other machines have written are not seen in {job.folder}",
    )
    return finish(job, total, time.perf_counter() - began)


def _explain(worker: ShardWorker, missing: Sequence[int], board: Board, teller: Teller) -> None:
    """This rank's part."""
    try:
        for report in worker.explain(board.taken(missing), lambda n: board.count(n, teller)):
            teller.take(report)
    finally:
        worker.close()


def _seen_job(folder: Path, record: str, make_explainer: MakeExplainer) -> Job:
    """The job that rank 0 has begun, when its files are seen here."""

    def seen() -> bool:
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
            return text == record and len(Items(folder)) == json.loads(text)["items"]["count"]
        except OSError:
            return False

    _until(seen, f"{folder / FILE} as rank 0 has written it is not seen on {os.uname().nodename}")
    return job_of(folder, make_explainer)


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    """Waits: a network file system shows a file to other machines some time later."""
    last = time.monotonic() + SEEN
    while not condition():
        if time.monotonic() > last:
            raise JobStopped(f"jobs: stopped, for {otherwise} after {SEEN:.0f} s")
        time.sleep(_LOOK)

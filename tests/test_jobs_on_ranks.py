"""A job under torchrun has the bytes of one in one process, also where a rank dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

from job_cases import draw, files_of
from torch import distributed

from pyxai_fast.jobs import board
from pyxai_fast.jobs.board import Board
from pyxai_fast.jobs.on_ranks import Ranks
from pyxai_fast.jobs.telling import Teller
from pyxai_fast.jobs.worker import JobStopped

pytestmark = pytest.mark.skipif(
    not distributed.is_available(), reason="this torch has no torch.distributed"
)

COUNT = 24
OPTIONS = [
    "--model", "demo", "--device", "cpu", "--memory-format", "contiguous", "--workers", "0",
    "--batch-size", "2", "--shard-size", "3", "--steps", "200",
]  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder, COUNT, (32, 32))[5].write_bytes(b"nonsense")
    return folder


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("alone") / "out"
    process = start(["-m", "pyxai_fast"], pictures, out)
    assert process.communicate()[0] and process.returncode == 1  # for the bad one
    return files_of(out)


def start(launcher: list[str], pictures: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, "run", str(pictures), "--out", str(out), *OPTIONS, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def torchrun(restarts: int = 0) -> list[str]:
    options = ["--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    return ["-m", "torch.distributed.run", *options, "-m", "pyxai_fast"]


def ranks_of(out: Path) -> set[int]:
    """The processes that have explained."""
    return {int(path.stem.rpartition("-")[2]) for path in (out / "log").glob("*.jsonl")}


def two_machines() -> list[str]:
    """A launcher of one rank, to be started on each of two machines, which are both this one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [
        "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d",
        "--rdzv-id=maps", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1",
    ]  # fmt: skip
    return ["-m", "torch.distributed.run", *options, "-m", "pyxai_fast"]


def rank_at_work(rank: int, out: Path) -> int | None:
    """The process of a rank that has explained."""
    for process in ranks_of(out):
        if f"RANK={rank}" in Path(f"/proc/{process}/environ").read_text().split("\0"):
            return process
    return None


def wait_for(found: Callable[[], int | None]) -> int:
    """What is found in the end, within two minutes."""
    last = time.monotonic() + 120
    while (value := found()) is None:
        assert time.monotonic() < last
        time.sleep(0.005)
    return value


@contextmanager
def stopped_in_the_end() -> Iterator[list[subprocess.Popen[str]]]:
    """A list of processes that do not outlive the block, nor do those that they have started."""
    processes: list[subprocess.Popen[str]] = []
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def times_of(out: Path) -> dict[str, int]:
    """When each shard that is done was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "index").glob("0*.parquet")}


def test_ranks_write_what_one_process_writes(
    pictures: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    process = start(torchrun(), pictures, tmp_path / "out")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert files_of(tmp_path / "out") == alone
    assert len(ranks_of(tmp_path / "out")) == 2
    assert said.count("results in") == 1 and (tmp_path / "out" / "summary.html").exists()


def test_all_go_on_where_one_was_killed(
    pictures: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(torchrun(restarts=1), pictures, out, "--overwrite")
    while process.poll() is None and not ranks_of(out):
        time.sleep(0.005)
    before = times_of(out)
    os.kill(ranks_of(out).pop(), signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert files_of(out) == alone
    # What was done was not done again, though the job was to begin anew.
    assert before and before.items() <= times_of(out).items()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc")
def test_machines_go_on_where_a_rank_of_one_was_killed(
    pictures: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """Each launcher counts the restarts of its own ranks: only one of them counts this."""
    out = tmp_path / "out"
    launcher = two_machines()
    with stopped_in_the_end() as processes:
        processes += [start(launcher, pictures, out, "--overwrite") for _ in range(2)]
        killed = wait_for(lambda: rank_at_work(1, out))
        before = times_of(out)
        os.kill(killed, signal.SIGKILL)
        said = "".join(process.communicate(timeout=120)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert files_of(out) == alone
    assert said.count("results in") == 1
    # Begun by a launcher that counts no restart, the job was gone on with all the same.
    assert before and before.items() <= times_of(out).items()


def test_one_rank_says_why_nothing_begins(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    process = start(torchrun(), pictures, tmp_path / "out")
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert said.count("pyxai-fast: error: jobs: out must be a folder") == 1, said


def test_ranks_are_those_of_torchrun_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), "341", strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert Ranks.here() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert Ranks.here() == Ranks(3, 4, 1)


# ---------------------------------------------------------------- what ranks tell each other

NOBODY = Teller(False, 0)


class Started:
    """Threads that are ranks, started anew and anew by one launcher."""

    def __init__(self) -> None:
        self.store: Any = distributed.HashStore()
        self.threads = ThreadPoolExecutor()

    def round(self, count: int) -> list[Board]:
        """Ranks that have met. Rank 0 comes last: until then another round is named, or none."""
        others = [self.threads.submit(Board, rank, count, self.store) for rank in range(1, count)]
        time.sleep(0.05)
        first = Board(0, count, self.store)
        return [first, *(other.result(timeout=10) for other in others)]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    for name, seconds in {"_LOOK": 0.01, "_BEAT": 0.05, "SILENT": 0.5, "MEET": 5.0}.items():
        monkeypatch.setattr(board, name, seconds)
    made = Started()
    with made.threads:
        yield made


def test_a_round_knows_of_those_before_it_only_that_the_job_was_begun(started: Started) -> None:
    lost = started.round(3)
    assert not any(rank.begun_before for rank in lost)
    lost[0].begin("a record", [0, 1, 2, 3])
    assert next(lost[0].taken([0, 1, 2, 3])) == 0
    assert next(lost[2].taken([0, 1, 2, 3])) == 1
    ended = started.threads.submit(lost[1].wait_for_end)
    # Rank 2 dies, and its machine does not come back.
    first, other = started.round(2)
    assert first.begun_before
    began = started.threads.submit(other.wait_for_beginning)
    time.sleep(0.05)
    assert not began.done()
    first.begin("the record", [1, 3])
    assert began.result(timeout=10) == ("the record", [1, 3])
    assert [next(other.taken([1, 3])), *first.taken([1, 3])] == [1, 3]
    with first, other:
        waits = started.threads.submit(first.wait_for_others, NOBODY)
        time.sleep(0.05)
        assert not waits.done()  # though one of the round before had ended
        leaves = started.threads.submit(other.wait_for_end)
        waits.result(timeout=10)
        assert not leaves.done()
        first.end()
        leaves.result(timeout=10)
    with pytest.raises(JobStopped, match="rank 0 gave no sign of life"):
        ended.result(timeout=10)


def test_rank_0_does_not_wait_for_one_that_is_gone(started: Started) -> None:
    first, alive, _ = started.round(3)
    with first, alive:
        ends = started.threads.submit(alive.wait_for_end)
        with pytest.raises(JobStopped, match=r"for rank 2 gave no sign of life for 0\.5 s; shards"):
            first.wait_for_others(NOBODY)
    with pytest.raises(JobStopped, match="rank 0 gave no sign of life"):
        ends.result(timeout=10)


def test_nobody_waits_for_a_rank_0_that_is_gone(started: Started) -> None:
    _, other = started.round(2)
    with other, pytest.raises(JobStopped, match="rank 0 gave no sign of life"):
        other.wait_for_beginning()


def test_a_rank_that_gives_signs_of_life_is_waited_for(started: Started) -> None:
    first, other = started.round(2)
    with first, other:
        began = started.threads.submit(other.wait_for_beginning)
        time.sleep(3 * board.SILENT)
        first.give_up()
        assert began.result(timeout=10) is None


def test_ranks_that_do_not_meet_say_so(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MEET", 0.1)
    with pytest.raises(JobStopped, match="rank 0 did not begin with rank 1 in"):
        Board(1, 2, started.store)
    with pytest.raises(JobStopped, match="for ranks 1, 2 did not begin in"):
        Board(0, 3, started.store)

"""A job under torchrun has the bytes of one in one process, also where a rank dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

from job_cases import draw, files_of
from torch import distributed

from pyxai_fast.jobs.on_ranks import Ranks

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
    before = {path.name: path.stat().st_mtime_ns for path in (out / "index").glob("0*.parquet")}
    os.kill(ranks_of(out).pop(), signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert files_of(out) == alone
    # What was done was not done again, though the job was to begin anew.
    assert (
        before
        and before.items()
        <= {
            path.name: path.stat().st_mtime_ns for path in (out / "index").glob("0*.parquet")
        }.items()
    )


def test_one_rank_says_why_nothing_begins(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    process = start(torchrun(), pictures, tmp_path / "out")
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert said.count("pyxai-fast: error: jobs: out must be a folder") == 1, said


def test_ranks_are_those_of_torchrun_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
    for name, value in zip(names, ("3", "4", "1", "2"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert Ranks.here() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert Ranks.here() == Ranks(3, 4, 1, 2)

"""A job on a Ray cluster has the bytes of one on one machine, also where its workers die."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.data", reason="Ray Data is not installed")

import torch  # noqa: E402
from job_cases import draw, files_of  # noqa: E402
from odd_explainers import (  # noqa: E402
    deadly,
    failing_next_time,
    made,
    not_there,
    of_other_weights,
    slow,
)

from pyxai_fast import jobs  # noqa: E402
from pyxai_fast.errors import ArgumentError  # noqa: E402
from pyxai_fast.jobs.on_ray import Share, connected, explain_on_ray  # noqa: E402
from pyxai_fast.jobs.taking_part import take_part  # noqa: E402
from pyxai_fast.models.errors import ModelSpecError  # noqa: E402

COUNT = 24


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Of two cores, on the loopback device alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        # Workers import what makes explainers.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 << 20,
            logging_level="error",
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder, COUNT)[5].write_bytes(b"nonsense")
    return folder


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job on one machine."""
    out = tmp_path_factory.mktemp("alone") / "out"
    with one_thread():
        jobs.explain_dataset(made, pictures, out, **SIZES)
    return out


SIZES = {"batch_size": 2, "shard_size": 3}


class one_thread:
    """As workers of one core have."""

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)


def on_ray(source: Path, out: Path, make: object = made, **options: object) -> jobs.JobSummary:
    return explain_on_ray(make, source, out, **{"workers": 2, **SIZES, **options})


def workers_of(out: Path) -> set[str]:
    """The processes that have explained."""
    return {path.stem for path in (out / "log").glob("*.jsonl")}


# ---------------------------------------------------------------- the same files


def test_workers_write_what_one_machine_writes(
    pictures: Path, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    summary = on_ray(pictures, out, progress=True)
    assert files_of(out) == files_of(alone)
    assert (summary.items, summary.ok, summary.bad) == (COUNT, COUNT - 1, 1)
    assert summary.explained_now == COUNT and summary.gradients == 8 * (COUNT - 1)
    assert workers_of(out) and not workers_of(out) & workers_of(alone)
    assert (out / "summary.html").exists()
    assert "005.png: " in capsys.readouterr().err
    # And one machine goes on with what workers have done.
    for shard in (2, 7):
        (out / "index" / f"{shard:05d}.parquet").unlink()
    with one_thread():
        summary = jobs.explain_dataset(made, pictures, out, resume=True, **SIZES)
    assert summary.explained_now == 6
    assert files_of(out) == files_of(alone)


def test_what_one_machine_began_goes_on_though_a_worker_is_killed(
    pictures: Path, tmp_path: Path
) -> None:
    notes, alone, out = tmp_path / "notes", tmp_path / "alone", tmp_path / "out"
    notes.mkdir()
    make = partial(slow, notes)
    with one_thread():
        jobs.explain_dataset(make, pictures, alone, **SIZES)
        with jobs.begin(make, pictures, out, **SIZES) as begun:
            worker = jobs.ShardWorker(begun.job, explainer=begun.explainer, measured=True)
            list(worker.explain([0, 4]))
            worker.close()
    here = workers_of(out)
    killed = []

    def kill() -> None:
        while not workers_of(out) - here:
            time.sleep(0.005)
        # One that has done a shard, and is at the next.
        killed.append(int((workers_of(out) - here).pop().rpartition("-")[2]))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    summary = on_ray(pictures, out, make, resume=True)
    killer.join(timeout=10)
    assert killed and (notes / str(killed[0])).exists()
    assert summary.complete and summary.explained_now == COUNT - 6
    assert files_of(out) == files_of(alone)


# ---------------------------------------------------------------- how it ends


def test_errors_are_those_of_one_machine(pictures: Path, alone: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="must be a folder without a job"):
        on_ray(pictures, alone)
    with pytest.raises(ModelSpecError, match=r"^model: must be there, got none$"):
        on_ray(pictures, tmp_path / "out", not_there)


def test_a_picture_that_kills_every_worker_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pyxai_fast.jobs.on_ray.DEATHS", 1)
    draw(tmp_path / "in", 8)
    for number, colour in ((0, (0, 255, 0)), (4, (255, 0, 0))):
        Image.new("RGB", (16, 16), colour).save(tmp_path / "in" / f"00{number}.png")
    make = partial(deadly, tmp_path)  # green kills one worker, red every one
    with pytest.raises(jobs.JobStopped, match="died 2 times of the same shards"):
        on_ray(tmp_path / "in", tmp_path / "out", make, workers=1, shard_size=2)
    done = [path.name for path in sorted((tmp_path / "out" / "index").glob("*.parquet"))]
    assert done == ["00000.parquet", "00001.parquet"]
    assert capsys.readouterr().err.count("was lost and replaced") == 1


def test_a_model_that_fails_ends_the_job(pictures: Path, tmp_path: Path) -> None:
    make = partial(failing_next_time, tmp_path)
    with pytest.raises(jobs.JobStopped, match=r"in shard 0: too hot here; shards .* from there$"):
        on_ray(pictures, tmp_path / "out", make, workers=1)


def test_a_worker_of_another_model_is_refused(alone: Path) -> None:
    with pytest.raises(jobs.JobStopped, match="is not as where the job was begun: weights"):
        take_part(jobs.job_of(alone, of_other_weights))


def test_a_worker_that_sees_no_pictures_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "in", 3)
    jobs.explain_dataset(made, tmp_path / "in", tmp_path / "out", **SIZES)
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    with pytest.raises(jobs.JobStopped, match=r"000.png is not seen on .*, and was where"):
        take_part(jobs.job_of(tmp_path / "out", made))


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ArgumentError, match=r"must be that of a Ray cluster, got 127.0.0.1:1 \("):
        connected("127.0.0.1:1").__enter__()
    with pytest.raises(ArgumentError, match="ray job submit"):
        connected("ray://head:10001").__enter__()


def test_a_share_is_counted_in_what_there_is() -> None:
    assert Share().times_in({"CPU": 4.0}) == 4
    assert Share(3.0, 1.0, 2).times_in({"CPU": 64.0, "GPU": 8.0}) == 8
    assert Share(1.0, 0.1).times_in({"CPU": 64.0, "GPU": 1.0}) == 10
    assert Share(1.0, 1.0).times_in({"CPU": 64.0}) == 0


def test_run_takes_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyxai_fast.cli import main

    monkeypatch.chdir(tmp_path)  # paths are relative to where the command is given
    draw(Path("in"), 5, (32, 32))
    run = ["run", "in", "--out", "out", "--model", "demo", "--device", "cpu", "--steps", "4"]
    assert main([*run, "--ray", "--shard-size", "3"]) == 0
    assert "5   5    0" in capsys.readouterr().out
    assert len(jobs.results(tmp_path / "out")) == 5
    assert main([*run, "--ray-workers", "2"]) == 2
    assert "--ray-workers: needs --ray" in capsys.readouterr().err
    assert main([*run, "--ray", "--ray-gpus-per-worker", "1"]) == 2
    assert "--ray-gpus-per-worker: must suit --device cpu, got 1" in capsys.readouterr().err

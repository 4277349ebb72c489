"""``pyxai-fast run`` explains a folder of pictures, and survives being killed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

from job_cases import draw, files_of
from killed_runs import finish, kill_at_random, start

from pyxai_fast import jobs
from pyxai_fast.cli import main


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    draw(tmp_path / "in", 12, (32, 32))
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(source: Path | str, out: Path, *arguments: str) -> int:
    fixed = ["--model", "demo", "--device", "cpu", "--workers", "0", "--no-progress"]
    sizes = ["--batch-size", "4", "--shard-size", "5"]
    return main(["run", str(source), "--out", str(out), *fixed, *sizes, *arguments])


# ---------------------------------------------------------------- what it does


def test_run_explains_a_folder(
    pictures: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pictures, out, "--steps", "10") == 0
    said = capsys.readouterr().out
    assert "pictures  ok  bad" in said and "12  12    0" in said and "summary.html" in said
    results = jobs.results(out)
    assert len(results) == 12
    assert results[11].attributions.shape == (1, 32, 32)
    assert results[11].class_name == str(results[11].target)
    record = json.loads((out / "job.json").read_text())
    assert record["settings"]["steps"] == 10 and record["settings"]["model"] == "demo"


def test_bad_files_are_told_and_make_the_exit_code_one(
    pictures: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "003.png").write_bytes(b"nonsense")
    assert run(pictures, out) == 1
    told = capsys.readouterr()
    assert "003.png: not an image file" in told.err
    assert "12  11    1" in told.out and "bad.csv" in told.out


def test_resume_of_what_is_finished_writes_the_page_again(
    pictures: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pictures, out) == 0
    (out / "summary.html").unlink()
    assert run(pictures, out, "--resume") == 0
    assert (out / "summary.html").exists()
    assert "12 were done before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "resume (--resume) goes on with it"),
        (["--resume", "--steps", "3"], "got steps null then, 3 now"),
        (["--resume", "--target", "3"], "got target null then, 3 now"),
        (["--resume", "--overwrite"], "must not be given together"),
    ],
)
def test_what_cannot_go_on_is_refused(
    pictures: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert run(pictures, out) == 0
    capsys.readouterr()
    assert run(pictures, out, *more) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_references_that_changed_are_noticed(
    pictures: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (reference,) = draw(tmp_path / "references", 1, (32, 32), seed=1)
    options = ["--method", "expected_gradients", "--references", str(reference)]
    assert run(pictures, out, *options) == 0
    assert run(pictures, out, *options, "--resume") == 0
    draw(tmp_path / "references", 1, (32, 32), seed=2)
    (out / "index" / "00001.parquet").unlink()
    capsys.readouterr()
    assert run(pictures, out, *options, "--resume") == 2
    assert f'references.{reference} "sha256:' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "nonsense"], "--method: must be one of"),
        (["--baseline", "green"], "--baseline: must be black"),
        (["--shard-size", "0"], "--shard-size: must be a whole number of at least 1"),
        (["--workers", "-1"], "--workers: must be a whole number of at least 0"),
        (["--store", "fp8"], "--store: invalid choice"),
    ],
)
def test_wrong_options_are_named(
    pictures: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert run(pictures, out, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_sounds_and_tables_are_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, kind in (("a.wav", "sound"), ("b.csv", "table")):
        assert run(name, out) == 2
        assert f"SOURCE: must hold pictures, got the {kind} {name}" in capsys.readouterr().err


def test_options_of_the_method_are_those_of_explain(pictures: Path, out: Path) -> None:
    options = ["--method", "smooth_grad", "--samples", "3", "--seed", "5", "--limit", "6"]
    assert run(pictures, out / "a", *options) == 0
    # The same numbers draw the same noise, whatever is explained beside them.
    assert run(pictures, out / "b", *options[:-1], "3", "--overwrite") == 0
    a, b = jobs.results(out / "a"), jobs.results(out / "b")
    assert (len(a), len(b)) == (6, 3)
    assert (a[2].attributions - b[2].attributions).abs().max() < 1e-5


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize(("workers", "kills"), [(0, 3), (1, 1)])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(
    tmp_path: Path, workers: int, kills: int
) -> None:
    paths = draw(tmp_path / "in", 60, (32, 32))
    paths[7].write_bytes(b"nonsense")
    arguments = [
        str(tmp_path / "in"), "--model", "demo", "--device", "cpu", "--steps", "40",
        "--batch-size", "4", "--shard-size", "6", "--workers", str(workers),
    ]  # fmt: skip
    code, said = finish(arguments, tmp_path / "undisturbed")
    assert code == 1, said  # for the bad file
    generator = random.Random(workers)
    out = tmp_path / "killed"
    for _ in range(kills):
        done = kill_at_random(arguments, out, generator, shards=10)
        assert done is not None, "it finished before it was killed: it needs more steps"
        kept = {name: data for name, data in files_of(out).items() if "index/0" in name}
        assert len(kept) == done
    code, said = finish(arguments, out, "--resume")
    assert code == 1, said
    assert files_of(out) == files_of(tmp_path / "undisturbed")


def test_an_interrupted_run_finishes_nothing_half(tmp_path: Path, out: Path) -> None:
    draw(tmp_path / "in", 40, (32, 32))
    arguments = [
        str(tmp_path / "in"), "--model", "demo", "--device", "cpu", "--steps", "1500",
        "--batch-size", "4", "--shard-size", "8", "--workers", "1",
    ]  # fmt: skip
    process = start(arguments, out)
    while process.poll() is None and not any((out / "index").glob("*.parquet")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "what is done is kept; --resume goes on" in said and "Traceback" not in said
    assert not list(out.rglob(".*unfinished*"))
    assert 1 <= len(jobs.results(out)) < 40


def test_processes_that_read_end_with_a_run_that_is_killed(tmp_path: Path, out: Path) -> None:
    draw(tmp_path / "in", 60, (32, 32))
    arguments = [
        str(tmp_path / "in"), "--model", "demo", "--device", "cpu", "--steps", "300",
        "--batch-size", "4", "--shard-size", "4", "--workers", "2",
    ]  # fmt: skip
    process = start(arguments, out)
    while process.poll() is None and not any((out / "index").glob("*.parquet")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # it alone
    said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, said
    ended = time.monotonic() + 30
    with pytest.raises(ProcessLookupError):  # nobody of its group is left
        while time.monotonic() < ended:
            os.killpg(process.pid, 0)
            time.sleep(0.05)

"""What may go wrong with pictures, storage and processes while a data set is explained."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from job_cases import FatalItems, draw, explain, explainer, files_of, network  # noqa: E402

from pyxai_fast import jobs  # noqa: E402
from pyxai_fast.images import ImageError  # noqa: E402
from pyxai_fast.jobs import atomic_file, reading, shard_files  # noqa: E402
from pyxai_fast.jobs import run as jobs_run  # noqa: E402
from pyxai_fast.jobs.items import Item  # noqa: E402
from pyxai_fast.jobs.processes import ProcessEndedError  # noqa: E402
from pyxai_fast.models.preprocessing import Preprocessing  # noqa: E402
from pyxai_fast.models.query_error import QueryError  # noqa: E402


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    draw(tmp_path / "in", 10)
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def statuses(out: Path) -> list[str]:
    held: list[str] = jobs.results(out).table()["status"].to_pylist()
    return held


# ---------------------------------------------------------------- pictures that a model refuses


class Picky(nn.Module):
    """A network that fails on a picture that is black: with what it is told to, for good or not."""

    def __init__(self, error: type[Exception] = RuntimeError, breaks: bool = False) -> None:
        super().__init__()
        self.network = network()
        self.error, self.breaks = error, breaks
        self.fails, self.broken = True, False

    def forward(self, x: Tensor) -> Tensor:
        black = not x.flatten(1).any(1).all()
        self.broken = self.fails and self.breaks and (self.broken or black)
        if self.broken or (self.fails and black):
            raise self.error("out of luck")
        return self.network(x)


def test_a_picture_that_the_model_refuses_is_bad_and_those_beside_it_are_not(
    pictures: Path, out: Path
) -> None:
    Image.new("RGB", (16, 16)).save(pictures / "006.png")
    made = explainer((16, 16), Picky(), "saliency")
    summary = explain(pictures, out, made, batch_size=4)
    assert (summary.ok, summary.bad) == (9, 1)
    assert jobs.results(out).table()["reason"].to_pylist()[6] == "the model: out of luck"
    assert "006.png,bad,the model: out of luck" in (out / "bad.csv").read_text()
    plain = explainer((16, 16), network(), "saliency")
    for result in jobs.results(out):
        pixels = reading.read_item(jobs.Items(out)[result.number], plain.preprocessing)
        expected = plain(pixels[None]).attributions[0]
        torch.testing.assert_close(result.attributions, expected)


@pytest.mark.parametrize("first", [False, True])
def test_a_picture_too_small_for_a_model_that_takes_any_size_is_bad(
    tmp_path: Path, out: Path, first: bool
) -> None:
    draw(tmp_path / "in", 5)
    Image.new("RGB", (2, 2)).save(tmp_path / "in" / ("0.png" if first else "9.png"))
    made = partial(explainer, None)
    assert statuses_of(explain(tmp_path / "in", out, made)) == (5, 1)
    where = 0 if first else 5
    assert statuses(out)[where] == "bad"
    # The same bytes in another order, and when a shard is explained again.
    options = {"batch_size": 2, "shard_size": 4}
    with jobs.begin(made, tmp_path / "in", tmp_path / "again", **options) as begun:
        jobs.ShardWorker(begun.job).explain_shard(1)
        jobs.ShardWorker(begun.job).explain_shard(0)
    assert files_of(tmp_path / "again").items() <= files_of(out).items()


def statuses_of(summary: jobs.JobSummary) -> tuple[int, int]:
    return summary.ok, summary.bad


def test_a_model_that_breaks_stops_the_job_and_what_was_done_is_kept(
    pictures: Path, out: Path
) -> None:
    Image.new("RGB", (16, 16)).save(pictures / "006.png")
    module = Picky(breaks=True)
    made = explainer((16, 16), module, "saliency")
    with pytest.raises(jobs.JobStopped, match="stopped at items 6 to 7, in shard 1: out of luck"):
        explain(pictures, out, made)
    assert [result.number for result in jobs.results(out)] == [0, 1, 2, 3]
    module.fails = False
    assert explain(pictures, out, made, resume=True).explained_now == 6
    explain(pictures, out / "undisturbed", made)
    assert files_of(out / "undisturbed").items() <= files_of(out).items()


@pytest.mark.parametrize("error", [partial(QueryError, "there", spent=1), MemoryError])
def test_what_is_not_the_pictures_fault_stops_the_job(
    pictures: Path, out: Path, error: Any
) -> None:
    Image.new("RGB", (16, 16)).save(pictures / "006.png")
    made = explainer((16, 16), Picky(error), "saliency")
    with pytest.raises(jobs.JobStopped, match="stopped at items 6 to 7"):
        explain(pictures, out, made)


# ---------------------------------------------------------------- reading


def kill_readers(_: object) -> None:
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)


def test_pictures_that_end_what_reads_them_are_bad_files(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "in", 12)
    with monkeypatch.context() as patched:
        patched.setattr(reading, "Items", FatalItems)
        assert statuses_of(explain(tmp_path / "in", out, workers=2)) == (10, 2)
    reasons = jobs.results(out).table()["reason"].to_pylist()
    said = {3: "crashes its decoder", 6: "takes more memory than there is"}
    assert [number for number, reason in enumerate(reasons) if reason] == list(said)
    for number, reason in said.items():
        assert reasons[number].startswith(reason)
        assert f"{number:03d}.png,bad,{reason}" in (out / "bad.csv").read_text()

    # All else is as where they are bad for another cause, with the same words.
    read = reading.read_image

    def read_image(path: Any, *arguments: Any, **options: Any) -> Tensor:
        number = int(Path(path).stem)
        if number in said:
            raise ImageError(f"{path}: {reasons[number]}")
        return read(path, *arguments, **options)

    monkeypatch.setattr(reading, "read_image", read_image)
    explain(tmp_path / "in", tmp_path / "in process")
    assert files_of(out) == files_of(tmp_path / "in process")


def test_where_memory_is_too_small_for_any_picture_none_is_at_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Process:
        """Is killed by all pictures but one."""

        def __init__(self, _: object) -> None:
            pass

        def __call__(self, item: Item) -> reading.Reading:
            if not item.path.endswith("004.png"):
                raise ProcessEndedError(-signal.SIGKILL)
            return reading.Reading(bad="this one is not")

    monkeypatch.setattr(reading, "ThrowawayProcess", Process)
    read = reading._ReaderAlone(Preprocessing())
    items = [Item(f"{number:03d}.png") for number in (0, 1, 4, 5, 6, 7)]
    found = [read(item) for item in items]
    too_large = reading.Reading(bad=reading.TOO_LARGE)
    assert found[:2] == found[3:5] == [too_large] * 2 and read.found
    assert found[2] == reading.Reading(bad="this one is not")
    failed = found[5].failed
    assert failed is not None and failed.startswith("memory failed") and "007.png" in failed


def test_a_reader_that_dies_by_chance_costs_nothing(tmp_path: Path, out: Path) -> None:
    draw(tmp_path / "in", 40)
    kills = [kill_readers]

    def done(items: int) -> None:
        for kill in kills:
            kill(items)
        kills.clear()

    options = {"batch_size": 2, "shard_size": 4}
    with jobs.begin(explainer(), tmp_path / "in", out, **options) as begun:
        worker = jobs.ShardWorker(begun.job, workers=1)
        with pytest.warns(UserWarning, match=r"died somewhere in items \d+ to \d+, from shard"):
            list(worker.explain(begun.job.missing(), done))
        worker.close()
    explain(tmp_path / "in", out, resume=True)
    explain(tmp_path / "in", tmp_path / "undisturbed")
    assert files_of(out) == files_of(tmp_path / "undisturbed")


def test_readers_that_die_again_and_again_stop_the_job(
    pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what no picture is at fault for: too little memory that is shared, for one."""
    made = reading.SpanReader._new_loader

    def dying(self: reading.SpanReader) -> Any:
        class Dying:
            def __iter__(self) -> Any:
                for batch in loader:
                    del batch
                    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. ")

        loader = made(self)
        return Dying()

    monkeypatch.setattr(reading.SpanReader, "_new_loader", dying)
    monkeypatch.setattr(reading, "DEATHS_FOR_NOTHING", 1)
    with (
        pytest.warns(UserWarning, match="none of them was at fault"),
        pytest.raises(jobs.JobStopped, match=r"died somewhere in .*Bus error.* fewer workers"),
    ):
        explain(pictures, out, workers=1)
    assert statuses(out) == ["ok"] * 4


def test_a_reader_s_death_is_not_taken_for_a_picture_s_fault(pictures: Path, out: Path) -> None:
    """A signal handler raises it wherever the process is."""
    text = "DataLoader worker (pid 7) is killed by signal: Killed. "

    def dying(_: str) -> Exception:
        return RuntimeError(text)

    Image.new("RGB", (16, 16)).save(pictures / "006.png")
    made = explainer((16, 16), Picky(dying), "saliency")  # type: ignore[arg-type]
    with pytest.raises(jobs.JobStopped, match=r"died somewhere in .* or with workers=0"):
        explain(pictures, out, made)
    assert statuses(out) == ["ok"] * 4


def failing(times: int, error: Exception, name: str = "005.png") -> Any:
    """read_image that fails so often on a file."""
    left = [times]
    read = reading.read_image

    def read_image(path: Any, *arguments: Any, **options: Any) -> Tensor:
        if str(path).endswith(name) and left[0]:
            left[0] -= 1
            raise ImageError(f"{path}: {error}") from error
        return read(path, *arguments, **options)

    return read_image


ERRORS = (
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EMFILE, "Too many"),
    MemoryError(),
)


@pytest.mark.parametrize("error", ERRORS)
def test_storage_that_fails_is_tried_again_and_then_stops_the_job(
    pictures: Path, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain(pictures, tmp_path / "undisturbed")
    monkeypatch.setattr(reading, "PAUSES", (0.0, 0.0), raising=False)
    with monkeypatch.context() as patched:
        patched.setattr(reading, "read_image", failing(2, error))
        assert explain(pictures, tmp_path / "passing").ok == 10
    with monkeypatch.context() as patched:
        patched.setattr(reading, "read_image", failing(3, error))
        with pytest.raises(jobs.JobStopped, match=r"storage or memory failed, .* at .*005\.png: "):
            explain(pictures, tmp_path / "lasting")
    assert statuses(tmp_path / "lasting") == ["ok"] * 4
    assert explain(pictures, tmp_path / "lasting", resume=True).ok == 10
    for name in ("passing", "lasting"):
        assert files_of(tmp_path / name) == files_of(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "no"), OSError("truncated"), ValueError("nonsense")]
)
def test_a_file_that_is_at_fault_is_bad_at_once(
    pictures: Path, out: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "read_image", failing(1, error))
    assert explain(pictures, out).bad == 1
    assert statuses(out)[5] == "bad"


# ---------------------------------------------------------------- writing


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (jobs_run, "save_items"),
        (jobs_run, "save_record"),
        (shard_files, "save_weights"),
        (jobs_run, "write_page"),
    ],
)
def test_a_full_disk_stops_the_job(
    pictures: Path, out: Path, where: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(where, name, full)
        with pytest.raises(jobs.JobStopped, match=r"cannot be .*written: .*No space left"):
            explain(pictures, out)
    assert explain(pictures, out, resume=True).ok == 10


def test_names_that_are_no_text_are_written_so_that_they_can_be_read(
    tmp_path: Path, out: Path
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/in-\xff"))
    paths = draw(folder, 3)
    paths[1].write_bytes(b"nonsense")
    assert statuses_of(explain(folder, out)) == (2, 1)
    assert "in-\\xff" in (out / "summary.html").read_text(encoding="utf-8")
    assert "in-\\xff/001.png,bad" in (out / "bad.csv").read_text(encoding="utf-8")
    (out / "index" / "00000.parquet").unlink()
    assert explain(folder, out, resume=True).ok == 2
    with pytest.raises(ValueError, match=r"out must be text in UTF-8, got .*in-\\xff"):
        explain(paths[0], folder)


class Killed(BaseException):
    """The end of a process, as far as files can tell."""


@pytest.mark.parametrize("last", range(0, 12))
def test_overwriting_may_be_cut_short(
    pictures: Path, tmp_path: Path, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = explainer(n_steps=3)
    explain(pictures, tmp_path / "undisturbed", other)
    out = tmp_path / "out"
    explain(pictures, out)
    deleted = 0
    unlink = Path.unlink

    def dying(path: Path, missing_ok: bool = False) -> None:
        nonlocal deleted
        deleted += path.exists()
        if deleted > last:
            raise Killed
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dying)
        try:
            explain(pictures, out, other, overwrite=True)
        except Killed:
            assert deleted > last
    # What is left is the old job, or the new one, or said to be neither.
    for made, steps in ((explainer(), 8), (other, 3)):
        try:
            explain(pictures, out, made, resume=True)
        except ValueError as error:
            assert "overwrite (--overwrite) begins anew" in str(error) or "n_steps" in str(error)
        else:
            assert jobs.results(out).record["settings"]["options"] == {"n_steps": steps}
            assert len(jobs.results(out)) == 10
    explain(pictures, out, other, overwrite=True)
    assert files_of(out) == files_of(tmp_path / "undisturbed")


def test_what_is_deleted_is_gone_from_the_disk_before_more_is(
    pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain(pictures, out)
    flushed: list[tuple[str, bool]] = []
    flush = atomic_file._flush

    def noting(path: Path) -> None:
        flushed.append((path.name, (out / "index" / "00000.parquet").exists()))
        flush(path)

    monkeypatch.setattr(atomic_file, "_flush", noting)
    jobs_run._delete(out)
    assert flushed[0] == ("out", True) and flushed[-1] == ("index", False)


# ---------------------------------------------------------------- locks


def test_a_file_system_without_locks_is_warned_of(
    pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(UserWarning, match="without locks .* no other process"):
        assert explain(pictures, out).ok == 10


# ---------------------------------------------------------------- compiled


def test_a_compiled_model_gives_the_same_bytes_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    paths = draw(tmp_path / "in", 14)
    for number in (1, 6, 7, 9):
        paths[number].write_bytes(b"nonsense")
    made = partial(explainer, compile=True, n_steps=5)
    found = []
    for name, order in (("a", (0, 1, 2, 3)), ("b", (2, 3, 0, 1)), ("c", (3, 1, 2, 0))):
        options = {"batch_size": 3, "shard_size": 4}
        with jobs.begin(made, tmp_path / "in", tmp_path / name, **options) as begun:
            worker = jobs.ShardWorker(begun.job)
            for shard in order:
                worker.explain_shard(shard)
        found.append(files_of(tmp_path / name))
    assert found[0] == found[1] == found[2]

"""A data set, from its pictures to a folder of attributions: begun, gone on with, finished."""

from __future__ import annotations

import csv
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from ..images import ImageError
from ..models.preprocessing import Preprocessing
from ..picture_explainer import PictureExplainer, Plan
from ..runtime.memory_format import FORMATS
from .atomic_file import atomic_file, delete, readable, sweep
from .folder_lock import folder_lock
from .items import FILE as ITEMS
from .items import Item, Items, digest, save_items
from .job import (
    FILE,
    FORMAT,
    INDEX,
    LOG,
    SHARDS,
    STORES,
    Job,
    MakeExplainer,
    check_same,
    describe,
    fingerprint,
    fingerprint_of_parts,
    load_record,
    save_record,
    surroundings,
)
from .packages import check_packages
from .reader import Results
from .reading import StorageError, read_item
from .shard_files import OK
from .sources import Source, find_items
from .summary import JobSummary, summarise
from .summary_page import write_page
from .telling import Teller
from .worker import KEPT, JobStopped, ShardWorker, may_be_a_picture

BAD_FILES, PAGE = "bad.csv", "summary.html"
# Of made-up pictures, where none can be read, or the model refuses the first.
_ANY_SIZE = (224, 224)


@dataclass(frozen=True)
class Begun:
    """A job whose folder is held.

    Attributes:
        job: what is to be done; job.missing() of it is left.
        explainer: as job.make_explainer makes it; None where nothing is left to be done and so
            none was made.
        measured: whether the plan was measured with it just now.
    """

    job: Job
    explainer: PictureExplainer | None
    measured: bool


def explain_dataset(
    explainer: PictureExplainer | MakeExplainer,
    source: Source | Sequence[Source],
    out: str | PathLike[str],
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
) -> JobSummary:
    """Explains all pictures of a data set, shard by shard, into a folder.

    Whatever happens to the process, shards that are done are kept, and `resume` goes on from
    there: the files are then, to the bit, those of a run that was never stopped. See Results for
    what reads them.

    Args:
        explainer: what explains the pictures, or what makes it; that can be sent to other
            processes.
        source: folders, patterns, files, lists and tar files; see `find_items`.
        out: folder for the results.
        batch_size: pictures that are explained together, at most.
        shard_size: pictures in a file, which are in memory until it is written.
        workers: processes that read pictures ahead of the model; 0 reads them in this one. A script
            that asks for them needs the usual `if __name__ == "__main__":`.
        store: "fp32" or "fp16", of attributions; in fp16 each picture's have a power of two in
            common, so that maps of any size keep 11 binary digits. Results gives them as they were.
        limit: only so many pictures, the first.
        resume: go on with the job that is in the folder, if there is one.
        overwrite: begin anew, whatever job is in the folder.
        progress: a bar, or lines where there is no terminal.
        settings: that describe the explainer and go to job.json, fit for JSON; by default they are
            read from it.

    Returns:
        JobSummary; summary.html in the folder shows more.

    Raises:
        ArgumentError: an argument that cannot be used; a job that is there, or that was begun with
            other settings.
        JobStopped: the model or the disk failed, or a process that reads. A file that cannot be
            read, or that the model refuses, stops nothing: it is listed in bad.csv.
        MissingDependency: pyarrow, safetensors or Pillow is not installed.
    """
    began = time.perf_counter()
    with begin(
        explainer,
        source,
        out,
        batch_size=batch_size,
        shard_size=shard_size,
        store=store,
        limit=limit,
        resume=resume,
        overwrite=overwrite,
        settings=settings,
    ) as begun:
        explained = _explain_missing(begun, workers, progress)
        return finish(begun.job, explained, time.perf_counter() - began)


@contextmanager
def begin(
    explainer: PictureExplainer | MakeExplainer,
    source: Source | Sequence[Source],
    out: str | PathLike[str],
    *,
    batch_size: int = 16,
    shard_size: int = 256,
    store: str = "fp32",
    limit: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Begun]:
    """Begins a job, or goes on with one, and holds its folder while the block runs.

    Shards are explained by a ShardWorker, or by many of them in processes anywhere; `finish` ends
    the job. Arguments and errors are those of `explain_dataset`.
    """
    _check(batch_size, shard_size, store, limit, resume, overwrite)
    check_packages()
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"jobs: out must be a folder, got the file {folder}")
    if readable(str(folder)) != str(folder):  # which libraries that write could not open
        raise ArgumentError(f"jobs: out must be text in UTF-8, got {readable(str(folder))}")
    _check_free(folder, resume, overwrite)
    items = find_items(source)[:limit]
    make = partial(_itself, explainer) if isinstance(explainer, PictureExplainer) else explainer
    made: PictureExplainer | None = None
    if settings is None:
        made = make()
        settings = describe(made)
    wanted = _as_json(
        {
            "settings": dict(settings),
            "items": {"count": len(items), "digest": digest(items)},
            "batch_size": batch_size,
            "shard_size": shard_size,
            "store": store,
        }
    )
    with _at_work_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder):
        _check_free(folder, resume, overwrite)  # nobody was there before this process
        with _at_work_in(folder):
            if overwrite:
                _delete(folder)
            for name in ("", SHARDS, INDEX, LOG):
                (folder / name).mkdir(exist_ok=True)
                sweep(folder / name)
        measured = not (folder / FILE).exists()
        if measured:
            made = make() if made is None else made
            _check_targets(items, made)
            size, plan = _planned(made, items, min(batch_size, shard_size, len(items)))
            record = {
                **wanted,
                **said_of(made),
                "format": FORMAT,
                "sources": _named(source),
                "size": size,
                "plan": plan.as_dict(),
            }
            with _at_work_in(folder):
                save_items(items, folder)
                save_record(folder, record)
        record = load_record(folder)
        _check_items(record, wanted, items, folder)
        check_same(record, wanted, folder)
        if not measured and not _holds(folder, items):  # deleted, or damaged
            with _at_work_in(folder):
                save_items(items, folder)
        del items  # the processes that read them have the file
        job = job_of(folder, make)
        if made is None and job.missing():
            made = make()
        if made is not None and not measured:
            check_same(record, said_of(made), folder)
        yield Begun(job, made, measured)


def _holds(folder: Path, items: Sequence[Item]) -> bool:
    """Whether the list of items in a folder is there, and is these."""
    if not (folder / ITEMS).exists():
        return False
    try:
        return all(a == b for a, b in itertools.zip_longest(Items(folder), items))
    except ArgumentError:
        return False


def job_of(folder: str | PathLike[str], make_explainer: MakeExplainer) -> Job:
    """The job that is in a folder."""
    record = load_record(Path(folder))
    try:
        plan, size = Plan(**record["plan"]), tuple(record["size"])
        numbers = (plan.rows, plan.threads, *size)
        counted = len(size) == 2 and all(type(n) is int and 0 < n < 2**31 for n in numbers)
        if not counted or plan.memory_format not in FORMATS:
            raise ValueError(f"its plan is {plan} for pictures of {size}")
        preprocessing = _preprocessing(record["preprocessing"])
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"jobs: {Path(folder) / FILE} is damaged: {error}") from error
    return Job(
        folder=Path(folder),
        make_explainer=make_explainer,
        count=record["items"]["count"],
        batch_size=record["batch_size"],
        shard_size=record["shard_size"],
        store=record["store"],
        plan=plan,
        weights=record["weights"],
        preprocessing=preprocessing,
        size=size,
    )


def finish(job: Job, explained_now: int, seconds: float) -> JobSummary:
    """Writes bad.csv, where there is something to say, and summary.html, from the shards' files.

    Args:
        explained_now: items that were dealt with since the job was begun or gone on with.
        seconds: since then.

    Raises:
        JobStopped: the disk failed.
    """
    with _at_work_in(job.folder):
        return _finish(job, explained_now, seconds)


def _finish(job: Job, explained_now: int, seconds: float) -> JobSummary:
    results = Results(job.folder)
    table = results.table().select(["number", "path", "status", "reason"])
    statuses = table["status"]
    bad = [row for row in _others(table)]
    if bad:
        with (
            atomic_file(job.folder / BAD_FILES) as path,
            path.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, list(bad[0]))
            writer.writeheader()
            writer.writerows(bad)
    else:
        (job.folder / BAD_FILES).unlink(missing_ok=True)
    summary = summarise(job.folder, job.count, statuses.to_pylist(), explained_now, seconds)
    write_page(job, results, summary, job.folder / PAGE)
    return summary


def _explain_missing(begun: Begun, workers: int, progress: bool) -> int:
    """How many items were dealt with."""
    job, missing = begun.job, begun.job.missing()
    if not missing:
        return 0
    total = sum(len(job.items_of(shard)) for shard in missing)
    teller = Teller(progress, total)
    worker = ShardWorker(job, explainer=begun.explainer, workers=workers, measured=begun.measured)
    try:
        for report in worker.explain(missing, teller.update):
            teller.take(report)
    finally:
        teller.close()
        worker.close()
    return total


def _check(
    batch_size: int, shard_size: int, store: str, limit: int | None, resume: bool, overwrite: bool
) -> None:
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size), ("limit", limit)):
        if value is not None and value < 1:
            raise ArgumentError(f"jobs: {name} must be at least 1, got {value}")
    if store not in STORES:
        raise ArgumentError(f"jobs: store must be one of {', '.join(STORES)}, got {store!r}")
    if resume and overwrite:
        raise ArgumentError("jobs: resume and overwrite must not be given together, got both")


def _check_free(folder: Path, resume: bool, overwrite: bool) -> None:
    if overwrite:
        return
    if (folder / FILE).exists():
        if not resume:
            raise ArgumentError(
                f"jobs: out must be a folder without a job, got {folder}, which has one; resume "
                "(--resume) goes on with it, overwrite (--overwrite) begins anew"
            )
    elif any((folder / INDEX).glob("*.parquet")):
        raise ArgumentError(
            f"jobs: out must have a {FILE} where it has results, got {folder}, which has none; "
            "overwrite (--overwrite) begins anew"
        )


def _first_size(items: Sequence[Item], preprocessing: Preprocessing) -> tuple[int, int]:
    """Height and width of the first picture that can be read."""
    for item in items:
        try:
            height, width = read_item(item, preprocessing).shape[-2:]
        except StorageError as error:
            raise JobStopped(
                f"jobs: stopped, for storage or memory failed at {error}; {KEPT}"
            ) from error
        except ImageError:
            continue
        return height, width
    return _ANY_SIZE  # all of them are bad files, and are going to be listed


def _planned(
    made: PictureExplainer, items: Sequence[Item], batch: int
) -> tuple[tuple[int, int], Plan]:
    """The plan, and the size of pictures that it is for."""
    if made.preprocessing.size is not None:
        return made.preprocessing.size, made.fix(batch)
    size = _first_size(items, made.preprocessing)
    try:
        return size, made.fix(batch, size)
    except Exception as error:
        if not may_be_a_picture(error):
            raise
        # A picture that the model refuses may be the first.
        try:
            return _ANY_SIZE, made.fix(batch, _ANY_SIZE)
        except Exception:
            raise error from None


@contextmanager
def _at_work_in(folder: Path) -> Iterator[None]:
    """Says what became of the folder where the block cannot read or write it."""
    try:
        yield
    except OSError as error:
        raise JobStopped(
            f"jobs: stopped, for {folder} cannot be read or written: {error}; {KEPT}"
        ) from error


def _check_items(
    record: Mapping[str, Any], wanted: Mapping[str, Any], items: Sequence[Item], folder: Path
) -> None:
    """Refuses to go on with other pictures, naming the first."""
    if record["items"] == wanted["items"] or not (folder / ITEMS).exists():
        return
    then, now = Items(folder), items
    for number, (before, after) in enumerate(itertools.zip_longest(then, now)):
        if before is None or after is None or before.said != after.said:
            counts = f"{len(then):,} then, {len(now):,} now; the first that differs is "
            raise ArgumentError(
                f"jobs: resume must be asked with the pictures of the job in {folder}, got "
                f"{counts if len(then) != len(now) else ''}item {number}: {_told(before)} then, "
                f"{_told(after)} now"
            )


def _told(item: Item | None) -> str:
    if item is None:
        return "none"
    size = "not there" if item.size is None else f"{item.size:,} bytes"
    target = "" if item.target is None else f", target {item.target}"
    return f"{item.key} ({size}{target})"


def _check_targets(items: Sequence[Item], explainer: PictureExplainer) -> None:
    if items[0].target is not None and explainer.target is not None:
        raise ArgumentError(
            "jobs: target must not be given where the pictures have their own, got "
            f"{explainer.target}"
        )


def _delete(folder: Path) -> None:
    """Deletes a job's files, and nothing else.

    Without the record nobody goes on with what is left, or reads it, if this is cut short; with the
    index, which says that there are results, nobody takes the folder for one without a job.
    """
    delete([folder / FILE])
    for pattern in (f"{SHARDS}/[0-9]*.safetensors", f"{LOG}/*.jsonl", BAD_FILES, PAGE, ITEMS):
        delete([*folder.glob(pattern)])
    delete([*folder.glob(f"{INDEX}/[0-9]*.parquet")])


def said_of(explainer: PictureExplainer) -> dict[str, Any]:
    """What job.json says of a model, and of where it runs."""
    said: dict[str, Any] = _as_json(
        {
            "weights": fingerprint(explainer),
            "parts": fingerprint_of_parts(explainer),
            "preprocessing": explainer.preprocessing.as_dict(),
            **surroundings(explainer.device),
        }
    )
    return said


def _others(table: Any) -> Iterator[dict[str, Any]]:
    """The rows of items that are not ok."""
    from pyarrow import compute

    yield from table.filter(compute.not_equal(table["status"], OK)).to_pylist()


def _as_json(value: Any) -> Any:
    """As it will be when it is read again."""
    return json.loads(json.dumps(value, default=str))


def _preprocessing(fields: Mapping[str, Any]) -> Preprocessing:
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return Preprocessing(**plain)


def _itself(explainer: PictureExplainer) -> PictureExplainer:
    return explainer


def _named(source: Source | Sequence[Source]) -> list[str]:
    return [str(one) for one in ([source] if isinstance(source, str | PathLike) else source)]

"""What a process needs to do before it takes part in a job that another one began."""

from __future__ import annotations

import os

from .items import Item, Items
from .job import Job, check_same, load_record
from .run import said_of
from .shard_files import BAD, NOT_FINITE, OK, counts_of
from .worker import JobStopped, ShardReport, ShardWorker


def take_part(job: Job, readers: int = 0) -> ShardWorker:
    """A worker for shards of a job, with an explainer of its own.

    Args:
        readers: processes that read pictures ahead.

    Raises:
        JobStopped: the pictures are not seen here; or what it would compute here is not, to the
            bit, what it would be where the job was begun: other weights, versions, kernels or
            another kind of device.
        ModelSpecError: the model cannot be loaded here.
    """
    _check_pictures(job)
    made = job.make_explainer()
    try:
        check_same(load_record(job.folder), said_of(made), job.folder)
    except ValueError as error:
        made.close()
        different = str(error).rpartition(", got ")[2]
        raise JobStopped(
            f"jobs: stopped, for {os.uname().nodename} is not as where the job was begun: "
            f"{different}"
        ) from error
    return ShardWorker(job, explainer=made, workers=readers)


def _check_pictures(job: Job) -> None:
    """Where nothing is mounted, every picture would be a bad file."""
    first: Item = Items(job.folder)[0]
    if first.size is not None and not os.path.exists(first.path):
        raise JobStopped(
            f"jobs: stopped, for {first.path} is not seen on {os.uname().nodename}, and was where "
            "the job was begun"
        )


def report_of(job: Job, shard: int) -> ShardReport:
    """The report of a shard that is done, from its files."""
    from pyarrow import parquet

    path = job.index_file(shard)
    with parquet.ParquetFile(str(path)) as file:
        rows = file.read(columns=["path", "status", "reason"]).to_pylist()
    return ShardReport(
        shard,
        {status: sum(row["status"] == status for row in rows) for status in (OK, NOT_FINITE, BAD)},
        [(row["path"], row["reason"] or "") for row in rows if row["status"] != OK],
        0.0,
        **counts_of(path),
    )

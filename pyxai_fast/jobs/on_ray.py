"""A job on the machines of a Ray cluster, by Ray Data: the same files as on one machine."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..errors import ArgumentError
from ..models.errors import MissingDependency
from ..picture_explainer import PictureExplainer
from .folder_lock import folder_lock
from .job import Job, MakeExplainer
from .run import begin, finish
from .sources import Source
from .summary import JobSummary
from .taking_part import report_of, take_part
from .telling import Teller
from .worker import JobStopped, ShardReport, ShardWorker

# How often a shard's worker may die before the job is stopped: a picture that makes the process
# crash must not do so for ever.
DEATHS = 8
# Shards are handed out some at a time: a worker gets so many portions, so that none is long alone
# at the end, of not more shards than that, whose bookkeeping costs the driver milliseconds each.
_PORTIONS, _MOST_SHARDS = 32, 32


@dataclass(frozen=True)
class Share:
    """What a worker gets of the cluster.

    Attributes:
        cpus: cores; torch takes as many threads, and a part of one is one.
        gpus: GPUs, or a part of one.
        readers: processes that read pictures ahead.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    readers: int = 0

    def times_in(self, resources: Mapping[str, float]) -> int:
        """How many there are in what a machine or a cluster has."""
        fits = []
        if self.cpus:
            fits.append(resources.get("CPU", 0.0) / self.cpus)
        if self.gpus:
            fits.append(resources.get("GPU", 0.0) / self.gpus)
        return int(min(fits, default=1.0) + 1e-9)


@contextmanager
def connected(address: str | None = None) -> Iterator[dict[str, float]]:
    """Connects to a cluster while the block runs, if this process is not connected already.

    Args:
        address: HOST:PORT of its head; "auto": the one that this machine is in; "local": one of
            this machine alone, started and ended here. None: RAY_ADDRESS, else "auto" if there is
            one, else "local".

    Yields:
        The resources of the cluster: CPU, GPU and others.

    Raises:
        ArgumentError: there is no such cluster.
        MissingDependency: Ray is not installed.
    """
    ray = _ray()
    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None and address.startswith("ray://"):
        raise ArgumentError(
            "jobs: address must be HOST:PORT of a cluster that this machine is in, got "
            f"{address}; from elsewhere, submit the command: ray job submit -- pyxai-fast run ..."
        )
    if address is not None and ":" in address:
        _check_answers(address)
    # The core library writes to stderr what it thinks of every actor.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    alone = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        if address == "local":
            ray.init("local", **quiet, **alone)
        elif address is not None:
            ray.init(address, **quiet)
        else:
            try:
                ray.init("auto", **quiet)
            except ConnectionError:
                ray.init("local", **quiet, **alone)
    except (ConnectionError, ValueError) as error:
        raise ArgumentError(
            f"jobs: address must be that of a Ray cluster, got {address} ({error})"
        ) from error
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def explain_on_ray(
    explainer: PictureExplainer | MakeExplainer,
    source: Source | Sequence[Source],
    out: str | PathLike[str],
    *,
    workers: int | None = None,
    share: Share = Share(),
    address: str | None = None,
    batch_size: int = 16,
    shard_size: int = 256,
    store: str = "fp32",
    limit: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> JobSummary:
    """`explain_dataset` by the workers of a Ray cluster.

    Shards, the index and job.json are to the bit those of one machine of the same kind with as many
    threads; a job that was begun here may go on there, and the other way round. The process that
    calls this loads no model and needs no GPU. A worker that dies is replaced and goes on with
    its shards; shards that are done stay done.

    Args:
        explainer: what makes it, in every worker; or one that can be sent to them.
        source, out: paths that name the same files on all machines.
        workers: processes that explain; by default as many as the cluster has room for now. Those
            that find no room wait for it, while the others work.
        share: what each of them gets.
        address: of the cluster; see `connected`.

    The other arguments, the result and the errors are those of `explain_dataset`, and:

    Raises:
        ArgumentError: there is no such cluster.
        JobStopped: workers died again and again of the same shard, or one is not fit for the job.
        MissingDependency: Ray is not installed.
    """
    began = time.perf_counter()
    options = {
        "batch_size": batch_size,
        "shard_size": shard_size,
        "store": store,
        "limit": limit,
        "resume": resume,
        "overwrite": overwrite,
        "settings": settings,
    }
    folder = Path(out).absolute()
    here = os.getcwd()
    with connected(address) as resources, _quiet():
        if workers is None:
            workers = max(1, share.times_in(resources))
        teller = Teller(False, 0)
        _tell_of_room(share, teller)
        job = _begin(explainer, source, folder, options, share, here)
        with folder_lock(folder):
            missing = job.missing()
            total = sum(len(job.items_of(shard)) for shard in missing)
            teller = Teller(progress, total)
            try:
                for report in _explain(job, missing, workers, share, here, teller):
                    teller.update(report.items)
                    teller.take(report)
            finally:
                teller.close()
            return finish(job, total, time.perf_counter() - began)


def _begin(
    explainer: PictureExplainer | MakeExplainer,
    source: Source | Sequence[Source],
    folder: Path,
    options: Mapping[str, Any],
    share: Share,
    here: str,
) -> Job:
    """Begins the job in a process such as will explain it: this one may have no GPU."""
    ray = _ray()
    remote = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus)(_begin_there)
    try:
        job: Job = ray.get(remote.remote(explainer, source, folder, dict(options), share, here))
    except ray.exceptions.RayTaskError as error:
        raise _cause_of(error) from None
    except ray.exceptions.RayError as error:
        raise JobStopped(f"jobs: stopped before it began: {_first_line(error)}") from error
    return job


def _begin_there(
    explainer: PictureExplainer | MakeExplainer,
    source: Source | Sequence[Source],
    folder: Path,
    options: dict[str, Any],
    share: Share,
    here: str,
) -> Job:
    _go_to(here)
    # Ray would have one thread, whatever the worker's share is.
    torch.set_num_threads(max(1, int(share.cpus) - share.readers))
    with begin(explainer, source, folder, **options) as begun:
        if begun.explainer is not None:
            begun.explainer.close()
        return begun.job


def _explain(
    job: Job, missing: Sequence[int], workers: int, share: Share, here: str, teller: Teller
) -> Iterator[ShardReport]:
    """Reports of shards as they are done, each once."""
    if not missing:
        return
    ray = _ray()
    from ray import data

    context = data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    # Every row by itself, as soon as it is there; and not when there are megabytes of them.
    context.target_max_block_size = 1
    workers = min(workers, len(missing))
    size = max(1, min(_MOST_SHARDS, len(missing) // (_PORTIONS * workers)))
    left, again = set(missing), set()
    with data.DataContext.current(context), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        portions = data.from_items(list(missing), override_num_blocks=-(-len(missing) // size))
        rows = portions.map_batches(
            _Explainer,
            fn_constructor_args=(job, share, here),
            batch_size=None,  # a portion
            # Not a second portion, while another worker may have none.
            compute=data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            # Ray Data says that these will have to be said in another way, and not yet in which.
            max_restarts=-1,
            max_task_retries=DEATHS,
        )
        try:
            for row in rows.iter_rows():
                if row["again"] and row["worker"] not in again:
                    again.add(row["worker"])
                    teller.say(f"a worker on {row['node']} was lost and replaced")
                report = ShardReport(**json.loads(row["report"]))
                if report.shard in left:
                    left.remove(report.shard)
                    yield report
        except ray.exceptions.RayTaskError as error:
            raise _cause_of(error) from None
        except ray.exceptions.RayError as error:
            raise JobStopped(
                f"jobs: stopped, for workers died {DEATHS + 1} times of the same shards, or could "
                f"not be started: {_first_line(error)}; shards that are done are kept, and resume "
                "goes on from there"
            ) from error
    if left:
        raise JobStopped(
            f"jobs: stopped with {len(left)} shards not explained; resume goes on from there"
        )


class _Explainer:
    """A worker's part: portions of shards in, their reports out.

    The explainer is made when the first portion is there. Were it made before, a process that dies
    of it would be started anew without end: Ray counts only deaths in calls.
    """

    def __init__(self, job: Job, share: Share, here: str) -> None:
        self._job, self._share, self._here = job, share, here
        self._worker: ShardWorker | None = None

    def __call__(self, portion: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
        import ray

        context = ray.get_runtime_context()
        said: dict[str, list[Any]] = {
            "node": [os.uname().nodename],
            "worker": [f"{os.uname().nodename} {os.getpid()}"],
            # Only told of: a version of Ray that does not know may come.
            "again": [bool(getattr(context, "was_current_actor_reconstructed", False))],
        }
        for report in self._reports([int(shard) for shard in portion["item"]]):
            yield {"report": [json.dumps(asdict(report))], **said}

    def _reports(self, shards: Sequence[int]) -> Iterator[ShardReport]:
        """Of all the shards, in their order: where a worker died, Ray leaves out as many answers of
        its successor as it had before."""
        done = {shard for shard in shards if self._job.index_file(shard).exists()}
        explained = self._explained([shard for shard in shards if shard not in done])
        for shard in shards:
            yield report_of(self._job, shard) if shard in done else next(explained)

    def _explained(self, shards: list[int]) -> Iterator[ShardReport]:
        if not shards:
            return
        worker, left = self._made(), list(shards)
        try:
            for report in worker.explain(shards):
                left.remove(report.shard)
                yield report
        except JobStopped:
            # Once more, by a model that is loaded anew: it need not be the model's fault.
            self._let_go()
            yield from self._made().explain(left)

    def _made(self) -> ShardWorker:
        if self._worker is None:
            _go_to(self._here)
            self._worker = take_part(self._job, self._share.readers)
        return self._worker

    def _let_go(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def _check_answers(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ArgumentError(
            f"jobs: address must be that of a Ray cluster, got {address} ({error})"
        ) from error


def _tell_of_room(share: Share, teller: Teller) -> None:
    """Says so where no machine of the cluster has room for a worker."""
    nodes = [node for node in _ray().nodes() if node["Alive"]]
    if not any(share.times_in(node["Resources"]) for node in nodes):
        teller.say(
            f"no machine of the cluster has {share.cpus:g} CPUs"
            f"{f' and {share.gpus:g} GPUs' if share.gpus else ''} for a worker; waiting for one"
        )


def _go_to(folder: str) -> None:
    """Paths are relative to where the command was given."""
    if os.path.isdir(folder):
        os.chdir(folder)


def _cause_of(error: Any) -> BaseException:
    """What a remote function raised, as it raised it: Ray Data adds lines of its own."""
    cause = error.cause
    if not isinstance(cause, BaseException):
        return JobStopped(_first_line(error))
    if len(cause.args) == 1 and isinstance(cause.args[0], str):
        cause.args = (_first_line(cause),)
    return cause


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data says in tables what is told here in lines."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    import ray.data  # noqa: F401  # sets up its loggers

    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependency(
            "jobs: ray must be installed; run: pip install pyxai-fast[ray]"
        ) from error
    return ray

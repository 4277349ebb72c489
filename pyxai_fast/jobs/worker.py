"""One shard of a job, from its pictures to its files."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import plots
from ..explanation import Explanation
from ..models.black_box import BlackBox
from ..models.query_error import QueryError
from ..picture_explainer import PictureExplainer
from ..runtime.chunks import FEWEST_ROWS, FIRST_CHUNK_ROWS, first_rows
from ..runtime.memory import is_out_of_memory
from .job import LOG, STORES, Job
from .reading import Batch, Group, Span, SpanReader, first_line, reader_died
from .shard_files import BAD, NOT_FINITE, OK, Row, checksum, commit


class JobStopped(RuntimeError):
    """The model, or the disk, failed. Shards that are done stay done."""


KEPT = "shards that are done are kept, and resume goes on from there"


@dataclass(frozen=True)
class ShardReport:
    """A shard that is done.

    Attributes:
        shard: its number.
        statuses: how many items have which status.
        bad: (key, reason) of those that are not ok.
        seconds: that it took.
        gradients, queries: that the model was asked for.
    """

    shard: int
    statuses: dict[str, int]
    bad: list[tuple[str, str]]
    seconds: float
    gradients: int
    queries: int

    @property
    def items(self) -> int:
        return sum(self.statuses.values())


class ShardWorker:
    """Explains shards of a job, each from start to finish and with the same bits in any process.

    A shard is a range of items, cut into batches of a fixed size; those that cannot be read are
    left out of theirs. Where the model fails on pictures of a batch they are explained one by one,
    in every process alike, and those that it refuses are bad files too. Nothing else decides what
    a shard looks like: no other shard, and nothing that this process did before.

    Args:
        job: what is to be done. A process that only does a part of it needs nothing else.
        explainer: as job.make_explainer makes it, where there is one already.
        workers: processes that read pictures ahead; 0 reads them in this one. See SpanReader.
        measured: whether it is the explainer that the job's plan was measured with.
    """

    def __init__(
        self,
        job: Job,
        *,
        explainer: PictureExplainer | None = None,
        workers: int = 0,
        measured: bool = False,
    ) -> None:
        import pyarrow

        # Where pyarrow first makes an array it imports pandas. That must not be in the thread that
        # writes, while this one sees half of it.
        pyarrow.array([0])
        self.job = job
        self.explainer = job.make_explainer() if explainer is None else explainer
        self.explainer.follow(job.plan)
        self._reader = SpanReader(job.folder, job.preprocessing, workers, self.explainer.device)
        self._ready = measured
        self._classes = len(self.explainer.class_names or ()) or None

    def explain_shard(self, shard: int) -> ShardReport:
        """Explains one shard; see `explain`."""
        (report,) = self.explain([shard])
        return report

    def explain(
        self, shards: Iterable[int], done: Callable[[int], object] = lambda items: None
    ) -> Iterator[ShardReport]:
        """Explains shards, one after the other, and writes each while the next is explained.

        Args:
            shards: their numbers, which are taken one or two ahead: a queue may give them. They
                are explained whether they are done or not.
            done: called with the number of items that were dealt with, after each batch.

        Yields:
            A report of each, when its files are on the disk.

        Raises:
            JobStopped: the model, what reads or the disk failed; shards that were reported are
                done.
        """
        batches = self._reader.read(self._spans(shards))
        try:
            with ThreadPoolExecutor(1, "commit") as writer:
                writing: Future[ShardReport] | None = None
                for shard, of_shard in itertools.groupby(batches, lambda batch: batch.span.shard):
                    finished = self._explained(shard, of_shard, done)
                    if writing is not None:  # no more than one waits, with all of its maps
                        yield _result_of(writing)
                    writing = writer.submit(finished.write)
                if writing is not None:
                    yield _result_of(writing)
        except RuntimeError as error:
            if not reader_died(error):
                raise
            said = self._reader.what_died(first_line(error))
            raise JobStopped(f"jobs: stopped, for {said}; {KEPT}") from error

    def _spans(self, shards: Iterable[int]) -> Iterator[Span]:
        size = self.job.batch_size
        for shard in shards:
            items = self.job.items_of(shard)
            for first in range(items.start, items.stop, size):
                yield Span(shard, first, min(first + size, items.stop))

    def _explained(
        self, shard: int, batches: Iterable[Batch], done: Callable[[int], object]
    ) -> _Explained:
        finished = _Explained(self.job, shard)
        for batch in batches:
            if batch.failed is not None:
                raise JobStopped(f"jobs: stopped, for {batch.failed}; {KEPT}")
            finished.keys += batch.keys
            for number, reason in batch.bad.items():
                finished.leave_out(number, reason)
            for group in batch.groups:
                self._explain(self._with_known_targets(group, finished), finished)
            done(batch.span.last - batch.span.first)
        return finished

    def _explain(self, group: Group, finished: _Explained) -> None:
        if not group.numbers:
            return
        try:
            self._get_ready()
        except Exception as error:  # on pictures that are as they should be
            self._stop(group, finished.shard, error)
        failed = self._tried(group, finished)
        if failed is None:
            return
        refused = {group.numbers[0]: failed}
        if len(group.numbers) > 1:
            refused = {}
            for row, number in enumerate(group.numbers):
                found = self._tried(group.only([row]), finished)
                if found is not None:
                    refused[number] = found
        if len(refused) == len(group.numbers):
            try:
                self._explain_made_up(1)
            except Exception:  # it is not the pictures
                self._stop(group, finished.shard, failed)
        for number, found in refused.items():
            finished.leave_out(number, f"the model: {first_line(found)}")

    def _tried(self, group: Group, finished: _Explained) -> Exception | None:
        """Explains a group; gives the error where that may be due to one of its pictures."""
        try:
            self._fix_rows(group.pixels)
            explanation = self.explainer(group.pixels, target=group.targets, numbers=group.numbers)
        except Exception as error:
            if not may_be_a_picture(error):
                self._stop(group, finished.shard, error)
            return error
        finished.take(group.numbers, explanation)
        return None

    def _stop(self, group: Group, shard: int, error: Exception) -> NoReturn:
        if reader_died(error):
            raise error
        first, last = group.numbers[0], group.numbers[-1]
        items = f"item {first}" if first == last else f"items {first} to {last}"
        raise JobStopped(
            f"jobs: stopped at {items}, in shard {shard}: {first_line(error)}; {KEPT}"
        ) from error

    def _with_known_targets(self, group: Group, finished: _Explained) -> Group:
        """Without the pictures whose class the model does not have."""
        if group.targets is None:
            return group
        if self._classes is None and not isinstance(self.explainer.model.module, BlackBox):
            try:
                self._classes = self.explainer.predict(self._made_up(1)).shape[-1]
            except Exception as error:
                self._stop(group, finished.shard, error)
        if self._classes is None or max(group.targets) < self._classes:
            return group
        kept = []
        for row, (number, target) in enumerate(zip(group.numbers, group.targets, strict=True)):
            if target < self._classes:
                kept.append(row)
            else:
                finished.leave_out(
                    number, f"target {target} is none of the {self._classes} classes"
                )
        return group.only(kept)

    def _get_ready(self) -> None:
        """Measures what the first call of a process measures, so that no batch is cut in another
        way for being the first.

        A model that only answers is not asked for it: what it is asked may be counted.
        """
        if self._ready:
            return
        self._ready = True
        if isinstance(self.explainer.model.module, BlackBox):
            return
        job = self.job
        features = job.preprocessing.channels * math.prod(job.size)
        # As many as the first chunk takes: it is the one that is measured.
        first = first_rows(4 * features, self.explainer.device)
        self._explain_made_up(min(job.batch_size, job.shard_size, job.count, first))

    def _explain_made_up(self, count: int) -> None:
        plan = self.job.plan
        self.explainer.plan = replace(plan, rows=max(plan.rows, FIRST_CHUNK_ROWS))
        self.explainer(self._made_up(count), numbers=range(count))

    def _made_up(self, count: int) -> Tensor:
        """Pictures of noise, of the size that the plan is for."""
        shape = (count, self.job.preprocessing.channels, *self.job.size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))

    def _fix_rows(self, pixels: Tensor) -> None:
        """How many rows go through the model at once: of pictures of another size than the plan is
        for, so few that it makes no difference whether such pictures were seen before.

        They follow from the size alone. To measure every size would double the work where every
        picture has its own.
        """
        plan, size = self.job.plan, tuple(pixels.shape[-2:])
        if size != self.job.size:
            # Half of what as many pixels of the plan's size would be.
            alike = plan.rows * math.prod(self.job.size) // (2 * math.prod(size))
            most = FEWEST_ROWS if self.explainer.device.type == "cpu" else FIRST_CHUNK_ROWS
            first = first_rows(4 * pixels[0].numel(), self.explainer.device)
            rows = min(alike, most, first)
            plan = replace(plan, rows=max(1, rows))
        self.explainer.plan = plan

    def close(self) -> None:
        """Ends the processes that read ahead, and lets go of what the explainer holds."""
        self._reader.close()
        self.explainer.close()


def may_be_a_picture(error: Exception) -> bool:
    """Whether an error of the model may be due to a picture, and not come from elsewhere."""
    elsewhere = isinstance(error, QueryError) or is_out_of_memory(error) or reader_died(error)
    return not elsewhere


def _result_of(writing: Future[ShardReport]) -> ShardReport:
    try:
        return writing.result()
    except Exception as error:  # of three libraries that write
        raise JobStopped(
            f"jobs: stopped, for results cannot be written: {error}; {KEPT}"
        ) from error


@dataclass
class _Explained:
    """What is known of a shard, until it is written."""

    job: Job
    shard: int
    keys: list[str] = field(default_factory=list)
    rows: dict[int, Row] = field(default_factory=dict)
    tensors: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, int] = field(default_factory=lambda: {"gradients": 0, "queries": 0})
    began: float = field(default_factory=time.perf_counter)

    def leave_out(self, number: int, reason: str) -> None:
        self.rows[number] = Row(number, self._key(number), BAD, reason)

    def take(self, numbers: list[int], explanation: Explanation) -> None:
        """Takes in the explanation of items, [n, C, H, W]."""
        maps, errors = explanation.attributions, explanation.standard_error
        assert isinstance(maps, Tensor)
        scales = _scales(maps, errors) if self.job.store == "fp16" else [1.0] * len(numbers)
        held = self._add("attributions", maps, scales)
        finite = held.flatten(1).isfinite().all(1).tolist()
        name, first = self._name("attributions", maps), self._stored("attributions", maps)
        together = [held]
        relative: list[float | None] = [None] * len(numbers)
        if errors is not None:
            assert isinstance(errors, Tensor)
            together.append(self._add("standard_error", errors, scales))
            relative = [_relative(m, e) for m, e in zip(maps, errors, strict=True)]
        for position, number in enumerate(numbers):
            class_name, probability = plots.class_and_probability(explanation, position)
            self.rows[number] = Row(
                number,
                self._key(number),
                OK if finite[position] else NOT_FINITE,
                None if finite[position] else _how_many_not_finite(held[position]),
                target=None if explanation.target is None else int(explanation.target[position]),
                class_name=class_name,
                probability=probability,
                delta=None if explanation.delta is None else _finite(explanation.delta[position]),
                error=relative[position],
                height=maps.shape[-2],
                width=maps.shape[-1],
                shard=self.shard,
                row=first - len(numbers) + position,
                tensor=name,
                scale=scales[position],
                checksum=checksum(stored[position] for stored in together),
            )
        for kind in self.counts:
            self.counts[kind] += getattr(explanation.cost, kind)

    def write(self) -> ShardReport:
        """Writes the files."""
        rows = [self.rows[number] for number in self.job.items_of(self.shard)]
        tensors = {}
        for name in sorted(self.tensors):
            tensors[name] = torch.cat(self.tensors.pop(name))
        commit(self.job, self.shard, rows, tensors, self.counts)
        statuses = {status: sum(row.status == status for row in rows) for status in _STATUSES}
        report = ShardReport(
            self.shard,
            statuses,
            [(row.path, row.reason or "") for row in rows if row.status != OK],
            time.perf_counter() - self.began,
            **self.counts,
        )
        self._log(report)
        return report

    def _log(self, report: ShardReport) -> None:
        """What differs from run to run, and so must not be in the files themselves."""
        line: dict[str, Any] = asdict(report)
        line["bad"] = len(report.bad)
        line["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        path = self.job.folder / LOG / f"{os.uname().nodename}-{os.getpid()}.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _key(self, number: int) -> str:
        return self.keys[number - self.job.items_of(self.shard).start]

    def _name(self, kind: str, maps: Tensor) -> str:
        if self.job.preprocessing.size is not None:
            return kind
        return f"{kind}.{maps.shape[-2]}x{maps.shape[-1]}"

    def _add(self, kind: str, values: Tensor, scales: list[float]) -> Tensor:
        values = values.detach()
        if self.job.store == "fp16":
            each = torch.tensor(scales, dtype=torch.float64, device=values.device)
            values = values / each.view(-1, *[1] * (values.dim() - 1))  # exact in float64
        held = values.to("cpu", STORES[self.job.store]).contiguous()
        self.tensors[self._name(kind, values)].append(held)
        return held

    def _stored(self, kind: str, maps: Tensor) -> int:
        """How many rows there are by now."""
        return sum(len(part) for part in self.tensors[self._name(kind, maps)])


_STATUSES = (OK, NOT_FINITE, BAD)


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _how_many_not_finite(attributions: Tensor) -> str:
    count = int((~attributions.isfinite()).sum())
    return f"{count} of {attributions.numel()} attributions are nan or inf"


def _scales(*stored: Any) -> list[float]:
    """For each item the power of two that brings the largest magnitude of its maps into
    [2^14, 2^15): float16 ends at 65504, and has all of its digits down to 2^-14."""
    largest = torch.stack(
        [
            values.detach().double().nan_to_num(0.0, 0.0, 0.0).abs().flatten(1).amax(1)
            for values in stored
            if values is not None
        ]
    ).amax(0)
    exponents = torch.frexp(largest).exponent.tolist()
    return [
        2.0 ** (exponent - 15) if size else 1.0
        for exponent, size in zip(exponents, largest.tolist(), strict=True)
    ]


def _relative(attributions: Tensor, errors: Tensor) -> float | None:
    """Root mean square of the standard errors, relative to that of the attributions themselves.

    None where the map shows nothing but its noise.
    """
    errors = errors.detach().double()
    known = errors.isfinite()
    noise = float(errors[known].square().mean())
    # What is seen is both: the squares of the attributions and of their errors.
    size = float(attributions.detach().double()[known].square().mean()) - noise
    return _finite(math.sqrt(noise / size)) if size > 0 else None

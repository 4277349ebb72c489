"""What a job has done."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .job import INDEX, LOG
from .shard_files import BAD, NOT_FINITE, OK, counts_of


@dataclass(frozen=True)
class JobSummary:
    """What a job has done.

    Attributes:
        folder: of the job.
        items: of the data set.
        ok: explained.
        not_finite: explained, with attributions that are nan or inf.
        bad: not explained.
        shards: done.
        gradients, queries: that the model was asked for in all, by shards that are done.
        explained_now: items that were dealt with since the last start; the others were done.
        seconds: since then.
    """

    folder: Path
    items: int
    ok: int
    not_finite: int
    bad: int
    shards: int
    gradients: int
    queries: int
    explained_now: int
    seconds: float

    @property
    def items_per_second(self) -> float:
        return self.explained_now / self.seconds if self.seconds > 0 else 0.0

    @property
    def complete(self) -> bool:
        """Whether every item was dealt with."""
        return self.ok + self.not_finite + self.bad == self.items


def summarise(
    folder: Path, items: int, statuses: Iterable[str], explained_now: int, seconds: float
) -> JobSummary:
    """From the files of the shards that are done."""
    counts = dict.fromkeys((OK, NOT_FINITE, BAD), 0)
    for status in statuses:
        counts[status] = counts.get(status, 0) + 1
    done = sorted((folder / INDEX).glob("[0-9]*.parquet"))
    work = [counts_of(path) for path in done]
    return JobSummary(
        folder=folder,
        items=items,
        ok=counts[OK],
        not_finite=counts[NOT_FINITE],
        bad=counts[BAD],
        shards=len(done),
        gradients=sum(of_shard["gradients"] for of_shard in work),
        queries=sum(of_shard["queries"] for of_shard in work),
        explained_now=explained_now,
        seconds=seconds,
    )


def logged(folder: Path) -> list[dict[str, Any]]:
    """What the logs say of shards, from whatever processes and starts; the last word on each.

    A line that a killed process did not finish is left out, and one that is damaged.
    """
    lines: dict[int, dict[str, Any]] = {}
    for path in sorted((folder / LOG).glob("*.jsonl")):
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if not _is_report(line):
                continue
            before = lines.get(line["shard"])
            if before is None or before["finished"] <= line["finished"]:
                lines[line["shard"]] = line
    return [lines[shard] for shard in sorted(lines)]


def _is_report(line: Any) -> bool:
    """Whether a line has what is read of it."""
    if not isinstance(line, dict) or not isinstance(line.get("statuses"), dict):
        return False
    numbers = [line.get("shard"), line.get("seconds"), *line["statuses"].values()]
    return isinstance(line.get("finished"), str) and all(
        isinstance(number, int | float) for number in numbers
    )

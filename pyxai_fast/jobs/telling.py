"""What is told on stderr while shards are done: how far the job is, and which files are bad."""

from __future__ import annotations

import sys

from .progress import job_progress
from .worker import ShardReport

# Bad files that are told of one by one.
TOLD = 10


class Teller:
    """Tells how far a job is.

    Args:
        show: a bar, or lines where there is no terminal; bad files are told of either way.
        total: items that are to be dealt with.
    """

    def __init__(self, show: bool, total: int) -> None:
        self._bar = job_progress(show, total)
        self._bad = 0

    def update(self, items: int) -> None:
        """So many more were dealt with."""
        self._bar.update(items)

    def take(self, report: ShardReport) -> None:
        """A shard is done."""
        for path, reason in report.bad[: max(0, TOLD - self._bad)]:
            self.say(f"{path}: {reason}")
        self._bad += len(report.bad)
        if self._bad:
            self._bar.say(f"{self._bad:,} bad")

    def say(self, text: str) -> None:
        print(f"pyxai-fast: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._bar.close()

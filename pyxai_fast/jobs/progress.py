"""How far a job is: a bar where a person looks, a line now and then where a file is written."""

from __future__ import annotations

import sys
import time

from ..runtime.progress import Progress, Silence, progress_bar

# Seconds between lines.
EVERY = 60.0


class Lines:
    """Progress in lines on stderr.

    Args:
        total: of the items that are to be dealt with now.
        every: seconds between lines.
    """

    def __init__(self, total: int, every: float = EVERY) -> None:
        self.total, self.every = total, every
        self.done, self.said = 0, ""
        self._began = self._last = time.monotonic()

    def update(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if now - self._last >= self.every:
            self._last = now
            print(self.line(now - self._began), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What it says after so many seconds."""
        rate = self.done / seconds if seconds > 0 else 0.0
        left = f"{duration((self.total - self.done) / rate)} left" if rate else "not known how long"
        parts = [
            f"{self.done:,} of {self.total:,} items ({100 * self.done // max(1, self.total)}%)",
            f"{rate:.3g} items/s",
            left,
        ]
        return "pyxai-fast: " + ", ".join(parts + ([self.said] if self.said else []))

    def say(self, text: str) -> None:
        self.said = text

    def close(self) -> None:
        pass


def job_progress(show: bool, total: int) -> Progress:
    """A bar on a terminal, else lines, also where tqdm is not installed; a Silence when not
    shown."""
    if not show:
        return Silence()
    bar = progress_bar(sys.stderr.isatty(), total, "explaining", " items")
    return Lines(total) if isinstance(bar, Silence) else bar


def duration(seconds: float) -> str:
    """As people say it: 42 s, 3 min 20 s, 5 h 7 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"

"""Which failures pass by themselves, and how long to wait for that."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime

from ...errors import ArgumentError

# Too many requests; and a gateway or a service that is not there at the moment.
PASSING = (429, 502, 503, 504)


@dataclass
class Retry:
    """Exponential back-off with jitter.

    Args:
        retries: how often a request is repeated.
        backoff: seconds before the first repetition; each is twice the one before.
        longest: the most seconds of any wait, also of those that the server asks for.
    """

    retries: int = 5
    backoff: float = 0.5
    longest: float = 30.0
    # Its own numbers: a user's seeds stay what they are.
    _random: random.Random = field(default_factory=random.Random, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise ArgumentError(f"endpoint: retries must be at least 0, got {self.retries!r}")
        for name in ("backoff", "longest"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ArgumentError(f"endpoint: {name} must be seconds, got {value!r}")

    def wait(self, attempt: int, retry_after: str | None) -> float:
        """Seconds before the repetition number `attempt`, from 0."""
        own = self.backoff * 2.0**attempt * self._random.uniform(0.5, 1.0)
        return min(self.longest, max(own, seconds_until(retry_after)))


def seconds_until(retry_after: str | None) -> float:
    """What a Retry-After header asks for: seconds, or a date; 0 where it makes no sense."""
    if retry_after is None:
        return 0.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        date: datetime = parsedate_to_datetime(retry_after)
        return max(0.0, date.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0

"""How many rows a black box has been asked, and may still be asked."""

from __future__ import annotations

import threading
from typing import Any

from ..errors import ArgumentError
from .query_error import BudgetExceeded


class QueryBudget:
    """Counts the rows that are sent to a model, and never lets more be sent than the limit.

    Rows are reserved before they are sent, repetitions included, so that any number of threads
    together keep to the limit. A copy (pickling) counts on its own from where it was taken.

    Args:
        limit: the most rows that may be sent; None sets no limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise TypeError(f"BlackBox: budget must be a whole number of rows, got {limit!r}")
        if limit is not None and limit < 0:
            raise ArgumentError(f"BlackBox: budget must not be negative, got {limit}")
        self.limit = limit
        self._spent = 0
        self._reserved = 0
        self._lock = threading.Lock()

    @property
    def spent(self) -> int:
        """Rows sent so far, answered or not."""
        return self._spent

    @property
    def remaining(self) -> int | None:
        """Rows that can still be reserved; None without a limit."""
        if self.limit is None:
            return None
        with self._lock:
            return self.limit - self._spent - self._reserved

    def reserve(self, rows: int, where: str, purpose: str = "are needed") -> None:
        """Sets rows aside that are about to be sent.

        Raises:
            BudgetExceeded: there are not that many left; nothing is set aside.
        """
        with self._lock:
            left = None if self.limit is None else self.limit - self._spent - self._reserved
            if left is None or rows <= left:
                self._reserved += rows
                return
        raise BudgetExceeded(
            where,
            f"{rows} more queries {purpose}, and the budget of {self.limit} has {left} left",
            spent=self._spent,
            advice="raise the budget, or ask for fewer samples, steps or inputs",
        )

    def spend(self, rows: int) -> None:
        """Counts reserved rows that are sent now, or may have been."""
        with self._lock:
            self._reserved -= rows
            self._spent += rows

    def release(self, rows: int) -> None:
        """Gives back reserved rows that were not sent."""
        with self._lock:
            self._reserved -= rows

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "_spent": self._spent}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _reserved=0, _lock=threading.Lock())

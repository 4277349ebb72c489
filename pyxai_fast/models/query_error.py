"""A black box that could not answer."""

from __future__ import annotations

from typing import Any


class QueryError(Exception):
    """A black box could not answer, or gave an answer that cannot be used.

    No RuntimeError, of which some are tried again: a query that failed may have been paid for.

    Attributes:
        where: which black box.
        reason: what happened there.
        spent: rows sent to it so far, answered or not.
        advice: what to do about it.
    """

    def __init__(self, where: str, reason: str, *, spent: int, advice: str = "") -> None:
        queries = "1 query is" if spent == 1 else f"{spent} queries are"
        text = f"{where}: {reason} ({queries} spent)"
        super().__init__(f"{text}; {advice}" if advice else text)
        self.where, self.reason, self.spent, self.advice = where, reason, spent, advice

    def __reduce__(self) -> Any:
        return _again, (type(self), self.where, self.reason, self.spent, self.advice)


class BudgetExceeded(QueryError):
    """More rows would be sent than the budget allows; they were not sent."""


def _again(kind: type[QueryError], where: str, reason: str, spent: int, advice: str) -> QueryError:
    return kind(where, reason, spent=spent, advice=advice)

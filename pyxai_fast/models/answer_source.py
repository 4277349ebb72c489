"""Who answers a black box's queries: rows in, answers as they arrive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any

from .query_budget import QueryBudget

RowBlock = tuple[slice, Any]
"""Which rows, and their answers."""


class AnswerSource(ABC):
    """Answers rows in blocks, in any order, and accounts for every row it sends.

    Attributes:
        where: its name in messages; never holds a secret.
        budget: where the rows it sends are counted.
        identity: what tells its answers from another model's, for caches; "" where unknown.
    """

    where: str
    budget: QueryBudget
    identity: str = ""

    @abstractmethod
    def ask(self, inputs: tuple[Any, ...], rows: int) -> Generator[RowBlock, None, None]:
        """Answers of rows [R, ...] (tensors or arrays; other objects belong to every row).

        Raises:
            QueryError: rows could not be answered; blocks that were answered are given out first.
            BudgetExceeded: before anything is sent that the budget does not allow.
        """
        ...

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Lets go of connections; asking again opens them again."""


class FunctionSource(AnswerSource):
    """A function of the rows, called with at most `max_rows` of them at once."""

    def __init__(self, fn: Callable[..., Any], max_rows: int | None, budget: QueryBudget) -> None:
        self.fn = fn
        self.max_rows = max_rows
        self.budget = budget
        name = getattr(fn, "__qualname__", None) or type(fn).__name__
        self.where = str(getattr(fn, "where", None) or f"BlackBox({name})")

    @property
    def identity(self) -> str:  # type: ignore[override]
        return str(getattr(self.fn, "identity", ""))

    def ask(self, inputs: tuple[Any, ...], rows: int) -> Generator[RowBlock, None, None]:
        self.budget.reserve(rows, self.where)
        unsent = rows
        try:
            for first in range(0, rows, self.max_rows or rows):
                piece = slice(first, min(first + (self.max_rows or rows), rows))
                self.budget.spend(piece.stop - piece.start)
                unsent -= piece.stop - piece.start
                yield piece, self.fn(*take_rows(inputs, rows, piece))
        finally:
            self.budget.release(unsent)

    def close(self) -> None:
        close = getattr(self.fn, "close", None)
        if callable(close):
            close()


def has_rows(value: Any, rows: int) -> bool:
    """Whether a value is a tensor or array with an entry for each row."""
    shape = getattr(value, "shape", None)
    return shape is not None and len(shape) > 0 and int(shape[0]) == rows


def take_rows(inputs: tuple[Any, ...], rows: int, which: Any) -> tuple[Any, ...]:
    """Some of the rows of every input that has them."""
    return tuple(value[which] if has_rows(value, rows) else value for value in inputs)

"""A call that a black box ended early, with what was finished by then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..models.query_error import QueryError

if TYPE_CHECKING:
    from ..explanation import Explanation


class Unfinished(QueryError):
    """A black box failed while it was asked; the inputs that were finished before are kept.

    Attributes:
        finished: [F], the positions of the finished examples in the batch.
        attributions: of these, in the form of the inputs; None where none was finished.
        standard_errors: of these, where they were asked for.
        explanation: of these, when it was `explain` that was called.
        where, reason, spent, advice: of the QueryError, which is the cause.
    """

    def __init__(
        self, error: QueryError, finished: Tensor, attributions: Any, standard_errors: Any
    ) -> None:
        super().__init__(error.where, error.reason, spent=error.spent, advice=error.advice)
        self.finished = finished
        self.attributions = attributions
        self.standard_errors = standard_errors
        self.explanation: Explanation | None = None

    def __reduce__(self) -> Any:
        error = QueryError(self.where, self.reason, spent=self.spent, advice=self.advice)
        parts = (error, self.finished, self.attributions, self.standard_errors)
        return Unfinished, parts, {"explanation": self.explanation}

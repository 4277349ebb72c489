"""What training asks of a mask generator and a student."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from .student import Student
from .views import View


class Learning(NamedTuple):
    """One pass forward, for E pairs and R queries.

    Attributes:
        masks: [E, R, ...] or [E, 1, ...].
        answers: [E, R], the student's, to what the masks leave.
        without: [E, R], to the rest; None where the loss does not ask for it.
    """

    masks: Tensor
    answers: Tensor
    without: Tensor | None


class Networks(Protocol):
    """A mask generator and a student for each of E pairs of an input and a target.

    Attributes:
        view: what they see of the queries.
        generator, student: their weights.
        batch: how many inputs they are for.
    """

    @property
    def view(self) -> View: ...
    @property
    def generator(self) -> nn.Module: ...
    @property
    def student(self) -> Student: ...
    @property
    def batch(self) -> int: ...

    def learn(self, rows: slice, batch: int) -> Learning:
        """Some of the queries, which are batch number so many, while they train."""
        ...

    def stepped(self) -> None:
        """After each step."""
        ...

    def size(self, masks: Tensor) -> Tensor:
        """[E]: what a loss for small masks is of."""
        ...

    def mask(self) -> Tensor:
        """Of the whole inputs, [E, ...], without gradients."""
        ...

    def seen(self, rows: slice) -> Tensor:
        """Some of the queries as they are seen, [E, R, *shape]."""
        ...

    def answer(self, seen: Tensor) -> Tensor:
        """What the student answers, [E, R], to what masks leave of [E, R, *shape], when it does not
        train."""
        ...

    def finished(self, masks: Tensor, evidence: Tensor) -> Tensor:
        """Means of masks [E, ...], as they are given to the caller; 0 without evidence, [E]."""
        ...

"""What the two protocols are to the client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError

Arrays = tuple[NDArray[Any], ...]
Describe = Callable[[str], Awaitable[Any]]
"""The JSON value at an address; raises QueryError where there is none."""


@dataclass(frozen=True)
class Request:
    """The body of a request, and what its headers say of it."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Protocol(ABC):
    """How rows are written into a request, and answers read from its response.

    Attributes:
        input_dtype: what the server takes, by torch's name; None where it does not say.
        input_shape: of the first input, None where a size is free; None where it does not say.
        versions: what the server says of the model's versions, to tell one from the next.
    """

    input_dtype: str | None = None
    input_shape: tuple[int | None, ...] | None = None
    versions: str = ""

    @abstractmethod
    async def learn(self, describe: Describe) -> None:
        """Asks the server about the model."""

    @abstractmethod
    def check(self, inputs: Arrays) -> Arrays:
        """The inputs as they are sent.

        Raises:
            ValueError: the server cannot be asked for them.
        """

    def batch(self, inputs: Arrays) -> int | None:
        """Rows of a request where the model fixes them, else None."""
        return None

    @abstractmethod
    def encode(self, inputs: Arrays) -> Request:
        """The request for rows of checked inputs."""

    @abstractmethod
    def decode(self, body: bytes, headers: Mapping[str, str], rows: int) -> NDArray[Any]:
        """The scores [R, ...] in a response.

        Raises:
            BadAnswer: they are not there.
        """


def check_finite(name: str, array: NDArray[Any]) -> None:
    """JSON has no word for nan and infinity."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        rows = array.reshape(len(array), -1)
        row = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        value = rows[row][~np.isfinite(rows[row])][0]
        raise ArgumentError(
            f"endpoint: input {name} must be finite to be sent as JSON, got {value} in row {row}"
        )

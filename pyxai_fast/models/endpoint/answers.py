"""From the values of a JSON answer to an array of numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BadAnswer(ValueError):
    """A server's answer cannot be used; the message says why."""


def parse_json(body: bytes) -> Any:
    """The JSON value of an answer."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(
            f"the answer is not JSON: {shorten(body.decode('utf8', 'replace'), 80)!r}"
        ) from error


def as_numbers(values: Any, what: str) -> NDArray[Any]:
    """A regular array of finite or infinite numbers, float64 or of integers."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise BadAnswer(f"{what} must be lists of one length, and are not") from error
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind == "O" and any(value is None for value in array.reshape(-1)):
        raise BadAnswer(f"{what} must be numbers, and one is null")
    first = array.reshape(-1)[0] if array.size else values
    raise BadAnswer(f"{what} must be numbers, and one is {shorten(repr(first), 60)}")


def check_rows(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """The array, if it has an entry for each row."""
    if array.ndim == 0 or array.shape[0] != rows:
        raise BadAnswer(f"{rows} rows were asked, and the answer has the shape {list(array.shape)}")
    return array


def shorten(text: str, length: int) -> str:
    """One line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"

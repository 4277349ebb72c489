"""The error of a bad argument."""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable


class ArgumentError(ValueError, AssertionError):
    """An argument that does not fit; the message says what it must be and what it is.

    An AssertionError too, because code written for captum catches that.
    """


def near(word: str, known: Iterable[str]) -> str:
    """The end of a message about a word that is not known: the one that it may have been."""
    found = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""


def is_one_of(value: object, known: Container[str]) -> bool:
    """Whether a value is one of some names. What is no text is none, and need not be hashable."""
    return isinstance(value, str) and value in known


def check_bool(op: str, name: str, value: object) -> None:
    """Refuses what is neither True nor False: of an array nobody could say which."""
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be True or False, got {type(value).__name__}")

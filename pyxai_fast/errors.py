"""The error of a bad argument."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArgumentError(ValueError, AssertionError):
    """An argument that does not fit; the message says what it must be and what it is.

    An AssertionError too, because code written for captum catches that.
    """


def near(word: str, known: Iterable[str]) -> str:
    """The end of a message about a word that is not known: the one that it may have been."""
    found = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""

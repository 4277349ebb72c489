"""What the reference needs of docstrings to read them as they are meant."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

# Names of arguments that go on in the next line, before their common description.
WRAPPED = re.compile(r"^( {4}\w[\w, ]*,)\n {8}(?=[\w, ]+[,:])", re.MULTILINE)


class Docstrings(Extension):
    """Joins names that were wrapped, and takes an example for what it is: code."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is None or obj.is_alias:
            return
        text, before = obj.docstring.value, None
        while text != before:
            before, text = text, WRAPPED.sub(r"\1 ", text)
        obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)

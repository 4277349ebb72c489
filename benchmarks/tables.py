"""Figures as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def median(case: dict[str, Any], name: str) -> float:
    value: float = case["seconds"][name]["median"]
    return value


def chunk(name: str) -> str:
    return "default" if name == "captum, default" else name.rpartition("=")[2] + " rows"


def size(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def ms(seconds: float, digits: int = 1) -> str:
    return f"{1e3 * seconds:.{digits}f} ms"


def mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def ratio(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}"


def times(value: float) -> str:
    return f"{value:.2f}x"


def against(value: float, least: float) -> str:
    """A speed-up, and whether it is what is wanted."""
    return f"{times(value)} ({'met' if value >= least else 'missed'})"


def table_of_used(head: list[str], rows: list[list[str]]) -> str:
    """A table without the columns that nothing is in."""
    used = [i for i in range(len(head)) if any(row[i].strip(" /") for row in rows)]
    return table([head[i] for i in used], ([row[i] for i in used] for row in rows))

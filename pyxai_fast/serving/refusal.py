"""A request that gets no answer, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(eq=False)
class Refusal(Exception):
    """What the client is told in place of an answer.

    Attributes:
        status: of HTTP.
        reason: a sentence for the client.
        kind: a word for the metrics.
        headers: of the response.
    """

    status: int
    reason: str
    kind: str = "invalid"
    headers: Mapping[str, str] = field(default_factory=dict)


def invalid(field_name: str, must: str, got: object) -> Refusal:
    """A field that is not what it must be."""
    shown = repr(got)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    return Refusal(400, f"{field_name}: must {must}, got {shown}")

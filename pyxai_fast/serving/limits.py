"""What one client may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass

OPTION_BOUNDS = {"n_steps": (1, 512), "n_samples": (1, 1000), "n_queries": (10, 5000)}
"""Options of methods that clients may set, each with the least and the most."""


@dataclass(frozen=True)
class Limits:
    """The most that a server takes.

    Attributes:
        body: bytes of a request's body.
        pixels: of a picture, before it is resized.
        pixels_unresized: of a picture for a model that takes pictures as they are.
        instances: pictures in a request.
        requests: that are being read and decoded at the same time.
        buffered: bytes of their bodies, all together.
        seconds: for a request, from its first byte to its answer.
    """

    body: int = 16 * 2**20
    pixels: int = 25_000_000
    pixels_unresized: int = 2**20
    instances: int = 128
    requests: int = 256
    buffered: int = 256 * 2**20
    seconds: float = 60.0

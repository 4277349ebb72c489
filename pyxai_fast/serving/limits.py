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
        pixels_together: of the pictures of a request, as the model gets them.
        pixels_decoded: of the pictures of a request, as they are sent and as they are resized;
            those of files that are slow to decode count for more.
        instances: pictures in a request.
        work: pictures of a request, times the steps, samples or queries of each.
        numbers: of a request in JSON outside base64, and of an answer in the format "array".
        requests: that are being decoded at the same time.
        buffered: bytes of bodies, all together.
        answer: bytes of an answer.
        held: bytes of decoded pictures and of their answers, until these are sent, all together.
        seconds: for a request, from its head to the end of its answer.
        body_seconds: for its body to come.
        head: bytes of a request's head.
        head_seconds: for it to come.
        connections: beyond them idle ones are closed, and nothing but health is answered.
    """

    body: int = 16 * 2**20
    pixels: int = 25_000_000
    pixels_unresized: int = 2**20
    pixels_together: int = 8_000_000
    pixels_decoded: int = 100_000_000
    instances: int = 128
    work: int = 20_000
    numbers: int = 1_000_000
    requests: int = 256
    buffered: int = 256 * 2**20
    answer: int = 128 * 2**20
    held: int = 512 * 2**20
    seconds: float = 60.0
    body_seconds: float = 10.0
    head: int = 2**16
    head_seconds: float = 10.0
    connections: int = 512

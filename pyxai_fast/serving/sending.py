"""Answers that are sent no faster than they are read."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Send

CHUNK_BYTES = 2**18
_AT_ONCE = 2**14


async def send_in_chunks(response: Response, send: Send) -> None:
    """Sends an answer; when it returns, a large one has left the process.

    A server takes what it is given into memory, and only the next message waits until that is
    gone: so bodies come in parts, and the last message is empty.
    """
    body = bytes(response.body)
    await send(
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": list(response.raw_headers),
        }
    )
    if len(body) > _AT_ONCE:
        for start in range(0, len(body), CHUNK_BYTES):
            part = body[start : start + CHUNK_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        body = b""
    await send({"type": "http.response.body", "body": body, "more_body": False})

"""Waiting for something as long as the client does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

Answer = TypeVar("Answer")


async def while_there(request: Request, work: Awaitable[Answer]) -> Answer:
    """What the work gives; it is cancelled when it is not waited for to its end.

    Args:
        request: whose body has been read.

    Raises:
        ClientDisconnect: the client has gone before.
    """
    future = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((future, gone), return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise ClientDisconnect
        return future.result()
    finally:
        gone.cancel()
        future.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

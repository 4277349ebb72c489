"""Waiting, on an event loop, for what threads do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any


def all_done(futures: Sequence[Future[Any]]) -> asyncio.Future[None]:
    """Done when all of them are, whatever became of them; the loop is woken once, not for each."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left, lock = len(futures), threading.Lock()

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    def count(_: Future[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            with suppress(RuntimeError):  # the loop has been closed: nobody waits
                loop.call_soon_threadsafe(finish)

    for future in futures:
        future.add_done_callback(count)
    return done

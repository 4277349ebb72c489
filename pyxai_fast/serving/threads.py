"""Threads for an event loop, of which a call that is given up keeps nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class Threads:
    """Calls functions off the loop, in the order in which they come.

    Args:
        number: of threads, started when there is something to do.
        name: of the threads.
    """

    def __init__(self, number: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(number, thread_name_prefix=name)

    async def run(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """What the function returns.

        If it is cancelled while it waits for a thread, its arguments are let go at once: the pool
        would keep them until it comes to their turn.
        """
        calls = deque([(function, arguments)])

        def call() -> Answer:
            function, arguments = calls.pop()
            return function(*arguments)

        del function, arguments
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        finally:
            calls.clear()

    def close(self) -> None:
        """Takes no more, and waits for nobody."""
        self._pool.shutdown(wait=False, cancel_futures=True)

"""An event loop in a thread of its own, for callers that have none, or are in one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class BackgroundLoop:
    """Runs coroutines while their callers wait in ordinary functions."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a program ends although nobody closed its endpoints.
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="pyxai_fast endpoint", daemon=True
        )
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """Ends the thread, without waiting for it."""
        with contextlib.suppress(RuntimeError):  # closed already
            self._loop.call_soon_threadsafe(self._loop.stop)

    def close(self) -> None:
        """Cancels what still runs, and ends the thread."""
        self.submit(_cancel_others()).result()
        self.stop()
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)

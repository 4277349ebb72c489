"""Connections that are bounded before they have asked for anything."""

from __future__ import annotations

import asyncio
import json
import time
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pyxai_fast.serving.limits import Limits


def bounded(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, with the limits of heads and connections."""
    return type("Bounded", (BoundedProtocol,), {"limits": limits})


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections that are slow or large before a request begins.

    When there are too many, the one that has been idle for longest makes room, so that the routes
    of health can be asked nevertheless.
    """

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # What has been sent has left the process: answers are not taken for delivered before.
        transport.set_write_buffer_limits(high=0)
        self.in_head, self.head_size, self.heads = True, 0, 0
        self.idle_since = time.monotonic()
        self.problem: tuple[int, str] | None = None
        self.clock: asyncio.TimerHandle | None = None
        self._start_clock()
        if len(self.connections) > self.limits.connections:
            idle = [c for c in cast("set[BoundedProtocol]", self.connections) if c.idle]
            oldest = min(idle, key=lambda each: each.idle_since)
            if oldest is not self:
                self.connections.discard(oldest)
                oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """No request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        if self.clock is None and self.idle:
            self._start_clock()
        before = self.in_head, self.heads
        super().data_received(data)
        # Still in the same head, and not in the next one after the end of a body.
        if before == (True, self.heads) and self.in_head and not self.transport.is_closing():
            self.head_size += len(data)
            if self.head_size > self.limits.head:
                self._refuse(431, f"the head: must have at most {self.limits.head:,} bytes")

    def on_headers_complete(self) -> None:
        self._stop_clock()
        self.in_head, self.head_size = False, 0
        self.heads += 1
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.head:
            self.problem = 431, f"the head: must have at most {self.limits.head:,} bytes"
            raise ValueError  # ends in send_400_response
        told: dict[str, Any] = {
            "pyxai_fast.abort": self.transport.abort,
            "pyxai_fast.crowded": len(self.connections) > self.limits.connections,
        }
        self.scope["extensions"] = told
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.in_head = True
        self.idle_since = time.monotonic()

    def send_400_response(self, msg: str) -> None:
        self._refuse(*(self.problem or (400, "the request: must be HTTP/1.1")))

    def _refuse(self, status: int, reason: str) -> None:
        body = json.dumps({"error": reason}).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-content-type-options: nosniff\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    # ---------------------------------------------------------------- the clock

    def _start_clock(self) -> None:
        self.clock = self.loop.call_later(self.limits.head_seconds, self._too_slow)

    def _stop_clock(self) -> None:
        if self.clock is not None:
            self.clock.cancel()
            self.clock = None

    def _too_slow(self) -> None:
        self.clock = None
        if not self.idle or self.transport.is_closing():
            return
        if self.in_head and self.head_size:
            self._refuse(408, f"the head: must come within {self.limits.head_seconds:g} s")
        else:
            self.transport.close()

"""What goes through a server: every request counted, logged, and refused while it drains."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pyxai_fast.serving.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ACCESS_LOG = logging.getLogger("pyxai_fast.serving.access")


class Traffic:
    """Requests in progress.

    Attributes:
        in_progress: requests for work that have come and are not answered yet.
        receiving: those of them whose body has yet to come.
        decoding: those of them that are being decoded, or wait for that.
        buffered: bytes of bodies.
        held: bytes of decoded pictures, and of answers that are not sent yet.
        stopping: the server is about to end, and says so to whoever asks whether it is ready.
        draining: no more requests are taken.
        unanswered: those that ended without their answer after the server was stopped.
    """

    def __init__(self) -> None:
        self.in_progress = 0
        self.receiving = 0
        self.decoding = 0
        self.buffered = 0
        self.held = 0
        self.stopping = False
        self.draining = False
        self.unanswered = 0


class WatchedApp:
    """An ASGI app with a line in the log, and its part of the metrics, for each request.

    In the scope the app finds a dictionary, "pyxai_fast", in which it may put "route", a word for
    the metrics, and any other field of the line.
    """

    def __init__(self, app: App, traffic: Traffic, metrics: Metrics) -> None:
        self.app, self.traffic, self.metrics = app, traffic, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status, sent, complete = 500, 0, False
        about: dict[str, Any] = {}
        scope["pyxai_fast"] = about

        async def watched(message: Message) -> None:
            nonlocal status, sent, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                headers.append((b"x-content-type-options", b"nosniff"))
                closes = (b"connection", b"close")
                if self.traffic.draining and closes not in headers:
                    headers.append(closes)
            else:
                sent += len(message.get("body", b""))
                complete = not message.get("more_body", False)
            await send(message)

        work = scope["method"] == "POST"
        self.traffic.in_progress += work
        try:
            await self.app(scope, receive, watched)
        finally:
            self.traffic.in_progress -= work
            lost = not complete or about.get("refused") in ("cut", "stopped")
            self.traffic.unanswered += work and lost and self.traffic.stopping
            seconds = time.perf_counter() - started
            route = about.pop("route", "other")
            self.metrics.request(route, status, seconds)
            if ACCESS_LOG.isEnabledFor(logging.INFO):
                ACCESS_LOG.info(_line(scope, status, sent, seconds, about))


def _line(
    scope: Scope, status: int, sent: int, seconds: float, about: MutableMapping[str, Any]
) -> str:
    """One line of JSON, in which nothing that a client sent can start another."""
    client = scope.get("client")
    return json.dumps(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "client": client[0] if client else None,
            "verb": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "milliseconds": round(1000.0 * seconds, 3),
            "bytes": sent,
            **about,
        }
    )

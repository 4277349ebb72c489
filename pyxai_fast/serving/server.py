"""The process of a server: a socket, uvicorn, and an end that loses nothing."""

from __future__ import annotations

import math
import socket
import time
from types import FrameType

import uvicorn

from pyxai_fast.serving.app import ServingApp
from pyxai_fast.serving.connections import bounded


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that a port in use is known before a model is loaded.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound


class Server(uvicorn.Server):
    """Serves until a signal, then answers what it has taken, refuses what comes, and ends.

    Args:
        app: what is served.
        drain_seconds: how long what was taken may still need.
        drain_delay: seconds for which work is still taken after a signal, while the server says
            that it is not ready, so that whoever sends requests can look for another one.
    """

    def __init__(
        self, app: ServingApp, drain_seconds: float = 30.0, drain_delay: float = 0.0
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app.asgi(),
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                http=bounded(app.limits),
            )
        )
        self._app, self._drain_seconds, self._drain_delay = app, drain_seconds, drain_delay
        self._drain_at = self._give_up = math.inf

    def serve_on(self, bound: socket.socket) -> bool:
        """Serves on the socket; whether all that was taken was answered in the end."""
        self.run(sockets=[bound])
        return self._app.traffic.unanswered == 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; the next does not wait."""
        if self._app.traffic.stopping:
            self.should_exit = self.force_exit = True
            return
        self.drain()

    def drain(self) -> None:
        """Takes no more work, and ends when there is none."""
        self._drain_at = time.monotonic() + self._drain_delay
        self._give_up = self._drain_at + self._drain_seconds
        self._app.traffic.stopping = True
        self._app.traffic.draining = self._drain_delay == 0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # then uvicorn leaves this out, and the app ends with a traceback
            await self.lifespan.shutdown()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        now = time.monotonic()
        if now >= self._drain_at:
            self._app.traffic.draining = True
            self._app.service.batcher.hurry()
            if self._app.traffic.in_progress == 0 or now >= self._give_up:
                self.should_exit = True
                # Whole answers may still be on their way to who has not read them.
                self.config.timeout_graceful_shutdown = max(1, math.ceil(self._give_up - now))
        if self._app.service.failure is not None:
            self.should_exit = True  # a model that cannot even warm up
            self.config.timeout_graceful_shutdown = 1
        return await super().on_tick(counter)

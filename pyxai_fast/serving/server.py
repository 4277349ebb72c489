"""The process of a server: a socket, uvicorn, and an end that loses nothing."""

from __future__ import annotations

import socket
import time
from types import FrameType

import uvicorn

from pyxai_fast.serving.app import ServingApp


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
    """

    def __init__(self, app: ServingApp, drain_seconds: float = 30.0) -> None:
        super().__init__(
            uvicorn.Config(
                app.asgi(),
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=2,
            )
        )
        self._app, self._drain_seconds = app, drain_seconds
        self._give_up = float("inf")

    def serve_on(self, bound: socket.socket) -> bool:
        """Serves on the socket; whether all that was taken was answered in the end."""
        self.run(sockets=[bound])
        return self._app.traffic.unanswered == 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; the next does not wait."""
        if self._app.traffic.draining:
            self.should_exit = self.force_exit = True
            return
        self.drain()

    def drain(self) -> None:
        """Takes no more work, and ends when there is none."""
        self._give_up = time.monotonic() + self._drain_seconds
        self._app.traffic.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._app.traffic.draining:
            self._app.service.batcher.hurry()
            idle = self._app.traffic.in_progress == 0
            if idle or time.monotonic() >= self._give_up:
                self.should_exit = True
        return await super().on_tick(counter)

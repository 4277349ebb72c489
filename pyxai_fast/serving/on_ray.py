"""The same app on Ray Serve: replicas, each with a model and a queue of its own."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ray import serve

from pyxai_fast.serving.app import GRACE, ServingApp

APP = "pyxai_fast"


class Replica:
    """A process with its own model; Ray sends it requests once it has warmed up.

    Args:
        build: loads the model, in the replica.
    """

    def __init__(self, build: Callable[[], ServingApp]) -> None:
        self.serving = build()
        self.serving.service.start().result()

    def __serve_build_asgi_app__(self) -> Any:
        return self.serving.asgi()

    def check_health(self) -> None:
        """Asked by Ray, which puts another replica in the place of one that raises.

        Raises:
            RuntimeError: the thread of the model has ended.
        """
        if not self.serving.service.alive:
            raise RuntimeError("the thread of the model has ended")


def application(
    build: Callable[[], ServingApp],
    *,
    replicas: int = 1,
    gpus: float = 0.0,
    max_ongoing: int = 1024,
    max_queue: int = 256,
    drain_seconds: float = 30.0,
) -> serve.Application:
    """What `serve.run` takes.

    Args:
        build: loads the model, in each replica.
        replicas: how many.
        gpus: for each; parts of one are shared.
        max_ongoing: requests at a replica. It must be more than the replica takes, so that it is
            the replica that refuses, with 429 and a time to come again.
        max_queue: requests that wait for a replica at a proxy; more are answered 503.
        drain_seconds: that a replica has to finish in, when it is stopped.
    """
    deployment = serve.deployment(
        name=APP,
        num_replicas=replicas,
        max_ongoing_requests=max_ongoing,
        max_queued_requests=max_queue,
        graceful_shutdown_timeout_s=drain_seconds,
        ray_actor_options={"num_gpus": gpus},
    )(serve.ingress()(Replica))
    return deployment.bind(build)


def serve_until_stopped(
    build: Callable[[], ServingApp],
    name: str,
    *,
    host: str,
    port: int,
    seconds: float = 60.0,
    drain_seconds: float = 30.0,
    **options: Any,
) -> bool:
    """Starts Ray where there is none, serves until a signal, and takes the app down again.

    Args:
        name: of the model.
        host, port: of HTTP.
        seconds: for a request; Ray gives up a little after the replica would.
        drain_seconds, options: of `application`.

    Returns:
        Whether the replicas were waited for; they are not when a second signal comes.
    """
    stopped = threading.Event()
    http = {"host": host, "port": port, "request_timeout_s": seconds + 2 * GRACE}
    serve.start(http_options=http)
    try:
        app = application(build, drain_seconds=drain_seconds, **options)
        serve.run(app, name=APP, route_prefix="/")
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: stopped.set())
        print(f"serving {name} on http://{host}:{port}", flush=True)
        stopped.wait()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler)
        return _drained(drain_seconds)
    finally:
        serve.shutdown()


def _drained(seconds: float) -> bool:
    """Lets the replicas answer what they have, which `serve.shutdown` would not wait for: with
    them it ends the proxies that the answers go through."""
    give_up = time.monotonic() + seconds + GRACE  # Ray itself ends replicas that take too long
    with suppress(KeyboardInterrupt):
        while APP in serve.status().applications and time.monotonic() < give_up:
            with suppress(TimeoutError):  # it waits for a minute at most
                serve.delete(APP)
        return APP not in serve.status().applications
    return False

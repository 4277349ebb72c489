"""The same app on Ray Serve: replicas, each with a model and a queue of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from ray import serve

from pyxai_fast.serving.app import ServingApp


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


def application(
    build: Callable[[], ServingApp],
    *,
    replicas: int = 1,
    gpus: float = 0.0,
    max_ongoing: int = 256,
    drain_seconds: float = 30.0,
) -> serve.Application:
    """What `serve.run` takes.

    Args:
        build: loads the model, in each replica.
        replicas: how many.
        gpus: for each; parts of one are shared.
        max_ongoing: requests at a replica; it must be more than a batch, or none is ever full.
        drain_seconds: that a replica has to finish in, when it is stopped.
    """
    deployment = serve.deployment(
        name="pyxai_fast",
        num_replicas=replicas,
        max_ongoing_requests=max_ongoing,
        graceful_shutdown_timeout_s=drain_seconds,
        ray_actor_options={"num_gpus": gpus},
    )(serve.ingress()(Replica))
    return deployment.bind(build)


def serve_until_stopped(
    build: Callable[[], ServingApp], name: str, *, host: str, port: int, **options: Any
) -> None:
    """Starts Ray where there is none, serves until a signal, and takes the app down again.

    Ray lets a replica finish what it has before it stops it.

    Args:
        name: of the model.
        host, port: of HTTP.
        options: of `application`.
    """
    stopped = threading.Event()
    serve.start(http_options={"host": host, "port": port})
    try:
        serve.run(application(build, **options), name="pyxai_fast", route_prefix="/")
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: stopped.set())
        print(f"serving {name} on http://{host}:{port}", flush=True)
        stopped.wait()
    finally:
        serve.shutdown()

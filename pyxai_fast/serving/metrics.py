"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of their own, so that several may live in a process.

    Labels have few values, whatever clients send: routes, not addresses.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "pyxai_fast_requests", "Requests answered", ["route", "code"], registry=registry
        )
        self._seconds = Histogram(
            "pyxai_fast_request_seconds",
            "From a request's head to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue = Gauge(
            "pyxai_fast_queue_pictures", "Pictures that wait for a batch", registry=registry
        )
        self._receiving = Gauge(
            "pyxai_fast_requests_receiving",
            "Requests whose body has yet to come",
            registry=registry,
        )
        self._decoding = Gauge(
            "pyxai_fast_requests_decoding", "Requests that are being decoded", registry=registry
        )
        self._batches = Histogram(
            "pyxai_fast_batch_pictures",
            "Pictures in a batch",
            ["work"],
            buckets=_SIZES,
            registry=registry,
        )
        self._model = Counter(
            "pyxai_fast_model_seconds", "Spent on batches", ["work"], registry=registry
        )
        self._pictures = Counter(
            "pyxai_fast_pictures", "Pictures predicted or explained", ["work"], registry=registry
        )
        self._rejected = Counter(
            "pyxai_fast_rejected", "Requests refused", ["reason"], registry=registry
        )

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        self._queue.set_function(waiting)

    def watch_requests(self, receiving: Callable[[], int], decoding: Callable[[], int]) -> None:
        self._receiving.set_function(receiving)
        self._decoding.set_function(decoding)

    def request(self, route: str, code: int, seconds: float) -> None:
        self._requests.labels(route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, work: str, size: int, seconds: float) -> None:
        """A batch of `work`: a method, or predict."""
        self._batches.labels(work).observe(size)
        self._model.labels(work).inc(seconds)
        self._pictures.labels(work).inc(size)

    def rejected(self, reason: str) -> None:
        self._rejected.labels(reason).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

"""The HTTP of a server: KServe's v1 protocol, health, metrics and the page."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pyxai_fast.errors import ArgumentError
from pyxai_fast.models.query_error import QueryError
from pyxai_fast.serving.all_done import all_done
from pyxai_fast.serving.answers import (
    are_few,
    explanations_body,
    is_small,
    json_bytes,
    predictions_body,
)
from pyxai_fast.serving.limits import OPTION_BOUNDS, Limits
from pyxai_fast.serving.metrics import CONTENT_TYPE
from pyxai_fast.serving.micro_batcher import Closed, QueueFull
from pyxai_fast.serving.page import page_files
from pyxai_fast.serving.pictures import FILE_FORMATS
from pyxai_fast.serving.questions import ANSWER_FORMATS, Question, read_question
from pyxai_fast.serving.refusal import Refusal
from pyxai_fast.serving.sending import send_in_chunks
from pyxai_fast.serving.service import ModelFailed, Service
from pyxai_fast.serving.threads import Threads
from pyxai_fast.serving.traffic import Traffic, WatchedApp
from pyxai_fast.serving.while_there import while_there

LOG = logging.getLogger("pyxai_fast.serving")
JSON = "application/json"
DECODERS = 2
GRACE = 5.0
"""Seconds that an answer has to be sent in, however late it comes."""

Handler = Callable[[Request], Awaitable[Response]]
Answer = TypeVar("Answer")


class ServingApp:
    """The routes of one Service, and the threads that decode pictures and encode answers.

    Args:
        service: what answers; started and closed with the app.
        limits: of what clients may send.
        hosts: names that the server may be called by; None for any. A page of somebody else, whose
            name leads here, is not answered then.
    """

    def __init__(
        self,
        service: Service,
        limits: Limits | None = None,
        hosts: Sequence[str] | None = None,
    ) -> None:
        limits = limits or Limits()
        most = min(limits.instances, service.batcher.max_queue)  # more could never wait
        self.service, self.limits = service, replace(limits, instances=most)
        self.hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self.traffic = traffic = Traffic()
        service.metrics.watch_requests(lambda: traffic.receiving, lambda: traffic.decoding)
        # Answers do not wait behind pictures that somebody else has sent.
        self._decoders, self._encoder = Threads(DECODERS, "decode"), Threads(1, "encode")

    def asgi(self) -> FastAPI:
        """The app, for any ASGI server."""
        app = FastAPI(
            title="pyxai_fast",
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            redirect_slashes=False,
            lifespan=self._life,
        )
        get = ["GET"]
        named = "/v1/models/{name}"
        # Routes of their own kind: what FastAPI does with arguments would cost more than a batch.
        app.router.routes.extend(
            [
                self._route("predict", f"{named}:predict", self._predict, ["POST"]),
                self._route("explain", f"{named}:explain", self._explain, ["POST"]),
                self._route("models", "/v1/models", self._models, get),
                self._route("model", named, self._model, get),
                self._route("metadata", f"{named}/metadata", self._metadata, get),
                self._route("health", "/healthz", self._alive, get),
                self._route("health", "/readyz", self._is_ready, get),
                self._route("health", "/v2/health/live", self._alive, get),
                self._route("health", "/v2/health/ready", self._is_ready, get),
                self._route("metrics", "/metrics", self._metrics, get),
            ]
        )
        for path, (data, kind) in page_files().items():
            app.router.routes.append(self._file(path, data, kind))
        app.add_exception_handler(HTTPException, _not_routed)
        app.add_middleware(
            WatchedApp,
            traffic=self.traffic,
            metrics=self.service.metrics,
        )
        return app

    @asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        self.service.start()
        try:
            yield
        finally:
            # What still waits has nobody who waits for it.
            await asyncio.to_thread(self.service.close, drain=False, timeout=2.0)
            self._decoders.close()
            self._encoder.close()

    # ---------------------------------------------------------------- work

    async def _predict(self, request: Request) -> Response:
        question = await self._question(request, explain=False)
        self._hold(request, question)
        futures = self._queued(lambda: self.service.predict(question.pixels))
        rows = await self._answers(request, futures)
        if are_few(rows):
            return _json(predictions_body(rows))
        return _json(await self._encoder.run(predictions_body, rows))

    async def _explain(self, request: Request) -> Response:
        question = await self._question(request, explain=True)
        self._hold(request, question)
        futures = self._queued(
            lambda: self.service.explain(
                question.pixels, question.targets, question.method, question.options
            )
        )
        rows = await self._answers(request, futures)
        request.scope["pyxai_fast"].update(method=question.method, batch=rows[0].batch)
        parts = (rows, self.service.class_names, question.formats, question.top)
        if is_small(rows, question.formats):
            return _json(explanations_body(*parts))
        return _json(await self._encoder.run(explanations_body, *parts))

    async def _question(self, request: Request, *, explain: bool) -> Question:
        """Reads and decodes a request, off the event loop."""
        self._check_name(request)
        self._check_open()
        parts: list[bytes] = []
        try:
            await self._read_body(request, parts)
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            if self.traffic.decoding >= self.limits.requests:
                raise self._busy(self.traffic.decoding)
            self.traffic.decoding += 1
            given_up = threading.Event()
            read = partial(
                read_question,
                self.service,
                self.limits,
                body,
                request.headers.get("content-type", ""),
                request.url.query,
                explain=explain,
                given_up=given_up.is_set,
            )
            try:
                question = await while_there(request, self._decoders.run(read))
            finally:
                given_up.set()
                self.traffic.decoding -= 1
        finally:
            self.traffic.buffered -= sum(map(len, parts))
        request.scope["pyxai_fast"]["pictures"] = len(question.pixels)
        return question

    async def _read_body(self, request: Request, parts: list[bytes]) -> None:
        """The body; refused as soon as it is known to be too large, whatever its head says."""
        most = self.limits.body
        too_large = Refusal(
            413, f"the body: must have at most {most:,} bytes", "too_large", {"connection": "close"}
        )
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise too_large
        size = 0
        self.traffic.receiving += 1
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    self.traffic.buffered += len(part)
                    if size > most:
                        raise too_large
                    if self.traffic.buffered > max(self.limits.buffered, most):
                        raise self._busy(self.traffic.receiving, "bodies")
        except TimeoutError:
            reason = f"the body: must come within {self.limits.body_seconds:g} s"
            raise Refusal(408, reason, "slow_body", {"connection": "close"}) from None
        finally:
            self.traffic.receiving -= 1

    def _hold(self, request: Request, question: Question) -> None:
        """Room for decoded pictures and their answer, until that is sent; see `_Answered`."""
        size = sum(each.nbytes for each in question.pixels) + question.answer
        if self.traffic.held and self.traffic.held + size > self.limits.held:
            raise self._busy(self.service.batcher.waiting)
        self.traffic.held += size
        request.scope["pyxai_fast"]["held"] = size

    def _queued(self, submit: Callable[[], list[Future[Answer]]]) -> list[Future[Answer]]:
        try:
            return submit()
        except QueueFull as full:
            raise self._busy(full.waiting) from None
        except Closed:
            raise _DRAINING from None

    async def _answers(self, request: Request, futures: Sequence[Future[Answer]]) -> list[Answer]:
        """What the batches give; nothing is computed for a client that has gone."""
        try:
            await while_there(request, all_done(futures))
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()  # what no batch has taken yet leaves the queue

    def _check_name(self, request: Request) -> None:
        name = request.path_params["name"]
        if request.method != "POST" and name.endswith((":predict", ":explain")):
            raise Refusal(405, "Method Not Allowed", "invalid", {"allow": "POST"})
        if name != self.service.name:
            raise Refusal(
                404, f"no model {name[:80]!r} here; there is {self.service.name}", "unknown_model"
            )

    def _check_open(self) -> None:
        if self.traffic.draining:
            raise _DRAINING
        if not self.service.ready:
            reason = self.service.failure or "it is warming up"
            if not self.service.alive:
                reason = "its thread has ended"
            raise Refusal(
                503, f"the model is not ready: {reason}", "not_ready", {"retry-after": "1"}
            )

    def _check_host(self, request: Request) -> None:
        if self.hosts is None:
            return
        given = request.headers.get("host", "")
        host = re.sub(r":\d*$", "", given).lower()
        if host not in self.hosts:
            known = ", ".join(sorted(self.hosts))
            raise Refusal(421, f"host: must be one of {known}, got {given[:80]!r}", "host")

    def _busy(self, waiting: int, kind: str = "queue_full") -> Refusal:
        seconds = str(self.service.seconds_to_wait())
        return Refusal(429, f"too busy: {waiting} wait", kind, {"retry-after": seconds})

    # ---------------------------------------------------------------- about the server

    async def _models(self, _: Request) -> Response:
        return _json(json_bytes({"models": [self.service.name]}))

    async def _model(self, request: Request) -> Response:
        self._check_name(request)
        return _json(json_bytes({"name": self.service.name, "ready": self._ready()}))

    async def _metadata(self, request: Request) -> Response:
        self._check_name(request)
        service = self.service
        return _json(
            json_bytes(
                {
                    "name": service.name,
                    "ready": self._ready(),
                    "methods": list(service.methods),
                    "options": {
                        method: {
                            name: {"from": bounds[0], "to": bounds[1], "default": default}
                            for name, default in service.choices(method).items()
                            for bounds in (OPTION_BOUNDS[name],)
                        }
                        for method in service.methods
                    },
                    "formats": list(ANSWER_FORMATS),
                    "classes": service.classes,
                    "class_names": service.class_names,
                    "channels": service.preprocessing.channels,
                    "size": service.preprocessing.size,
                    "file_formats": list(FILE_FORMATS),
                    "limits": {
                        "body": self.limits.body,
                        "pixels": self.limits.pixels,
                        "pixels_together": self.limits.pixels_together,
                        "pixels_decoded": self.limits.pixels_decoded,
                        "instances": self.limits.instances,
                        "numbers": self.limits.numbers,
                        "work": self.limits.work,
                        "answer": self.limits.answer,
                    },
                    "sample": service.explainer.model.spec == "demo",
                }
            )
        )

    async def _alive(self, _: Request) -> Response:
        alive = self.service.alive
        return _json(json_bytes({"live": alive}), 200 if alive else 503)

    async def _is_ready(self, _: Request) -> Response:
        ready = self._ready()
        return _json(json_bytes({"ready": ready}), 200 if ready else 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(self.service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    def _ready(self) -> bool:
        return self.service.ready and not self.traffic.stopping

    # ---------------------------------------------------------------- routes

    def _route(self, word: str, path: str, handler: Handler, methods: list[str]) -> Route:
        return Route(path, _Answered(self, word, handler), methods=methods)

    def _file(self, path: str, data: bytes, kind: str) -> Route:
        headers = {
            "content-type": kind,
            "cache-control": "no-cache",
            "content-security-policy": _POLICY,
            "referrer-policy": "no-referrer",
        }

        async def file(_: Request) -> Response:
            return Response(data, headers=headers)

        return self._route("page", path, file, ["GET"])


class _Answered:
    """An ASGI app: what a handler returns or raises, as an answer, in the time that there is."""

    def __init__(self, serving: ServingApp, word: str, handler: Handler) -> None:
        self.serving, self.word, self.handler = serving, word, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["pyxai_fast"]["route"] = self.word
        now = asyncio.get_running_loop().time
        seconds = self.serving.limits.seconds
        end = now() + seconds
        try:
            response = await self._response(Request(scope, receive, send), end)
            async with asyncio.timeout_at(max(end, now() + min(GRACE, seconds))):
                await send_in_chunks(response, send)
        except TimeoutError:
            self._refused(scope, "cut")
            await _cut(scope)
        finally:
            self.serving.traffic.held -= scope["pyxai_fast"].pop("held", 0)

    async def _response(self, request: Request, end: float) -> Response:
        serving = self.serving
        try:
            async with asyncio.timeout_at(end):
                serving._check_host(request)
                if self.word != "health" and _extension(request.scope, "pyxai_fast.crowded"):
                    raise _CROWDED
                return await self.handler(request)
        except asyncio.CancelledError:
            if not serving.traffic.stopping:
                raise
            refusal = _STOPPED  # its time is over: it still gets a word
        except Exception as error:
            refusal = _as_refusal(error, serving.limits)
        self._refused(request.scope, refusal.kind)
        return _json(json_bytes({"error": refusal.reason}), refusal.status, refusal.headers)

    def _refused(self, scope: Scope, kind: str) -> None:
        self.serving.service.metrics.rejected(kind)
        scope["pyxai_fast"]["refused"] = kind


_CROWDED = Refusal(
    503, "too many connections", "connections", {"connection": "close", "retry-after": "1"}
)
_DRAINING = Refusal(503, "the server is stopping", "draining", {"connection": "close"})
_STOPPED = replace(_DRAINING, kind="stopped")  # after it had been taken

# The page needs nothing but its own files; pictures are shown from the user's disk.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _as_refusal(error: Exception, limits: Limits) -> Refusal:
    """What a client is told of an exception; of one that nobody thought of, nothing."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, TimeoutError):
        return Refusal(504, f"no answer within {limits.seconds:g} s", "timeout")
    if isinstance(error, ClientDisconnect):
        return Refusal(499, "the client has gone", "disconnected")
    if isinstance(error, Closed):
        return _STOPPED
    if isinstance(error, ArgumentError):
        return Refusal(400, str(error).splitlines()[0])
    LOG.error("a request failed", exc_info=error)
    if isinstance(error, QueryError):
        return Refusal(502, "the model could not be asked", "model")
    if isinstance(error, ModelFailed):
        return Refusal(500, "the model failed", "model")
    return Refusal(500, "the server failed", "failed")


def _extension(scope: Scope, name: str) -> Any:
    """What our own connections tell of themselves; other servers have nothing of the kind."""
    return (scope.get("extensions") or {}).get(name)


async def _cut(scope: Scope) -> None:
    """Ends a connection with what its client has not read."""
    abort = _extension(scope, "pyxai_fast.abort")
    if abort is not None:
        abort()
        for _ in range(3):
            await asyncio.sleep(0)  # until the server has noticed


async def _not_routed(_: Request, error: Exception) -> Response:
    """404 and 405 of the router, as this server words errors."""
    assert isinstance(error, HTTPException)
    return _json(json_bytes({"error": error.detail}), error.status_code, error.headers or {})


def _json(body: bytes, status: int = 200, headers: Any = None) -> Response:
    response = Response(body, status, media_type=JSON)
    for name, value in (headers or {}).items():
        response.headers[name] = value
    return response

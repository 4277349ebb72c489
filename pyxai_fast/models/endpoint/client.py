"""The client: requests in flight, repetitions, and what they cost."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from ...errors import ArgumentError
from ..answer_source import AnswerSource, RowBlock
from ..errors import MissingDependency
from ..query_budget import QueryBudget
from ..query_error import QueryError
from .address import parse_address
from .answers import BadAnswer, parse_json, shorten
from .background import BackgroundLoop
from .kserve_v1 import KServeV1
from .open_inference_v2 import OpenInferenceV2
from .protocol import Arrays, Protocol, Request
from .retry import PASSING, Retry

if TYPE_CHECKING:
    import httpx


@dataclass
class _Piece:
    """The rows of one request: which, how many are sent, how many are reserved."""

    which: slice
    sent: int
    reserved: int = 0


class Endpoint(AnswerSource):
    """A model behind HTTP, asked for many rows at once; BlackBox.from_url makes one.

    Connections are kept open. Requests that fail for reasons that pass (no connection, time-outs,
    429, 502, 503, 504) are repeated after a wait; each repetition costs its rows. When a request
    fails for good, those in flight are awaited, so that what they cost is known and what they
    answer is kept, and no other is sent. Rows that never reached a server, for want of a
    connection, cost nothing. Redirections are not followed.

    Args:
        url: .../v1/models/NAME:predict or .../v2/models/NAME/infer; the path says which protocol.
        budget: the most rows that may be sent.
        answers: what the scores are taken for, "logits" or "probabilities".
        rows_per_request: the most rows of one request.
        concurrency: the most requests in flight.
        timeout: seconds for a connection, and for a server to go on with its answer.
        retries: how often a request is repeated.
        backoff: seconds before the first repetition; each is twice the one before, with jitter. A
            server's Retry-After is waited for, 30 seconds at most.
        headers: of every request, for authorisation; never shown.
        encoding: of v2 tensors: "auto", "json" or "binary".
        input_names: of the inputs, in order: v1 needs them for several inputs, v2 only where the
            server does not describe the model.
        select_output: which scores are explained: v1, the key of a prediction that is a dict, or a
            function of a prediction; v2, the name of an output, or a function of {name: array}.

    Raises:
        MissingDependency: httpx is not installed.
        ValueError, TypeError: naming the argument, what it must be and what it is.
        QueryError: a v2 server could not be asked about the model.
    """

    def __init__(
        self,
        url: str,
        *,
        budget: int | None = None,
        answers: str = "logits",
        rows_per_request: int = 32,
        concurrency: int = 4,
        timeout: float = 30.0,
        retries: int = 5,
        backoff: float = 0.5,
        headers: Mapping[str, str] | None = None,
        encoding: str = "auto",
        input_names: Sequence[str] | str | None = None,
        select_output: str | Callable[[Any], Any] | None = None,
    ) -> None:
        address = parse_address(url)
        for name, value in (("rows_per_request", rows_per_request), ("concurrency", concurrency)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ArgumentError(f"endpoint: {name} must be at least 1, got {value!r}")
        if not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
            raise ArgumentError(f"endpoint: timeout must be seconds above 0, got {timeout!r}")
        if encoding not in ("auto", "json", "binary"):
            raise ArgumentError(
                f"endpoint: encoding must be auto, json or binary, got {encoding!r}"
            )
        if address.protocol == "v1" and encoding == "binary":
            raise ArgumentError("endpoint: encoding must be json for a v1 address, got 'binary'")
        if select_output is not None and not (
            isinstance(select_output, str) or callable(select_output)
        ):
            raise TypeError(
                f"endpoint: select_output must be a name or a function, got {select_output!r}"
            )
        _httpx()
        self.where = address.shown
        self.budget = QueryBudget(budget)
        self.rows_per_request = rows_per_request
        self.concurrency = concurrency
        self.timeout = float(timeout)
        self.retry = Retry(retries=retries, backoff=backoff)
        self._url = address.ask
        self._headers = _checked_headers(headers)
        names = [input_names] if isinstance(input_names, str) else input_names
        self.protocol: Protocol = (
            KServeV1(names, select_output, answers)
            if address.protocol == "v1"
            else OpenInferenceV2(address.model, address.server, encoding, names, select_output)
        )
        self._output = None if callable(select_output) else select_output or ""
        self._names = names
        self._secrets = _secrets(url, self._headers)
        self._start()
        try:
            self._connection().submit(self.protocol.learn(self._describe)).result()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._loop: BackgroundLoop | None = None
        self._client: httpx.AsyncClient | None = None
        self._places: asyncio.Semaphore | None = None
        self._process = os.getpid()
        self._end: Any = None

    @property
    def identity(self) -> str:  # type: ignore[override]
        """The address, names, the output, and the versions that the server tells of.

        "" where a function picks the output: nobody can tell two functions apart.
        """
        if self._output is None:
            return ""
        # Of the whole address: a query may choose the version. It may also hold a secret.
        digest = hashlib.blake2b(self._url.encode(), digest_size=8).hexdigest()
        names = ",".join(self._names or ())
        return f"{self.where} {digest} {names} {self._output} {self.protocol.versions}".rstrip()

    @property
    def input_dtype(self) -> str | None:
        """What the server takes; None where it does not say."""
        return self.protocol.input_dtype

    @property
    def input_shape(self) -> tuple[int | None, ...] | None:
        """Of the first input as the server describes it; None where it does not."""
        return self.protocol.input_shape

    def ask(self, inputs: tuple[Any, ...], rows: int) -> Generator[RowBlock, None, None]:
        for value in inputs:
            if not isinstance(value, np.ndarray) or value.ndim == 0 or len(value) != rows:
                raise ArgumentError(
                    f"{self.where}: inputs must be tensors with {rows} rows, got "
                    f"{list(value.shape) if hasattr(value, 'shape') else type(value).__name__}"
                )
        arrays = self.protocol.check(inputs)
        arrived: SimpleQueue[RowBlock | None] = SimpleQueue()
        ended = threading.Event()
        job = self._connection().submit(self._ask(arrays, rows, arrived.put, ended))
        job.add_done_callback(lambda _: arrived.put(None))
        try:
            while (block := arrived.get()) is not None:
                yield block
            job.result()
        finally:
            # The caller has had enough, or was interrupted: nothing goes on without it.
            if not job.done():
                job.cancel()
                ended.wait(1.0)

    async def _ask(
        self,
        inputs: Arrays,
        rows: int,
        put: Callable[[RowBlock], None],
        ended: threading.Event,
    ) -> None:
        """Sends the rows in pieces, the first failure last."""
        fixed = self.protocol.batch(inputs)
        size = fixed or self.rows_per_request
        pieces = [
            _Piece(slice(first, min(first + size, rows)), fixed or min(size, rows - first))
            for first in range(0, rows, size)
        ]
        try:
            # All or nothing: half of the rows would be spent for no answer.
            self.budget.reserve(sum(piece.sent for piece in pieces), self.where)
            for piece in pieces:
                piece.reserved = piece.sent
            failure = await self._send_all(inputs, pieces, put)
        finally:
            self.budget.release(sum(piece.reserved for piece in pieces))
            ended.set()
        if isinstance(failure, QueryError):  # what was in flight has been counted since
            raise type(failure)(
                failure.where, failure.reason, spent=self.budget.spent, advice=failure.advice
            ) from failure.__cause__
        if failure is not None:
            raise failure

    async def _send_all(
        self, inputs: Arrays, pieces: list[_Piece], put: Callable[[RowBlock], None]
    ) -> Exception | None:
        waiting = iter(pieces)
        stop = asyncio.Event()
        failures: list[Exception] = []
        assert self._places is not None
        places = self._places

        async def send_next() -> None:
            for piece in waiting:
                async with places:
                    if stop.is_set():
                        return
                    try:
                        put((piece.which, await self._answer(inputs, piece, stop)))
                    except Exception as error:
                        failures.append(error)
                        stop.set()

        await asyncio.gather(*(send_next() for _ in range(min(self.concurrency, len(pieces)))))
        return failures[0] if failures else None

    async def _answer(self, inputs: Arrays, piece: _Piece, stop: asyncio.Event) -> Any:
        """The scores of one piece."""
        # Rows after the last are the last again, where the model wants more.
        last = piece.which.stop - 1
        which = np.minimum(np.arange(piece.which.start, piece.which.start + piece.sent), last)
        request = self.protocol.encode(tuple(array[which] for array in inputs))
        response = await self._send("POST", self._url, request, piece, stop)
        try:
            answer = self.protocol.decode(response.content, response.headers, piece.sent)
        except BadAnswer as error:
            raise self._failed(str(error), "check the server, and select_output") from error
        return answer[: piece.which.stop - piece.which.start]

    async def _describe(self, url: str) -> Any:
        response = await self._send("GET", url, Request(b""), _Piece(slice(0, 0), 0), None)
        try:
            return parse_json(response.content)
        except BadAnswer as error:
            raise self._failed(str(error)) from error

    async def _send(
        self, method: str, url: str, request: Request, piece: _Piece, stop: asyncio.Event | None
    ) -> httpx.Response:
        """A good response, after as many repetitions as that takes and are allowed."""
        httpx = _httpx()
        assert self._client is not None
        attempts = self.retry.retries + 1
        reason = ""
        for attempt in range(attempts):
            if not piece.reserved:
                purpose = f"are needed to repeat a request ({reason})"
                self.budget.reserve(piece.sent, self.where, purpose)
                piece.reserved = piece.sent
            retry_after = None
            reached = True  # for all that is known when it is cancelled
            try:
                response = await self._client.request(
                    method, url, content=request.body or None, headers=request.headers
                )
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                reached = False
                reason, cause = f"no connection ({_described(error)})", error
            except (httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
                raise self._failed(f"the request cannot be sent ({_described(error)})") from error
            except httpx.TimeoutException as error:
                reason, cause = f"no answer within {self.timeout:g} s", error
            except httpx.TransportError as error:
                reason, cause = f"the connection broke ({_described(error)})", error
            except httpx.HTTPError as error:
                raise self._failed(f"the answer cannot be read ({_described(error)})") from error
            else:
                if response.is_success:
                    return response
                reason, cause = self._status(response), None
                if response.status_code not in PASSING:
                    raise self._failed(reason, _advice(response.status_code))
                retry_after = response.headers.get("retry-after")
            finally:
                self._account(piece, reached)
            last = attempt == attempts - 1
            if not last and stop is not None:
                await _wait(stop, self.retry.wait(attempt, retry_after))
            elif not last:
                await asyncio.sleep(self.retry.wait(attempt, retry_after))
            if last or (stop is not None and stop.is_set()):
                tried = "once" if attempt == 0 else f"{attempt + 1} times"
                raise self._failed(
                    f"{reason}, tried {tried}",
                    "see whether the server runs; with cache=FILE what was answered is not asked "
                    "again",
                ) from cause
        raise AssertionError("unreachable")

    def _account(self, piece: _Piece, reached: bool) -> None:
        (self.budget.spend if reached else self.budget.release)(piece.reserved)
        piece.reserved = 0

    def _failed(self, reason: str, advice: str = "") -> QueryError:
        # A server may repeat what it was sent.
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        return QueryError(self.where, reason, spent=self.budget.spent, advice=advice)

    def _status(self, response: httpx.Response) -> str:
        """The status and what the server says."""
        text = response.text
        try:
            said = response.json()
            if isinstance(said, Mapping):
                text = str(said.get("error") or said.get("detail") or said.get("message") or text)
        except ValueError:
            pass
        for secret in self._secrets:
            text = text.replace(secret, "***")  # before it is cut in the middle
        status = f"HTTP {response.status_code} {response.reason_phrase}".rstrip()
        return f"{status}: {shorten(text, 200)}" if text.strip() else status

    # ---------------------------------------------------------------- life

    def _connection(self) -> BackgroundLoop:
        """The loop with the client in it, made when it is first needed."""
        with self._lock:
            if self._process != os.getpid():  # threads and connections stay with the parent
                self._loop, self._process = None, os.getpid()
            if self._loop is None:
                self._loop = BackgroundLoop()
                self._end = weakref.finalize(self, self._loop.stop)
                self._loop.submit(self._open()).result()
            return self._loop

    async def _open(self) -> None:
        httpx = _httpx()
        self._places = asyncio.Semaphore(self.concurrency)
        self._client = httpx.AsyncClient(
            headers=self._headers,
            timeout=httpx.Timeout(self.timeout, pool=None),
            limits=httpx.Limits(
                max_connections=self.concurrency, max_keepalive_connections=self.concurrency
            ),
        )

    def close(self) -> None:
        """Closes the connections; asking again opens them again."""
        with self._lock:
            loop, client = self._loop, self._client
            self._loop = self._client = None
            if self._end is not None:
                self._end.detach()
        if loop is not None and self._process == os.getpid():
            if client is not None:
                loop.submit(client.aclose()).result()
            loop.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"Endpoint({self.where!r}, rows_per_request={self.rows_per_request}, "
            f"concurrency={self.concurrency}, timeout={self.timeout:g})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Headers travel with it: whoever can read the copy can read them."""
        gone = ("_lock", "_loop", "_client", "_places", "_process", "_end")
        return {name: value for name, value in self.__dict__.items() if name not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    """Waits, but not on when there is no use."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise MissingDependency(
            "endpoint: httpx is needed to ask models over HTTP; run: pip install pyxai-fast[http]"
        ) from error
    return httpx


def _checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The headers; of a wrong one only the name is told."""
    checked = dict(headers or {})
    for name, value in checked.items():
        if not isinstance(name, str) or not isinstance(value, str) or not value.isprintable():
            raise TypeError(
                f"endpoint: headers must be texts of one line, the one named {name!r} is not"
            )
        if not (name.isascii() and value.isascii()):
            raise TypeError(f"endpoint: headers must be ASCII, the one named {name!r} is not")
    return checked


def _secrets(url: str, headers: Mapping[str, str]) -> list[str]:
    """What must not be shown: values of headers and of the address's query, its password."""
    parts = urlsplit(url)
    values = [*headers.values(), *(value for _, value in parse_qsl(parts.query))]
    values += [part.partition("=")[2] for part in parts.query.split("&")]
    values += [parts.password or "", *(value.rpartition(" ")[2] for value in headers.values())]
    return sorted({value for value in values if len(value) > 3}, key=len, reverse=True)


def _described(error: Exception) -> str:
    return shorten(str(error), 120) or type(error).__name__


def _advice(status: int) -> str:
    if status in (401, 403):
        return "give headers= that authorise"
    if status == 404:
        return "check the address and the model's name"
    if status == 413:
        return "lower rows_per_request"
    if 300 <= status < 400:
        return "redirections are not followed; give the address that it leads to"
    return "check the request with the server's own log"

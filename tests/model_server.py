"""A model server that speaks both protocols, counts rows, and fails when told to."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch

LENGTH = "Inference-Header-Content-Length"
NUMPY = {"FP32": np.float32, "UINT8": np.uint8, "FP16": np.float16, "FP64": np.float64}
NUMPY["INT64"] = np.int64


class ModelServer:
    """Serves `model`, a function of one tensor or more.

    Attributes:
        rows: rows received, whatever became of them.
        answered: rows that were answered well.
        received: the shape of the first input of every request, in order of arrival.
        headers: of every request.
        faults: of the next requests, first come first served; "" is none.
        always: a fault of every request after those.
        seconds: how long an answer takes.
        most_at_once: requests in progress at the same time.
    """

    def __init__(
        self,
        model: Callable[..., torch.Tensor],
        *,
        names: tuple[str, ...] = ("x",),
        datatypes: tuple[str, ...] = ("FP32",),
        shape: tuple[int, ...] = (-1, 3, 4, 4),
        binary: bool = True,
        described: bool = True,
        wrap: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.model, self.names, self.datatypes, self.shape = model, names, datatypes, shape
        self.binary, self.described, self.wrap = binary, described, wrap
        self.rows = 0
        self.answered = 0
        self.received: list[tuple[int, ...]] = []
        self.inputs: list[np.ndarray[Any, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.faults: deque[str] = deque()
        self.always = ""
        self.retry_after: str | None = None
        self.message = "the model fell over"
        self.seconds: float | Callable[[int], float] = 0.0
        self.most_at_once = 0
        self.down = False
        self._at_once = 0
        self._lock = threading.Lock()

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                """Clients that go away are what is tested."""

        self.http = Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_model": self}))
        self.root = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.v1 = f"{self.root}/v1/models/m:predict"
        self.v2 = f"{self.root}/v2/models/m/infer"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> ModelServer:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        # Threads that still work on answers nobody waits for must not outlive the interpreter.
        give_up = time.monotonic() + 5
        while self._at_once and time.monotonic() < give_up:
            time.sleep(0.01)

    def stop(self) -> None:
        if not self.down:
            self.down = True
            self.http.shutdown()
            self.http.server_close()

    def begin(self, rows: int, inputs: list[np.ndarray[Any, Any]]) -> tuple[str, float]:
        """Counts a request; its fault, and how long it takes."""
        with self._lock:
            self.rows += rows
            self.received.append(inputs[0].shape)
            self.inputs.append(inputs[0])
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault = self.faults.popleft() if self.faults else self.always
            seconds = self.seconds(len(self.received)) if callable(self.seconds) else self.seconds
            return fault, seconds

    def count_answers(self, rows: int) -> None:
        with self._lock:
            self.answered += rows

    def end(self) -> None:
        with self._lock:
            self._at_once -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_model: ModelServer

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        server = self.server_model
        if self.path.split("?")[0] == "/v2":
            extensions = ["binary_tensor_data"] if server.binary else []
            self.send_json({"name": "test", "version": "1", "extensions": extensions})
        elif "/v2/models/m" in self.path and server.described:
            tensors = zip(server.names, server.datatypes, strict=True)
            inputs = [{"name": n, "datatype": t, "shape": list(server.shape)} for n, t in tensors]
            outputs = [{"name": "y", "datatype": "FP32", "shape": [-1, 5]}]
            self.send_json({"name": "m", "versions": ["1"], "inputs": inputs, "outputs": outputs})
        else:
            self.send_json({"error": "unknown model"}, 404)

    def do_POST(self) -> None:
        server = self.server_model
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.headers.append(dict(self.headers))
        asked: dict[str, Any] = {}
        if "/v1/" in self.path:
            inputs = self.v1_inputs(json.loads(body))
        else:
            inputs, asked = self.v2_inputs(body)
        fault, seconds = server.begin(len(inputs[0]), inputs)
        try:
            if server.down:
                self.hang_up()
                return
            time.sleep(seconds)
            tensors = [torch.from_numpy(np.array(array, np.float32)) for array in inputs]
            with torch.no_grad():
                answer = server.model(*tensors).numpy()
        finally:
            server.end()
        self.answer(answer, fault, asked)

    def v1_inputs(self, request: Any) -> list[np.ndarray[Any, Any]]:
        instances = request["instances"]
        if isinstance(instances[0], dict):
            names = self.server_model.names
            return [np.array([row[name] for row in instances]) for name in names]
        return [np.array(instances)]

    def v2_inputs(self, body: bytes) -> tuple[list[np.ndarray[Any, Any]], dict[str, Any]]:
        length = self.headers.get(LENGTH)
        head, rest = (body, b"") if length is None else (body[: int(length)], body[int(length) :])
        request = json.loads(head)
        inputs = []
        for tensor in request["inputs"]:
            kind, shape = NUMPY[tensor["datatype"]], tensor["shape"]
            if length is None:
                values = np.array(tensor["data"], kind)
            else:
                size = tensor["parameters"]["binary_data_size"]
                values, rest = np.frombuffer(rest[:size], kind), rest[size:]
            inputs.append(values.reshape(shape))
        assert [tensor["name"] for tensor in request["inputs"]] == list(self.server_model.names)
        return inputs, {**request, "binary": length is not None}

    def answer(self, answer: Any, fault: str, asked: dict[str, Any]) -> None:
        server = self.server_model
        if fault == "shape":
            answer = np.zeros((len(answer), 2), np.float32)
        elif fault == "rows":
            answer = answer[:-1]
        elif fault in ("nan", "null"):
            answer = np.array(answer)
            answer[-1, 1] = np.nan
        if fault in ("429", "500", "502", "503", "504", "401", "413", "302"):
            self.send_json({"error": server.message}, int(fault))
        elif fault == "garbage":
            self.send_bytes(b"<html>busy</html>", "text/html")
        elif fault == "empty":
            self.send_json({})
        elif fault == "text":
            self.send_json({"predictions": ["cat"] * len(answer)})
        elif fault == "ragged":
            self.send_json({"predictions": [[1.0], [1.0, 2.0]]})
        elif fault == "drop":
            self.hang_up()
        elif fault == "cut":
            self.send_bytes(b'{"predictions": [[1.0', "application/json", promised=1000)
            self.hang_up()
        elif fault == "down":
            threading.Thread(target=server.stop).start()
            while not server.down:
                time.sleep(0.001)
            self.hang_up()
        else:
            self.send_scores(answer, fault, asked)

    def send_scores(self, answer: Any, fault: str, asked: dict[str, Any]) -> None:
        server = self.server_model
        server.count_answers(0 if fault else len(answer))
        if not asked:
            rows = answer.tolist()
            if fault == "null":
                rows[-1][1] = None
            self.send_json({"predictions": server.wrap(rows) if server.wrap else rows})
            return
        tensor = {"name": "y", "shape": list(answer.shape), "datatype": "FP32"}
        if asked["binary"]:
            data = answer.astype("<f4").tobytes()
            head = json.dumps(
                {"outputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}]}
            ).encode()
            if fault == "short":
                data = data[:-4]
            self.send_bytes(head + data, "application/octet-stream", length=len(head))
        else:
            data = answer.reshape(-1).tolist()
            if fault == "null":
                data[-1] = None
            self.send_json({"outputs": [{**tensor, "data": data}]})

    def send_json(self, value: Any, status: int = 200) -> None:
        self.send_bytes(json.dumps(value).encode(), "application/json", status=status)

    def send_bytes(
        self,
        body: bytes,
        kind: str,
        *,
        status: int = 200,
        promised: int | None = None,
        length: int | None = None,
    ) -> None:
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(promised or len(body)))
            if length is not None:
                self.send_header(LENGTH, str(length))
            if status != 200 and self.server_model.retry_after is not None:
                self.send_header("Retry-After", self.server_model.retry_after)
            self.end_headers()
            self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

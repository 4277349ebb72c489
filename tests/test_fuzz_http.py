"""Whatever a client sends, a server refuses it with a reason or answers it, and goes on.

What is random here is the shape of requests that nearly fit: `test_serving.py` has bodies, heads
and addresses of random bytes, and the messages of every limit.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from damage import damages, png
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

from pyxai_fast.models.loaded import LoadedModel  # noqa: E402
from pyxai_fast.models.preprocessing import Preprocessing  # noqa: E402
from pyxai_fast.picture_explainer import PictureExplainer  # noqa: E402
from pyxai_fast.serving.app import ServingApp  # noqa: E402
from pyxai_fast.serving.limits import Limits  # noqa: E402
from pyxai_fast.serving.server import Server, listen  # noqa: E402
from pyxai_fast.serving.service import Service  # noqa: E402

SOON = 30.0
SIDE, CLASSES = 8, 4
EXPLAIN, PREDICT = "/v1/models/small:explain", "/v1/models/small:predict"
GREY = np.full((1, SIDE, SIDE), 0.5).tolist()
DIGIT = png(SIDE, SIDE, b"".join(b"\0" + bytes(range(16 * i, 16 * i + SIDE)) for i in range(SIDE)))
REFUSED = (400, 408, 411, 413, 414, 415, 422, 429, 431)


class Serving:
    """A server of a small network, in a thread; pictures are brought to 8x8 by their shorter
    side."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, CLASSES)).eval()
        geometry = Preprocessing(size=(SIDE, SIDE), resize=SIDE, channels=1)
        names = ["null", "eins, one", "zwei", "zwei"]
        model = LoadedModel(net, geometry, names, "small")
        explainer = PictureExplainer(model, "cpu", "integrated_gradients", n_steps=3)
        limits = Limits(
            body=2**18, pixels=200_000, instances=6, numbers=4000, pixels_together=2000,
            body_seconds=2.0, head_seconds=2.0, seconds=SOON,
        )  # fmt: skip
        self.app = ServingApp(Service(explainer, "small", max_batch=4), limits)
        bound = listen("127.0.0.1", 0)
        self.port = bound.getsockname()[1]
        self.server = Server(self.app, drain_seconds=SOON)
        self.thread = threading.Thread(target=self.server.serve_on, args=(bound,), daemon=True)
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=SOON, trust_env=False
        )

    def answers(self) -> bool:
        """Whether it still does what it is for, and holds nothing of what it was sent."""
        told = self.http.post(PREDICT, json={"instances": [GREY]})
        assert told.status_code == 200, told.text
        traffic = self.app.traffic
        give_up = time.monotonic() + SOON
        while traffic.buffered or traffic.held or traffic.decoding:
            assert time.monotonic() < give_up, vars(traffic)
            time.sleep(0.005)
        return len(told.json()["predictions"][0]) == CLASSES


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    made = Serving()
    made.thread.start()
    give_up = time.monotonic() + SOON
    while not (made.server.started and made.app.service.ready):
        assert time.monotonic() < give_up and made.app.service.failure is None
        time.sleep(0.01)
    yield made
    made.http.close()
    made.server.drain()
    made.thread.join(SOON)
    assert not made.thread.is_alive()


def check(response: Any, *allowed: int) -> None:
    """An answer, or a refusal with a reason; never a failure of the server's own."""
    assert response.status_code in (200, *REFUSED, *allowed), response.text
    if response.status_code != 200:
        told = response.json()
        assert list(told) == ["error"] and isinstance(told["error"], str) and told["error"]
        assert "Traceback" not in response.text and len(told["error"]) < 2000
        return
    # Numbers that are none are null: clients that read JSON strictly can read it.
    json.loads(response.text, parse_constant=lambda name: pytest.fail(f"{name} in an answer"))


# --- requests that nearly fit ---------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["eins", "zwei", "0", "-1", "1e3", "\ud800", "\0", "saliency", "png", 2**63]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
PARAMETERS: dict[str, list[Any]] = {
    "target": [None, 0, 3, "eins", [0], [None], "", 2**31, 2**31 + 1],
    "method": ["saliency", "smooth_grad", "guided_ig", "blur_ig", "integrated_gradients"],
    "format": ["png", ["float32_b64", "array"], "picture", [], "npy_b64"],
    "top": [0, 3, 100],
    "n_steps": [1, 5],
    "n_samples": [1, 4],
    "n_queries": [10],
}
INSTANCES: list[Any] = [
    GREY, GREY[0], {"b64": base64.b64encode(DIGIT).decode()}, [], [[]], [[[]]], [[[[0.5]]]],
    {"image": {"b64": ""}}, {"b64": "===="}, {"b64": "A" * 5000}, {"b64": "iVBORw0KGgo"}, None,
    [[0.5] * 8] * 7, [[None] * 8] * 8, [["0.5"] * 8] * 8, [[1e308] * 8] * 8, [[10**400] * 8] * 8,
    [[0.5] * 8, [0.5] * 7], {"target": 1}, {}, 0.5, "x",
]  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """A request for an explanation, of which some parts are others than they must be."""
    instances = draw(st.lists(st.sampled_from(INSTANCES[:3]), min_size=1, max_size=3))
    names = draw(st.sets(st.sampled_from(sorted(PARAMETERS)), max_size=3))
    parameters = {name: draw(st.sampled_from(PARAMETERS[name])) for name in names}
    request: dict[str, Any] = {"instances": instances, "parameters": parameters}
    for _ in range(draw(st.integers(0, 2))):
        where = draw(st.sampled_from(["instance", "instance", "parameter", "field", "all"]))
        if where == "instance":
            wrong = draw(st.one_of(st.sampled_from(INSTANCES), ANYTHING))
            request["instances"] = [*instances, wrong]
        elif where == "parameter":
            name = draw(st.one_of(st.sampled_from(sorted(PARAMETERS)), st.text(max_size=5)))
            request["parameters"] = {**parameters, name: draw(ANYTHING)}
        elif where == "field":
            request[draw(st.text(max_size=9))] = draw(ANYTHING)
        else:
            request[draw(st.sampled_from(["instances", "parameters"]))] = draw(ANYTHING)
    return request


def written(value: Any) -> bytes:
    """As JSON, with NaN and lone surrogates and all."""
    return json.dumps(value).encode("ascii")


@given(request=requests(), path=st.sampled_from([EXPLAIN, EXPLAIN, PREDICT]))
@settings(max_examples=250)
def test_requests_that_nearly_fit_are_answered_or_refused(
    serving: Serving, request: Any, path: str
) -> None:
    check(serving.http.post(path, content=written(request)))


@given(data=st.data())
@settings(max_examples=80)
def test_damaged_json_is_answered_or_refused(serving: Serving, data: st.DataObject) -> None:
    whole = written({"instances": [GREY], "parameters": {"target": 2, "top": 1}})
    check(serving.http.post(EXPLAIN, content=data.draw(damages(whole))))


@given(data=st.data(), kind=st.sampled_from(["image/png", "image/webp", "application/json", ""]))
@settings(max_examples=80)
def test_damaged_pictures_are_answered_or_refused(
    serving: Serving, data: st.DataObject, kind: str
) -> None:
    damaged = data.draw(damages(DIGIT))
    check(serving.http.post(EXPLAIN, content=damaged, headers={"content-type": kind}))
    inside = {"instances": [{"b64": base64.b64encode(damaged).decode()}]}
    check(serving.http.post(PREDICT, json=inside))


@given(query=st.lists(st.tuples(st.text(max_size=7), st.text(max_size=7)), max_size=4))
@settings(max_examples=60)
def test_addresses_of_pictures_are_answered_or_refused(
    serving: Serving, query: list[tuple[str, str]]
) -> None:
    png_head = {"content-type": "image/png"}
    with contextlib.suppress(UnicodeEncodeError):  # httpx sends no lone surrogates
        check(serving.http.post(EXPLAIN, content=DIGIT, headers=png_head, params=query))


def test_the_server_is_as_it_was_after_all_of_this(serving: Serving) -> None:
    assert serving.answers()
    metrics = serving.http.get("/metrics").text
    assert 'reason="failed"' not in metrics and 'reason="model"' not in metrics
    assert 'code="200"' in metrics and 'code="400"' in metrics and 'code="5' not in metrics


# --- depth, encodings and numbers -----------------------------------------------------------------


@pytest.mark.parametrize("depth", [*range(880, 1010, 5), 3000, 100_000])
def test_no_depth_of_nesting_is_a_failure(serving: Serving, depth: int) -> None:
    """Around the depth at which Python stops, where a message about it must not go deeper."""
    nested = b"[" * depth + b"]" * depth
    for body in (
        nested,
        b'{"instances": ' + nested + b"}",
        b'{"instances": [' + nested + b"]}",
        b'{"instances": [1], "parameters": ' + nested + b"}",
        b'{"instances": [1], "parameters": {"method": ' + nested + b"}}",
        b'{"instances": [1], "parameters": {"target": [' + nested + b"]}}",
        b'{"instances": ["x"], "parameters": {"format": ' + nested + b"}}",
        b'{"a":' * depth + b"1" + b"}" * depth,
    ):
        response = serving.http.post(EXPLAIN, content=body)
        assert response.status_code in (400, 413), (depth, body[:40], response.text)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [%s]}' % (b"9" * 5000),
        b'{"instances": [[[%s]]]}' % (b"9" * 4000),
        b'{"instances": [1], "parameters": {"target": %s}}' % (b"9" * 4299),
        b'{"instances": [1], "parameters": {"n_steps": -%s}}' % (b"9" * 4299),
        b'{"instances": [1], "parameters": {"top": 1e999}}',
        b'{"instances": [[[Infinity]]]}',
        b'{"instances": [[[-Infinity]]], "instances": 3}',
        json.dumps({"instances": [GREY]}).encode("utf-16"),
        json.dumps({"instances": [GREY]}).encode("utf-32-be"),
        b"\xef\xbb\xbf" + json.dumps({"instances": [GREY]}).encode(),
        b'{"instances": ["\\ud800\\udc00\\ud800"]}',
        b'{"\\ud800": 1}',
        b'{"instances": [{"b64": "\\ud800"}], "parameters": {"\\ud800": "\\udfff"}}',
        b'{"instances": [1], "parameters": {"target": "\\ud800"}}',
        b"\0" * 300,
        b"null",
        b'"instances"',
        b"1e400",
    ],
    ids=range(18),
)
def test_odd_numbers_and_texts_are_refused_or_read(serving: Serving, body: bytes) -> None:
    for path in (EXPLAIN, PREDICT):
        check(serving.http.post(path, content=body))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity", "x" * 200])
def test_encodings_of_bodies_are_not_unpacked(serving: Serving, encoding: str) -> None:
    bomb = gzip.compress(b"0" * 2**24) if encoding == "gzip" else zlib.compress(b"0" * 2**24)
    response = serving.http.post(EXPLAIN, content=bomb, headers={"content-encoding": encoding})
    assert response.status_code == 400, response.text
    assert serving.answers()


# --- small files with large pictures --------------------------------------------------------------


def gif(width: int, height: int) -> bytes:
    """A GIF of one point on a canvas of any size."""
    head = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff"
    return head + b"\x2c\0\0\0\0\1\0\1\0\0\x02\x02D\x01\0;"


BOMBS = {
    "promises": png(60_000, 60_000, b""),
    "thin": png(199_999, 1),
    "tall": png(1, 199_999),
    "unpacks": png(SIDE, SIDE, b"\0" * 2**24),
    "text": png(SIDE, SIDE, None, (b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2**24))),
    "profile": png(SIDE, SIDE, None, (b"iCCP", b"a\0\0" + zlib.compress(b"x" * 2**24))),
    "canvas": gif(65_535, 65_535),
    "frames": gif(SIDE, SIDE)[:-1] + b"\x2c\0\0\0\0\1\0\1\0\0\x02\x02D\x01\0" * 5000 + b";",
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_with_large_pictures_are_answered_or_refused(
    serving: Serving, name: str
) -> None:
    data, began = BOMBS[name], time.monotonic()
    for kind in ("image/png", "image/gif"):
        check(serving.http.post(EXPLAIN, content=data, headers={"content-type": kind}))
    many = {"instances": [{"b64": base64.b64encode(data).decode()}] * 5}
    check(serving.http.post(PREDICT, json=many))
    assert serving.answers()
    assert time.monotonic() - began < SOON


# --- lengths and heads that do not fit ------------------------------------------------------------


def spoken(serving: Serving, data: bytes, ends: bool = True) -> bytes:
    """What a connection hears that says this."""
    with socket.create_connection(("127.0.0.1", serving.port), SOON) as raw:
        raw.sendall(data)
        if ends:
            raw.shutdown(socket.SHUT_WR)
        heard = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            while part := raw.recv(2**16):
                heard += part
        return heard


BODY = written({"instances": [GREY]})
HEAD = f"POST {EXPLAIN} HTTP/1.1\r\nHost: x\r\n".encode()


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: %d" % (len(BODY) - 9), BODY),
        (b"Content-Length: %d" % (len(BODY) + 9), BODY),
        (b"Content-Length: 0", BODY),
        (b"Content-Length: -1", BODY),
        (b"Content-Length: 99999999999999999999999", BODY),
        (b"Content-Length: " + b"9" * 5000, BODY),
        (b"Content-Length: 1e3", BODY),
        (b"Content-Length: 5\r\nContent-Length: 6", BODY),
        (b"Content-Length: %d\r\nTransfer-Encoding: chunked" % len(BODY), BODY),
        (b"Transfer-Encoding: chunked", b"FFFFFFFFFFFFFFFFFFFF\r\nx"),
        (b"Transfer-Encoding: chunked", b"5\r\nab"),
        (b"Transfer-Encoding: chunked", b"0\r\n\r\n"),
        (b"Transfer-Encoding: chunked", b"zz\r\n"),
        (b"Transfer-Encoding: gzip, chunked", b"0\r\n\r\n"),
        (b"Transfer-Encoding: identity", BODY),
        (b"Expect: 100-continue\r\nContent-Length: %d" % len(BODY), BODY),
        (b"Expect: 200-ok\r\nContent-Length: 3", b"abc"),
        (b"Content-Type: " + b"a/b;" * 4000, BODY),
        (b"Content-Type: \xff\xfe\xfd\r\nContent-Length: %d" % len(BODY), BODY),
        (b"X: y\r\n" * 3000, BODY),
        (b"Upgrade: websocket\r\nConnection: Upgrade", b""),
        (b"Connection: keep-alive, close, upgrade", b""),
    ],
    ids=range(22),
)
def test_heads_that_do_not_fit_their_bodies(serving: Serving, head: bytes, body: bytes) -> None:
    heard = spoken(serving, HEAD + head + b"\r\n\r\n" + body)
    assert b"HTTP/1.1 5" not in heard
    assert serving.answers()


def test_a_client_that_goes_in_the_midst_of_a_body_leaves_nothing(serving: Serving) -> None:
    for sent in (0, 1, len(BODY) // 2, len(BODY) - 1):
        head = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY)
        with socket.create_connection(("127.0.0.1", serving.port), SOON) as raw:
            raw.sendall(head + BODY[:sent])
            # Reset, not closed.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert serving.answers()


def test_several_requests_at_once_on_a_connection_are_answered_in_order(serving: Serving) -> None:
    one = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    bad = HEAD + b"Content-Length: 1\r\n\r\n{"
    heard = spoken(serving, one + bad, ends=False)  # until its head does not come
    assert re.findall(rb"HTTP/1\.1 (\d+)", heard) == [b"200", b"400"]
    assert serving.answers()


# --- the tests themselves -------------------------------------------------------------------------


def test_a_failure_of_the_server_is_found_out() -> None:
    failed = httpx.Response(500, json={"error": "the server failed"})
    with pytest.raises(AssertionError):
        check(failed)
    with pytest.raises(AssertionError):
        check(httpx.Response(400, json={"detail": []}))
    with pytest.raises(pytest.fail.Exception):
        check(httpx.Response(200, content=b'{"predictions": [NaN]}'))

"""A server answers as the library does, refuses what it must, and loses nothing when it ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import io
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from starlette.responses import Response  # noqa: E402

from pyxai_fast import BlackBox, LikelihoodRatio, explain  # noqa: E402
from pyxai_fast.cli_serve import _hosts, name_of  # noqa: E402
from pyxai_fast.images import read_image  # noqa: E402
from pyxai_fast.models.loaded import LoadedModel  # noqa: E402
from pyxai_fast.models.preprocessing import Preprocessing  # noqa: E402
from pyxai_fast.models.spec import load_model  # noqa: E402
from pyxai_fast.picture_explainer import PictureExplainer  # noqa: E402
from pyxai_fast.serving import app as app_module  # noqa: E402
from pyxai_fast.serving import pictures  # noqa: E402
from pyxai_fast.serving.app import ServingApp  # noqa: E402
from pyxai_fast.serving.limits import Limits  # noqa: E402
from pyxai_fast.serving.pictures import decode, look  # noqa: E402
from pyxai_fast.serving.questions import ANSWER_FORMATS, read_question  # noqa: E402
from pyxai_fast.serving.refusal import Refusal  # noqa: E402
from pyxai_fast.serving.server import Server, listen  # noqa: E402
from pyxai_fast.serving.service import Service  # noqa: E402
from pyxai_fast.serving.threads import Threads  # noqa: E402

SOON = 30.0
DIGIT = Path(__file__).parent.parent / "pyxai_fast/serving/page/digit.png"
EXPLAIN, PREDICT = "/v1/models/demo:explain", "/v1/models/demo:predict"
PNG = {"content-type": "image/png"}


class Running:
    """A server in a thread, on a port of its own."""

    def __init__(self, app: ServingApp) -> None:
        self.app = app
        bound = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        self.server = Server(app, drain_seconds=SOON)
        self.thread = threading.Thread(target=self.server.serve_on, args=(bound,), daemon=True)
        self.http = httpx.Client(base_url=self.url, timeout=SOON, trust_env=False)

    def __enter__(self) -> Running:
        self.thread.start()
        wait_for(lambda: self.server.started and (self.app.service.ready or self.failed))
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.server.drain()
        self.thread.join(SOON)
        assert not self.thread.is_alive()

    @property
    def failed(self) -> bool:
        return self.app.service.failure is not None

    def metric(self, name: str) -> float:
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0


def wait_for(done: Callable[[], Any]) -> None:
    give_up = time.monotonic() + SOON
    while not done():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.005)


class Held(torch.nn.Module):
    """Answers while its gate is open; one that is asked meanwhile waits."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.linear = torch.nn.Linear(16, 4)
        torch.manual_seed(0)
        torch.nn.init.normal_(self.linear.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.entered.set()
        assert self.gate.wait(SOON)
        scores: torch.Tensor = self.linear(x.flatten(1))
        return scores

    def shut(self) -> None:
        self.entered.clear()
        self.gate.clear()


def held_app(
    net: Held, limits: Limits | None = None, names: list[str] | None = None, **options: Any
) -> ServingApp:
    model = LoadedModel(net.eval(), Preprocessing(size=(4, 4), channels=1), names, "held")
    explainer = PictureExplainer(model, "cpu", "saliency", memory_format="contiguous")
    return ServingApp(Service(explainer, "demo", **options), limits)


FOUR = {"instances": [np.full((1, 4, 4), 0.5).tolist()]}


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_model("demo", torch.device("cpu"))


@pytest.fixture(scope="module")
def local(demo: Any) -> PictureExplainer:
    """What the server of `served` computes with, on its own."""
    explainer = PictureExplainer(demo, "cpu", "integrated_gradients", n_steps=10)
    explainer.fix(8)
    return explainer


@pytest.fixture(scope="module")
def served(demo: Any) -> Iterator[Running]:
    explainer = PictureExplainer(demo, "cpu", "integrated_gradients", n_steps=10)
    limits = Limits(body=2**20, pixels=100_000, instances=40, seconds=SOON)
    with Running(ServingApp(Service(explainer, "demo", max_batch=8), limits)) as running:
        yield running


@pytest.fixture(scope="module")
def digit() -> bytes:
    return DIGIT.read_bytes()


@pytest.fixture(scope="module")
def pixels(digit: bytes, demo: Any) -> torch.Tensor:
    return read_image(io.BytesIO(digit), demo.preprocessing)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def floats(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    sent = answer["attributions"]
    assert sent["dtype"] == "float32"
    return np.frombuffer(base64.b64decode(sent["b64"]), "<f4").reshape(sent["shape"])


def error(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert response.headers["content-type"] == "application/json"
    return str(response.json()["error"])


# ---------------------------------------------------------------- the protocol


def test_the_server_says_what_it_serves(served: Running) -> None:
    get = served.http.get
    assert get("/v1/models").json() == {"models": ["demo"]}
    assert get("/v1/models/demo").json() == {"name": "demo", "ready": True}
    about = get("/v1/models/demo/metadata").json()
    assert about["methods"][0] == "integrated_gradients"
    assert "saliency" in about["methods"]
    assert (about["classes"], about["size"], about["channels"]) == (10, [32, 32], 1)
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert get(path).status_code == 200


def test_an_explanation_is_the_library_s(
    served: Running, local: PictureExplainer, digit: bytes, pixels: torch.Tensor
) -> None:
    answer = served.http.post(EXPLAIN, content=digit, headers=PNG).json()["explanations"][0]
    expected = local(pixels[None], numbers=[0])
    assert isinstance(expected.attributions, torch.Tensor)
    assert expected.target is not None and expected.delta is not None
    assert np.array_equal(floats(answer), expected.attributions[0].numpy())
    assert answer["target"] == int(expected.target[0]) == 3
    assert (answer["class_name"], answer["method"]) == ("3", "integrated_gradients")
    assert answer["delta"] == float(expected.delta[0])
    assert answer["probability"] == pytest.approx(float(expected.outputs[0].softmax(0)[3]))
    assert answer["cost"]["gradients"] == 10
    assert answer["cost"]["batch"] == 1


def test_an_explanation_comes_with_the_predictions(
    served: Running, digit: bytes, pixels: torch.Tensor
) -> None:
    noise = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(2)).tolist()
    asked = {"instances": [pixels.tolist(), noise]}
    answer = served.http.post(EXPLAIN, json={**asked, "parameters": {"target": 1}}).json()
    assert list(answer) == ["predictions", "explanations"]
    expected = served.http.post(PREDICT, json=asked).json()["predictions"]
    np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-5, atol=1e-8)
    for odds, explained in zip(answer["predictions"], answer["explanations"], strict=True):
        assert explained["probability"] == odds[1]


def test_a_picture_may_be_sent_in_four_ways(
    served: Running, digit: bytes, pixels: torch.Tensor
) -> None:
    first = served.http.post(EXPLAIN, content=digit, headers=PNG).json()["explanations"][0]
    array = pixels.numpy()
    for instance in (
        {"b64": b64(digit)},
        {"image": {"b64": b64(digit)}},
        array.tolist(),
        array.transpose(1, 2, 0).tolist(),
        array[0].tolist(),  # a grey one has no need of channels
    ):
        answer = served.http.post(EXPLAIN, json={"instances": [instance]}).json()
        assert np.array_equal(floats(answer["explanations"][0]), floats(first))


def test_every_format_says_the_same(served: Running, digit: bytes) -> None:
    query = {"format": "float32_b64,npy_b64,array,png,picture"}
    response = served.http.post(EXPLAIN, content=digit, headers=PNG, params=query)
    answer = response.json()["explanations"][0]
    expected = floats(answer)
    assert np.array_equal(np.float32(answer["attributions_array"]), expected)
    file = io.BytesIO(base64.b64decode(answer["attributions_npy"]["b64"]))
    assert np.array_equal(np.load(file, allow_pickle=False), expected)
    for name in ("overlay", "picture"):
        with image_module.open(io.BytesIO(base64.b64decode(answer[name]["b64"]))) as picture:
            assert (picture.size, picture.format) == ((32, 32), "PNG")


def test_targets_may_be_numbers_or_names_for_all_or_each(
    served: Running, local: PictureExplainer, digit: bytes, pixels: torch.Tensor
) -> None:
    one = {"b64": b64(digit)}
    asked = {
        "instances": [one, one, {**one, "target": 7}],
        "parameters": {"target": [5, "8", None], "top": 3},
    }
    answers = served.http.post(EXPLAIN, json=asked).json()["explanations"]
    assert [answer["target"] for answer in answers] == [5, 8, 7]
    expected = local(pixels[None].repeat(3, 1, 1, 1), target=[5, 8, 7], numbers=[0, 0, 0])
    assert isinstance(expected.attributions, torch.Tensor)
    for row, answer in enumerate(answers):
        torch.testing.assert_close(
            torch.tensor(floats(answer)), expected.attributions[row], rtol=1e-4, atol=1e-6
        )
        assert len(answer["top"]) == 3
        assert answer["top"][0]["class_name"] == "3"
        odds = [each["probability"] for each in answer["top"]]
        assert odds == sorted(odds, reverse=True)
    asked["parameters"] = {"target": [5, None, None]}
    answers = served.http.post(EXPLAIN, json=asked).json()["explanations"]
    assert [answer["target"] for answer in answers] == [5, 3, 7]


def test_methods_and_their_options_are_the_client_s_choice(
    served: Running, demo: Any, digit: bytes, pixels: torch.Tensor
) -> None:
    for query, options in (
        ({"method": "saliency"}, {"method": "saliency"}),
        ({"n_steps": "7"}, {"method": "integrated_gradients", "n_steps": 7}),
        (
            {"method": "smooth_grad", "n_samples": "5"},
            {"method": "smooth_grad", "n_samples": 5},
        ),
    ):
        sent = served.http.post(EXPLAIN, content=digit, headers=PNG, params=query)
        answer = sent.json()["explanations"][0]
        expected = explain(
            demo.module, pixels[None], preprocessing=demo.preprocessing, numbers=[0], **options
        )
        assert isinstance(expected.attributions, torch.Tensor)
        torch.testing.assert_close(
            torch.tensor(floats(answer)), expected.attributions[0], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("method", ["saliency", "smooth_grad", "integrated_gradients", "guided_ig"])
def test_what_shares_a_batch_changes_nothing_but_rounding(
    served: Running, digit: bytes, pixels: torch.Tensor, method: str
) -> None:
    noise = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(1)).tolist()
    parameters = {"method": method}
    if method != "saliency":
        parameters["n_samples" if method == "smooth_grad" else "n_steps"] = 8  # type: ignore[assignment]
    alone, *_, mate = (
        served.http.post(
            EXPLAIN, json={"instances": rows, "parameters": parameters}
        ).json()["explanations"]
        for rows in ([pixels.tolist()], [*noise, pixels.tolist()])
    )  # fmt: skip
    assert mate[-1]["cost"]["batch"] == 6
    torch.testing.assert_close(
        torch.tensor(floats(mate[-1])), torch.tensor(floats(alone[0])), rtol=1e-4, atol=1e-6
    )


def test_our_own_client_sees_the_model(served: Running, demo: Any) -> None:
    x = torch.rand(20, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with BlackBox.from_url(
        served.url + PREDICT, answers="probabilities", rows_per_request=6
    ) as box:
        expected = demo.module(x).log_softmax(1).detach()
        torch.testing.assert_close(box(x).float(), expected, rtol=1e-4, atol=1e-4)
        # And can explain it, with noisy copies that leave [0, 1].
        gradient = LikelihoodRatio(n_samples=20)
        found = explain(box, x[:1], method="saliency", gradient=gradient, target=3)
        assert isinstance(found.attributions, torch.Tensor)
        assert bool(found.attributions.isfinite().all())


def test_requests_at_the_same_time_share_batches() -> None:
    net = Held()
    with Running(held_app(net, max_batch=4)) as running:
        net.shut()
        answers: list[Any] = []

        def client() -> None:
            answers.append(running.http.post(EXPLAIN, json=FOUR))

        first = threading.Thread(target=client)
        first.start()
        assert net.entered.wait(SOON)
        others = [threading.Thread(target=client) for _ in range(8)]
        for each in others:
            each.start()
        wait_for(lambda: running.app.service.batcher.waiting == 8)
        assert running.metric("pyxai_fast_queue_pictures") == 8
        net.gate.set()
        for each in (first, *others):
            each.join(SOON)
        batches = [answer.json()["explanations"][0]["cost"]["batch"] for answer in answers]
        assert sorted(batches) == [1] + [4] * 8


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body: must be JSON"),
        (b"{", "the body: must be JSON"),
        (b"\xff\xfe", "the body: must be JSON"),
        (b"[" * 100_000, "the body: must be JSON, got nested too deeply"),
        (b"[1]", "the body: must be an object with instances, got [1]"),
        (b"{}", "instances: must be given"),
        (b'{"instances": 3}', "instances: must be a list, got 3"),
        (b'{"instances": []}', "instances: must be 1 to 40 pictures, got 0"),
        (b'{"instances": [[[NaN]]]}', "NaN, which is no JSON"),
        (b'{"instances": [{"b64": 3}]}', "instances[0].b64: must be an encoded picture"),
        (b'{"instances": [{"b64": "!"}]}', "instances[0].b64: must be base64"),
        (b'{"instances": [{"b64": "\\u00e9"}]}', "instances[0].b64: must be base64"),
        (b'{"instances": [{"b64": "AAAA"}]}', "instances[0].b64: must be a picture (PNG, "),
        (b'{"instances": [{"image": {"b64": ""}}]}', "instances[0].image.b64: must be a picture"),
        (b'{"instances": ["x"]}', "instances[0]: must be numbers [1][32][32] or [32][32][1], or"),
        (b'{"instances": [[[1, 2], [3]]]}', "got rows of different lengths"),
        (b'{"instances": [[[[1e999]]]]}', "got [1][1][1]"),
        (b'{"instances": [[[0.5, 0.5]]]}', "got [1][2]"),
        (b'{"instances": [[["a"]]]}', "or what is no number"),
    ],
)
def test_a_bad_body_is_told_by_its_field(served: Running, body: bytes, message: str) -> None:
    for path in (EXPLAIN, PREDICT):
        assert message in error(served.http.post(path, content=body), 400)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (3, "parameters: must be an object, got 3"),
        ({"methd": "saliency"}, "got 'methd'; did you mean method?"),
        ({"model": "__import__"}, "parameters: must be among target, method, format, top, n_steps"),
        ({"method": "salience"}, "method: must be one of integrated_gradients, saliency,"),
        ({"method": ["saliency"]}, "method: must be one of"),
        ({"n_steps": 100_000}, "n_steps: must be a whole number from 1 to 512, got 100000"),
        ({"n_steps": True}, "n_steps: must be a whole number"),
        ({"n_steps": "7"}, "n_steps: must be a whole number"),
        (
            {"n_samples": 5},
            "options of integrated_gradients: must be among n_steps, got 'n_samples'",
        ),
        ({"target": 10}, "target: must be a class from 0 to 9, got 10"),
        ({"target": -1}, "target: must be the number or the name of a class, got -1"),
        ({"target": 10**30}, "target: must be a class from 0 to 9"),
        ({"target": 2.0}, "target: must be the number or the name of a class, got 2.0"),
        ({"target": "seven"}, "target: must be the number or the name of a class"),
        ({"target": [1, 2]}, "target: must have an entry for each of the 1 instances, got 2"),
        ({"target": [{}]}, "target[0]: must be the number or the name"),
        ({"format": "pickle"}, "format: must be among float32_b64, npy_b64"),
        ({"format": [[]]}, "format: must be among"),
        ({"top": 1000}, "top: must be a whole number from 0 to 100"),
    ],
)
def test_a_bad_parameter_is_told_by_its_name(
    served: Running, digit: bytes, parameters: Any, message: str
) -> None:
    asked = {"instances": [{"b64": b64(digit)}], "parameters": parameters}
    assert message in error(served.http.post(EXPLAIN, json=asked), 400)


def test_pixels_must_be_pixels(served: Running) -> None:
    loud = {"instances": [np.full((1, 32, 32), 200.0).tolist()]}
    message = "instances[0]: must be pixels from 0 to 1 (divide those of 0 to 255 by 255)"
    for path in (EXPLAIN, PREDICT):
        assert message in error(served.http.post(path, json=loud), 400)
    noisy = {"instances": [np.full((1, 32, 32), 1.5).tolist()]}
    assert message in error(served.http.post(EXPLAIN, json=noisy), 400)
    assert served.http.post(PREDICT, json=noisy).status_code == 200


def png_of(width: int, height: int) -> bytes:
    """A PNG whose head promises so many pixels, of which none is there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checked

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"")
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_large_pictures_are_refused_by_their_head(served: Running) -> None:
    for width, height in ((60_000, 60_000), (400, 300)):
        response = served.http.post(EXPLAIN, content=png_of(width, height), headers=PNG)
        assert "the picture: must have at most 100,000 pixels" in error(response, 400)


def test_broken_and_foreign_files_are_refused(served: Running, digit: bytes) -> None:
    file = io.BytesIO()
    image_module.new("RGB", (8, 8)).save(file, "TIFF")
    for data in (b"", b"GIF89a", digit[:300], file.getvalue(), png_of(20, 20)):
        assert "the picture: " in error(served.http.post(EXPLAIN, content=data, headers=PNG), 400)


def test_bodies_are_counted_while_they_come(served: Running) -> None:
    message = "the body: must have at most 1,048,576 bytes"
    large = b"x" * (2**20 + 1)
    assert error(served.http.post(EXPLAIN, content=large), 413) == message

    def parts() -> Iterator[bytes]:  # sent without a length
        for _ in range(2**6):
            yield b" " * 2**15

    with contextlib.suppress(httpx.WriteError):  # the server may hang up while they are sent
        assert error(served.http.post(EXPLAIN, content=parts()), 413) == message
    assert served.http.get("/healthz").status_code == 200


def test_bodies_have_no_more_room_together_than_is_given() -> None:
    with Running(held_app(Held(), Limits(body=2**20, buffered=2**20))) as running:
        port = int(running.url.split(":")[-1])
        head = f"POST {EXPLAIN} HTTP/1.1\r\nHost: x\r\nContent-Length: {2**20}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(head.encode() + b" " * (2**20 - 1))  # and does not end
            wait_for(lambda: running.app.traffic.buffered == 2**20 - 1)
            assert "too busy" in error(running.http.post(EXPLAIN, json=FOUR), 429)
        wait_for(lambda: running.app.traffic.buffered == 0)
        assert running.http.post(EXPLAIN, json=FOUR).status_code == 200


def test_a_model_of_any_size_takes_pictures_of_several() -> None:
    with Running(any_size_app(Limits(pixels_unresized=1000))) as running:
        for height, width in ((8, 9), (20, 5)):
            picture = torch.rand(3, height, width).tolist()
            answer = running.http.post(EXPLAIN, json={"instances": [picture, picture]}).json()
            assert floats(answer["explanations"][1]).shape == (3, height, width)
        mixed = {"instances": [torch.rand(3, 8, 8).tolist(), torch.rand(3, 8, 9).tolist()]}
        message = "instances[1]: must have the size of instances[0], 8 x 8, got 8 x 9"
        assert error(running.http.post(EXPLAIN, json=mixed), 400) == message
        response = running.http.post(EXPLAIN, content=png_of(40, 30), headers=PNG)
        assert "must have at most 1,000 pixels, got 40 x 30" in error(response, 400)


def test_a_model_that_only_answers_and_fails_to() -> None:
    broken = False

    def answer(x: torch.Tensor) -> torch.Tensor:
        scores = x.flatten(1)[:, :4]
        return scores / 0.0 if broken else scores

    box = BlackBox(answer)
    model = LoadedModel(box, Preprocessing(size=(4, 4), channels=1), None, "box")
    gradient = LikelihoodRatio(n_samples=8)
    explainer = PictureExplainer(model, "cpu", "saliency", gradient=gradient)
    with Running(ServingApp(Service(explainer, "demo"))) as running:
        assert box.queries == 0  # they may be counted
        about = running.http.get("/v1/models/demo/metadata").json()
        assert (about["methods"], about["classes"]) == (["saliency"], None)
        assert running.http.post(EXPLAIN, json=FOUR).json()["explanations"][0]["target"] == 0
        assert running.http.get("/v1/models/demo/metadata").json()["classes"] == 4
        broken = True
        assert error(running.http.post(EXPLAIN, json=FOUR), 502) == "the model could not be asked"


def test_unknown_models_addresses_and_verbs(served: Running, digit: bytes) -> None:
    http = served.http
    for path in ("/v1/models/other:explain", "/v1/models/other:predict"):
        assert "no model 'other' here; there is demo" in error(http.post(path), 404)
    assert "no model 'other'" in error(http.get("/v1/models/other"), 404)
    error(http.get("/nothing"), 404)
    for path in (EXPLAIN, PREDICT):
        response = http.get(path)
        error(response, 405)
        assert response.headers["allow"] == "POST"
    error(http.delete("/v1/models/demo"), 405)
    error(http.post("/readyz"), 405)


def test_only_the_files_of_the_page_are_served(served: Running) -> None:
    for path in ("/../app.py", "/%2e%2e/app.py", "/page/../server.py", "//etc/passwd", "/app.py"):
        with socket.create_connection(("127.0.0.1", int(served.url.split(":")[-1]))) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while part := raw.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 404"), path
    page = served.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert served.http.get("/page.js").headers["x-content-type-options"] == "nosniff"
    assert "http://" not in page.text and "https://" not in page.text


def test_a_full_queue_says_when_to_come_again() -> None:
    net = Held()
    with Running(held_app(net, max_batch=1, max_queue=2)) as running:
        net.shut()
        threads = [
            threading.Thread(target=running.http.post, args=(EXPLAIN,), kwargs={"json": FOUR})
            for _ in range(3)
        ]
        threads[0].start()
        assert net.entered.wait(SOON)
        for thread in threads[1:]:
            thread.start()
        wait_for(lambda: running.app.service.batcher.waiting == 2)
        response = running.http.post(EXPLAIN, json=FOUR)
        assert error(response, 429) == "too busy: 2 wait"
        assert int(response.headers["retry-after"]) >= 1
        net.gate.set()
        for thread in threads:
            thread.join(SOON)
        assert running.metric('pyxai_fast_rejected_total{reason="queue_full"}') == 1


def test_a_request_that_takes_too_long_is_given_up() -> None:
    net = Held()
    with Running(held_app(net, Limits(seconds=0.2), max_batch=1)) as running:
        net.shut()
        assert error(running.http.post(EXPLAIN, json=FOUR), 504) == "no answer within 0.2 s"
        # The batch of the first is still being computed: this one is dropped where it waits.
        assert error(running.http.post(EXPLAIN, json=FOUR), 504) == "no answer within 0.2 s"
        assert running.app.service.batcher.waiting == 0
        net.gate.set()
        wait_for(lambda: running.http.post(EXPLAIN, json=FOUR).status_code == 200)


def test_nothing_is_computed_for_a_client_that_has_gone() -> None:
    net = Held()
    with Running(held_app(net, max_batch=1)) as running:
        net.shut()
        first = threading.Thread(target=running.http.post, args=(EXPLAIN,), kwargs={"json": FOUR})
        first.start()
        assert net.entered.wait(SOON)
        body = json.dumps(FOUR).encode()
        head = f"POST {EXPLAIN} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        raw = socket.create_connection(("127.0.0.1", int(running.url.split(":")[-1])))
        raw.sendall(head.encode() + body)
        wait_for(lambda: running.app.service.batcher.waiting == 1)
        raw.close()
        wait_for(lambda: running.app.service.batcher.waiting == 0)
        net.gate.set()
        first.join(SOON)
        done = 'pyxai_fast_pictures_total{work="saliency"}'
        wait_for(lambda: running.metric(done) == 1)


def test_one_bad_request_fails_alone() -> None:
    # Without names a server does not know how many classes there are before it has asked.
    net = Held()
    with Running(held_app(net, max_batch=4)) as running:
        running.app.service.classes = None
        net.shut()
        answers: dict[int, Any] = {}

        def client(target: int) -> None:
            asked = {**FOUR, "parameters": {"target": target}}
            answers[target] = running.http.post(EXPLAIN, json=asked)

        threads = [threading.Thread(target=client, args=(target,)) for target in (0, 1, 99, 2)]
        threads[0].start()
        assert net.entered.wait(SOON)
        for thread in threads[1:]:
            thread.start()
        wait_for(lambda: running.app.service.batcher.waiting == 3)
        net.gate.set()
        for thread in threads:
            thread.join(SOON)
        assert [answers[target].status_code for target in (0, 1, 2)] == [200] * 3
        assert "99" in error(answers[99], 400)


class Moody(Held):
    """Raises what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.factor = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.error is not None:
            raise self.error
        return super().forward(x) * self.factor


@pytest.mark.parametrize(
    "kind", [RuntimeError, ValueError, TypeError, TimeoutError, MemoryError, SystemExit, Refusal]
)
def test_a_failure_of_the_model_is_no_client_s_business(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    net = Moody()
    with Running(held_app(net)) as running:
        net.error = Refusal(400, "a secret") if kind is Refusal else kind("a secret path")
        for path in (EXPLAIN, PREDICT):
            assert error(running.http.post(path, json=FOUR), 500) == "the model failed"
        assert "a secret" in caplog.text and "Traceback" in caplog.text
        net.error = None
        assert running.http.post(EXPLAIN, json=FOUR).status_code == 200
        assert running.http.get("/readyz").status_code == 200


def test_numbers_that_are_none_are_null() -> None:
    net = Moody()
    with Running(held_app(net)) as running:
        net.factor = float("nan")
        asked = {**FOUR, "parameters": {"target": 1, "top": 2, "format": ["array"]}}
        answer = running.http.post(EXPLAIN, json=asked).json()["explanations"][0]
        assert (answer["target"], answer["probability"]) == (1, None)
        assert [each["probability"] for each in answer["top"]] == [None, None]
        row = running.http.post(PREDICT, json=FOUR).json()["predictions"][0]
        assert row == [None] * 4


def test_a_thread_that_has_ended_is_neither_ready_nor_alive() -> None:
    with Running(held_app(Held())) as running:

        def lane(key: Any) -> Any:
            raise SystemExit

        running.app.service.batcher._lane = lane
        assert error(running.http.post(EXPLAIN, json=FOUR), 503)
        for path in ("/healthz", "/readyz", "/v2/health/live"):
            assert running.http.get(path).status_code == 503
        told = error(running.http.post(EXPLAIN, json=FOUR), 503)
        assert told == "the model is not ready: its thread has ended"


def test_large_answers_are_sent_as_they_are_read_even_while_the_server_stops() -> None:
    app, large = held_app(Held()), 24 * 2**20
    app._explain = lambda request: _later(Response(b"x" * large))  # type: ignore[method-assign]
    with Running(app) as running, asking(running) as raw:
        wait_for(lambda: app.traffic.in_progress == 1)
        assert raw.recv(100).startswith(b"HTTP/1.1 200")
        running.server.drain()
        time.sleep(0.3)  # the server has looked several times whether it may end
        assert running.thread.is_alive() and app.traffic.in_progress == 1
        got = 100
        while part := raw.recv(2**20):
            got += len(part)
        assert got > large
    assert app.traffic.unanswered == 0


@pytest.mark.parametrize("stopped", [False, True])
def test_an_answer_that_nobody_reads_is_cut(stopped: bool) -> None:
    app = held_app(Held(), Limits(seconds=0.3))
    app._explain = lambda request: _later(Response(b"x" * 24 * 2**20))  # type: ignore[method-assign]
    with Running(app) as running, asking(running):
        wait_for(lambda: app.traffic.in_progress == 1)
        if stopped:
            running.server.drain()
            running.thread.join(SOON)
        wait_for(lambda: app.traffic.in_progress == 0)
        assert app.traffic.unanswered == stopped
        wait_for(lambda: not running.server.server_state.connections or not stopped)


async def _later(response: Response) -> Response:
    return response


@contextlib.contextmanager
def asking(running: Running) -> Iterator[socket.socket]:
    """A client with small buffers that has asked, and has not read the answer."""
    raw = socket.socket()
    with raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(SOON)
        raw.connect(("127.0.0.1", int(running.url.split(":")[-1])))
        body = json.dumps(FOUR)
        raw.sendall(
            f"POST {EXPLAIN} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        yield raw


def test_a_server_is_not_ready_before_it_has_warmed_up() -> None:
    net = Held()
    net.gate.clear()
    running = Running(held_app(net))
    running.thread.start()
    assert net.entered.wait(SOON)
    wait_for(lambda: running.server.started)
    assert running.http.get("/healthz").status_code == 200
    assert running.http.get("/readyz").status_code == 503
    assert running.http.get("/v1/models/demo").json() == {"name": "demo", "ready": False}
    response = running.http.post(EXPLAIN, json=FOUR)
    assert error(response, 503) == "the model is not ready: it is warming up"
    assert response.headers["retry-after"] == "1"
    net.gate.set()
    wait_for(lambda: running.http.get("/readyz").status_code == 200)
    running.__exit__()


def test_a_model_without_classes_has_no_targets() -> None:
    net = Held()
    net.linear = torch.nn.Linear(16, 1)
    with Running(held_app(net)) as running:
        explained = running.http.post(EXPLAIN, json=FOUR).json()
        answer = explained["explanations"][0]
        assert (answer["target"], answer["class_name"], answer["probability"]) == (None,) * 3
        ((score,),) = running.http.post(PREDICT, json=FOUR).json()["predictions"]
        assert explained["predictions"] == [[pytest.approx(score)]]
        asked = {**FOUR, "parameters": {"target": 0}}
        assert "not be given" in error(running.http.post(EXPLAIN, json=asked), 400)


def test_requests_are_counted_and_logged(
    served: Running, digit: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    name = 'pyxai_fast_requests_total{code="200",route="explain"}'
    before = served.metric(name)
    with caplog.at_level("INFO", "pyxai_fast.serving.access"):
        served.http.post(EXPLAIN, content=digit, headers=PNG)
        served.http.get("/x%22%0A%7B%22forged%22: true}")
        wait_for(lambda: len(caplog.records) >= 2)
    lines = [json.loads(record.message) for record in caplog.records]
    assert (lines[0]["path"], lines[0]["status"], lines[0]["pictures"]) == (EXPLAIN, 200, 1)
    assert lines[1]["status"] == 404
    assert all("\n" not in record.message for record in caplog.records)
    assert served.metric(name) == before + 1
    text = served.http.get("/metrics").text
    for each in (
        "pyxai_fast_request_seconds_bucket",
        "pyxai_fast_batch_pictures_bucket",
        'pyxai_fast_model_seconds_total{work="integrated_gradients"}',
        "process_resident_memory_bytes",
    ):
        assert each in text


# ---------------------------------------------------------------- who is slow, or many


@contextlib.contextmanager
def talking(running: Running, sent: bytes = b"") -> Iterator[socket.socket]:
    port = int(running.url.split(":")[-1])
    with socket.create_connection(("127.0.0.1", port), SOON) as raw:
        raw.sendall(sent)
        yield raw


def heard(raw: socket.socket) -> bytes:
    """All that is said until the other side hangs up."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := raw.recv(2**16):
            said += part
    return said


def test_slow_bodies_are_given_up_and_keep_no_place_in_the_queue() -> None:
    limits = Limits(body_seconds=0.5, requests=2)
    with Running(held_app(Held(), limits)) as running, contextlib.ExitStack() as stack:
        head = f"POST {EXPLAIN} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n ".encode()
        slow = [stack.enter_context(talking(running, head)) for _ in range(8)]
        wait_for(lambda: running.app.traffic.receiving == 8)
        assert running.metric("pyxai_fast_requests_receiving") == 8
        assert running.http.post(EXPLAIN, json=FOUR).status_code == 200
        for raw in slow:
            said = heard(raw)
            assert said.startswith(b"HTTP/1.1 408") and b"the body: must come within 0.5 s" in said
        assert running.metric('pyxai_fast_rejected_total{reason="slow_body"}') == 8


def test_heads_must_come_soon_and_be_small() -> None:
    limits = Limits(head=4096, head_seconds=0.3)
    with Running(held_app(Held(), limits)) as running:
        with talking(running) as silent, talking(running, b"GET / HTTP/1.1\r\nA: ") as slow:
            assert heard(silent) == b""
            assert heard(slow).startswith(b"HTTP/1.1 408")
        whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
        with talking(running, whole + b"\r\n") as used:  # and then trickles
            assert used.recv(2**12).startswith(b"HTTP/1.1 200")
            used.sendall(b"GET / HT")
            assert heard(used).startswith(b"HTTP/1.1 408")
        for large in (b"A: " + b"x" * 8192, b"A: " + b"x" * 8192 + b"\r\n\r\n"):
            with talking(running, whole + large) as raw:
                said = heard(raw)
                assert said.startswith(b"HTTP/1.1 431"), said
                assert b"the head: must have at most 4,096 bytes" in said and b"nosniff" in said
        # Bodies are no heads, however they come.
        body = json.dumps(FOUR).encode() + b" " * 20_000
        for _ in range(3):
            assert running.http.post(EXPLAIN, content=body).status_code == 200


def test_too_many_connections_close_idle_ones_and_keep_health() -> None:
    net = Held()
    with Running(held_app(net, Limits(connections=4))) as running, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(talking(running)) for _ in range(6)]
        assert heard(idle[0]) == heard(idle[1]) == b""
        net.shut()
        for _ in range(4):
            stack.enter_context(asking(running))
        wait_for(lambda: running.app.traffic.in_progress == 4)
        with httpx.Client(base_url=running.url, trust_env=False, timeout=SOON) as fresh:
            assert fresh.get("/healthz").status_code == 200
            assert error(fresh.post(EXPLAIN, json=FOUR), 503) == "too many connections"
        net.gate.set()


def test_what_heavy_requests_ask_for_is_bounded(served: Running) -> None:
    picture = np.full((32, 32), 0.5).tolist()
    parameters = {"method": "smooth_grad", "n_samples": 501}
    asked = {"instances": [picture] * 40, "parameters": parameters}
    told = error(served.http.post(EXPLAIN, json=asked), 400)
    assert told == "instances: pictures x n_samples must be at most 20,000, got 40 x 501"


def test_sizes_are_bounded_together(digit: bytes, demo: Any) -> None:
    explainer = PictureExplainer(demo, "cpu", "saliency")
    limits = Limits(pixels_together=2048, numbers=2000, held=4096)
    with Running(ServingApp(Service(explainer, "demo"), limits)) as running:
        post = running.http.post
        told = error(post(EXPLAIN, json={"instances": [{"b64": b64(digit)}] * 3}), 400)
        assert told.startswith("instances: must have at most 2,048 pixels together")
        asked = {"instances": [{"b64": b64(digit)}] * 2, "parameters": {"format": "array"}}
        assert "format: must be another than array" in error(post(EXPLAIN, json=asked), 400)
        told = error(post(EXPLAIN, content=b'{"instances": [' + b"0," * 2000 + b"0]}"), 413)
        assert told == "the body: must have at most 2,000 numbers; send pictures in base64"
        running.app.traffic.held = 1  # somebody else's
        assert "too busy" in error(post(EXPLAIN, content=digit, headers=PNG), 429)
        running.app.traffic.held = 0
        assert post(EXPLAIN, content=digit, headers=PNG).status_code == 200
        wait_for(lambda: running.app.traffic.held == 0)


def any_size_app(limits: Limits) -> ServingApp:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).eval()
    explainer = PictureExplainer(LoadedModel(net, Preprocessing(), None, "any"), "cpu", "saliency")
    return ServingApp(Service(explainer, "demo", max_batch=2), limits)


def flat_png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    image_module.new("RGB", (width, height), (90, 30, 60)).save(file, "PNG")
    return file.getvalue()


def test_an_answer_keeps_its_room_until_it_is_sent() -> None:
    # Three answers of 4 MB and their pictures of 3 MB are more than there is room for.
    app = any_size_app(Limits(held=16 * 2**20))
    large = {"instances": [{"b64": b64(flat_png(512, 512))}]}
    small = {"instances": [{"b64": b64(flat_png(8, 8))}]}
    query = json.dumps({**large, "parameters": {"format": ["float32_b64", "npy_b64"]}}).encode()
    head = f"POST {EXPLAIN} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(query)}\r\n\r\n"
    with Running(app) as running, contextlib.ExitStack() as stack:
        raw = stack.enter_context(socket.socket())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(SOON)
        raw.connect(("127.0.0.1", int(running.url.split(":")[-1])))
        raw.sendall(head.encode() + query)
        assert raw.recv(100).startswith(b"HTTP/1.1 200")  # and is read no further
        assert app.traffic.held > 11 * 2**20
        assert "too busy" in error(running.http.post(EXPLAIN, json=large), 429)
        assert running.http.post(EXPLAIN, json=small).status_code == 200
        raw.close()
        wait_for(lambda: app.traffic.held == 0)
        assert running.http.post(EXPLAIN, json=large).status_code == 200


def test_answers_have_no_more_bytes_than_are_told_beforehand() -> None:
    app = any_size_app(Limits(answer=200_000))
    service = app.service
    asked: list[dict[str, Any]] = [{"format": [name]} for name in ANSWER_FORMATS]
    asked += [{"format": list(ANSWER_FORMATS[:2])}, {"top": 4}, {"format": []}]
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    image_module.fromarray(noise).save(file, "PNG")
    with Running(app) as running:
        for parameters in asked:
            body = {"instances": [{"b64": b64(file.getvalue())}] * 2, "parameters": parameters}
            response = running.http.post(EXPLAIN, json=body)
            assert response.status_code == 200, response.text
            question = read_question(
                service, app.limits, json.dumps(body).encode(), "", "", explain=True
            )
            size = len(response.content)
            assert size <= question.answer <= 1.5 * size + 5000
        body = {"instances": [{"b64": b64(file.getvalue())}] * 16}
        told = error(running.http.post(EXPLAIN, json=body), 400)
        assert told.startswith("instances: must have an answer of at most 200,000 bytes, got one")
        assert 'pyxai_fast_pictures_total{work="saliency"} 16' in running.http.get("/metrics").text


# ---------------------------------------------------------------- decoding


class Decoding:
    """In the place of `read_image`: counts, and waits while its gate is shut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self._read = pictures.read_image
        monkeypatch.setattr(pictures, "read_image", self)

    def __call__(self, *arguments: Any, **named: Any) -> torch.Tensor:
        self.calls += 1
        self.entered.set()
        assert self.gate.wait(2 * SOON)
        return self._read(*arguments, **named)


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Decoding:
    """With a single thread, so that what comes after is decoded after."""
    monkeypatch.setattr(app_module, "DECODERS", 1)
    return Decoding(monkeypatch)


def test_pictures_are_refused_together_before_one_is_decoded(
    served: Running, decoding: Decoding
) -> None:
    explainer = served.app.service.explainer
    limits = Limits(pixels_decoded=200_000)
    body = json.dumps({"instances": [{"b64": b64(png_of(300, 300))}] * 3}).encode()
    with pytest.raises(Refusal) as refused:
        read_question(Service(explainer, "x"), limits, body, "", "", explain=True)
    assert refused.value.status == 400
    assert refused.value.reason == (
        "instances: must have at most 200,000 pixels together, as they are sent and resized, "
        "got more with 3 pictures"
    )
    # Narrow ones have few pixels as they are sent, and many once their shorter side is resized.
    narrow = Preprocessing(size=(8, 8), resize=256)
    with pytest.raises(Refusal, match="as they are sent and resized"):
        look([png_of(1, 4000)], ["x"], narrow, limits, strict=True)
    assert decoding.calls == 0


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),
        Preprocessing(size=(5, 7)),
        Preprocessing(resize=11),
        Preprocessing(resize=(6, 9)),
        Preprocessing(resize=11, size=(8, 8)),
    ],
)
@pytest.mark.parametrize("size", [(31, 17), (17, 31), (1, 90), (12, 12)])
def test_the_size_of_a_map_is_known_from_the_head(
    preprocessing: Preprocessing, size: tuple[int, int]
) -> None:
    (sent,) = look([flat_png(*size)], ["x"], preprocessing, Limits(), strict=True)
    (pixels,) = decode([sent], preprocessing, lambda: False)
    assert sent.area == pixels[0].numel()
    assert sent.effort >= size[0] * size[1]


def test_files_that_are_slow_to_decode_count_for_more() -> None:
    def effort(data: bytes) -> int:
        (sent,) = look([data], ["x"], Preprocessing(size=(1, 1)), Limits(), strict=True)
        decode([sent], Preprocessing(size=(1, 1)), lambda: False)
        return sent.effort

    file = io.BytesIO()
    image_module.new("L", (40, 50), 77).save(file, "JPEG", progressive=True)
    usual = file.getvalue()
    scan = usual[usual.rindex(b"\xff\xda") : -2]
    many = usual[:-2] + 80 * scan + usual[-2:]
    assert effort(usual) == 40 * 50 + 1 and effort(many) == 11 * 40 * 50 + 1

    def bmp(compression: int, pixels: bytes) -> bytes:
        palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
        start, size = 54 + len(palette), len(pixels)
        head = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, compression, size, 1, 1, 256, 0)
        return b"BM" + struct.pack("<IHHI", start + size, 0, 0, start) + head + palette + pixels

    assert effort(bmp(0, bytes(8))) == 8 + 1
    assert effort(bmp(1, b"\x04\x05\x00\x00" * 2 + b"\x00\x01")) == 8 * 8 + 1


@pytest.mark.parametrize("goes", [True, False], ids=["the client goes", "it takes too long"])
def test_nothing_more_is_decoded_for_who_does_not_wait(decoding: Decoding, goes: bool) -> None:
    decoding.gate.clear()
    body = json.dumps({"instances": [{"b64": b64(flat_png(4, 4))}] * 5}).encode()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    app = held_app(Held(), Limits() if goes else Limits(seconds=0.3))
    with Running(app) as running:
        with talking(running, head.encode() + body) as raw:
            assert decoding.entered.wait(SOON)
            if not goes:
                assert raw.recv(100).startswith(b"HTTP/1.1 504")
        wait_for(lambda: app.traffic.decoding == 0)
        decoding.gate.set()
        app.limits = Limits()
        one = {"instances": [{"b64": b64(flat_png(4, 4))}]}
        assert running.http.post(PREDICT, json=one).status_code == 200
    assert decoding.calls == 2  # the first of the five, and this one


def test_answers_are_encoded_while_others_are_decoded(decoding: Decoding) -> None:
    net, done = Held(), []
    with Running(held_app(net)) as running:
        net.shut()
        asked = {**FOUR, "parameters": {"format": "picture"}}
        thread = threading.Thread(
            target=lambda: done.append(running.http.post(EXPLAIN, json=asked).status_code)
        )
        thread.start()
        assert net.entered.wait(SOON)
        decoding.gate.clear()
        one = json.dumps({"instances": [{"b64": b64(flat_png(4, 4))}]}).encode()
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(one)}\r\n\r\n"
        with talking(running, head.encode() + one) as raw:
            assert decoding.entered.wait(SOON)
            net.gate.set()
            thread.join(SOON)
            assert done == [200]
            decoding.gate.set()
            assert raw.recv(100).startswith(b"HTTP/1.1 200")


def test_what_is_given_up_keeps_nothing_while_it_waits_for_a_thread() -> None:
    class Body:
        pass

    async def give_up() -> None:
        threads, gate = Threads(1, "test"), threading.Event()
        first = asyncio.create_task(threads.run(gate.wait, SOON))
        body = Body()
        kept = weakref.ref(body)
        second = asyncio.create_task(threads.run(id, body))
        await asyncio.sleep(0)
        del body
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        del second
        gc.collect()
        assert kept() is None and not first.done()
        gate.set()
        assert await first
        threads.close()

    asyncio.run(give_up())


def test_a_server_may_insist_on_its_name() -> None:
    app = held_app(Held())
    app.hosts = frozenset(["localhost", "[::1]"])
    with Running(app) as running:
        for host, status in (
            ("localhost", 200), ("LocalHost:80", 200), ("[::1]:1", 200), ("evil.test", 421),
            ("localhost.evil.test:8080", 421), ("", 421),
        ):  # fmt: skip
            headers = {"host": host}
            assert running.http.get("/v1/models", headers=headers).status_code == status
            assert running.http.get("/", headers=headers).status_code == status
    assert _hosts("127.0.0.1", None) == ["localhost", "127.0.0.1", "[::1]"]
    assert _hosts("127.0.0.2", None) == ["localhost", "127.0.0.1", "[::1]", "127.0.0.2"]
    assert _hosts("0.0.0.0", None) is _hosts("127.0.0.1", "*") is None
    assert _hosts("0.0.0.0", "a,b") == ["a", "b"]


@pytest.mark.parametrize(
    "kind", ["multipart/form-data; boundary=x", "application/octet-stream", "application/xml"]
)
def test_other_kinds_of_bodies_are_refused_by_their_name(served: Running, kind: str) -> None:
    told = error(served.http.post(EXPLAIN, content=b"x", headers={"content-type": kind}), 415)
    assert told.startswith("content-type: must be application/json, or image/png")


def test_kinds_of_bodies_may_be_written_in_any_case(served: Running, digit: bytes) -> None:
    for kind in ("IMAGE/PNG", "Image/png; x=y"):
        headers = {"content-type": kind}
        assert served.http.post(EXPLAIN, content=digit, headers=headers).status_code == 200
    body = json.dumps({"instances": [{"b64": b64(digit)}]})
    for kind in ("Application/JSON; charset=utf-8", "application/ld+json", ""):
        headers = {"content-type": kind}
        assert served.http.post(EXPLAIN, content=body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        (EXPLAIN, {"target": 3}, "target: must be in parameters, got it beside instances"),
        (EXPLAIN, {"parameter": {}}, "the body: must be among instances, parameters, signature"),
        (PREDICT, {"parameters": {"top": 3}}, "parameters: must not be given here, got 'top'"),
        (EXPLAIN, {"instances": [{"b64": "", "x": 1}]}, "instances[0]: must be among b64, image,"),
        (EXPLAIN, {"instances": [{"image": {"b64": "", "x": 1}}]}, "instances[0].image: must be"),
        (PREDICT, {"instances": [{"b64": "", "target": 1}]}, "instances[0]: must be among b64,"),
        (EXPLAIN, {"instances": [[["0.5"] * 32] * 32]}, "got text, or true or false, among them"),
        (EXPLAIN, {"instances": [[[True] * 32] * 32]}, "got text, or true or false, among them"),
        (EXPLAIN, {"parameters": {"n_steps": "7"}}, "from 1 to 512, without quotes, got '7'"),
    ],
)
def test_nothing_is_dropped_silently(served: Running, path: str, change: Any, message: str) -> None:
    asked = {"instances": [np.full((32, 32), 0.5).tolist()], **change}
    assert message in error(served.http.post(path, json=asked), 400)


def test_null_is_what_is_not_given(served: Running) -> None:
    parameters = dict.fromkeys(("target", "method", "format", "top", "n_steps"))
    asked = {"instances": [np.full((32, 32), 0.5).tolist()], "parameters": parameters}
    assert served.http.post(EXPLAIN, json=asked).status_code == 200
    told = error(served.http.post(f"{EXPLAIN}?top=3", json=asked), 400)
    assert told.startswith("the query: must be empty beside JSON")


def test_options_are_told_by_method(served: Running) -> None:
    options = served.http.get("/v1/models/demo/metadata").json()["options"]
    assert options["integrated_gradients"] == {"n_steps": {"from": 1, "to": 512, "default": 10}}
    assert options["smooth_grad"] == {"n_samples": {"from": 1, "to": 1000, "default": 50}}
    assert options["saliency"] == {}


def test_addresses_are_not_guessed(served: Running) -> None:
    for path in ("/healthz/", "/v1/models/"):
        assert served.http.get(path).status_code == 404


# ---------------------------------------------------------------- whatever is sent


@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(
                        ["instances", "parameters", "b64", "image", "target", "method"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ),
    ),
    kind=st.sampled_from(["application/json", "image/png", "image/svg+xml", "", "é"]),
    query=st.text(max_size=20),
    path=st.sampled_from([EXPLAIN, PREDICT]),
)
@settings(max_examples=150)
def test_whatever_is_sent_is_answered_and_never_a_failure(
    served: Running, body: Any, kind: str, query: str, path: str
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": kind.encode("latin-1")}
    response = served.http.post(path, content=data, headers=headers, params={query: query})
    assert response.status_code in (200, 400, 415)


@given(at=st.integers(0, 700), by=st.integers(1, 255), cut=st.integers(0, 710))
@settings(max_examples=80)
def test_damaged_pictures_are_explained_or_refused(
    served: Running, digit: bytes, at: int, by: int, cut: int
) -> None:
    data = bytearray(digit)
    data[at % len(data)] ^= by
    damaged = bytes(data[: cut or None])
    response = served.http.post(PREDICT, content=damaged, headers=PNG)
    assert response.status_code in (200, 400, 415)


@given(path=st.text(max_size=30), verb=st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS"]))
@settings(max_examples=60)
def test_no_address_is_a_failure(served: Running, path: str, verb: str) -> None:
    url = served.url + "/" + quote(path, safe="/:%")
    try:
        response = served.http.request(verb, url)
    except httpx.InvalidURL:
        return
    assert response.status_code in (200, 400, 404, 405)


@given(head=st.binary(max_size=120))
@settings(max_examples=30)
def test_what_is_no_http_does_no_harm(served: Running, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", int(served.url.split(":")[-1])), SOON) as raw:
        raw.sendall(head)
        raw.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while raw.recv(4096):
                pass
    assert served.http.get("/healthz").status_code == 200


# ---------------------------------------------------------------- the command


SLOW_MODEL = """
import time, torch

class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(192, 4)

    def forward(self, x):
        time.sleep(0.1)
        return self.linear(x.flatten(1))

def load():
    return Slow()
"""


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pyxai_fast", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving "), process.communicate()
        url = line.split()[-1]
        wait_for(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code == 200)
        yield process, url
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def slow(tmp_path: Path) -> list[str]:
    """Arguments for a server of a model that takes its time."""
    (tmp_path / "slow.py").write_text(SLOW_MODEL)
    size = tmp_path / "size.json"
    size.write_text(json.dumps({"size": [8, 8]}))
    model = ["--model", f"python:{tmp_path}/slow.py:load", "--preprocessing", str(size)]
    return [*model, "--name", "slow", "--method", "saliency"]


def test_a_stopped_server_answers_what_it_has_taken(slow: list[str]) -> None:
    picture = {"instances": [np.full((3, 8, 8), 0.5).tolist()]}
    with command(*slow, "--max-batch", "2", "--drain-s", "30") as (process, url):

        async def load() -> tuple[list[int], Any, Any]:
            limits = httpx.Limits(max_connections=100)
            async with httpx.AsyncClient(
                base_url=url, timeout=SOON, limits=limits, trust_env=False
            ) as http:
                path = "/v1/models/slow:explain"
                sent = [asyncio.create_task(http.post(path, json=picture)) for _ in range(30)]
                taken = 0.0
                while taken < 28:  # all have been taken: the others are in the first batch
                    text = (await http.get("/metrics")).text.splitlines()
                    taken = max(
                        float(x.split()[1]) for x in text if x.startswith("pyxai_fast_queue")
                    )
                process.send_signal(signal.SIGTERM)
                while (ready := await http.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.01)
                late = await http.post(path, json=picture)
                answers = await asyncio.gather(*sent)
                return [answer.status_code for answer in answers], ready, late

        codes, ready, late = asyncio.run(load())
        assert codes == [200] * 30
        assert ready.status_code == 503
        assert error(late, 503) == "the server is stopping"
        assert late.headers["connection"] == "close"
        assert process.wait(SOON) == 0


def test_a_stopped_server_may_take_work_for_a_while() -> None:
    app = held_app(Held())
    with Running(app) as running:
        running.server._drain_delay = 3600.0
        running.server.drain()
        assert running.http.get("/readyz").status_code == 503
        assert running.http.post(EXPLAIN, json=FOUR).status_code == 200
        with talking(running):  # the listener is open
            assert running.thread.is_alive()
        running.server._drain_delay = 0.0


def test_a_model_that_cannot_warm_up_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        SLOW_MODEL.replace("time.sleep(0.1)", 'raise ValueError("always\\nbroken")')
    )
    model = ["--model", f"python:{tmp_path}/broken.py:load", "--port", "0"]
    ended = subprocess.run(
        [sys.executable, "-m", "pyxai_fast", "serve", *model],
        capture_output=True,
        text=True,
        timeout=2 * SOON,
        check=False,
    )
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("pyxai-fast: error: --model: "), lines
    assert lines[0].endswith("failed at its first picture: ValueError: always")


def test_the_second_signal_does_not_wait(slow: list[str]) -> None:
    with command(*slow, "--drain-s", "600", "--max-batch", "1") as (process, url):
        many = {"instances": [np.full((3, 8, 8), 0.5).tolist()] * 128}
        codes = []

        def client() -> None:
            with contextlib.suppress(httpx.HTTPError):
                path = f"{url}/v1/models/slow:explain"
                codes.append(httpx.post(path, json=many, trust_env=False).status_code)

        thread = threading.Thread(target=client)
        thread.start()
        metrics = f"{url}/metrics"
        queue = "pyxai_fast_queue_pictures 1"
        wait_for(lambda: queue in httpx.get(metrics, trust_env=False).text)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code == 503)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 1
        thread.join(SOON)
        assert codes == [503]
        assert process.stderr is not None and "Traceback" not in process.stderr.read()


@pytest.fixture
def logs() -> Iterator[None]:
    """What the command sets up, which logs to a stream that ends with its test, is taken back."""
    names = ("pyxai_fast.serving", "pyxai_fast.serving.access", "uvicorn.error")
    loggers = [logging.getLogger(name) for name in names]
    before = [(one.handlers[:], one.propagate, one.level) for one in loggers]
    yield
    for one, (handlers, propagate, level) in zip(loggers, before, strict=True):
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port: must be a port from 0 to 65535"),
        (["--max-wait-ms", "nan"], "--max-wait-ms: must be a number of at least 0"),
        (["--timeout-s", "0"], "--timeout-s: must be a number above 0"),
        (["--name", "a/b"], "--name: must be letters, digits"),
        (["--method", "salience"], "--method: must be one of"),
        (["--methods", "salience"], "methods: must be among"),
        (["--methods", "freemcg"], "must be methods that need nothing besides a model"),
        (["--replicas", "2"], "--replicas and --gpus: must be given with --ray"),
        (["--ray", "--drain-delay-s", "5"], "--drain-delay-s: must be 0 with --ray, got 5"),
        (["--host", "999.1.1.1"], "--host: must be a name or an address of this machine, got "),
        (["--host", "192.0.2.1"], "--host: must be a name or an address of this machine, got "),
        (["--max-work", "0"], "--max-work: must be"),
        (["--body-timeout-s", "0"], "--body-timeout-s: must be a number above 0"),
    ],
)
def test_bad_options_are_told_before_anything_is_served(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyxai_fast.cli import main

    assert main(["serve", "--model", "demo", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("logs")
def test_a_port_in_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from pyxai_fast.cli import main

    with contextlib.closing(listen("127.0.0.1", 0)) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--model", "demo", "--port", str(port)]) == 2
    assert f"--port: 127.0.0.1:{port} cannot be had" in capsys.readouterr().err


@pytest.mark.usefixtures("logs")
def test_missing_packages_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    from pyxai_fast.cli import main

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "uvicorn" else find(name, *a)
    )
    assert main(["serve", "--model", "demo"]) == 2
    assert "serve: needs uvicorn; run: pip install pyxai-fast[serve]" in capsys.readouterr().err


def test_models_have_names_that_fit_addresses() -> None:
    assert name_of("demo") == "demo"
    assert name_of("torchvision:resnet50") == "resnet50"
    assert name_of("hf:microsoft/resnet-50") == "resnet-50"
    assert name_of("onnx:models/a b.onnx") == "a-b.onnx"
    assert name_of("http://host/v1/models/m:predict") == "predict"
    assert name_of("::") == "model"

"""A server on Ray gives the bits of a server without it, and loses nothing when it ends."""

from __future__ import annotations

import base64
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("ray.serve", reason="ray[serve] is not installed")

from pyxai_fast import cli, cli_serve  # noqa: E402
from pyxai_fast.models.spec import load_model  # noqa: E402
from pyxai_fast.picture_explainer import PictureExplainer  # noqa: E402
from pyxai_fast.serving import on_ray  # noqa: E402

DIGIT = Path(__file__).parent.parent / "pyxai_fast/serving/page/digit.png"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_the_command_on_ray_explains_as_the_library_does() -> None:
    port = free_port()
    command = [sys.executable, "-m", "pyxai_fast", "serve", "--model", "demo", "--steps", "10"]
    command += ["--port", str(port), "--ray", "--max-batch", "4", "--timeout-s", "90", "--quiet"]
    command += ["--drain-s", "90"]
    quiet = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **quiet},
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("serving demo on "):
                break
        else:
            pytest.fail("".join(said))
        url = f"http://127.0.0.1:{port}"
        get = functools.partial(httpx.get, trust_env=False, timeout=20)
        assert get(f"{url}/readyz").status_code == 200
        answer = httpx.post(
            f"{url}/v1/models/demo:explain",
            content=DIGIT.read_bytes(),
            headers={"content-type": "image/png"},
            trust_env=False,
            timeout=20,
        ).json()["explanations"][0]
        assert answer["target"] == 3
        assert np.array_equal(floats(answer), local_map())
        wrong = httpx.post(f"{url}/v1/models/x:explain", content=b"", trust_env=False)
        assert (wrong.status_code, list(wrong.json())) == (404, ["error"])
        assert "pyxai_fast_pictures_total" in get(f"{url}/metrics").text
        assert get(f"{url}/").text.startswith("<!DOCTYPE html>")
        # What is being computed when the server is stopped is answered nevertheless.
        late: list[Any] = []
        asked = {"instances": [np.full((32, 32), 0.5).tolist()] * 40}
        asked["parameters"] = {"method": "smooth_grad", "n_samples": 200}  # type: ignore[assignment]

        def client() -> None:
            path = f"{url}/v1/models/demo:explain"
            late.append(httpx.post(path, json=asked, trust_env=False, timeout=90))

        thread = threading.Thread(target=client)
        thread.start()
        give_up = time.monotonic() + 60
        while waiting(get(f"{url}/metrics").text) < 30:
            assert thread.is_alive() and time.monotonic() < give_up
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        thread.join(10)
        assert late[0].status_code == 200 and len(late[0].json()["explanations"]) == 40
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def waiting(metrics: str) -> float:
    (line,) = (x for x in metrics.splitlines() if x.startswith("pyxai_fast_queue_pictures "))
    return float(line.split()[1])


def test_a_replica_whose_thread_has_ended_is_not_healthy() -> None:
    replica = on_ray.Replica.__new__(on_ray.Replica)
    replica.serving = SimpleNamespace(service=SimpleNamespace(alive=True))  # type: ignore[assignment]
    replica.check_health()
    replica.serving.service.alive = False  # type: ignore[misc]
    with pytest.raises(RuntimeError, match="the thread of the model has ended"):
        replica.check_health()


def test_what_waits_at_a_proxy_is_bounded_in_number_and_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: dict[str, Any] = {}

    def start(http_options: dict[str, Any]) -> None:
        told.update(http_options)

    def run(app: Any, **options: Any) -> None:
        deployment = app._bound_deployment
        told["ongoing"] = deployment.max_ongoing_requests
        told["queued"] = deployment.max_queued_requests
        raise KeyboardInterrupt

    for name, instead in (("start", start), ("run", run), ("shutdown", lambda: None)):
        monkeypatch.setattr(on_ray.serve, name, instead)
    monkeypatch.setattr(cli_serve, "_log", lambda quiet: None)
    command = ["serve", "--model", "demo", "--ray", "--timeout-s", "20", "--max-queue", "50"]
    cli.main([*command, "--max-batch", "4", "--max-connections", "100"])
    assert told["queued"] == 50
    # 100 on their way in, 50 being decoded, 50 that wait and a batch: the next is told 429.
    assert told["ongoing"] >= 100 + 50 + 50 + 4
    assert 20 < told["request_timeout_s"] <= 40  # the replica's own 504 comes first


def test_replicas_are_waited_for_longer_than_ray_does_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apps, asked = {on_ray.APP: "RUNNING"}, []

    def delete(name: str) -> None:
        asked.append(name)
        if len(asked) < 3:
            raise TimeoutError
        apps.clear()

    monkeypatch.setattr(on_ray.serve, "status", lambda: SimpleNamespace(applications=apps))
    monkeypatch.setattr(on_ray.serve, "delete", delete)
    assert on_ray._drained(30.0)
    assert asked == [on_ray.APP] * 3

    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    apps[on_ray.APP] = "DELETING"
    monkeypatch.setattr(on_ray.serve, "delete", interrupted)
    assert not on_ray._drained(30.0)


def floats(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    sent = answer["attributions"]
    return np.frombuffer(base64.b64decode(sent["b64"]), "<f4").reshape(sent["shape"])


def local_map() -> np.ndarray[Any, Any]:
    from pyxai_fast.images import read_image

    model = load_model("demo", torch.device("cpu"))
    explainer = PictureExplainer(model, "cpu", "integrated_gradients", n_steps=10)
    explainer.fix(4)
    maps = explainer(read_image(DIGIT, model.preprocessing)[None], numbers=[0]).attributions
    assert isinstance(maps, torch.Tensor)
    return np.asarray(maps[0])

"""A server on Ray gives the bits of a server without it."""

from __future__ import annotations

import base64
import functools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("ray.serve", reason="ray[serve] is not installed")

from pyxai_fast.models.spec import load_model  # noqa: E402
from pyxai_fast.picture_explainer import PictureExplainer  # noqa: E402

DIGIT = Path(__file__).parent.parent / "pyxai_fast/serving/page/digit.png"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_the_command_on_ray_explains_as_the_library_does() -> None:
    port = free_port()
    command = [sys.executable, "-m", "pyxai_fast", "serve", "--model", "demo", "--steps", "10"]
    command += ["--port", str(port), "--ray", "--max-batch", "4", "--timeout-s", "20", "--quiet"]
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
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


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

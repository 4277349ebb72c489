"""The command line asks files and servers, and says what that cost, never with what secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_server import ModelServer
from nets import conv_net
from torch import Tensor

from pyxai_fast import BlackBox, Explanation, Preprocessing, QueryError, picture_explainer
from pyxai_fast.cli import main
from pyxai_fast.models.errors import ModelSpecError
from pyxai_fast.models.preprocessing_file import read_preprocessing
from pyxai_fast.models.spec import load_model
from pyxai_fast.runtime.cost import Cost

pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

PIXELS = Preprocessing()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def net() -> Any:
    return conv_net()


@pytest.fixture
def server(net: Any) -> Iterator[ModelServer]:
    with ModelServer(net, shape=(-1, 3, 8, 8)) as running:
        yield running


@pytest.fixture
def picture(tmp_path: Path) -> str:
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "one.png")
    return str(tmp_path / "one.png")


@pytest.fixture
def occlusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the methods: what can be learnt from answers alone, two for each picture."""

    def explain(
        model: Any, pixels: Tensor, *, preprocessing: Preprocessing, method: str, **_: Any
    ) -> Explanation:
        outputs = model(preprocessing.normalise(pixels))
        model(preprocessing.normalise(pixels * 0))
        return Explanation(
            attributions=pixels.clone(),
            inputs=pixels,
            target=outputs.argmax(1),
            outputs=outputs,
            delta=None,
            cost=Cost(queries=2 * len(pixels)),
            method=method,
            settings={"output": "logit"},
        )

    monkeypatch.setattr(picture_explainer, "explain", explain)


def run(pictures: str | list[str], out: Path, *arguments: str) -> int:
    images = [pictures] if isinstance(pictures, str) else pictures
    fixed = ["--device", "cpu", "--no-progress", "--method", "saliency"]
    return main(["explain", *images, "--out", str(out), *fixed, *arguments])


# ---------------------------------------------------------------- load_model


def test_addresses_are_models(server: ModelServer, net: Any) -> None:
    x = torch.rand(2, 3, 8, 8)
    with pytest.warns(UserWarning, match=r"assumed are RGB pixels in \[0, 1\], 8x8"):
        loaded = load_model(server.v2)
    assert loaded.preprocessing == Preprocessing(size=(8, 8)) and loaded.spec == server.v2
    assert isinstance(loaded.module, BlackBox)
    torch.testing.assert_close(loaded.module(x), net(x).detach(), rtol=1e-6, atol=1e-6)
    loaded.module.close()
    with pytest.warns(UserWarning, match="in the size of the pictures"):
        loaded = load_model(server.v1)
    torch.testing.assert_close(loaded.module(x).float(), net(x).detach(), rtol=1e-6, atol=1e-6)
    loaded.module.close()


def test_uint8_servers_get_grey_levels(net: Any) -> None:
    x = torch.rand(2, 3, 8, 8)
    with ModelServer(net, shape=(-1, 3, 8, 8), datatypes=("UINT8",)) as server:
        with pytest.warns(UserWarning, match=r"0\.\.255"):
            loaded = load_model(server.v2)
        answer = loaded.module(loaded.preprocessing.normalise(x))
        expected = net((x * 255).round()).detach()
        torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)
        loaded.module.close()


def test_options_reach_the_server_and_unknown_ones_are_listed(server: ModelServer) -> None:
    options = {"budget": 3, "cache": True, "rows_per_request": 1, "timeout": 2, "retries": 0}
    loaded = load_model(server.v1, options=options, preprocessing=PIXELS)
    assert isinstance(loaded.module, BlackBox) and loaded.module.budget == 3
    loaded.module(torch.rand(3, 3, 8, 8))
    assert [shape[0] for shape in server.received] == [1, 1, 1]
    loaded.module.close()
    with pytest.raises(ModelSpecError, match=r"those of http models are answers, backoff.*got bud"):
        load_model(server.v1, options={"budgets": 3})
    with pytest.raises(ModelSpecError, match="token_env=VARIABLE or headers_file=FILE"):
        load_model(server.v1, options={"header": "secret"})
    with pytest.raises(ModelSpecError, match="those of demo models are none; got budget"):
        load_model("demo", options={"budget": 3})


def test_a_server_that_is_not_there_is_one_line() -> None:
    with pytest.raises(QueryError, match="no connection") as caught:
        load_model("http://127.0.0.1:9/v2/models/m/infer", options={"retries": 0})
    assert "\n" not in str(caught.value)


def test_a_python_factory_may_make_a_black_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "boxes.py").write_text(
        "from pyxai_fast import BlackBox, Preprocessing\n"
        "def plain():\n    return BlackBox(lambda x: x.flatten(1), budget=5)\n"
        "def pair():\n    return plain(), Preprocessing(size=(8, 8))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_model("python:boxes.py:plain").module, BlackBox)
    loaded = load_model("python:boxes.py:pair", "cpu")
    assert loaded.preprocessing.size == (8, 8)
    assert loaded.module(torch.rand(2, 3, 1, 1)).shape == (2, 3)


# ---------------------------------------------------------------- preprocessing files


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"mean": [0.5], "std": [0.25], "size": [8, 6]}, {"mean": (0.5,), "std": (0.25,)}),
        ({"size": [8, 6], "resize": 9}, {"resize": 9}),
        (
            {"size": {"height": 8, "width": 6}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3},
            {"mean": (0.5,), "std": (0.25,)},
        ),
        ({"do_resize": True, "do_normalize": False, "size": {"height": 8, "width": 6}}, {}),
        ({"settings": {}, "preprocessing": {"size": [8, 6], "channels": 1}}, {"channels": 1}),
    ],
)
def test_preprocessing_is_read_from_any_of_three_files(
    tmp_path: Path, contents: Any, expected: Any
) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps(contents))
    assert read_preprocessing(file) == Preprocessing(**{"size": (8, 6), **expected})


def test_every_preprocessing_survives_a_file(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    for preprocessing in (
        Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5,), size=(8, 6), resize=(9, 9)),
        Preprocessing(channels=1, interpolation="lanczos", std=(1 / 255,)),
    ):
        file.write_text(json.dumps(preprocessing.as_dict()))
        assert read_preprocessing(file) == preprocessing


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "must hold mean, std, size"),
        ('{"sise": 3}', "or a run.json; got sise"),
        ('{"std": [0]}', "std must be positive"),
        ('{"size": 8}', "p.json"),
        ('{"do_resize": true}', "not to which size"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, contents: str, message: str) -> None:
    file = tmp_path / "p.json"
    file.write_text(contents)
    with pytest.raises(ModelSpecError, match=message) as caught:
        read_preprocessing(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelSpecError, match="No such file"):
        read_preprocessing(tmp_path / "nothing.json")


def test_a_file_replaces_the_preprocessing_of_any_model(tmp_path: Path, picture: str) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"size": [32, 32], "resize": 40, "channels": 1}))
    out = tmp_path / "out"
    assert run(picture, out, "--model", "demo", "--preprocessing", str(file)) == 0
    said = json.loads((out / "run.json").read_text())
    assert said["preprocessing"]["resize"] == 40
    # And what a run wrote is such a file.
    again = ["--model", "demo", "--preprocessing", str(out / "run.json")]
    assert run(picture, tmp_path / "again", *again) == 0


# ---------------------------------------------------------------- runs


def test_a_run_records_what_was_asked_and_no_secret(
    server: ModelServer,
    picture: str,
    tmp_path: Path,
    occlusion: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MY_TOKEN", "swordfish")
    url = f"{server.v2}?key=opensesame"
    out = tmp_path / "out"
    options = ["--model-set", "token_env=MY_TOKEN", "--model-set", "budget=10"]
    server.faults.append("503")
    options += ["--model-set", "backoff=0.001"]
    assert run(picture, out, "--model", url, *options) == 0
    said = json.loads((out / "run.json").read_text())
    assert said["cost"]["queries"] == 2
    assert said["cost"]["sent"] == server.rows == 3 and said["cost"]["budget"] == 10
    assert said["settings"]["model"] == server.v2
    assert said["settings"]["model_options"]["token_env"] == "MY_TOKEN"
    assert all(sent["Authorization"] == "Bearer swordfish" for sent in server.headers)
    captured = capsys.readouterr()
    texts = [(out / "run.json").read_text(), captured.out, captured.err]
    for text in texts:
        assert not any(word in text for word in ("swordfish", "opensesame"))
    assert "assumed are RGB pixels in [0, 1], 8x8" in captured.err


def test_a_server_that_dies_is_one_line_and_keeps_what_was_done(
    server: ModelServer,
    picture: str,
    tmp_path: Path,
    occlusion: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, cache = tmp_path / "out", tmp_path / "answers.sqlite"
    server.faults.extend(["", "", "500"])
    model = ["--model", server.v1, "--model-set", f"cache={cache}", "--batch-size", "1"]
    second = tmp_path / "two.png"
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(second)
    assert run([picture, str(second)], out, *model) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1 and "HTTP 500" in error[0] and "3 queries are spent" in error[0]
    said = json.loads((out / "run.json").read_text())
    assert len(said["results"]) == 1 and said["cost"]["sent"] == 3
    assert run([picture, str(second)], out, *model, "--overwrite") == 0
    assert server.rows == 4  # black was known, and so was the first picture


def test_files_of_onnx_are_asked(net: Any, picture: str, tmp_path: Path, occlusion: None) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx_files import write_conv_net

    path = write_conv_net(net, tmp_path / "m.onnx")
    out = tmp_path / "out"
    assert run(picture, out, "--model", f"onnx:{path}", "--model-set", "threads=1") == 0
    assert json.loads((out / "run.json").read_text())["cost"]["sent"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "onnx:nowhere.onnx"], "there is no file"),
        (["--model", "http://127.0.0.1:9/predict"], "http://HOST/v1/models/NAME:predict or"),
        (["--model", "demo", "--model-set", "budget=3"], "those of demo models are none"),
        (["--model", "demo", "--model-set", "budget"], "--model-set: must be NAME=VALUE"),
        (["--model", "demo", "--preprocessing", "nowhere.json"], "No such file"),
        (
            ["--model", "http://127.0.0.1:9/v1/models/m", "--model-set", "answers=classes"],
            "answers must be logits or probabilities",
        ),
        (
            ["--model", "http://127.0.0.1:9/v1/models/m", "--model-set", "timeout=soon"],
            "timeout must be seconds above 0",
        ),
        (
            ["--model", "https://127.0.0.1:9/v1/models/m", "--model-set", "token=swordfish"],
            "token_env=VARIABLE",
        ),
    ],
)
def test_bad_models_are_one_line_and_exit_code_two(
    picture: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert run(picture, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert "swordfish" not in error

"""Black boxes explained end to end: the same maps whoever answers, and what a fault leaves."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assertions import assert_same_bits
from model_server import ModelServer
from nets import conv_net
from torch import Tensor

from pyxai_fast import (
    BlackBox,
    Cost,
    IntegratedGradients,
    LikelihoodRatio,
    QueryError,
    Saliency,
    Unfinished,
    explain,
)
from pyxai_fast.cli import main

pytest.importorskip("httpx", reason="httpx is not installed")

# As many as are asked together, so that inputs are finished one after the other.
COPIES = 256
QUICK = {"retries": 1, "backoff": 0.01, "timeout": 5}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(autouse=True)
def few_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyxai_fast.methods.loop.ASKED_TOGETHER", COPIES)


@pytest.fixture(scope="module")
def net() -> Any:
    return conv_net()


@pytest.fixture
def server(net: Any) -> Iterator[ModelServer]:
    with ModelServer(net, shape=(-1, 3, 8, 8)) as running:
        yield running


# --- from Python ---------------------------------------------------------------------------------


def test_functions_of_arrays_and_of_tensors_give_the_same_map(net: Any) -> None:
    def of_arrays(x: np.ndarray) -> np.ndarray:
        assert isinstance(x, np.ndarray)
        return net(torch.from_numpy(x)).detach().numpy()

    x = torch.rand(2, 3, 8, 8)
    maps = [
        IntegratedGradients(model, gradient=LikelihoodRatio(64), memory_format="contiguous")
        .attribute(x, target=1, n_steps=3, internal_batch_size=16)
        for model in (net, BlackBox(of_arrays, takes="numpy"), BlackBox(net))
    ]  # fmt: skip
    assert_same_bits(maps[1], maps[2])
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-3, atol=1e-4)


def test_a_forest_can_be_explained() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    table = rng.normal(size=(400, 4))
    forest = ensemble.RandomForestClassifier(20, random_state=0)
    forest.fit(table, table[:, 2] > 0)
    explanation = explain(
        BlackBox.from_sklearn(forest),
        torch.from_numpy(table[:6]),
        method="saliency",
        output="prob",
        gradient=LikelihoodRatio(400, 0.5, "rademacher"),
    )
    assert explanation.attributions.mean(0).argmax() == 2
    assert explanation.standard_error.shape == (6, 4)


def test_a_model_that_only_answers_is_not_asked_for_a_gradient(net: Any) -> None:
    box = BlackBox(net)
    with pytest.raises(ValueError, match=r"gradient must be one that only asks.*LikelihoodRatio"):
        explain(box, torch.rand(1, 3, 8, 8))
    assert box.queries == 0


def test_a_budget_that_cannot_be_enough_is_refused_before_it_is_touched(net: Any) -> None:
    box = BlackBox(net, budget=100)
    with pytest.raises(QueryError, match="200 queries are needed"):
        Saliency(box, gradient=LikelihoodRatio(100)).attribute(torch.rand(2, 3, 8, 8), target=0)
    assert box.queries == 0


def test_answers_in_a_cache_are_not_asked_again(net: Any) -> None:
    box = BlackBox(net, cache=True)
    method = Saliency(box, gradient=LikelihoodRatio(40))
    x = torch.rand(1, 3, 8, 8)
    first = method.attribute(x, target=0)
    assert box.queries == 40
    assert_same_bits(method.attribute(x, target=0), first)
    method.attribute(x, target=1)
    assert box.queries == 40


# --- faults in the middle ------------------------------------------------------------------------


class DiesAfter:
    """A function that raises once it has answered so many rows."""

    def __init__(self, model: Any, rows: int) -> None:
        self.model, self.rows = model, rows

    def __call__(self, x: Tensor) -> Tensor:
        if self.rows < len(x):
            raise QueryError("dying model", "it died", spent=7)
        self.rows -= len(x)
        return self.model(x)


def test_inputs_that_were_finished_before_a_fault_are_kept(net: Any) -> None:
    x = torch.rand(5, 3, 8, 8)
    gradient = LikelihoodRatio(COPIES)
    whole = Saliency(net, gradient=gradient).attribute(x[:3], target=0, return_standard_error=True)
    cost = Cost()
    method = Saliency(DiesAfter(net, 3 * COPIES + 100), gradient=gradient)
    with pytest.raises(Unfinished, match="dying model: it died") as caught:
        method.attribute(x, target=0, return_standard_error=True, cost=cost)
    assert caught.value.finished.tolist() == [0, 1, 2]
    torch.testing.assert_close(caught.value.attributions, whole[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(caught.value.standard_errors, whole[1], rtol=1e-4, atol=1e-6)
    assert caught.value.spent == 7
    assert 3 * COPIES <= cost.queries <= 3 * COPIES + 100
    assert cost.seconds > 0


def test_what_explain_had_finished_comes_with_the_error(net: Any) -> None:
    x = torch.rand(5, 3, 8, 8)
    with pytest.raises(Unfinished) as caught:
        explain(
            DiesAfter(net, 5 + 3 * COPIES),
            x,
            method="saliency",
            gradient=LikelihoodRatio(COPIES),
            target=[0, 1, 2, 3, 4],
        )
    explanation = caught.value.explanation
    assert explanation.attributions.shape == (3, 3, 8, 8)
    assert explanation.target.tolist() == [0, 1, 2]
    assert_same_bits(explanation.inputs, x[:3])
    assert explanation.outputs.shape == (3, 5)


def test_a_gap_that_cannot_be_asked_for_does_not_cost_the_explanation(net: Any) -> None:
    x = torch.rand(2, 3, 8, 8)
    gradient = LikelihoodRatio(20)
    asked = 2 + 2 * 5 * 20
    with pytest.warns(UserWarning, match="completeness gap is not known: dying model: it died"):
        explanation = explain(DiesAfter(net, asked), x, gradient=gradient, n_steps=5)
    assert explanation.delta is None
    assert explanation.attributions.shape == x.shape
    method = IntegratedGradients(DiesAfter(net, asked - 2), gradient=gradient)
    with pytest.raises(Unfinished) as caught:
        method.attribute(x, target=0, n_steps=5, return_convergence_delta=True)
    assert caught.value.finished.tolist() == [0, 1]
    assert caught.value.attributions.shape == x.shape


def test_an_error_of_a_function_is_asked_for_once_and_keeps_what_was_finished(net: Any) -> None:
    asked = []

    def model(x: Tensor) -> Tensor:
        asked.append(len(x))
        if sum(asked) > 2 * COPIES + 100:
            raise RuntimeError("out of luck")
        return net(x)

    box = BlackBox(model)
    with pytest.raises(Unfinished, match="RuntimeError: out of luck") as caught:
        Saliency(box, gradient=LikelihoodRatio(COPIES)).attribute(torch.rand(3, 3, 8, 8), target=0)
    assert caught.value.finished.tolist() == [0, 1]
    assert sum(asked) == box.queries == caught.value.spent <= 3 * COPIES
    assert isinstance(caught.value.__cause__.__cause__, RuntimeError)


def test_what_was_finished_survives_pickling(net: Any) -> None:
    method = Saliency(DiesAfter(net, COPIES + 100), gradient=LikelihoodRatio(COPIES))
    with pytest.raises(Unfinished) as caught:
        method.attribute(torch.rand(2, 3, 8, 8), target=0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.finished.tolist() == [0]
    assert_same_bits(again.attributions, caught.value.attributions)


def test_nothing_finished_is_nothing_kept(net: Any) -> None:
    with pytest.raises(Unfinished) as caught:
        explain(DiesAfter(net, 10), torch.rand(1, 3, 8, 8), gradient=LikelihoodRatio(64))
    assert caught.value.explanation is None
    assert caught.value.attributions is None


@pytest.mark.parametrize("fault", ["500", "nan", "rows", "garbage"])
def test_every_fault_of_a_server_names_itself_and_what_was_spent(
    server: ModelServer, fault: str
) -> None:
    x = torch.rand(2, 3, 8, 8)
    with BlackBox.from_url(server.v2, rows_per_request=COPIES // 8, concurrency=1, **QUICK) as box:
        # An input takes eight requests or a few more.
        server.faults.extend([""] * 14 + [fault] * 4)
        with pytest.raises(Unfinished) as caught:
            Saliency(box, gradient=LikelihoodRatio(COPIES)).attribute(x, target=0)
        assert caught.value.finished.tolist() == [0]
        # A request that was on its way when an answer turned out wrong may not have arrived.
        assert server.rows <= caught.value.spent <= server.rows + COPIES // 8
        assert caught.value.spent == box.queries
        assert f"{box.queries} queries are spent" in str(caught.value)


def test_a_slow_server_is_an_error_and_not_a_wait(server: ModelServer) -> None:
    server.seconds = 1.0
    with BlackBox.from_url(server.v2, timeout=0.1, retries=0) as box:
        with pytest.raises(QueryError, match=r"0\.1 s"):
            Saliency(box, gradient=LikelihoodRatio(8)).attribute(torch.rand(1, 3, 8, 8), target=0)
        assert box.queries == 8


# --- from the command line -----------------------------------------------------------------------

FACTORY = """
from nets import conv_net


def factory():
    return conv_net()
"""


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    paths = []
    for number in range(3):
        array = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(array).save(path)
        paths.append(str(path))
    return paths


def run(pictures: list[str], out: Path, *arguments: str) -> int:
    fixed = ["--device", "cpu", "--no-progress", "--format", "npz", "--method", "saliency"]
    estimate = ["--gradient", "likelihood_ratio", "--samples", "400", "--seed", "3"]
    return main(["explain", *pictures, "--out", str(out), *fixed, *estimate, *arguments])


def saved(out: Path, name: str = "0") -> dict[str, np.ndarray]:
    with np.load(out / f"{name}.npz") as arrays:
        return dict(arrays)


def test_a_file_and_a_server_give_the_map_of_the_model_in_process(
    net: Any, server: ModelServer, pictures: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx_files import write_conv_net

    (tmp_path / "factory.py").write_text(FACTORY)
    models = {
        "process": f"python:{tmp_path / 'factory.py'}:factory",
        "file": f"onnx:{write_conv_net(net, tmp_path / 'm.onnx')}",
        "v1": server.v1,
        "v2": server.v2,
    }
    for name, model in models.items():
        assert run(pictures[:1], tmp_path / name, "--model", model) == 0
    expected = saved(tmp_path / "process")
    assert np.abs(expected["attributions"]).max() > 0
    for name in ("file", "v1", "v2"):
        got = saved(tmp_path / name)
        for array in ("attributions", "standard_error"):
            np.testing.assert_allclose(got[array], expected[array], rtol=2e-3, atol=1e-4)
        said = json.loads((tmp_path / name / "run.json").read_text())
        assert said["cost"]["queries"] == said["cost"]["sent"] == 401
        assert said["settings"]["gradient"] == "likelihood_ratio"
        assert 0.5 < said["results"][0]["error"] < 2  # 192 unknowns, 200 pairs
    assert server.rows == 2 * 401
    assert "standard error" in capsys.readouterr().out


def test_pictures_finished_before_a_server_died_are_written(
    server: ModelServer, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of each picture first the answer that names its class, then its copies in 64 requests.
    server.faults.extend([""] * (1 + 64 + 3) + ["500"] * 20)
    options = ["--model-set", f"rows_per_request={COPIES // 64}", "--model-set", "concurrency=1"]
    options += ["--model-set", "retries=0"]
    code = main(
        ["explain", *pictures, "--out", str(tmp_path / "out"), "--model", server.v2,
         "--method", "saliency", "--gradient", "likelihood_ratio", "--samples", str(COPIES),
         "--device", "cpu", "--format", "npz", "--no-progress", *options]
    )  # fmt: skip
    assert code == 1
    said = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [result["file"] for result in said["results"]] == pictures[:1]
    assert [failure["file"] for failure in said["failures"]] == pictures[1:]
    assert all("not finished" in failure["reason"] for failure in said["failures"])
    assert said["cost"]["sent"] == server.rows
    assert saved(tmp_path / "out")["attributions"].shape == (3, 8, 8)
    error = capsys.readouterr().err
    assert f"{server.rows} queries are spent" in error and "HTTP 500" in error


def test_a_budget_that_ends_between_pictures_keeps_those_before(
    server: ModelServer, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", server.v2, "--model-set", "budget=900", "--batch-size", "1"]
    assert run(pictures, tmp_path / "out", *options) == 1
    said = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [result["file"] for result in said["results"]] == pictures[:2]
    assert [failure["file"] for failure in said["failures"]] == pictures[2:]
    assert server.rows == said["cost"]["sent"] == 2 * 401
    assert "401 queries are needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gradient", "guess"], "--gradient: must be one of autograd, likelihood_ratio"),
        (["--gradient-set", "blocks"], "--gradient-set: must be NAME=VALUE"),
        (["--gradient-set", "block=3"], "--gradient-set: options of likelihood_ratio must be amon"),
        (["--gradient-set", "seed=1"], "--seed and seed=... say the same thing"),
        (["--gradient-set", "mode=all"], "LikelihoodRatio: mode must be one of partition"),
        (["--gradient", "autograd"], "--samples: neither the method saliency nor the gradient"),
    ],
)
def test_options_of_a_gradient_that_make_no_sense_are_one_line(
    arguments: list[str], message: str, pictures: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run(pictures, tmp_path / "out", "--model", "demo", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_samples_and_their_size_are_the_methods_where_the_gradient_takes_none(
    pictures: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code = main(
        ["explain", pictures[0], "--out", str(out), "--model", "demo", "--method", "smooth_grad",
         "--samples", "7", "--sigma", "0.2", "--seed", "1", "--device", "cpu", "--format", "npz",
         "--no-progress"]
    )  # fmt: skip
    assert code == 0
    cost = json.loads((out / "run.json").read_text())["cost"]
    assert cost["gradients"] == 7

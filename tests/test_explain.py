"""The front door."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import conv_net, mlp

import pyxai_fast
from pyxai_fast import METHODS, Explanation, explain
from pyxai_fast.methods import PerturbationMethod


@pytest.mark.parametrize("method", list(METHODS))
def test_the_predicted_class_is_explained_by_default(method: str) -> None:
    model, inputs = conv_net(), torch.randn(3, 3, 10, 10)
    explanation = explain(model, inputs, method=method)
    outputs = model(inputs)
    asks = issubclass(METHODS[method], PerturbationMethod)
    told = outputs.softmax(1) if asks else outputs
    torch.testing.assert_close(explanation.outputs, told.detach())
    assert torch.equal(explanation.target, outputs.argmax(1))
    assert explanation.attributions.shape == inputs.shape
    expected = METHODS[method](model).attribute(inputs, target=outputs.argmax(1))
    torch.testing.assert_close(explanation.attributions, expected)
    assert explanation.method == method


@pytest.mark.parametrize("target", [1, [0, 2, 1], torch.tensor([0, 2, 1])], ids=str)
def test_a_given_target_is_kept(target) -> None:
    explanation = explain(mlp(), torch.randn(3, 6), target=target)
    expected = torch.as_tensor(target).expand(3)
    assert torch.equal(explanation.target, expected)


def test_delta_is_the_completeness_gap_of_methods_that_promise_completeness() -> None:
    model, inputs = mlp(), torch.randn(3, 6)
    explanation = explain(model, inputs, target=1, n_steps=3, baselines=0.5)
    with torch.no_grad():
        way = model(inputs)[:, 1] - model(torch.full((3, 6), 0.5))[:, 1]
    torch.testing.assert_close(explanation.delta, explanation.attributions.sum(1) - way)
    assert explain(model, inputs, method="saliency").delta is None
    assert explain(model, inputs, multiply_by_inputs=False).delta is None


def test_a_model_with_one_output_needs_no_target() -> None:
    explanation = explain(lambda x: x.square().sum(1), torch.randn(2, 4))
    assert explanation.target is None
    assert explanation.outputs.shape == (2,)


def test_options_reach_the_constructor_and_the_call_and_are_recorded() -> None:
    explanation = explain(
        mlp(),
        torch.randn(2, 6),
        target=0,
        output="prob",
        memory_format="contiguous",
        n_steps=7,
        internal_batch_size=4,
    )
    assert explanation.cost.gradients == 14
    assert explanation.cost.rows_per_chunk == 4
    assert explanation.settings == {
        "method": "integrated_gradients",
        "gradient": "Autograd()",
        "output": "prob",
        "memory_format": "contiguous",
        "n_steps": 7,
        "internal_batch_size": 4,
    }
    assert float(explanation.outputs.sum()) == pytest.approx(2)


def test_each_model_evaluation_is_counted_and_none_is_made_twice() -> None:
    rows = []
    net = mlp()

    def model(x: torch.Tensor) -> torch.Tensor:
        rows.append(x.shape[0])
        return net(x)

    cost = explain(model, torch.randn(3, 6), n_steps=5).cost
    # Three outputs, fifteen gradients, one shared baseline.
    assert cost.queries == 4
    assert cost.gradients == 15
    assert sum(rows) == 19


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "limes"}, ValueError, "method must be one of integrated_gradients, .*'limes'"),
        (
            {"steps": 5},
            TypeError,
            r"options of integrated_gradients must be among .*n_steps.*steps",
        ),
        (
            {"method": "stick_breaking_ig", "alph": 3},
            TypeError,
            r"options of stick_breaking_ig must be among .*aggregate, alpha.*did you mean alpha",
        ),
        (
            {"path": "blur"},
            ValueError,
            r"path must be a path, such as StickBreaking\(\), got 'blur'",
        ),
        ({"method": "saliency", "baselines": 0}, ValueError, "saliency, which has no path"),
        ({"target": [1]}, ValueError, "each of the 2 examples, got 1"),
        ({"n_steps": 0}, ValueError, "n_steps must be an integer >= 1, got 0"),
        ({"baselines": torch.zeros(9)}, ValueError, r"a baseline must .*got \[9\]"),
        ({"internal_batch_size": 0}, ValueError, "internal_batch_size must .*got 0"),
        ({"method": "smooth_grad", "n_samples": 0}, ValueError, "n_samples must .*got 0"),
        ({"method": "smooth_grad", "sigma": "a"}, ValueError, "sigma must be a number"),
    ],
)
def test_bad_options_are_named_before_the_model_is_asked(options: dict, error, words: str) -> None:
    def never(_x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model was asked")

    with pytest.raises(error, match=words):
        explain(never, torch.randn(2, 6), **options)


def test_a_target_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 4\) .* got 4"):
        explain(mlp(), torch.randn(2, 6), target=4)


def test_the_backend_that_ran_is_recorded() -> None:
    from pyxai_fast import ops

    assert explain(mlp(), torch.randn(2, 6)).cost.backend == ops.backend_of(torch.device("cpu"))
    with ops.native_kernels(False):
        assert explain(mlp(), torch.randn(2, 6)).cost.backend == "reference"


def test_inputs_that_are_outputs_are_saved(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    x = torch.rand(2, 3)
    explain(torch.nn.Flatten(), x).save(tmp_path / "same.safetensors")
    explain(lambda a, b: (a + b).sum(1), (x, x)).save(tmp_path / "twice.safetensors")


def test_outputs_with_more_dimensions_need_a_target() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x, -x], 1)

    with pytest.raises(ValueError, match=r"outputs that are not \[B, n\]"):
        explain(model, torch.randn(2, 6))
    explanation = explain(model, torch.randn(2, 6), target=(1, 3))
    assert explanation.target.tolist() == [[1, 3], [1, 3]]


def explanation() -> Explanation:
    return explain(conv_net(), torch.rand(2, 3, 8, 8), target=1, n_steps=4, memory_format="auto")


def test_it_is_saved_and_read_back_as_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")
    made = explanation()
    path = made.save(tmp_path / "e.safetensors")
    with safetensors.safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("attributions"), made.attributions)
        assert torch.equal(file.get_tensor("target"), made.target)
        about = json.loads(file.metadata()["pyxai_fast"])
    assert about["settings"]["n_steps"] == 4
    assert about["cost"]["gradients"] == 8


def test_it_is_saved_and_read_back_as_npz(tmp_path: Path) -> None:
    made = explanation()
    with np.load(made.save(tmp_path / "e.npz")) as arrays:
        assert np.array_equal(arrays["attributions"], made.attributions.numpy())
        assert json.loads(str(arrays["about"]))["method"] == "integrated_gradients"


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"end in \.safetensors or \.npz, got 'e\.pt'"):
        explanation().save(tmp_path / "e.pt")


def test_tuples_of_inputs_are_saved_by_number(tmp_path: Path) -> None:
    made = explain(lambda a, b: (a + b).square().sum(1), (torch.rand(2, 3), torch.rand(2, 3)))
    with np.load(made.save(tmp_path / "e.npz")) as arrays:
        assert {"attributions.0", "attributions.1", "inputs.0", "inputs.1"} <= set(arrays)


def test_it_plots_images_and_tables(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    for made, name in ((explanation(), "image.png"), (explain(mlp(), torch.randn(2, 6)), "b.png")):
        made.plot(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5_000


def test_info_says_what_is_built_and_used() -> None:
    info = pyxai_fast.info()
    assert info["pyxai_fast"] == pyxai_fast.__version__
    assert info["backends"]["reference"] == "loaded"
    if info["backends"]["cpu"] == "loaded":
        assert info["cpu"]["isa"] in info["cpu"]["available_isas"]
    else:
        assert info["cpu"]["isa"] is None
    json.dumps(info)

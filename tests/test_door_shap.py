"""shap's plots draw our explanations, and the numbers add up as shap says they do."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from nets import Linear, conv_net, mlp
from table_models import Additive, OneFeature
from torch import Tensor

from pyxai_fast import LikelihoodRatio, Targets, explain

if importlib.util.find_spec("shap") is None:
    pytest.skip("shap is not installed", allow_module_level=True)
if importlib.util.find_spec("matplotlib") is None:
    pytest.skip("matplotlib is not installed", allow_module_level=True)

NAMES = ["age", "bmi", "dose", "pulse", "height", "weight"]


@pytest.fixture(scope="module")
def shap() -> Any:
    return importlib.import_module("shap")


@pytest.fixture
def plt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import matplotlib

    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.close("all")
    yield pyplot
    pyplot.close("all")
    matplotlib.use(before)


def texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def table(**options: Any) -> Any:
    torch.manual_seed(0)
    options = {"baselines": 0.2, "feature_names": NAMES, "target": 1, **options}
    return explain(mlp(), torch.rand(5, 6), **options)


def pictures(**options: Any) -> Any:
    torch.manual_seed(0)
    return explain(conv_net(), torch.rand(3, 3, 8, 10), **options)


# ---------------------------------------------------------------- numbers


def scores(explanation: Any, target: Tensor) -> np.ndarray:
    return explanation.outputs.gather(1, target.reshape(len(target), -1)).double().numpy()


def test_values_of_a_table_are_ours(shap: Any) -> None:
    made = table()
    shown = made.to_shap()
    assert isinstance(shown, shap.Explanation)
    np.testing.assert_array_equal(shown.values, made.attributions.numpy())
    np.testing.assert_array_equal(shown.data, made.inputs.numpy())
    assert list(shown.feature_names) == NAMES and shown.output_names == "class 1"


@pytest.mark.parametrize("n_steps", [2, 50])
def test_base_values_are_the_scores_of_the_baselines(n_steps: int) -> None:
    """So that values and base values add up to the output, but for the completeness gap."""
    made = table(n_steps=n_steps)
    shown = made.to_shap()
    base = mlp()(torch.full((1, 6), 0.2))[0, 1].item()
    np.testing.assert_allclose(shown.base_values, np.full(5, base), rtol=1e-5)
    total = shown.values.sum(1) + shown.base_values
    np.testing.assert_allclose(
        total, scores(made, made.target)[:, 0] + made.delta.numpy(), rtol=1e-5
    )
    if n_steps == 50:
        np.testing.assert_allclose(total, scores(made, made.target)[:, 0], rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("integrated_gradients", {"n_steps": 200}),
        ("guided_ig", {"n_steps": 200}),
        ("kernel_shap", {"output": "logit"}),
        ("stick_breaking_ig", {"n_steps": 50, "n_paths": 2}),
    ],
)
def test_values_of_complete_methods_add_up_to_the_output(
    method: str, options: dict[str, Any]
) -> None:
    made = table(method=method, **options)
    shown = made.to_shap()
    total = shown.values.sum(1) + shown.base_values
    np.testing.assert_allclose(total, scores(made, made.target)[:, 0], rtol=2e-2, atol=2e-3)
    base = mlp()(torch.full((1, 6), 0.2))[0, 1].item()
    np.testing.assert_allclose(shown.base_values, np.full(5, base), rtol=1e-4, atol=1e-5)


def test_base_values_of_expected_gradients_are_the_mean_of_the_references() -> None:
    torch.manual_seed(1)
    references = torch.randn(9, 6)
    shown = table(method="expected_gradients", baselines=references, n_samples=20).to_shap()
    expected = mlp()(references)[:, 1].mean().item()
    np.testing.assert_allclose(shown.base_values, np.full(5, expected), rtol=1e-4)


def test_shapley_values_of_a_regressor_are_shaps_own(shap: Any) -> None:
    weights = np.arange(1.0, 5.0)
    rows = np.random.default_rng(0).normal(size=(6, 4))
    shown = explain(Additive(weights), rows, method="kernel_shap", baselines="mean").to_shap()
    theirs = shap.explainers.Exact(Additive(weights).predict, rows)(rows)
    np.testing.assert_allclose(shown.values, theirs.values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shown.base_values, theirs.base_values, rtol=1e-4, atol=1e-5)
    assert shown.output_names is None


@pytest.mark.parametrize(
    "options",
    [
        {"method": "saliency", "baselines": None},
        {"method": "lime", "n_queries": 40},
        {"method": "integrated_gradients", "multiply_by_inputs": False},
        {"method": "kernel_shap", "feature_mask": torch.tensor([0, 0, 1, 1, 2, 2])},
    ],
    ids=lambda options: options["method"],
)
def test_attributions_that_add_up_to_nothing_have_no_base_values(options: Any) -> None:
    assert table(**options).to_shap().base_values is None


def test_several_targets_of_a_table_are_outputs(shap: Any) -> None:
    made = table(target=Targets(3, 0), class_names=["a", "b", "c", "d"], n_steps=20)
    shown = made.to_shap()
    assert shown.values.shape == (5, 6, 2) and list(shown.output_names) == ["d", "a"]
    for position in range(2):
        alone = made.for_target(position)
        np.testing.assert_array_equal(shown.values[..., position], alone.attributions.numpy())
        np.testing.assert_array_equal(shown.base_values[:, position], alone.to_shap().base_values)
    total = shown.values.sum(1) + shown.base_values
    np.testing.assert_allclose(total, scores(made, made.target), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(shown[:, :, "a"].values, shown.values[..., 1])


def test_pictures_have_their_channels_last_and_an_output() -> None:
    made = pictures(n_steps=20)
    shown = made.to_shap()
    assert shown.values.shape == (3, 8, 10, 3, 1) and shown.data.shape == (3, 8, 10, 3)
    np.testing.assert_array_equal(
        shown.values[..., 0], made.attributions.permute(0, 2, 3, 1).numpy()
    )
    total = shown.values.sum((1, 2, 3)) + shown.base_values
    np.testing.assert_allclose(total, scores(made, made.target), rtol=1e-3, atol=1e-4)


def test_several_targets_of_pictures_add_up_too() -> None:
    made = pictures(target=Targets(4, 1, 2), n_steps=20)
    shown = made.to_shap()
    assert shown.values.shape == (3, 8, 10, 3, 3)
    total = shown.values.sum((1, 2, 3)) + shown.base_values
    np.testing.assert_allclose(total, scores(made, made.target), rtol=1e-3, atol=1e-4)
    each = pictures(target=Targets([4, 1, 0], [0, 1, 2]), n_steps=20)
    shown = each.to_shap()
    assert list(shown.output_names) == ["output 1", "output 2"]  # rows have classes of their own
    total = shown.values.sum((1, 2, 3)) + shown.base_values
    np.testing.assert_allclose(total, scores(each, each.target), rtol=1e-3, atol=1e-4)


def test_targets_with_several_indices_are_found() -> None:
    class Boxes(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x, x.square(), x.exp()], 2)  # [B, 4, 3]

    x = torch.rand(2, 4)
    made = explain(Boxes(), x, target=[(1, 2), (3, 0)], n_steps=30)
    shown = made.to_shap()
    expected = np.array([float(x[0, 1].exp()), float(x[1, 3])])
    np.testing.assert_allclose(shown.values.sum(1) + shown.base_values, expected, rtol=1e-4)
    np.testing.assert_allclose(shown.base_values, [1.0, 0.0], atol=1e-4)


def test_standard_errors_come_along() -> None:
    made = table(
        method="saliency",
        baselines=None,
        abs=False,
        gradient=LikelihoodRatio(n_samples=50, sigma=0.1),
    )
    np.testing.assert_array_equal(made.to_shap().error_std, made.standard_error.numpy())


def test_inputs_of_a_tuple_are_refused() -> None:
    class Sum(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a * b).sum(1)

    made = explain(Sum(), (torch.rand(2, 3), torch.rand(2, 3)), n_steps=3)
    with pytest.raises(ValueError, match="to_shap: inputs must be one tensor, got a tuple"):
        made.to_shap()


# ---------------------------------------------------------------- plots


def test_a_waterfall_ends_at_the_output(shap: Any, plt: Any) -> None:
    made = table()
    shap.plots.waterfall(made.to_shap()[2], show=False)
    shown = texts(plt.gcf())
    output = scores(made, made.target)[2, 0]
    assert any(name in text for text in shown for name in NAMES)
    assert any(f"{output:.3f}" in text.replace("\u2212", "-") for text in shown), shown


def test_bars_and_swarms_of_a_table_are_drawn(shap: Any, plt: Any) -> None:
    for options in ({}, {"method": "saliency", "baselines": None}):
        shown = table(**options).to_shap()
        shap.plots.bar(shown, show=False)
        labels = [label.get_text() for label in plt.gca().get_yticklabels()]
        order = np.abs(shown.values).mean(0).argsort()[::-1]
        assert labels[: len(NAMES)] == [NAMES[i] for i in order]
        plt.close("all")
        shap.plots.bar(shown[1], show=False)
        plt.close("all")
        shap.plots.beeswarm(shown, show=False)
        assert set(NAMES) <= set(texts(plt.gcf()))
        plt.close("all")


def test_one_of_several_targets_is_drawn_by_its_name(shap: Any, plt: Any) -> None:
    shown = table(target=Targets(3, 0), class_names=["a", "b", "c", "d"]).to_shap()
    shap.plots.waterfall(shown[0, :, "d"], show=False)
    shap.plots.beeswarm(shown[:, :, 1], show=False)
    shap.plots.bar(shown[:, :, "a"], show=False)
    assert len(plt.get_fignums()) >= 1


def test_estimators_bring_their_names(shap: Any, plt: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 3))
    made = explain(
        OneFeature(1),
        rows,
        method="kernel_shap",
        baselines=0.0,
        target=1,
        feature_names=["a", "b", "c"],
    )
    shown = made.to_shap()
    assert shown.output_names == "ill"
    np.testing.assert_allclose(shown.base_values, np.full(4, 0.5), rtol=1e-5)
    p = OneFeature(1).predict_proba(rows)[:, 1]
    np.testing.assert_allclose(shown.values.sum(1) + shown.base_values, p, rtol=1e-4)
    shap.plots.beeswarm(shown, show=False)
    assert "b" in texts(plt.gcf())


@pytest.mark.parametrize(
    ("options", "panels", "titles"),
    [
        ({"target": 2, "class_names": list("abcde")}, 2, {"c"}),
        ({"target": [0, 3, 1]}, 2, {"output 1"}),
        ({"target": Targets(4, 1, 2), "class_names": list("abcde")}, 4, {"e", "b", "c"}),
        ({"target": Targets([4, 1, 0], [0, 1, 2])}, 3, {"output 1", "output 2"}),
        ({"method": "saliency", "target": 0}, 2, {"class 0"}),
    ],
)
def test_pictures_are_drawn_with_their_classes(
    shap: Any, plt: Any, options: Any, panels: int, titles: set[str]
) -> None:
    made = pictures(**options)
    shap.image_plot(made.to_shap(), show=False)
    figure = plt.gcf()
    axes = [one for one in figure.axes if one.images]
    assert len(axes) == 3 * panels
    assert {one.get_title() for one in axes} - {""} == titles
    maps = made.attributions if made.n_targets is None else made.attributions[:, 0]
    drawn = np.asarray(axes[1].images[-1].get_array())
    np.testing.assert_allclose(drawn, maps[0].sum(0).numpy(), rtol=1e-4, atol=1e-7)
    figure.canvas.draw()


def test_grey_pictures_are_drawn(shap: Any, plt: Any) -> None:
    made = explain(conv_net(channels=1), torch.rand(2, 1, 8, 8), n_steps=5, target=1)
    shap.image_plot(made.to_shap(), show=False)
    assert len([one for one in plt.gcf().axes if one.images]) == 4


def test_a_linear_model_has_the_values_that_shaps_own_explainer_gives(shap: Any) -> None:
    model = Linear(4)
    weight = model.weight[2].detach().numpy()
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    inputs = torch.from_numpy(rows)
    shown = explain(
        model, inputs, target=2, baselines=inputs.mean(0, keepdim=True), n_steps=3
    ).to_shap()
    theirs = shap.LinearExplainer((weight, 0.0), rows)(rows)
    np.testing.assert_allclose(shown.values, theirs.values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shown.base_values, theirs.base_values, rtol=1e-4, atol=1e-5)

"""Fitted estimators of scikit-learn, against what shap finds out from inside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pyxai_fast import BlackBox, explain

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pandas = pytest.importorskip("pandas", reason="pandas is not installed")

from sklearn.ensemble import (  # noqa: E402
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

COLUMNS = ["age", "bmi", "dose", "pulse"]


@pytest.fixture(scope="module")
def train() -> Any:
    rows = np.random.default_rng(0).normal([50, 25, 5, 70], [10, 4, 2, 8], (200, 4))
    return pandas.DataFrame(rows, columns=COLUMNS)


def outcome(train: Any) -> np.ndarray:
    return (
        0.1 * train["age"] - 0.4 * train["dose"] + 0.02 * train["bmi"] * train["dose"]
    ).to_numpy()


def test_a_linear_pipeline_has_the_contributions_of_its_weights(train: Any) -> None:
    """In the units of the table, whatever the scaler inside makes of it."""
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(train, outcome(train))
    weight = model[-1].coef_ / model[0].scale_
    made = explain(model, train[:5], method="kernel_shap", baselines=train.mean())
    expected = weight * (train[:5] - train.mean()).to_numpy()
    np.testing.assert_allclose(made.attributions, expected, rtol=1e-4, atol=1e-5)
    assert made.feature_names == COLUMNS and made.target is None and made.class_names is None
    np.testing.assert_allclose(made.outputs.reshape(-1), model.predict(train[:5]), rtol=1e-9)


def test_shapley_values_of_a_forest_that_regresses_are_shaps(train: Any) -> None:
    """shap computes them from the trees, against one background row."""
    shap = pytest.importorskip("shap", reason="shap is not installed")
    rows = train.to_numpy()
    forest = RandomForestRegressor(12, max_depth=4, random_state=0).fit(rows, outcome(train))
    background = rows.mean(0, keepdims=True)
    theirs = shap.TreeExplainer(forest, background, feature_perturbation="interventional")
    made = explain(forest, rows[:6], method="kernel_shap", baselines=background)
    np.testing.assert_allclose(
        made.attributions, theirs.shap_values(rows[:6]), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        made.to_shap().base_values, np.full(6, theirs.expected_value), rtol=1e-4
    )


@pytest.mark.parametrize("target", [0, 2])
def test_shapley_values_of_a_forests_probabilities_are_shaps(train: Any, target: int) -> None:
    shap = pytest.importorskip("shap", reason="shap is not installed")
    rows = train.to_numpy()
    labels = np.digitize(outcome(train), np.quantile(outcome(train), [0.3, 0.6]))
    forest = RandomForestClassifier(12, max_depth=4, random_state=0).fit(rows, labels)
    background = rows.mean(0, keepdims=True)
    theirs = shap.TreeExplainer(forest, background, feature_perturbation="interventional")
    made = explain(forest, rows[:6], method="kernel_shap", baselines=background, target=target)
    expected = theirs.shap_values(rows[:6])[..., target]
    np.testing.assert_allclose(made.attributions, expected, rtol=1e-3, atol=1e-4)
    assert made.class_names == ["class 0", "class 1", "class 2"]


def test_frames_and_arrays_of_one_classifier_are_explained_alike(train: Any) -> None:
    labels = np.where(outcome(train) > np.median(outcome(train)), "ill", "well")
    model = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(train, labels)
    by_frame = explain(model, train[:4], method="kernel_shap", baselines=train.mean())
    by_array = explain(
        model, train[:4].to_numpy(), method="kernel_shap", baselines=train.mean().to_numpy()
    )
    torch.testing.assert_close(by_frame.attributions, by_array.attributions)
    assert by_frame.class_names == ["ill", "well"] and by_array.feature_names == COLUMNS
    boxed = explain(
        BlackBox.from_sklearn(model),
        train[:4],
        method="kernel_shap",
        baselines=train.mean(),
        output="prob",
        target=by_frame.target,
    )
    torch.testing.assert_close(boxed.attributions, by_frame.attributions, rtol=1e-4, atol=1e-5)


def test_columns_in_another_order_are_found_by_their_names(train: Any) -> None:
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(train, outcome(train))
    mean = train.mean()
    shuffled = mean[["pulse", "age", "dose", "bmi"]]
    found = explain(model, train[:3], method="kernel_shap", baselines=shuffled)
    expected = explain(model, train[:3], method="kernel_shap", baselines=mean)
    torch.testing.assert_close(found.attributions, expected.attributions)

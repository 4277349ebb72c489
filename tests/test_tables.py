"""Tables: frames, arrays and estimators go in, attributions with the columns' names come out."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nets import mlp
from table_models import Additive, OneFeature

from pyxai_fast import BlackBox, LikelihoodRatio, explain, plots
from pyxai_fast.models.from_sklearn import (
    class_names_of,
    classifier_box,
    estimator_box,
    is_estimator,
    regressor_box,
)
from pyxai_fast.table_file import read_table

CAUSE = 3
HIDING = ("dax", "student_gradient", "kernel_shap", "lime", "rise")


def rows(batch: int = 5, features: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, features))


def with_cause(batch: int = 3) -> np.ndarray:
    table = rows(batch)
    table[:, CAUSE] = np.linspace(0.8, 1.6, batch)
    return table


@pytest.fixture
def pandas() -> Any:
    return pytest.importorskip("pandas", reason="pandas is not installed")


# ---------------------------------------------------------------- what is an estimator


def test_estimators_are_known_by_what_they_can_do() -> None:
    assert is_estimator(OneFeature()) and is_estimator(Additive([1.0]))
    assert is_estimator(SimpleNamespace(predict_proba=lambda x: x, __call__=None))
    for other in (OneFeature, torch.nn.Linear(2, 2), BlackBox(lambda x: x), lambda x: x, "a", None):
        assert not is_estimator(other)


def test_boxes_of_estimators_answer_as_they_do() -> None:
    table = rows()
    box = classifier_box(OneFeature(), max_rows=2)
    p = OneFeature().predict_proba(table)
    np.testing.assert_allclose(box(torch.from_numpy(table)).softmax(1).numpy(), p, rtol=1e-12)
    box = regressor_box(Additive(np.arange(8)))
    expected = table @ np.arange(8)
    np.testing.assert_allclose(box(torch.from_numpy(table)).numpy(), expected, rtol=1e-12)
    assert estimator_box(Additive([1.0])).answers == "logits"
    with pytest.raises(TypeError, match="regressor: SimpleNamespace must have predict"):
        regressor_box(SimpleNamespace())


def test_classifiers_without_probabilities_are_refused() -> None:
    machine = SimpleNamespace(predict=lambda x: x, classes_=[0, 1], decision_function=lambda x: x)
    with pytest.raises(TypeError, match=r"must have predict_proba; to explain its decision_funct"):
        explain(machine, rows(), method="lime")


def test_classes_that_are_numbers_are_called_classes() -> None:
    assert class_names_of(OneFeature()) == ["well", "ill"]
    assert class_names_of(SimpleNamespace(classes_=np.array([0, 2]))) == ["class 0", "class 2"]
    assert class_names_of(Additive([1.0])) is None
    assert class_names_of(SimpleNamespace(classes_=[np.array([0]), np.array([1])])) is None


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize("method", HIDING)
def test_the_feature_that_decides_is_found(method: str) -> None:
    table = with_cause()
    made = explain(OneFeature(CAUSE), table, method=method, baselines=0.0, n_queries=600)
    assert made.attributions.shape == table.shape
    assert made.class_names == ["well", "ill"] and made.target.tolist() == [1, 1, 1]
    others = np.delete(made.attributions.abs().numpy(), CAUSE, 1)
    assert (made.attributions[:, CAUSE].numpy() > 2 * others.max(1)).all()
    np.testing.assert_allclose(made.outputs, OneFeature(CAUSE).predict_proba(table), rtol=1e-9)


def test_shapley_values_of_an_additive_regressor_are_its_terms() -> None:
    weights = np.arange(1.0, 7.0)
    table = rows(4, 6)
    for baselines in (table.mean(0), list(table.mean(0)), torch.from_numpy(table.mean(0)), "mean"):
        made = explain(Additive(weights), table, method="kernel_shap", baselines=baselines)
        expected = weights * (table - table.mean(0))
        np.testing.assert_allclose(made.attributions, expected, rtol=1e-5, atol=1e-6)
    assert made.target is None and made.settings["output"] == "logit"


def test_integers_are_exact() -> None:
    seen: list[np.ndarray] = []

    class Model(OneFeature):
        def predict_proba(self, rows: Any) -> Any:
            seen.append(rows)
            return super().predict_proba(rows)

    table = np.array([[2**40 + 1, 1], [3, 2]])
    explain(Model(1), table, method="kernel_shap", baselines="mean", feature_names=["id", "x"])
    assert all(rows.dtype == np.float64 for rows in seen)
    assert seen[0][0, 0] == 2**40 + 1


def test_gradients_are_estimated_from_probabilities() -> None:
    table = with_cause(2)
    made = explain(
        OneFeature(CAUSE),
        table,
        method="saliency",
        abs=False,
        gradient=LikelihoodRatio(n_samples=4000, sigma=0.1),
    )
    p = OneFeature(CAUSE).predict_proba(table)[:, 1]
    np.testing.assert_allclose(made.attributions[:, CAUSE], 4 * p * (1 - p), rtol=0.1)
    assert made.settings["output"] == "prob"
    with pytest.raises(ValueError, match="dax, kernel_shap, lime and rise need none"):
        explain(OneFeature(CAUSE), table, baselines=0.0)


def test_dax_refuses_what_is_not_between_zero_and_one() -> None:
    with pytest.raises(ValueError, match=r"DAX: the model's answers must be in \[0, 1\]"):
        explain(Additive(np.ones(8)), rows() + 9, method="dax", baselines=0.0, n_queries=50)
    half = explain(Additive([0.5, 0.0]), np.ones((1, 2)), method="dax", baselines=0.0, n_queries=50)
    assert half.attributions[0, 0] > 0.9 and half.attributions[0, 1] < 0.1


def test_rows_are_explained_alike_alone_and_together() -> None:
    table = with_cause(3)
    options = {"method": "dax", "baselines": 0.0, "n_queries": 200}
    together = explain(OneFeature(CAUSE), table, **options).attributions
    for i in range(3):
        alone = explain(OneFeature(CAUSE), table[i : i + 1], **options).attributions
        torch.testing.assert_close(alone[0], together[i], rtol=1e-3, atol=1e-4)


def test_groups_of_columns_are_hidden_together() -> None:
    """One code of three columns: hiding it at once, the model never sees half a code."""
    seen: list[np.ndarray] = []

    class Model(OneFeature):
        def predict_proba(self, rows: Any) -> Any:
            seen.append(rows)
            return super().predict_proba(rows)

    groups = torch.tensor([0, 1, 1, 1, 2])
    table = np.array([[0.3, 0.0, 1.0, 0.0, 2.0]])
    made = explain(
        Model(2, at=0.5), table, method="kernel_shap", baselines=0.0, feature_mask=groups
    )
    values = made.attributions[0]
    assert values[1] == values[2] == values[3] and values[1] > 0.5
    codes = {tuple(code) for code in np.concatenate(seen)[:, 1:4].tolist()}
    assert codes == {(0.0, 1.0, 0.0), (0.0, 0.0, 0.0)}


# ---------------------------------------------------------------- baselines


def test_hidden_features_are_the_mean_that_was_asked_for() -> None:
    table = rows(4, 3) + 10
    model = OneFeature()
    explain(model, table, method="lime", baselines="mean", n_queries=50)
    asked = np.concatenate(model.seen[1:]).reshape(-1, 3)
    assert np.isclose(asked, table.mean(0)).any()
    both = np.isclose(asked[:, None], table).any(1) | np.isclose(asked, table.mean(0))
    assert both.all()


def test_the_mean_of_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"its own mean, got 1; give the mean of training data"):
        explain(OneFeature(), rows(1), method="lime", baselines="mean")


def test_missing_values_do_not_count_in_means() -> None:
    table = np.array([[1.0, np.nan], [3.0, 4.0]])

    class Model:
        def predict(self, rows: Any) -> Any:
            return np.nan_to_num(rows).sum(1)

    made = explain(Model(), table, method="kernel_shap", baselines="mean")
    np.testing.assert_allclose(made.attributions, [[-1.0, -4.0], [1.0, 0.0]], atol=1e-6)


def test_zeros_that_no_row_is_near_are_warned_about() -> None:
    table = np.abs(rows(4, 3)) + np.array([1.0, 0.0, 5.0])
    table[0, 1] = 0.0
    with pytest.warns(UserWarning, match=r"around 0 of age, bmi; give baselines: a mean of"):
        explain(OneFeature(), table, method="lime", feature_names=["age", "b", "bmi"], n_queries=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(OneFeature(), table, method="lime", baselines=0.0, n_queries=9)
        explain(OneFeature(), table - table.mean(0), method="lime", n_queries=9)


def test_a_baseline_of_another_length_is_named() -> None:
    with pytest.raises(ValueError, match=r"have shape \[1, 8\] or \[5, 8\].*got \[3\]"):
        explain(OneFeature(), rows(), method="lime", baselines=np.zeros(3))


# ---------------------------------------------------------------- frames


def test_frames_give_their_names_and_get_frames_back(pandas: Any) -> None:
    class ByName(OneFeature):
        def predict_proba(self, rows: Any) -> Any:
            assert list(rows.columns) == ["age", "dose"]
            return super().predict_proba(rows[["dose"]])

    frame = pandas.DataFrame({"age": [40, 50, 61], "dose": [1.5, 0.5, 2.6]}, index=[7, 8, 9])
    model = ByName(0, at=1.0)
    made = explain(model, frame, method="kernel_shap", baselines=frame.mean())
    assert made.feature_names == ["age", "dose"]
    assert made.inputs.dtype == torch.float64 and made.inputs[0].tolist() == [40.0, 1.5]
    assert made.attributions[:, 0].abs().max() < 1e-6
    assert made.attributions[:, 1].abs().min() > 1e-3
    assert all(isinstance(rows, pandas.DataFrame) for rows in model.seen)


def test_baselines_are_found_by_name(pandas: Any) -> None:
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 5.0]})
    model = Additive([1.0, 10.0])
    mean = pandas.Series({"label": 9.0, "b": 1.0, "a": 0.0})
    expected = torch.tensor([[1.0, 20.0], [2.0, 40.0]])
    for baselines in (mean, mean.to_frame().T, [0.0, 1.0]):
        made = explain(model, frame, method="kernel_shap", baselines=baselines)
        torch.testing.assert_close(made.attributions, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="an entry for each column, and have none for 'b'"):
        explain(model, frame, method="lime", baselines=mean.drop("b"))


def test_columns_that_are_no_numbers_are_named(pandas: Any) -> None:
    frame = pandas.DataFrame({"a": [1.0], "sex": ["f"]})
    with pytest.raises(ValueError, match=r"must hold numbers, got .* in 'sex'; encode it, or leav"):
        explain(OneFeature(), frame, method="lime")
    with pytest.raises(TypeError, match=r"frame\.iloc\[\[0\]\]; got a Series"):
        explain(OneFeature(), frame["a"], method="lime")
    whole = pandas.DataFrame({"a": pandas.array([1, None], "Int64"), "b": [True, False]})
    made = explain(OneFeature(1), whole, method="lime", baselines=0.0, n_queries=9)
    assert made.inputs[0].tolist() == [1.0, 1.0]
    assert made.inputs[1].isnan().tolist() == [True, False]


def test_modules_take_frames_in_the_type_of_their_weights(pandas: Any) -> None:
    table = rows(3, 6)
    frame = pandas.DataFrame(table, columns=list("abcdef"))
    made = explain(mlp(), frame, n_steps=5, baselines=frame.mean())
    assert made.inputs.dtype == torch.float32 and made.feature_names == list("abcdef")
    inputs = torch.from_numpy(table).float()
    expected = explain(mlp(), inputs, n_steps=5, baselines=inputs.mean(0, keepdim=True))
    torch.testing.assert_close(made.attributions, expected.attributions, rtol=1e-4, atol=1e-6)


def test_neither_pandas_nor_scikit_learn_is_imported() -> None:
    code = (
        "import sys, numpy, pyxai_fast\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from table_models import OneFeature\n"
        "pyxai_fast.explain(OneFeature(), numpy.ones((2, 3)), method='lime', baselines=0.0)\n"
        "print([name for name in ('pandas', 'sklearn') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- scikit-learn


def test_pipelines_that_choose_columns_by_name_are_explained(pandas: Any) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    train = pandas.DataFrame(random.normal(50, 10, (200, 4)), columns=["age", "bmi", "hr", "id"])
    labels = np.where(train["bmi"] > 50, "ill", "well")
    scaled = make_column_transformer((StandardScaler(), ["bmi", "age"]))
    model = make_pipeline(scaled, LogisticRegression()).fit(train, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = explain(model, train[:3], method="kernel_shap", baselines=train.mean())
        # It was fitted on a frame, so that arrays come as frames, too.
        again = explain(
            model, train[:3].to_numpy(), method="kernel_shap", baselines=train.mean().to_numpy()
        )
    assert made.class_names == ["ill", "well"]
    assert made.attributions.abs().argmax(1).tolist() == [1, 1, 1]
    assert made.attributions[:, 3].abs().max() < 1e-6
    torch.testing.assert_close(made.attributions, again.attributions)
    assert again.feature_names == ["age", "bmi", "hr", "id"]


def test_dax_finds_what_a_forest_learnt() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.ensemble import RandomForestClassifier

    random = np.random.default_rng(0)
    train = random.normal(size=(300, 6))
    forest = RandomForestClassifier(20, random_state=0).fit(train, train[:, 4] > 0)
    made = explain(forest, train[:4], method="dax", baselines=train.mean(0), n_queries=500)
    others = np.delete(made.attributions.numpy(), 4, 1)
    assert made.attributions[:, 4].min() > 0.9 and others.mean() < 0.15
    assert made.attributions.argmax(1).tolist() == [4] * 4


# ---------------------------------------------------------------- pictures and files


def texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_bars_have_names_values_class_and_probability(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    names = [f"feature of the {i}th patient, as measured" if i == 7 else f"f{i}" for i in range(8)]
    table = with_cause(1)
    made = explain(
        OneFeature(CAUSE), table, method="kernel_shap", baselines=0.0, feature_names=names
    )
    figure = made.plot(tmp_path / "bars.png")
    shown = texts(figure)
    assert f"f{CAUSE} = 0.8" in shown and "well" not in shown
    assert "ill  96.1%" in shown and "attribution, kernel shap" in shown
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == f"f{CAUSE} = 0.8"  # the largest comes first
    assert (tmp_path / "bars.png").stat().st_size > 5_000
    answered = explain(Additive([1.0, 2.0]), np.ones((1, 2)), method="lime", baselines=0.0)
    assert "answer 3" in texts(answered.plot())


def test_masks_of_what_is_not_drawn_are_not_added_up() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    masks = torch.linspace(1, 0, 20)
    figure = plots.bars(masks)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "5 others, at most 0.21"
    assert len(figure.axes[0].patches) == 15


def test_names_are_saved_with_the_numbers(tmp_path: Path) -> None:
    made = explain(
        OneFeature(), rows(2, 3), method="lime", baselines=0.0, feature_names="abc", n_queries=9
    )
    with np.load(made.save(tmp_path / "e.npz")) as arrays:
        assert json.loads(str(arrays["about"]))["feature_names"] == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"feature_names must have 3 names.* got 2"):
        explain(OneFeature(), rows(2, 3), method="lime", feature_names=["a", "b"])


# ---------------------------------------------------------------- table files


def written(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.write_text(text, encoding=encoding)
    return str(path)


def test_tables_are_read_with_their_names(tmp_path: Path) -> None:
    for text in (
        "age,dose,label\n40,1.5,a\n\n50,,b\n",
        "age;dose;label\n40;1.5;a\n50;NA;b\n",
        'age\tdose\t"label"\n 40\t1.5\ta\n50\tnan\tb\n',
    ):
        table = read_table(written(tmp_path / "t.csv", text, "utf-8-sig"))
        assert table.names == ["age", "dose", "label"] and len(table) == 2
        numbers = table.numbers(["dose", "age"])
        assert numbers.dtype == torch.float64 and numbers[0].tolist() == [1.5, 40.0]
        assert numbers[1, 0].isnan() and numbers[1, 1] == 50


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must have a row of names, got an empty file"),
        ("a,b\n1,2\n1\n", "line 3: must have 2 cells, one for each column, got 1"),
        ("a,a\n1,2\n", "must have names of their own, got 'a' twice"),
        ("a,b\n1,2\n\n3,x1\n", "line 4, column 'b': must be a number, got 'x1'"),
    ],
)
def test_what_is_no_table_is_named_by_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_table(written(tmp_path / "t.csv", text)).numbers(["a", "b"])


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no\.csv: cannot be read as a table: No such file"):
        read_table(str(tmp_path / "no.csv"))

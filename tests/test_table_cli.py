"""The command line explains rows of a table: bars, numbers, and one line for what goes wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyxai_fast.cli import main
from pyxai_fast.models.errors import ModelSpecError
from pyxai_fast.models.spec import load_model
from pyxai_fast.table_file import read_table

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("PIL.Image", reason="Pillow is not installed")
load_file = pytest.importorskip("safetensors.numpy", reason="no safetensors").load_file

NAMES = ["age", "dose", "pulse"]

MODELS = '''
import numpy as np

class Dosage:
    """Reads the dose alone."""
    classes_ = np.array(["safe", "toxic"])
    def predict_proba(self, rows):
        rows = np.asarray(rows)  # of a frame, for Named, where pandas is imported
        assert rows.dtype == np.float64 and rows.shape[1] == 3
        toxic = 1 / (1 + np.exp(-2 * (rows[:, 1] - 5)))
        return np.stack([1 - toxic, toxic], 1)

class Named(Dosage):
    feature_names_in_ = np.array(["age", "dose", "pulse"])

class Price:
    def predict(self, rows):
        return rows @ np.array([1.0, 2.0, 3.0])[: rows.shape[1]]

class NoProbabilities:
    classes_ = [0, 1]
    def predict(self, rows):
        return rows[:, 0]

fitted, price, named = Dosage(), Price(), Named()
def made():
    return Named()
def without():
    return NoProbabilities()
def net():
    import torch
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)
'''


@pytest.fixture
def models(tmp_path: Path) -> str:
    (tmp_path / "models.py").write_text(MODELS)
    return f"python:{tmp_path / 'models.py'}:"


def write_table(path: Path, rows: int = 4, header: str = "age,dose,pulse,label") -> str:
    random = np.random.default_rng(0)
    lines = [header]
    for i in range(rows):
        age, dose, pulse = random.normal([50, 5, 75], [9, 1, 5])
        lines.append(f"{age:.2f},{dose + (i % 2) * 2:.2f},{pulse:.2f},{'ab'[i % 2]}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def table(tmp_path: Path) -> str:
    return write_table(tmp_path / "patients.csv")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(table: str, model: str, out: Path, *arguments: str, method: str = "kernel_shap") -> int:
    fixed = ["--model", model, "--out", str(out), "--method", method, "--device", "cpu"]
    return main(["explain", table, *fixed, "--no-progress", *arguments])


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def attributions(out: Path) -> list[dict[str, str]]:
    with open(out / "patients-attributions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_get_bars_numbers_and_a_record(
    table: str, models: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(table, models + "fitted", out, "--drop", "label") == 0
    stems = [f"patients-{i}.png" for i in range(4)]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*stems, "patients-attributions.csv", "patients-attributions.safetensors",
         "patients-summary.png", "run.json"]
    )  # fmt: skip
    rows = attributions(out)
    assert list(rows[0]) == ["row", "class", "probability", *NAMES]
    arrays = load_file(out / "patients-attributions.safetensors")
    assert arrays["attributions"].shape == arrays["inputs"].shape == (4, 3)
    for row, values in zip(rows, arrays["attributions"], strict=True):
        assert [float(row[name]) for name in NAMES] == pytest.approx(values.tolist(), abs=1e-6)
        assert abs(float(row["dose"])) > 100 * abs(float(row["age"]))
    # Hidden is the mean of the column over the file: Shapley values add up to that difference.
    doses = arrays["inputs"][:, 1]
    toxic = 1 / (1 + np.exp(-2 * (np.array([*doses, doses.mean()]) - 5)))
    p = np.where([row["class"] == "toxic" for row in rows], toxic[:-1], 1 - toxic[:-1])
    hidden = np.where([row["class"] == "toxic" for row in rows], toxic[-1], 1 - toxic[-1])
    np.testing.assert_allclose(arrays["attributions"].sum(1), p - hidden, atol=1e-5)
    assert [float(row["probability"]) for row in rows] == pytest.approx(p.tolist())
    said = record(out)
    assert said["columns"] == NAMES and said["explained"]["output"] == "prob"
    assert [result["row"] for result in said["results"]] == [0, 1, 2, 3]
    assert next(iter(said["results"][0]["top"])) == "dose"
    assert said["cost"]["sent"] > 0 and said["failures"] == []
    printed = capsys.readouterr().out
    assert "patients-3.png" in printed and "4 rows of 3 columns explained" in printed


def test_a_model_that_knows_its_columns_gets_those(tmp_path: Path, models: str, out: Path) -> None:
    text = "label,pulse,extra,dose,age\nx,70,1,7.5,40\ny,80,2,3.5,60\n"
    (tmp_path / "patients.csv").write_text(text)
    assert run(str(tmp_path / "patients.csv"), models + "made", out) == 0
    assert record(out)["columns"] == NAMES
    assert load_file(out / "patients-attributions.safetensors")["inputs"][0].tolist() == [
        40.0, 7.5, 70.0
    ]  # fmt: skip


def test_some_rows_are_the_same_as_all_of_them(
    table: str, models: str, out: Path, tmp_path: Path
) -> None:
    assert run(table, models + "named", out) == 0
    some = tmp_path / "some"
    assert run(table, models + "named", some, "--rows", "1:3", "--batch-size", "1") == 0
    assert [row["row"] for row in attributions(some)] == ["1", "2"]
    assert attributions(some) == attributions(out)[1:3]
    one = tmp_path / "one"
    assert run(table, models + "named", one, "--rows", "3", "--format", "npz") == 0
    assert not (one / "patients-summary.png").exists()
    with np.load(one / "patients-attributions.npz") as arrays:
        assert arrays["rows"].tolist() == [3]


def test_references_are_the_mean_of_training_data(
    table: str, models: str, out: Path, tmp_path: Path
) -> None:
    train = write_table(tmp_path / "train.csv", 9)
    assert run(table, models + "price", out, "--drop", "label", "--references", train) == 0
    arrays = load_file(out / "patients-attributions.safetensors")
    values = np.genfromtxt(train, delimiter=",", skip_header=1, usecols=range(3))
    expected = (arrays["inputs"] - values.mean(0)) * [1, 2, 3]
    np.testing.assert_allclose(arrays["attributions"], expected, rtol=1e-4, atol=1e-4)
    rows = attributions(out)
    assert list(rows[0]) == ["row", "answer", *NAMES]
    expected = arrays["inputs"] @ np.array([1.0, 2.0, 3.0])
    assert [float(row["answer"]) for row in rows] == pytest.approx(expected.tolist())


def test_zero_and_numbers_are_baselines(table: str, models: str, out: Path, tmp_path: Path) -> None:
    assert run(table, models + "price", out, "--columns", "dose,age", "--baseline", "zero") == 0
    arrays = load_file(out / "patients-attributions.safetensors")
    np.testing.assert_allclose(arrays["attributions"], arrays["inputs"] * [1, 2], rtol=1e-4)
    tens = tmp_path / "tens"
    assert run(table, models + "price", tens, "--columns", "dose,age", "--baseline", "10") == 0
    arrays = load_file(tens / "patients-attributions.safetensors")
    expected = (arrays["inputs"] - 10) * [1, 2]
    np.testing.assert_allclose(arrays["attributions"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["dax", "lime", "rise", "student_gradient"])
def test_methods_that_ask_are_asked_for(table: str, models: str, out: Path, method: str) -> None:
    assert run(table, models + "named", out, "--samples", "300", method=method) == 0
    values = load_file(out / "patients-attributions.safetensors")["attributions"]
    assert (np.abs(values).argmax(1) == 1).all()


def test_gradients_come_with_standard_errors(table: str, models: str, out: Path) -> None:
    options = ["--gradient", "likelihood_ratio", "--samples", "200", "--sigma", "0.3"]
    assert run(table, models + "named", out, *options, method="saliency") == 0
    assert "standard_error" in load_file(out / "patients-attributions.safetensors")
    assert record(out)["results"][0]["error"] > 0


def test_networks_take_tables(table: str, models: str, out: Path) -> None:
    options = ["--drop", "label", "--steps", "5"]
    assert run(table, models + "net", out, *options, method="integrated_gradients") == 0
    assert abs(record(out)["results"][0]["delta"]) < 1e-3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--columns", "age,dosis,pulse"], "--columns: must be columns of"),
        (["--columns", "age,dosis,pulse"], "got 'dosis'; did you mean dose?"),
        (["--drop", "label", "--columns", "age"], "say the same thing"),
        (["--drop", "age,dose,pulse,label"], "--drop: must leave a column"),
        (["--drop", "label", "--rows", "4:"], "--rows: must be among the 4 rows"),
        (["--drop", "label", "--rows", "a:b"], "--rows: must be like 0:20"),
        (["--drop", "label", "--baseline", "black"], "--baseline: must be mean"),
        (["--drop", "label", "--references", "none.csv"], "none.csv: cannot be read as a table"),
        (
            ["--drop", "label", "--prior", "demo"],
            "--prior: must be given for images and sounds alone",
        ),
        (
            ["--drop", "label", "--preprocessing", "x.json"],
            "--preprocessing: must be given for images alone",
        ),
        ([], "line 2, column 'label': must be a number, got 'a'; encode the column, or leave it"),
    ],
)
def test_bad_options_are_one_line(
    table: str,
    models: str,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert run(table, models + "fitted", out, *arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not out.exists()


def test_columns_that_the_model_was_fitted_on_must_be_there(
    tmp_path: Path, models: str, out: Path, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    path = tmp_path / "short.csv"
    path.write_text("age,pulse\n40,70\n50,80\n")
    assert run(str(path), models + "named", out) == 2
    assert "was fitted on, and 'dose' is missing\n" in capsys.readouterr().err
    assert run(table, models + "named", out, "--drop", "dose") == 2
    assert "'dose' is missing (left out)" in capsys.readouterr().err


def test_codes_that_pandas_wrote_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "codes.csv"
    path.write_text("age,ward_A\n30,True\n40,FALSE\n")
    read = read_table(str(path))
    assert read.numbers(["age", "ward_A"]).tolist() == [[30, 1], [40, 0]]


def test_one_row_needs_a_baseline(
    tmp_path: Path, models: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "patients.csv", 1)
    assert run(table, models + "named", out) == 2
    assert "one row, which is its own mean; give --references" in capsys.readouterr().err
    assert run(table, models + "named", out, "--baseline", "zero") == 0


def test_kinds_of_files_do_not_mix(
    table: str, models: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", models + "fitted", "--out", str(out)]
    assert main(["explain", table, "cat.jpg", *arguments]) == 2
    said = capsys.readouterr().err
    assert f"must be of one kind, got tables ({table}) and images (cat.jpg)" in said
    assert main(["explain", table, table, *arguments]) == 2
    assert "one table at a time, got 2" in capsys.readouterr().err
    assert main(["explain", "cat.jpg", "--rows", "1", "--model", "demo", "--out", str(out)]) == 2
    assert "--rows: must be given for tables alone" in capsys.readouterr().err


def test_results_are_replaced_only_when_asked(
    table: str, models: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(table, models + "named", out, "--rows", "0") == 0
    assert run(table, models + "named", out, "--rows", "0") == 2
    assert "already has patients-attributions.csv" in capsys.readouterr().err
    assert run(table, models + "named", out, "--rows", "0", "--overwrite") == 0


def test_a_model_that_stops_leaves_what_was_finished(
    table: str, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "budgets.py").write_text(
        "from pyxai_fast import BlackBox\n"
        "import numpy as np\n"
        "def box():\n"
        "    return BlackBox(lambda x: np.stack([x[:, 1]] * 2, 1), takes='numpy', budget=30)\n"
    )
    model = f"python:{tmp_path / 'budgets.py'}:box"
    assert run(table, model, out, "--drop", "label", "--batch-size", "2", "--samples", "8") == 1
    assert [row["row"] for row in attributions(out)] == ["0", "1"]
    said = record(out)
    failed = [failure["file"] for failure in said["failures"]]
    assert failed == [f"{table}: row {i}" for i in (2, 3)]
    assert "2 failed" in capsys.readouterr().out


def test_estimators_are_models_by_name_or_made_by_a_function(models: str) -> None:
    for name in ("named", "made"):
        loaded = load_model(models + name)
        assert loaded.feature_names == NAMES and loaded.class_names == ["safe", "toxic"]
        assert loaded.output == "prob"
    assert load_model(models + "price").output == "logit"
    with pytest.raises(ModelSpecError, match="NoProbabilities must have predict_proba"):
        load_model(models + "without")

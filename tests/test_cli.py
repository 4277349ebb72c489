"""The command line explains files, says what went wrong in one line, and never loses a result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyxai_fast
from pyxai_fast.cli import main
from pyxai_fast.cli_images import output_names

pytest.importorskip("matplotlib")
load_file = pytest.importorskip("safetensors.numpy").load_file
Image = pytest.importorskip("PIL.Image")


def draw(path: Path, seed: int = 0) -> str:
    """A bright stroke on black, as the demo model knows digits."""
    array = np.zeros((32, 32), np.uint8)
    array[6:26, 14 + seed : 18 + seed] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return str(path)


def run(*arguments: str) -> int:
    # One memory format, so that two runs agree in every bit.
    fixed = ["--model", "demo", "--device", "cpu", "--memory-format", "contiguous"]
    return main(["explain", *arguments, *fixed, "--no-progress"])


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


@pytest.fixture
def picture(tmp_path: Path) -> str:
    return draw(tmp_path / "in" / "one.png")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# ---------------------------------------------------------------- what it writes


def test_explain_writes_a_picture_the_numbers_and_a_record(
    picture: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(picture, "--out", str(out), "--steps", "20") == 0
    assert sorted(p.name for p in out.iterdir()) == ["one.png", "one.safetensors", "run.json"]
    attributions = load_file(out / "one.safetensors")["attributions"]
    assert attributions.shape == (1, 32, 32) and np.abs(attributions).max() > 0
    assert Image.open(out / "one.png").size[0] > 600

    said = record(out)
    (result,) = said["results"]
    assert result["file"] == picture and result["picture"] == "one.png"
    assert result["class_name"] == str(result["target"])
    assert 0.1 < result["probability"] <= 1
    assert abs(result["delta"]) < 0.5
    assert said["settings"]["method"] == "integrated_gradients"
    assert said["settings"]["steps"] == 20
    assert said["versions"]["pyxai_fast"] == pyxai_fast.__version__
    assert said["cost"]["gradients"] >= 20
    assert said["device"]["type"] == "cpu" and said["backend"]
    assert said["failures"] == []

    table = capsys.readouterr().out
    assert "one.png, one.safetensors" in table and "1 explained" in table


def test_a_network_runs_in_low_precision_where_that_is_asked(picture: str, out: Path) -> None:
    plain = out.with_name("plain")
    assert run(picture, "--out", str(plain)) == 0
    assert run(picture, "--out", str(out), "--precision", "bf16") == 0
    assert record(out)["explained"]["precision"] == "bf16"
    exact, found = (load_file(o / "one.safetensors")["attributions"] for o in (plain, out))
    assert 0 < np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)
    # The score and its probability are those of the network as it is.
    assert record(out)["results"][0]["probability"] == record(plain)["results"][0]["probability"]


def test_attributions_of_black_pixels_are_zero_for_the_black_baseline(
    picture: str, out: Path
) -> None:
    assert run(picture, "--out", str(out), "--baseline", "black") == 0
    attributions = load_file(out / "one.safetensors")["attributions"]
    pixels = np.asarray(Image.open(picture))
    assert np.abs(attributions[0][pixels == 0]).max() == 0


@pytest.mark.parametrize("baseline", ["white", "mean", "blur", "0.5"])
def test_baselines_are_pixels(picture: str, out: Path, tmp_path: Path, baseline: str) -> None:
    assert run(picture, "--out", str(tmp_path / "black")) == 0
    assert run(picture, "--out", str(out), "--baseline", baseline) == 0
    black = load_file(tmp_path / "black" / "one.safetensors")["attributions"]
    other = load_file(out / "one.safetensors")["attributions"]
    assert np.isfinite(other).all()
    # The demo model's mean colour is black: its preprocessing changes nothing.
    assert np.array_equal(black, other) == (baseline == "mean")


def test_npz_holds_what_safetensors_holds(picture: str, out: Path, tmp_path: Path) -> None:
    assert run(picture, "--out", str(out)) == 0
    assert run(picture, "--out", str(tmp_path / "npz"), "--format", "npz") == 0
    with np.load(tmp_path / "npz" / "one.npz") as file:
        expected = load_file(out / "one.safetensors")["attributions"]
        assert np.array_equal(file["attributions"], expected)


def test_batches_change_nothing_but_memory(tmp_path: Path) -> None:
    pictures = [draw(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    assert run(*pictures, "--out", str(tmp_path / "a"), "--batch-size", "2") == 0
    assert run(*pictures, "--out", str(tmp_path / "b"), "--batch-size", "3") == 0
    for i in range(3):
        a = load_file(tmp_path / "a" / f"{i}.safetensors")["attributions"]
        b = load_file(tmp_path / "b" / f"{i}.safetensors")["attributions"]
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
    assert len(record(tmp_path / "a")["cost"]["batches"]) == 2


def test_the_target_that_was_asked_for_is_explained(picture: str, out: Path) -> None:
    assert run(picture, "--out", str(out), "--target", "7") == 0
    assert record(out)["results"][0]["target"] == 7


@pytest.mark.parametrize("method", sorted(pyxai_fast.METHODS))
def test_every_method_can_be_asked_for(picture: str, out: Path, method: str) -> None:
    assert run(picture, "--out", str(out), "--method", method) == 0
    assert record(out)["settings"]["method"] == method
    assert np.abs(load_file(out / "one.safetensors")["attributions"]).max() > 0


def test_blurred_images_have_a_path_of_their_own(picture: str, out: Path) -> None:
    options = ["--method", "blur_ig", "--steps", "20", "--set", "max_sigma=6"]
    assert run(picture, "--out", str(out), *options, "--set", "schedule=geometric") == 0
    (result,) = record(out)["results"]
    assert abs(result["delta"]) < 1
    assert np.abs(load_file(out / "one.safetensors")["attributions"]).max() > 0


def test_references_are_pictures(picture: str, out: Path, tmp_path: Path) -> None:
    references = [draw(tmp_path / "in" / f"{i}.png", seed=i) for i in (4, 8)]
    options = ["--method", "expected_gradients", "--samples", "20", "--seed", "1"]
    assert run(picture, "--out", str(out), *options, "--references", *references) == 0
    found = load_file(out / "one.safetensors")
    assert {"attributions", "standard_error"} <= set(found)
    # Where neither the picture nor a reference has ink, there is nothing on the way.
    assert np.abs(found["attributions"][0][:, :10]).max() == 0
    assert np.abs(found["attributions"][0][6:26, 22:26]).max() > 0
    assert record(out)["settings"]["references"] == references
    assert run(picture, "--out", str(tmp_path / "black"), *options) == 0
    black = load_file(tmp_path / "black" / "one.safetensors")["attributions"]
    assert np.abs(black[0][:, 20:]).max() == 0


def test_the_probability_does_not_depend_on_the_score_that_is_explained(
    picture: str, tmp_path: Path
) -> None:
    probabilities = []
    for kind in ("logit", "prob", "logprob", "margin"):
        assert run(picture, "--out", str(tmp_path / kind), "--output", kind, "--target", "4") == 0
        probabilities.append(record(tmp_path / kind)["results"][0]["probability"])
    assert probabilities == pytest.approx([probabilities[0]] * 4, rel=1e-4)


def test_set_passes_any_option_to_the_method(picture: str, out: Path) -> None:
    assert run(picture, "--out", str(out), "--set", "n_steps=3") == 0
    cost = record(out)["cost"]
    assert cost["gradients"] < 20
    assert record(out)["explained"]["n_steps"] == 3


def test_others_may_read_attributions_as_they_may_the_picture(picture: str, out: Path) -> None:
    assert run(picture, "--out", str(out), "--steps", "3") == 0
    modes = {path.suffix: path.stat().st_mode for path in out.iterdir()}
    assert modes[".safetensors"] == modes[".png"]


# ---------------------------------------------------------------- nothing is lost


def test_files_of_one_name_do_not_overwrite_each_other(tmp_path: Path, out: Path) -> None:
    pictures = [draw(tmp_path / "a" / "x.png"), draw(tmp_path / "b" / "x.png", seed=4)]
    assert run(*pictures, "--out", str(out)) == 0
    names = [result["attributions"] for result in record(out)["results"]]
    assert names == ["x.safetensors", "x-2.safetensors"]
    first, second = (load_file(out / name)["attributions"] for name in names)
    assert not np.array_equal(first, second)


def test_names_are_distinct_whatever_the_inputs_are_called(tmp_path: Path) -> None:
    images = ["a/x.png", "b/X.jpg", "c/x-2.png", "d/x.png"]
    assert output_names(images, tmp_path) == ["x", "X-2", "x-2-2", "x-3"]


def test_an_input_in_the_output_folder_is_never_replaced(tmp_path: Path) -> None:
    path = draw(tmp_path / "one.png")
    before = Path(path).read_bytes()
    assert run(path, "--out", str(tmp_path), "--overwrite") == 0
    assert Path(path).read_bytes() == before
    assert record(tmp_path)["results"][0]["picture"] == "one-2.png"


def test_results_are_replaced_only_when_asked(
    picture: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(picture, "--out", str(out)) == 0
    before = (out / "one.safetensors").read_bytes()
    assert run(picture, "--out", str(out), "--target", "3") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "one.safetensors").read_bytes() == before
    assert run(picture, "--out", str(out), "--target", "3", "--overwrite") == 0
    assert (out / "one.safetensors").read_bytes() != before


def test_corrupt_images_are_named_and_the_others_are_explained(
    picture: str, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrupt = tmp_path / "corrupt.jpg"
    corrupt.write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    missing = str(tmp_path / "missing.png")
    assert run(str(corrupt), picture, missing, "--out", str(out), "--batch-size", "1") == 1
    error = capsys.readouterr().err
    assert str(corrupt) in error and f"{missing}: no such file" in error
    said = record(out)
    assert [result["file"] for result in said["results"]] == [picture]
    assert [failure["file"] for failure in said["failures"]] == [str(corrupt), missing]
    assert (out / "one.safetensors").exists()


# ---------------------------------------------------------------- one clear line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nonsense"], "must be one of hf:NAME_OR_DIR"),
        (["--model", "python:nowhere:f"], "no module 'nowhere'"),
        (["--method", "magic"], "--method: must be one of"),
        (["--baseline", "pink"], "--baseline: must be black, white, mean, blur"),
        (["--baseline", "1.5"], "--baseline: must be black, white, mean, blur"),
        (["--method", "saliency", "--steps", "5"], "saliency has no steps"),
        (["--method", "saliency", "--baseline", "white"], "saliency has no baseline"),
        (["--method", "blur_ig", "--baseline", "white"], "blur_ig has no baseline"),
        (["--references", "a.png"], "--references: the method integrated_gradients takes none"),
        (
            ["--method", "expected_gradients", "--references", "a.png", "--baseline", "white"],
            "give one of them",
        ),
        (
            ["--method", "expected_gradients", "--references", "nowhere.png"],
            "--references: nowhere.png: no such file",
        ),
        (["--steps", "0"], "must be a whole number of at least 1"),
        (["--set", "novalue"], "--set: must be NAME=VALUE"),
        (["--set", "no_such_option=1"], "no_such_option"),
        (["--steps", "5", "--set", "n_steps=6"], "give one of them"),
        (["--target", "10"], "target"),
        (["--target", "first"], "must be the number of a class"),
        (["--output", "loss"], "invalid choice: 'loss'"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_two(
    picture: str,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    base = ["explain", picture, "--out", str(out), "--device", "cpu", "--no-progress"]
    if "--model" not in arguments:
        base += ["--model", "demo"]
    assert main([*base, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert message in error
    assert not (out / "run.json").exists()


def test_debug_shows_where_an_error_comes_from(picture: str, out: Path) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        main(["explain", picture, "--model", "nonsense", "--out", str(out), "--debug"])


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("explain", "info", "demo"))


# ---------------------------------------------------------------- info


def test_info_is_the_same_facts_for_people_and_for_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["pyxai_fast"] == pyxai_fast.__version__
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert all(key in text for key in facts)
    assert "{" not in text


def test_demo_is_the_packaged_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyxai_fast.demo import __main__ as demo

    asked: list[list[str]] = []
    monkeypatch.setattr(demo, "main", lambda argv: asked.append(argv) or 0)
    assert main(["demo", "--out", "somewhere"]) == 0
    assert asked[0][:2] == ["--out", "somewhere"]


def test_an_interrupted_run_keeps_and_records_what_it_did(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyxai_fast import picture_explainer

    pictures = [draw(tmp_path / "a.png"), draw(tmp_path / "b.png")]
    explain, calls = picture_explainer.explain, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return explain(*args, **kwargs)

    monkeypatch.setattr(picture_explainer, "explain", interrupted)
    assert run(*pictures, "--out", str(out), "--batch-size", "1") == 130
    assert [result["file"] for result in record(out)["results"]] == pictures[:1]
    assert "interrupted" in capsys.readouterr().err


# ---------------------------------------------------------------- as a program


def test_python_dash_m_is_the_command_line(picture: str, out: Path) -> None:
    command = [sys.executable, "-m", "pyxai_fast", "explain", picture, "--model", "demo"]
    done = subprocess.run(
        [*command, "--out", str(out), "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "1 explained" in done.stdout
    assert (out / "one.safetensors").exists()

"""`pyxai-fast counterfactual` and `explain --method freemcg`, with a prior of a few lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="pictures need Pillow")
pytest.importorskip("matplotlib", reason="pictures need matplotlib")
pytest.importorskip("safetensors", reason="results are safetensors files")

from PIL import Image

from pyxai_fast.cli import main

MODELS = """
import torch
from pyxai_fast import BlackBox, Preprocessing
from pyxai_fast.models.loaded import LoadedModel
from pyxai_fast.priors import GaussianPrior


def halves(x):
    score = x[:, 0, :4].mean((1, 2)) - x[:, 0, 4:].mean((1, 2))
    return 20 * torch.stack((score, -score), 1)


class Net(torch.nn.Module):
    def forward(self, x):
        return halves(x)


def preprocessing():
    return Preprocessing(channels=1, size=(8, 8))


def model():
    return LoadedModel(Net(), preprocessing(), ["above, upper half", "below"], "halves")


def poor():
    return BlackBox(halves, budget=30), preprocessing()


def prior():
    return GaussianPrior(torch.full((1, 8, 8), 0.5), torch.eye(64) * 0.04)


def no_prior():
    return 5
"""


@pytest.fixture()
def files(tmp_path: Path) -> dict[str, str]:
    code = tmp_path / "halves.py"
    code.write_text(MODELS)
    # Brighter below.
    pixels = np.full((8, 8), 90, np.uint8)
    pixels[4:] = 150
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels.clip(0, 140)).save(tmp_path / "b.png")
    return {
        "a": str(tmp_path / "a.png"),
        "b": str(tmp_path / "b.png"),
        "model": f"python:{code}:model",
        "poor": f"python:{code}:poor",
        "prior": f"python:{code}:prior",
        "no_prior": f"python:{code}:no_prior",
        "out": str(tmp_path / "out"),
    }


def change(files: dict[str, str], *more: str, images: tuple[str, ...] = ("a", "b")) -> int:
    named = {"--model": files["model"], "--prior": files["prior"], "--out": files["out"]}
    given = dict(zip(more[::2], more[1::2], strict=True))
    flags = [part for pair in (named | given).items() for part in pair]
    small = ["--particles", "20", "--steps", "8"]
    return main(["counterfactual", *(files[name] for name in images), *small, *flags])


def record(files: dict[str, str]) -> dict[str, Any]:
    return json.loads((Path(files["out"]) / "run.json").read_text())


def test_pictures_are_changed_into_the_class(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert change(files, "--to", "upper half") == 0
    out = Path(files["out"])
    for name in ("a", "b"):
        assert (out / f"{name}.png").stat().st_size > 10_000
        changed = np.asarray(Image.open(out / f"{name}-counterfactual.png")).astype(float)
        assert changed.shape[:2] == (8, 8)
        assert changed[:4].mean() > changed[4:].mean()
    results = record(files)["results"]
    assert [result["before"] for result in results] == ["below"] * 2
    assert all(result["flipped"] and result["probability"] > 0.5 for result in results)
    assert record(files)["cost"]["queries"] == 2 * (20 * 8 + 2)
    assert record(files)["cost"]["denoised"] == 2 * 20 * 8
    assert "2 of 2 taken for the class asked for" in capsys.readouterr().out
    from safetensors.torch import load_file

    tensors = load_file(out / "a.safetensors")
    assert tensors["best"].shape == tensors["mean"].shape == (1, 8, 8)
    assert tensors["trajectory"].shape == (8, 1, 8, 8)


def test_the_class_that_it_is_already_is_remarked(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert change(files, "--to", "below", images=("a",)) == 0
    assert "below (as it was)" in capsys.readouterr().out


def test_a_class_may_be_named_by_number_and_results_repeat(files: dict[str, str]) -> None:
    assert change(files, "--to", "0", "--format", "npz", images=("a",)) == 0
    first = dict(np.load(Path(files["out"]) / "a.npz"))
    again = {**files, "out": files["out"] + "-again"}
    assert change(again, "--to", "above", "--format", "npz", images=("a",)) == 0
    second = np.load(Path(again["out"]) / "a.npz")
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--to", "middle"), "--to: must be the number of a class, or its name, got 'middle'"),
        (("--to", "upper"), "did you mean above, upper half?"),
        (("--to", "7"), "target must be in [0, 2)"),
        (("--to", "0", "--set", "speed=3"), "--set: options of counterfactual must be among eta"),
        (("--to", "0", "--strength", "2"), "strength must be in (0, 1], got 2.0"),
        (("--to", "0", "--prior", "nowhere/there/is"), "nowhere/there/is"),
        (("--to", "0", "--prior", "no_prior"), "the factory must return a prior"),
        (("--to", "0", "--prior-set", "dtype=float16"), "options must be left to the factory"),
        (("--to", "0", "--prior-set", "dtype=int8"), "dtype must be one of float32, float16"),
        (("--to", "0", "--prior-set", "speed=1"), "options must be among dtype"),
        (("--to", "0", "--set", "inflation=much"), "inflation must be greater than 0, got 'much'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    files: dict[str, str],
    flags: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "nowhere/there/is" in flags:
        pytest.importorskip("diffusers", reason="priors by name need diffusers")
    assert change(files, *(files.get(flag, flag) for flag in flags)) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (Path(files["out"]) / "run.json").exists()


def test_a_picture_is_changed_alike_whatever_is_beside_it(files: dict[str, str]) -> None:
    assert change(files, "--to", "0") == 0
    parts = {**files, "out": files["out"] + "-parts"}
    assert change(parts, "--to", "0", "--batch-size", "1") == 0
    from safetensors.torch import load_file

    for name in ("a", "b"):
        whole = load_file(Path(files["out"]) / f"{name}.safetensors")
        part = load_file(Path(parts["out"]) / f"{name}.safetensors")
        assert np.allclose(whole["best"], part["best"], atol=1e-5)


def test_results_never_replace_each_other() -> None:
    from pyxai_fast.cli_counterfactual import SUFFIXES
    from pyxai_fast.cli_images import output_names

    names = output_names(["a.png", "a-counterfactual.png"], Path("out"), SUFFIXES)
    assert names == ["a", "a-counterfactual-2"]


def test_a_budget_that_runs_out_leaves_a_record(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert change(files, "--to", "0", "--model", files["poor"]) == 1
    assert "queries are needed" in capsys.readouterr().err
    assert len(record(files)["failures"]) == 2


def explain(files: dict[str, str], *more: str) -> int:
    return main(["explain", files["a"], "--model", files["model"], "--out", files["out"], *more])


def test_explanations_on_the_manifold(files: dict[str, str]) -> None:
    flags = ("--prior", files["prior"], "--samples", "40", "--seed", "3")
    assert explain(files, "--method", "freemcg", *flags, "--set", "levels=[200]") == 0
    settings = record(files)["settings"]
    assert settings["method"] == "freemcg" and settings["prior"] == files["prior"]
    assert record(files)["cost"]["queries"] == 1 + 41
    from safetensors.torch import load_file

    named = load_file(Path(files["out"]) / "a.safetensors")
    other = {**files, "out": files["out"] + "-other"}
    more = ("--method", "saliency", "--set", "abs=false", "--gradient", "freemcg")
    assert explain(other, *more, *flags, "--gradient-set", "levels=[200]") == 0
    same = load_file(Path(other["out"]) / "a.safetensors")
    assert set(named) == set(same) == {"attributions", "standard_error"}
    assert np.array_equal(named["attributions"], same["attributions"])
    # Below is what was predicted: its half speaks for it.
    assert float(named["attributions"][0, 4:].mean()) > float(named["attributions"][0, :4].mean())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--method", "freemcg"), "--prior: must be given for freemcg: demo, or the folder"),
        (("--gradient", "freemcg"), "--prior: must be given for freemcg"),
        (("--prior", "demo"), "--prior: neither the method integrated_gradients nor the gradient"),
        (("--method", "freemcg", "--gradient", "likelihood_ratio"), "has its own"),
        (("--method", "freemcg", "--prior", "prior", "--sigma", "1"), "--sigma: neither"),
        (("--method", "freemcg", "--prior", "prior", "--steps", "5"), "has no steps"),
        (("--method", "freemcg", "--prior", "prior", "--set", "speed=2"), "got speed"),
    ],
)
def test_combinations_that_make_no_sense_are_named(
    files: dict[str, str],
    flags: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert explain(files, *(files.get(flag, flag) for flag in flags)) == 2
    assert message in capsys.readouterr().err

"""What lies in examples/ runs, and gives the numbers that it says."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

pytestmark = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="tests the source tree; this is a copy of tests/"
)


@pytest.fixture(scope="module")
def captum_example() -> dict:
    pytest.importorskip("captum", reason="captum is not installed")
    return runpy.run_path(str(EXAMPLES / "captum_integrated_gradients.py"))


def test_the_captum_example_agrees_with_captum(captum_example: dict) -> None:
    figures = captum_example["main"]()
    largest = figures["largest attribution"]
    assert largest > 1e-4
    assert figures["largest difference from captum's"] < 1e-5 * largest
    assert figures["the same under NoiseTunnel"] < 1e-5 * largest


@pytest.mark.parametrize("steps_per_chunk", [1, 7, 50])
def test_the_captum_example_is_the_left_rule(captum_example: dict, steps_per_chunk: int) -> None:
    # The gradient of sum x^3 / 3 is x^2: the left rule over m steps gives
    # x^3 * (m - 1) (2m - 1) / (6 m^2) from zero.
    method = captum_example["LeftRuleIntegratedGradients"](lambda x: (x**3).sum(1) / 3)
    inputs = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    m = 50
    found = method.attribute(inputs, n_steps=m, steps_per_chunk=steps_per_chunk)
    expected = inputs**3 * ((m - 1) * (2 * m - 1) / (6 * m**2))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_the_captum_example_is_a_script() -> None:
    pytest.importorskip("captum", reason="captum is not installed")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "captum_integrated_gradients.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "largest difference from captum's" in done.stdout


# --- one for each kind of input ------------------------------------------------------------------


def main_of(name: str) -> Callable[[str], Any]:
    """The script's own; it writes into the folder that it is given."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_the_pictures_are_explained_by_eight_methods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    found = main_of("pictures")(str(tmp_path))
    printed = capsys.readouterr().out
    assert len(found) == 8 and all(method in printed for method in found)
    assert float(found["integrated_gradients"].delta.abs().max()) < 1e-3
    assert is_picture(tmp_path / "pictures.png")


def test_the_forest_of_the_table_reads_what_it_was_given_to_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = main_of("table")(str(tmp_path))
    sizes = found.attributions.abs().mean(0)
    assert sizes.argsort(descending=True).tolist()[:2] == [0, 1]  # dose and age, not exposure
    assert capsys.readouterr().out.splitlines()[2].startswith("dose")
    # Exact Shapley values: they add up, and two runs have nothing to differ in.
    added = found.attributions.sum(1)
    assert float(added.abs().max()) <= 1 and found.cost.queries == 40 * 64 + 40
    assert is_picture(tmp_path / "table.png")


def test_most_of_the_mask_of_the_sound_is_where_the_tone_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("soundfile", reason="soundfile is not installed")
    assert main_of("sound")(str(tmp_path)) > 0.5
    assert "heard as 'rising'" in capsys.readouterr().out
    assert is_picture(tmp_path / "sound.png")
    assert (tmp_path / "sound.heard.wav").stat().st_size > 10_000


def test_the_black_box_is_asked_within_its_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("httpx", reason="httpx is not installed")
    cosines = main_of("black_box")(str(tmp_path))
    # Of 1,024 unknowns from 1,024 copies theory has 0.71; of 64 tiles, their means.
    assert 0.6 < cosines["pixels"] < 0.8 and cosines["tiles"] > 0.5
    asked, left = map(int, re.findall(r"\d+", capsys.readouterr().out.splitlines()[-1]))
    assert asked + left == 5000 and left > 0
    assert is_picture(tmp_path / "black_box_tiles.png")


def test_counterfactuals_along_the_prior_are_nearer_to_digits_than_those_in_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    far = main_of("counterfactual")(str(tmp_path))
    sure = [float(each) for each in re.findall(r" p ([\d.]+)", capsys.readouterr().out)]
    assert len(sure) == 12 and max(sure[:4]) < 0.5 < min(sure[4:])  # both convince the network
    assert all(a < b for a, b in zip(far["prior"], far["pixels"], strict=True))
    assert is_picture(tmp_path / "counterfactual.png")
    assert is_picture(tmp_path / "side_by_side.png")


def test_the_data_set_that_was_stopped_is_that_of_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    results = main_of("data_set")(str(tmp_path))
    assert results.counts == {"ok": 59, "bad": 1}
    assert "stopped: 29 of 60" in capsys.readouterr().out  # 17.png is broken
    whole = runpy.run_path(str(EXAMPLES / "data_set.py"))
    explainer = whole["PictureExplainer"](
        whole["load_model"]("demo"), method="integrated_gradients", n_steps=20
    )
    whole["jobs"].explain_dataset(explainer, tmp_path / "digits", tmp_path / "again", shard_size=10)
    for path in sorted((tmp_path / "again" / "shards").iterdir()):
        assert path.read_bytes() == (tmp_path / "data_set_maps" / "shards" / path.name).read_bytes()


def is_picture(path: Path) -> bool:
    """Whether there is something on it."""
    image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
    with image.open(path) as opened:
        return len(opened.convert("RGB").getcolors(2**24)) > 50


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_say_how_they_are_run_and_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"    python examples/{path.name}" in text
    assert len(text.splitlines()) < 60 or path.stem == "captum_integrated_gradients"

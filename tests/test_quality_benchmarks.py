"""The quality benchmarks' own logic: theory, intervals, and that the page renders."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyxai_fast import Preprocessing
from pyxai_fast.metrics.bootstrap import mean_of
from pyxai_fast.models.spec import LoadedModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks" / "quality"))

pytest.importorskip("matplotlib", reason="plots need matplotlib")
image_module = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
# A package is tested without them too.
likelihood_ratio, page, noises, differences = (
    pytest.importorskip(name, reason="the benchmarks are not here")
    for name in ("likelihood_ratio", "likelihood_ratio_page", "noises", "differences")
)


class LinearScores(nn.Module):
    """Two classes; the first has a bias so large that it is always the predicted one."""

    def __init__(self, features: int) -> None:
        super().__init__()
        weight = torch.randn(2, features, generator=torch.Generator().manual_seed(3))
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + torch.tensor([1000.0, 0.0])


@pytest.fixture(scope="module")
def linear_result() -> dict[str, Any]:
    loaded = LoadedModel(LinearScores(256).double(), Preprocessing(channels=1), None, "linear")
    images = torch.rand(
        48, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    plan = likelihood_ratio.Plan(queries=(128, 256), tile=4, smooth_samples=4, steps=4)
    return likelihood_ratio.measured(loaded, images, plan)


# --- cosines -------------------------------------------------------------------------------------


def test_cosines_of_a_linear_score_are_those_of_theory(linear_result: dict[str, Any]) -> None:
    seen = set()
    for row in linear_result["cosines"]:
        if row["theory"] is None:
            continue
        seen.add(row["noise"])
        key = "to_autograd_tile_means" if row["noise"] == "shared" else "to_autograd"
        assert row[key]["mean"] == pytest.approx(row["theory"], rel=0.04), row
    assert seen == set(noises.NOISES) - {"neyman"}


def test_the_kinds_of_noise_have_different_theories() -> None:
    found = {
        name: noise.theory(256, 16, 512)
        for name, noise in noises.NOISES.items()
        if noise.excess is not None
    }
    assert len(set(found.values())) == len(found)
    assert found["shared"] > found["gaussian_one_sided"] > found["rademacher"] > found["gaussian"]
    assert found["gaussian"] > found["in_turn"] > found["random"]


def test_smoothing_changes_no_linear_score(linear_result: dict[str, Any]) -> None:
    references = linear_result["references"]
    assert references["smooth_grad_to_autograd"]["mean"] == pytest.approx(1)
    assert 0.1 < references["tile_means_to_autograd"]["mean"] < 0.5


def test_kinds_without_enough_queries_are_left_out(linear_result: dict[str, Any]) -> None:
    asked = {(row["noise"], row["queries"]) for row in linear_result["cosines"]}
    assert noises.NOISES["neyman"].fits(128, 16) and not noises.NOISES["neyman"].fits(126, 16)
    limited = likelihood_ratio.Plan(queries=(8, 64), kinds=(("in_turn", None), ("shared", 8)))
    assert [(name, queries) for name, _, queries in limited.runs(16)] == [
        ("shared", 8),
        ("in_turn", 64),
    ]
    assert len(asked) == 2 * len(noises.NOISES)


def test_queries_are_counted(linear_result: dict[str, Any]) -> None:
    # The first 48 find the class.
    assert linear_result["queries_spent"] == 48 * (1 + 7 * (128 + 256))


def test_means_of_tiles_keep_sums_and_differ_between_tiles() -> None:
    maps = torch.rand(2, 3, 8, 8)
    means = likelihood_ratio.tile_means(maps, likelihood_ratio.tiles([3, 8, 8], 4))
    torch.testing.assert_close(means.float().sum((1, 2, 3)), maps.sum((1, 2, 3)))
    torch.testing.assert_close(means[:, 1, 0, 0].float(), maps[:, :, :4, :4].mean((1, 2, 3)))
    assert not torch.equal(means[:, 0, 0, 0], means[:, 0, 4, 4])


def test_intervals_cover_the_mean_and_shrink_with_pictures() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    few, many = mean_of(values[:25]), mean_of(values)
    assert many["low"] < float(values.mean()) < many["high"]
    # 1.96 / sqrt(400) to each side.
    assert many["high"] - many["low"] == pytest.approx(0.196, rel=0.1)
    assert few["high"] - few["low"] > 3 * (many["high"] - many["low"])
    assert mean_of(values) == many


def test_every_map_and_control_is_ranked_once(linear_result: dict[str, Any]) -> None:
    maps = [row["map"] for row in linear_result["deletion"]]
    assert len(set(maps)) == len(maps) == 5 + len(noises.NOISES)
    found = {row["map"]: row for row in linear_result["deletion"]}
    assert found["autograd"]["deletion"]["minus_autograd"]["mean"] == 0
    assert found["random order"]["deletion"]["minus_random"]["mean"] == 0


# --- the script and its page ---------------------------------------------------------------------


def test_the_script_runs_on_the_demo_model(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="the demo model needs safetensors")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "notes.txt").write_text("no picture")
    for number in range(3):
        pixels = (torch.rand(32, 32, generator=torch.Generator().manual_seed(number)) * 255).byte()
        image_module.fromarray(pixels.numpy()).save(pictures / f"{number}.png")
    out, plot = tmp_path / "lr-demo.json", tmp_path / "lr-demo.png"
    likelihood_ratio.main(
        [
            "--model", "demo", "--images", str(pictures), "--limit", "2", "--queries", "16,64",
            "--kinds", "gaussian,in_turn,shared:16", "--smooth-samples", "4", "--steps", "4",
            "--name", "Demo", "--json", str(out), "--plot", str(plot),
        ]
    )  # fmt: skip
    text = out.read_text()
    result = json.loads(text)
    assert str(tmp_path) not in text
    assert result["settings"]["pictures"] == 2 and result["settings"]["model"] == "Demo"
    assert [(row["noise"], row["queries"]) for row in result["cosines"]] == [
        ("gaussian", 16), ("in_turn", 16), ("shared", 16), ("gaussian", 64), ("in_turn", 64),
    ]  # fmt: skip
    assert result["queries_spent"] == 2 * (1 + 3 * 16 + 2 * 64)
    assert image_module.open(plot).size[0] > 800
    written = page.rendered([out])
    assert "## Demo" in written and "![Cosine against queries](results/lr-demo.png)" in written
    assert "| tiles in turn | 64 | 32 |" in written
    assert (
        "- Tiles in turn. Too few pictures to tell from "
        in written.split("## When tiles help")[1].split("##")[0]
    )


def test_sentences_say_what_intervals_bear_out() -> None:
    more, same = ({"mean": 0.1, "low": low, "high": 0.2} for low in (0.05, -0.05))
    assert page.verdict(more, 6) == "better by 0.100"
    assert page.verdict(more, 6, good=-1) == "worse by 0.100"
    assert page.verdict(same, 6) == "no different"
    assert page.compared(same, 6, 1) == "no different from"
    assert page.compared({"mean": -0.1, "low": -0.2, "high": -0.05}, 6, -1) == (
        "better by 0.100 than"
    )
    # Of noise alone, all of so few pictures are often on one side.
    assert page.verdict(more, 5) == "too few pictures to tell"
    assert page.compared(more, 5, 1) == "too few pictures to tell from"


def test_what_may_be_rounding_is_no_difference() -> None:
    values = torch.rand(20, generator=torch.Generator().manual_seed(0)).double() + 1
    almost = differences.minus(values * (1 + 1e-5), values)
    assert almost == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert differences.verdict(almost, 20) == "no different"
    more = differences.minus(values * 1.01, values)
    assert more["mean"] == pytest.approx(0.01 * float(values.mean()))
    assert differences.verdict(more, 20) == "better"
    assert differences.verdict(more, 20, good=-1) == "worse"


def test_the_stored_page_is_the_rendered_one() -> None:
    folder = ROOT / "benchmarks" / "quality"
    files = sorted((folder / "results").glob("lr-*.json"))
    assert (folder / "likelihood_ratio.md").read_text() == page.rendered(files)

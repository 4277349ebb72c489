"""The comparison of paths: that every map is measured, and that the page and plot render."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nets import conv_net

from pyxai_fast import Preprocessing
from pyxai_fast.models.spec import LoadedModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks" / "quality"))

pytest.importorskip("matplotlib", reason="plots need matplotlib")
pytest.importorskip("PIL.Image", reason="pictures need Pillow")
# A package is tested without them too.
paths, page, plot, maps = (
    pytest.importorskip(name, reason="the benchmarks are not here")
    for name in ("paths", "paths_page", "paths_plot", "path_maps")
)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    model = conv_net(channels=1)
    loaded = LoadedModel(model, Preprocessing(channels=1), None, "net")
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = maps.Settings(10, None, images, 0)
    found = paths.measured(loaded, images, settings, tuple(maps.MAPS), 4)
    found["settings"] |= {"model": "net", "data": "noise", "threads": 1}
    return {
        "machine_info": {"cpu": "a cpu", "torch": "2", "load_before": 0.5, "cores": 2}, **found
    }  # fmt: skip


def test_every_map_that_needs_nothing_else_is_measured(result: dict[str, Any]) -> None:
    measured = [row["map"] for row in result["maps"]]
    assert measured == ["random", *(name for name in maps.MAPS if name != "diffusion_ig")]
    for row in result["maps"][1:]:
        assert row["gradients"] >= 1 and row["seconds"] > 0
        assert 0 < row["entropy"]["mean"] < 1
        complete = row["map"] in (
            "integrated_gradients", "guided_ig", "blur_ig", "expected_gradients", "spi"
        )  # fmt: skip
        assert (row["gap"] is not None) == complete, row["map"]


def test_gaps_are_of_the_pictures_whose_scores_change() -> None:
    def explained(sums: list[float], deltas: list[float]) -> Any:
        maps = torch.tensor(sums)[:, None, None, None]
        return SimpleNamespace(attributions=maps, delta=torch.tensor(deltas))

    # The sum less the gap is what the score changed by: 2, 4 and 0.
    found = paths.gap_of(explained([2.5, 5.0, 1.0], [0.5, 1.0, 1.0]))
    assert (found["mean"], found["low"], found["high"], found["pictures"]) == (0.25, 0.25, 0.25, 2)
    assert page.gap_of(found, 3) == "25 (25..25) %, of 2"
    assert page.gap_of(found, 2) == "25 (25..25) %"
    flat = paths.gap_of(explained([0.0, 1.0], [0.0, 1.0]))
    assert page.gap_of(flat, 2) == "of no picture"
    json.dumps([found, flat], allow_nan=False)


def test_figures_are_a_page_and_a_plot(result: dict[str, Any], tmp_path: Path) -> None:
    guides = [
        {"faithful": f, "sparse": s, **{k: result["maps"][1][k] for k in JUDGED}}
        for f, s in maps.GUIDES
    ]
    file = tmp_path / "paths-net.json"
    file.write_text(json.dumps({**result, "guides": guides}))
    text = page.rendered([file])
    assert "## net" in text and "noise: 3 of 1x8x8" in text
    for row in result["maps"]:
        assert f"| {row['label']} |" in text
    assert "| 40 | 5 |" in text
    plot.paths_figure({**result, "guides": guides}).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


JUDGED = ("diffid", "deletion", "insertion", "entropy")


def test_the_stored_page_is_the_rendered_one() -> None:
    folder = ROOT / "benchmarks" / "quality"
    files = sorted(folder.glob("results/paths-*.json"))
    if not files:
        pytest.skip("no figures are stored")
    assert (folder / "paths.md").read_text() == page.rendered(files)

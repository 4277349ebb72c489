"""The comparison of paths: DiffID as it is defined, and that the page and plot render."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import conv_net
from torch import Tensor

from pyxai_fast import Preprocessing
from pyxai_fast.models.spec import LoadedModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks" / "quality"))

pytest.importorskip("matplotlib", reason="plots need matplotlib")
pytest.importorskip("PIL.Image", reason="pictures need Pillow")
# A package is tested without them too.
diffid, paths, page, plot, maps = (
    pytest.importorskip(name, reason="the benchmarks are not here")
    for name in ("diffid", "paths", "paths_page", "paths_plot", "path_maps")
)


def halves(x: Tensor) -> Tensor:
    """Class 1 where the left half is brighter than the right one by a quarter."""
    left, right = x[..., :3].flatten(1).mean(1), x[..., 3:].flatten(1).mean(1)
    return torch.stack((torch.full_like(left, 0.25), left - right), 1)


def slow_diffid(x: Tensor, attributions: Tensor, target: int) -> float:
    """One ratio and one feature at a time, as the definition reads."""
    order = attributions.abs().flatten().argsort(descending=True, stable=True).tolist()
    total = 0.0
    for ratio in diffid.RATIOS:
        count = round(ratio * len(order))
        for sign, gone in ((1, order[len(order) - count :]), (-1, order[:count])):
            values = x.flatten().tolist()
            kept = [v for i, v in enumerate(values) if i not in set(gone)]
            for i in gone:
                values[i] = sum(kept) / len(kept)
            answer = halves(torch.tensor(values).reshape(1, *x.shape))
            total += sign * (int(answer.argmax()) == target)
    return total / len(diffid.RATIOS)


def test_diffid_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 2, 4, 6, generator=generator)
    x[..., :3] += 0.6
    attributions = torch.randn(x.shape, generator=generator)
    found = diffid.diffid(halves, x, attributions, torch.ones(6, dtype=torch.long))
    expected = [slow_diffid(x[i], attributions[i], 1) for i in range(6)]
    assert found.tolist() == pytest.approx(expected)
    assert len(set(expected)) > 1
    # The ranking the other way round.
    other = diffid.diffid(halves, x, 1 / attributions.abs(), torch.ones(6, dtype=torch.long))
    torch.testing.assert_close(other, -found)


def test_entropy_is_one_for_a_flat_map_and_none_for_a_single_feature() -> None:
    flat, single = torch.full((1, 3, 4), -2.0), torch.zeros(1, 3, 4)
    single[0, 1, 2] = 5.0
    found = paths.entropy(torch.cat((flat, single)))
    assert found.tolist() == pytest.approx([1.0, 0.0])


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

"""Ours and others on one model and one folder: what is compared, kept, stored and told."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pyxai_fast import plots
from pyxai_fast.known_evidence import MAPS

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks" / "quality"), str(ROOT / "benchmarks")]

pytest.importorskip("matplotlib", reason="plots need matplotlib")
pytest.importorskip("PIL.Image", reason="pictures need Pillow")
pytest.importorskip("captum", reason="captum is one of those that are compared")
# A package is tested without them too.
script, contenders, page = (
    pytest.importorskip(name, reason="the benchmarks are not here")
    for name in ("real_models", "known_evidence_contenders", "real_models_page")
)

MODEL = """
import torch
from pyxai_fast import Preprocessing

asked = []


class Asked(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 5, stride=2), torch.nn.ReLU(), torch.nn.Flatten(),
            torch.nn.Linear(4 * 6 * 6, 3),
        )

    def forward(self, rows):
        asked.append(len(rows))
        return self.layers(rows)


def net():
    return Asked().eval(), Preprocessing(size=(16, 16), channels=1, mean=(0.5,), std=(0.5,))
"""
# A few that are fast, of ours and of others.
OURS = ("saliency", "integrated_gradients", "lime")
THEIRS = ("captum_saliency", "captum_integrated_gradients", "rise_paper")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "comparednet.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "comparednet", raising=False)
    for name, count in (("images", 7), ("masks", 6)):
        (tmp_path / name).mkdir()
        for number in range(count):
            generator = torch.Generator().manual_seed(number)
            pixels = torch.rand(1, 16, 16, generator=generator)
            if name == "masks":
                pixels = (torch.arange(16)[None, :, None] < 8).float().expand(1, 16, 16)
            plots.save_image(plots.pixel_image(pixels), tmp_path / name / f"{number}.png")
    monkeypatch.setattr(script, "names_of", lambda budget: OURS)
    some = {name: contenders.CONTENDERS[name] for name in THEIRS}
    monkeypatch.setattr(script, "contenders_of", lambda budget: some)
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return tmp_path


def compare(folder: Path, *more: str) -> None:
    script.main(
        [
            *("--model", "python:comparednet:net", "--images", str(folder / "images")),
            *("--out", str(folder / "out"), "--evaluations", "20", "--threads", "1"),
            *("--name", "A net", "--store", *more),
        ]
    )


def test_the_same_maps_of_two_packages_are_not_told_apart(folder: Path) -> None:
    compare(folder, "--masks", str(folder / "masks"))
    result = json.loads((folder / "results" / "real-a-net.json").read_text())
    methods = {method["name"]: method for method in result["methods"]}
    assert list(methods) == [*OURS, *THEIRS, "random", "centre"]
    assert len(result["settings"]["cases"]) == 6  # the seventh has no mask
    for name in ("captum_saliency", "captum_integrated_gradients"):
        for metric, difference in methods[name]["ours_minus"].items():
            assert difference["verdict"] == "no different", (name, metric, difference)
    assert "ours_minus" not in methods["rise_paper"]  # whose counterpart is not among ours here
    # As often as was allowed, and once for the class that is explained.
    assert methods["integrated_gradients"]["gradients"] == 20
    assert methods["captum_integrated_gradients"]["gradients"] == 20
    assert methods["rise_paper"]["queries"] == 20
    inside = methods["random"]["figures"]["energy_inside signed"]
    assert inside["mean"] == pytest.approx(0.5, abs=0.1)  # half of a picture is inside
    assert "insertion signed" not in methods["random"]["figures"]  # a small picture hardly blurs


def test_what_is_kept_is_not_asked_again_and_the_store_has_no_picture(folder: Path) -> None:
    compare(folder)
    import comparednet  # type: ignore[import-not-found]

    before = (folder / "out" / "maps.csv").read_bytes()
    comparednet.asked.clear()
    compare(folder)
    assert sum(comparednet.asked) == 7  # which class each picture is taken for
    assert (folder / "out" / "maps.csv").read_bytes() == before
    stored = sorted(path.name for path in (folder / "results").iterdir())
    assert stored == ["real-a-net.csv", "real-a-net.json", "real-a-net.png"]
    with (folder / "results" / "real-a-net.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {*OURS, *THEIRS, "random", "centre"}
    with pytest.raises(SystemExit, match="one of the same settings"):
        compare(folder, "--limit", "3")


def test_what_is_drawn_is_each_pictures_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = ("smooth_grad", "rise", "captum_smooth_grad", "captum_kernel_shap", "rise_paper")
    some = {name: contenders.CONTENDERS[name] for name in (*THEIRS, *drawn[2:])}
    monkeypatch.setattr(script, "names_of", lambda budget: ("saliency", *drawn[:2]))
    monkeypatch.setattr(script, "contenders_of", lambda budget: some)
    pixels = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([1])
    loaded = script.load_model("python:comparednet:net")
    budget = script.FromBlack(20, torch.rand(4, 1, 16, 16))
    for explainer in script.explainers_of(loaded, budget):
        one, other = (explainer.maps(pixels, target, [n]).attributions for n in (0, 4))
        draws = explainer.label in (*drawn, "random")
        assert torch.equal(one, other) != draws, explainer.label
        # Whatever else is in the batch.
        both = explainer.maps(pixels.repeat(2, 1, 1, 1), target.repeat(2), [0, 4]).attributions
        torch.testing.assert_close(both, torch.cat((one, other)), rtol=1e-4, atol=1e-5)


def test_the_page_says_where_ours_is_better_equal_and_worse(tmp_path: Path) -> None:
    def minus(mean: float, verdict: str) -> dict[str, Any]:
        return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "verdict": verdict}

    def method(name: str, kind: str, **more: Any) -> dict[str, Any]:
        figures = {"deletion signed": minus(0.3, ""), "deletion absolute": minus(0.4, "")}
        cost = {"gradients": 20.0, "queries": 0.0, "seconds": 0.5}
        found = {"name": name, "label": name, "kind": kind, "order": "signed", "figures": figures}
        return found | cost | more

    than = {"deletion": minus(-0.3, "better")}
    same = {"deletion": minus(0.0, "no different")}
    result = {
        "machine_info": {"cpu": "Example CPU", "torch": "2"},
        "settings": {
            "model": "A net", "data": "", "cases": ["1", "2"], "evaluations": 20, "threads": 1
        },
        "metrics": {"deletion": {"meaning": "...", "large_is_good": False}},
        "methods": [
            method("ours", "ours", minus_controls={"random": than["deletion"], "centre": {}}),
            method("theirs", "theirs", counterpart="ours", ours_minus=than),
            method("others", "theirs", counterpart="ours", ours_minus=same),
            method("random", "control"),
        ],
    }  # fmt: skip
    result["methods"][0]["minus_controls"] = {"random": than, "centre": same}
    (tmp_path / "real-a-net.json").write_text(json.dumps(result))
    text = page.rendered([tmp_path / "real-a-net.json"])
    assert "| A net | 1 | 1 | 0 |" in text
    assert "- ours than theirs (A net: deletion)" in text and "Ours worse" not in text
    assert "of ours not better than both controls: ours." in text
    assert "| theirs | ours | -0.300 (-0.400..-0.200) better |" in text
    assert "| others | ours | 0.000 (-0.100..0.100) |" in text


def test_every_map_that_others_have_too_is_one_of_ours() -> None:
    for name, one in contenders.CONTENDERS.items():
        assert one.counterpart == "" or one.counterpart in MAPS, name


def test_the_stored_page_is_the_rendered_one() -> None:
    results = sorted((script.HERE / "results").glob("real-*.json"))
    assert results and (script.HERE / "real_models.md").read_text() == page.rendered(results)

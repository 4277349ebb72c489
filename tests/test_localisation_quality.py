"""Whether maps find the thing: pictures with masks, sounds with events, and the page."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyxai_fast import Preprocessing
from pyxai_fast.audio import Spectrum, WaveformModel
from pyxai_fast.methods.dax import DAX

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks" / "quality"))

pytest.importorskip("matplotlib", reason="plots need matplotlib")
image_module = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
# A package is tested without them too.
pictures, scenes, maps, rows, runs, page, plot, localisation, sounds = (
    pytest.importorskip(name, reason="the benchmarks are not here")
    for name in (
        "masked_pictures", "sound_scenes", "segment_maps", "rows",
        "localisation_run", "localisation_page", "localisation_plot", "localisation",
        "sound_localisation",
    )
)  # fmt: skip


# --- pictures ------------------------------------------------------------------------------------


def save_grey(pixels: Tensor, path: Path) -> None:
    image_module.fromarray((pixels * 255).round().byte().numpy()).save(path)


@pytest.fixture()
def index(tmp_path: Path) -> Path:
    """Two entries of one picture of 24 x 40: the same place as a mask and as a box."""
    mask = torch.zeros(24, 40)
    mask[6:18, 10:20] = 1
    save_grey(mask, tmp_path / "mask.png")
    save_grey(torch.rand(24, 40, generator=torch.Generator().manual_seed(0)), tmp_path / "a.png")
    entries = [
        {"image": "a.png", "mask": "mask.png", "category": "cup", "classes": [2, 1]},
        {"image": "a.png", "box": [10, 6, 20, 18], "category": "cup"},
    ]
    path = tmp_path / "index.json"
    path.write_text(json.dumps(entries))
    return path


def test_masks_and_boxes_go_the_way_of_the_picture(index: Path) -> None:
    masked, boxed = pictures.from_index(index, "classes")
    assert masked.labels == (2, 1) and boxed.labels == ()
    assert masked.name == "a cup" and boxed.name != masked.name
    same = Preprocessing(channels=1)
    assert masked.inside(same).sum() == 120 and masked.inside(same)[6:18, 10:20].all()
    # The shorter side to 12, and of 12 x 20 the middle.
    cropped = Preprocessing(channels=3, resize=12, size=(12, 12))
    found = masked.inside(cropped)
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[3:9, 1:6] = True
    assert torch.equal(found, expected)
    assert torch.equal(boxed.inside(cropped), found)


def test_folders_are_paired_by_name(tmp_path: Path) -> None:
    for folder in ("pictures", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("pictures/b.png", "pictures/c.png", "masks/b.jpg", "masks/b.txt"):
        save_grey(torch.ones(4, 4), tmp_path / name) if "txt" not in name else None
    (entry,) = pictures.from_folders(tmp_path / "pictures", tmp_path / "masks")
    assert entry.name == "b" and entry.mask.name == "b.jpg"


def test_an_index_says_which_entry_is_not_one(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text('[{"image": "a.png"}]')
    with pytest.raises(SystemExit, match="entry 0 must have an image, and a mask or a box"):
        pictures.from_index(path)


def test_the_class_is_the_best_of_its_labels_if_it_is_among_the_first() -> None:
    scores = torch.tensor([0.1, 5.0, 4.0, 3.0, 2.0])
    assert pictures.chosen_of((0, 3), scores, 3) == 3
    assert pictures.chosen_of((0, 4), scores, 3) is None
    assert pictures.chosen_of((), scores, 1) == 1


# --- sounds --------------------------------------------------------------------------------------


def test_the_loudest_part_is_found_and_placed_at_the_level_that_is_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    waveform = 0.01 * torch.randn(1000, generator=generator)
    waveform[300:500] += torch.randn(200, generator=generator)
    assert abs(scenes.loudest(waveform, 200) - 300) < 5
    assert scenes.loudest(waveform[:100], 200) == 0
    background = scenes.pink_noise(2000, generator)
    assert background.square().mean() == pytest.approx(1, abs=1e-4)
    whole = scenes.placed(waveform[300:500], background, 700, 20.0, 10)
    assert whole.abs().max() == pytest.approx(0.5)
    behind = torch.cat([whole[:700], whole[900:]])
    event = whole[700:900] - behind.std() / background.std() * background[700:900]
    ratio = event.square().mean() / behind.square().mean()
    assert 10 * ratio.log10() == pytest.approx(20, abs=0.5)
    # Faded in.
    assert event[:3].abs().max() < event[20:180].abs().max() / 3


def test_a_background_of_clips_is_of_another_kind() -> None:
    quiet = torch.full((50,), 1e-3)
    dog = scenes.Clip("dog", torch.ones(300), (1,), "dog")
    other_dog = scenes.Clip("dog 2", torch.zeros(300), (1,), "dog")
    rain = scenes.Clip("rain", quiet, (2,), "rain")
    arguments = (100, 4.0, 1.0, 20.0, "clips", 3)
    scene = scenes.scene_of(dog, [dog, other_dog, rain], *arguments)
    assert len(scene.waveform) == 400 and scene.end - scene.start == 100
    outside = torch.ones(400, dtype=torch.bool)
    outside[scene.start : scene.end] = False
    # The rain, repeated, 20 dB below.
    inside = scene.waveform[scene.start + 5 : scene.end - 5].mean()
    assert scene.waveform[outside].min() == scene.waveform[outside].max() > 0
    assert inside / scene.waveform[outside][0] == pytest.approx(11, rel=0.05)
    with pytest.raises(SystemExit, match="another kind"):
        scenes.scene_of(dog, [dog, other_dog], *arguments)


class Loud(nn.Module):
    """Scores of waveforms [R, samples]: how loud the loudest fifth is."""

    def forward(self, waveform: Tensor) -> Tensor:
        power = waveform.unflatten(1, (5, -1)).square().mean(2).amax(1)
        score = power / (power + 0.01)
        return torch.stack([score, 1 - score], 1)


def sound_case(*more: str) -> tuple[Any, Any]:
    options = sounds.parser().parse_args(
        ["--events", ".", "--rate", "1000", "--seconds", "2", "--event-seconds", "0.4",
         "--tiles", "250x0.2", "--queries", "40", *more]
    )  # fmt: skip
    tone = (torch.arange(600) * 0.9).sin()
    clip = scenes.Clip("tone", tone, (0,), "tone")
    (scene,) = sounds.scenes_of([clip], options)
    model = WaveformModel(Loud(), Spectrum(1000, 64, 16), 2000)
    return sounds.case_of(scene, model, options), model


def test_a_map_of_the_event_is_right_in_time() -> None:
    case, _ = sound_case()
    frames = case.inputs.shape[3]
    assert case.mask.shape == (frames,)
    seconds = case.said["end"] - case.said["start"]
    assert float(case.mask.sum()) * 16 / 1000 == pytest.approx(seconds, abs=0.032)
    loud = case.inputs.square().sum((0, 1))
    found = in_time(case, loud)
    assert found["pointing"] == 1 and found["energy"] > 0.9 and found["iou"] > 0.7
    away = in_time(case, -loud * case.mask + 0.1 * ~case.mask)
    assert away["pointing"] == 0 and away["iou"] == 0


def in_time(case: Any, values: Tensor) -> dict[str, float]:
    return dict(runs.judged(sounds.in_time(values), case.mask))


def test_what_is_deleted_first_is_what_speaks_most_for_the_class() -> None:
    case, model = sound_case("--hidden", "silence")
    event = case.mask.double()
    steps = 10
    first, last = (sounds.deletion_of(model, case, when, steps) for when in (event, 1 - event))
    assert first < 0.35 < 0.7 < last
    # By hand, with the frames of the event hidden at first, then those after it, from the left.
    order = torch.argsort(event, descending=True, stable=True)
    curve = []
    for step in range(steps + 1):
        parts = case.inputs.clone()
        parts[..., order[: round(step / steps * len(order))]] = 0
        curve.append(float(model(parts)[0, 0]) / case.said["score"])
    assert first == pytest.approx(float(torch.trapezoid(torch.tensor(curve))) / steps, abs=0.02)


def test_hidden_tiles_are_turned_down() -> None:
    case, model = sound_case("--hidden", "-20")
    torch.testing.assert_close(case.hidden, case.inputs / 10)
    setup = maps.Setup(model, 40, output="logit")
    found = {row["hidden"]: row for row in sounds.spread_of_hidden([case], setup)}
    assert set(found) == set(sounds.TRIED)
    # What is turned down by less is missed less.
    assert found["-10"]["mean"]["mean"] > found["silence"]["mean"]["mean"]


def test_maps_of_a_sound_find_when_it_is_loud() -> None:
    case, model = sound_case()
    setup = maps.Setup(
        model, 80, output="logit", recipe=SMALL | {"transform": model.spectrum.log_magnitude}
    )
    wanted = {"lime", "rise", "kernel_shap", "dax", "dax_release"}
    found = dict(maps.maps_of(setup, case, 0, wanted))
    assert set(found) == wanted
    for name in ("lime", "rise", "kernel_shap"):
        assert in_time(case, found[name].values)["pointing"] == 1, name
    assert in_time(case, found["dax"].values)["energy"] > 2 * float(case.mask.double().mean())
    assert found["dax_release"].values.shape == case.inputs.shape[2:]


# --- maps ----------------------------------------------------------------------------------------

SMALL = {"student_size": 16, "filters": 4, "width": 16, "n_epochs": 3, "mask_epochs": (0, 2)}


class Red(nn.Module):
    """The first class is there where some tile of 4 x 4 is red."""

    def forward(self, x: Tensor) -> Tensor:
        red = nn.functional.avg_pool2d(x[:, 0] - x[:, 1], 4).flatten(1).amax(1)
        return torch.stack([10 * red - 2, 2 - 10 * red], 1)


def red_case(name: str = "red") -> Any:
    inputs = torch.full((1, 3, 16, 16), 0.5)
    inputs[:, :, 4:8, 8:12] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:8, 8:12] = True
    rows = torch.arange(16)
    tiles = (rows[:, None] // 4 * 4 + rows // 4).int()[None, None]
    return maps.Case(
        name,
        inputs,
        0,
        mask,
        tiles,
        "segment_grey",
        {"segments": 16, "area": 1 / 16, "segments_by": "tiles:4"},
    )


def judge(case: Any, values: Tensor) -> dict[str, float]:
    return dict(runs.judged(values, case.mask))


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    setup = maps.Setup(Red(), 60, recipe=SMALL)
    return dict(maps.maps_of(setup, red_case(), 1, set(maps.MAPS)))


def test_every_map_is_made_of_as_many_evaluations(made: dict[str, Any]) -> None:
    assert set(made) == set(maps.MAPS)
    for name, each in made.items():
        assert each.values.shape == (16, 16), name
        assert each.evaluations == (0 if name in maps.CONTROLS else 60), name
    for name in ("dax", "lime", "kernel_shap", "rise", "integrated_gradients"):
        assert judge(red_case(), made[name].values)["pointing"] == 1, name


def test_masks_are_those_of_dax_asked_alone(made: dict[str, Any]) -> None:
    case = red_case()
    options = {name: {"loss": loss, **SMALL} for name, loss in maps.OF_THE_PAPER.items()}
    for name, given in {"dax": {}, **options}.items():
        alone = DAX(Red(), **given).attribute(
            case.inputs, case.hidden, 0, feature_mask=case.segments, n_queries=60, seed=1
        )
        assert torch.equal(made[name].values, alone[0, 0]), name


def test_means_over_segments_keep_the_sum_and_are_the_same_within_each(made: Any) -> None:
    segments = red_case().segments
    for name in ("smooth_grad", "integrated_gradients"):
        found = made[f"{name}_segments"].values
        assert float(found.sum()) == pytest.approx(float(made[name].values.sum()), rel=1e-5)
        assert all(float(found[segments[0, 0] == s].std()) < 1e-6 for s in range(16))


# --- a run ---------------------------------------------------------------------------------------

QUICK = ("dax", "lime", "integrated_gradients", "random", "centre")


@pytest.fixture()
def result(tmp_path: Path) -> dict[str, Any]:
    cases = [red_case("one"), red_case("two")]
    settings = {
        "kind": "pictures", "model": "net", "data": "tiles", "queries": 20, "recipe": SMALL,
        "segments": "tiles:4", "hidden": "segment_grey", "top": 5, "seeds": 2, "threads": 1,
    }  # fmt: skip
    results = runs.Results(tmp_path / "localisation-net.json", settings, tuple(runs.METRICS))
    setup = maps.Setup(Red(), 20, recipe=SMALL)
    assert runs.run(cases, setup, range(2), QUICK, judge, results.rows, lambda *_: None)
    found: dict[str, Any] = results.write(cases)
    return found


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    columns = (*runs.METRICS, *runs.COST)
    setup = maps.Setup(Red(), 20, recipe=SMALL)
    asked: list[str] = []

    def told(case: Any, values: Tensor) -> dict[str, float]:
        asked.append(case.name)
        return judge(case, values)

    def go(names: tuple[str, ...], seeds: int, minutes: float | None = None) -> bool:
        kept = rows.Rows(tmp_path / "rows.csv", columns)
        cases = [red_case("one"), red_case("two")]
        done: bool = runs.run(
            cases, setup, range(seeds), names, told, kept, lambda *_: None, minutes
        )
        return done

    assert not go(("lime", "centre"), 2, minutes=0) and not asked
    assert go(("lime", "centre"), 1) and asked == ["one"] * 2 + ["two"] * 2
    # Another seed: of what is drawn alone.
    assert go(("lime", "centre"), 2) and asked[4:] == ["one", "two"]
    assert go(("lime", "centre"), 2) and len(asked) == 6
    with (tmp_path / "rows.csv").open(newline="") as file:
        found = [(row["case"], row["seed"], row["map"]) for row in csv.DictReader(file)]
    assert len(found) == len(set(found)) == 6


def test_a_run_with_other_settings_needs_another_file(
    result: dict[str, Any], tmp_path: Path
) -> None:
    path, names = tmp_path / "localisation-net.json", tuple(runs.METRICS)
    more = runs.Results(path, result["settings"] | {"seeds": 9}, names)
    assert len(more.rows.found) == 2 * (3 * 2 + 2)
    with pytest.raises(SystemExit, match="other settings"):
        runs.Results(path, result["settings"] | {"queries": 21}, names)


def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    path, settings = tmp_path / "figures.json", {"queries": 20, "seeds": 1, "tiles": (1, 2)}
    killed = runs.Results(path, settings, ("iou",))
    killed.rows.add(("a", 0, "lime"), {"iou": 0.5, "evaluations": 20, "seconds": 1.0})
    assert runs.Results(path, settings, ("iou",)).rows.found["a", 0, "lime"]["iou"] == 0.5


def test_half_a_row_that_a_killed_run_left_is_made_again(tmp_path: Path) -> None:
    path, keys = tmp_path / "rows.csv", [("a, b", 0, "lime"), ("c", 1, "dax")]
    whole = rows.Rows(path, ("iou", "energy"))
    for key in keys:
        whole.add(key, {"iou": 0.512, "energy": 0.25})
    text = path.read_text()
    ends = [i + 1 for i, letter in enumerate(text) if letter == "\n"]
    for cut in range(len(text)):
        path.write_text(text[:cut])
        left = rows.Rows(path, ("iou", "energy"))
        # As many rows as have their ends, the first of which is the head's.
        assert list(left.found) == keys[: sum(end <= cut for end in ends[1:])], cut
        for key in keys[len(left.found) :]:
            left.add(key, {"iou": 0.512, "energy": 0.25})
        assert path.read_text() == text, cut


def test_a_file_of_other_figures_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows.Rows(path, ("iou",)).add(("a", 0, "lime"), {"iou": 0.5})
    before = path.read_text()
    with pytest.raises(SystemExit, match="must have the columns case, seed, map, energy"):
        rows.Rows(path, ("energy",))
    assert path.read_text() == before


def test_figures_are_means_over_seeds_and_cases(tmp_path: Path) -> None:
    kept = rows.Rows(tmp_path / "rows.csv", ("iou", *runs.COST))
    figures = {
        ("a", "dax"): (0.2, 0.4), ("b", "dax"): (0.5, 0.5),
        ("a", "lime"): (0.1, 0.1), ("b", "lime"): (0.6, 0.2), ("c", "lime"): (1.0, 1.0),
    }  # fmt: skip
    for (case, name), values in figures.items():
        for seed, value in enumerate(values):
            kept.add((case, seed, name), {"iou": value, "evaluations": 20, "seconds": seed})
    dax, lime = runs.summary(kept, ["a", "b", "c"], ["iou"])
    # c has no map of DAX yet.
    assert dax["cases"] == 2 and dax["seeds"] == 2
    assert dax["iou"]["mean"] == pytest.approx(0.4) and dax["seconds"] == 0.5
    assert dax["iou_seed_sd"] == pytest.approx((0.02 / 2) ** 0.5)
    assert lime["iou_seed_sd"] == pytest.approx((0.08 / 2) ** 0.5)
    assert lime["iou_main_minus"]["mean"] == pytest.approx((0.2 + 0.1) / 2)
    assert "iou_main_minus" not in dax


def test_figures_are_a_page_and_a_plot(result: dict[str, Any], tmp_path: Path) -> None:
    text = page.rendered([tmp_path / "localisation-net.json"])
    assert "## net" in text and "tiles: 2 whose class" in text
    for row in result["maps"]:
        assert text.count(f"| {row['label']} |") == (2 if row["map"] == "dax" else 3)
    plot.localisation_figure(result).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_better_is_less_where_small_is_good() -> None:
    less = {"mean": -0.2, "low": -0.3, "high": -0.1}
    row = {"cases": 6, "label": "LIME", "iou_main_minus": less, "deletion_main_minus": less}
    assert page.compared(row, "iou") == "worse" and page.compared(row, "deletion") == "better"
    assert list(page.findings([row], ["iou", "deletion"])) == [
        "IoU at 0.2: DAX is worse than LIME.", "deletion: DAX is better than LIME.",
    ]  # fmt: skip
    wide = row | {"iou_main_minus": less | {"high": 0.1}}
    assert list(page.findings([wide], ["iou"])) == ["IoU at 0.2: DAX is no different from LIME."]
    # Of noise alone, all of so few cases are often on one side.
    few = row | {"cases": 5}
    assert not list(page.findings([few], ["iou"]))
    assert page.difference(few, "iou") == page.interval(less)


MODEL = """
import torch
from pyxai_fast import Preprocessing

class Bright(torch.nn.Module):
    def forward(self, x):
        some = x[:, 0, :8].square().mean((1, 2))
        return torch.stack([some, 1 - some, 0 * some - 5], 1)

def made():
    return Bright(), Preprocessing(channels=1, size=(16, 16))
"""


def test_a_folder_of_pictures_becomes_figures_and_a_gallery(index: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    out = tmp_path / "figures.json"
    command = [
        "--model", f"python:{tmp_path}/model.py:made", "--index", str(index), "--json", str(out),
        "--out", str(tmp_path / "out"), "--segments", "tiles:4", "--queries", "20",
        "--deletion-steps", "2", "--student-size", "8", "--methods", "lime,centre,dax",
        "--plot", str(tmp_path / "plot.png"),
    ]  # fmt: skip
    localisation.main([*command, "--seeds", "1"])
    found = json.loads(out.read_text())
    assert [row["map"] for row in found["maps"]] == ["dax", "lime", "centre"]
    assert all(row["deletion"]["mean"] >= 0 for row in found["maps"])
    assert [case["name"] for case in found["cases"]] == ["a cup", "a cup 1"]
    assert (tmp_path / "plot.png").exists() and (tmp_path / "out" / "gallery.png").exists()
    before = out.with_suffix(".csv").read_text()
    localisation.main([*command, "--seeds", "2"])
    after = out.with_suffix(".csv").read_text()
    assert after.startswith(before) and after.count("\n") == before.count("\n") + 4
    # What it was asked for is not where it lies.
    assert str(tmp_path) not in out.read_text()


def test_the_stored_page_is_the_rendered_one() -> None:
    folder = ROOT / "benchmarks" / "quality"
    files = sorted(folder.glob("results/localisation-*.json"))
    if not files:
        pytest.skip("no figures are stored")
    assert (folder / "localisation.md").read_text() == page.rendered(files)

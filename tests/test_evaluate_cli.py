"""``pyxai-fast evaluate`` compares methods on files, and goes on where it was stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("safetensors", reason="the demo's weights are a safetensors file")
pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn")
pytest.importorskip("PIL", reason="Pillow is not installed")

from evaluation_cases import masks as masks_of
from evaluation_cases import pictures as pictures_of
from PIL import Image

from pyxai_fast.cli import main
from pyxai_fast.demo.data import load_digits
from pyxai_fast.evaluation.loop import Comparing

CASES = Path(__file__).with_name("evaluation_cases.py")
WRITTEN = {
    "comparison.json", "maps.csv", "costs.csv", "gallery.npz", "summary.md", "summary.csv",
    "summary.json", "curves.png", "dots.png", "maps.png", "lock",
}  # fmt: skip


def save(pixels: torch.Tensor, folder: Path, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pixels):
        array = np.asarray((picture[0].float() * 255).round(), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{number:02d}{suffix}")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(load_digits("test")[0][::40][:9], tmp_path_factory.mktemp("digits"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


METHODS = "integrated_gradients,saliency,lime"


def run(source: Path | str, out: Path, *arguments: str, model: str = "demo") -> int:
    fixed = ["--model", model, "--device", "cpu", "--no-progress", "--batch-size", "4"]
    return main(["evaluate", str(source), "--out", str(out), *fixed, *arguments])


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "maps.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


# ---------------------------------------------------------------- what it does


def test_evaluate_compares_methods_on_a_folder(
    digits: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(digits, out, "--methods", METHODS, "--budget", "30") == 0
    told = capsys.readouterr()
    assert "| method " in told.out and "insertion \u2191" in told.out
    assert "9 pictures compared; summary.md" in told.out
    assert "saliency: asks the model once, not 30" in told.err
    assert {path.name for path in out.iterdir()} == WRITTEN
    found = rows(out)
    assert len(found) == 9 * 5 * 5
    assert {row["method"] for row in found} == {*METHODS.split(","), "random", "centre"}
    assert found[0]["file"].endswith("00.png")
    said = summary(out)
    assert said["cost_per_picture"]["integrated_gradients"]["gradients"] == 30
    assert said["cost_per_picture"]["lime"]["queries"] == 31
    assert said["pictures"] == 9 and said["model"] == "demo" and said["failures"] == {}
    assert said["settings"]["lime"]["options"] == {"n_queries": 30}
    text = (out / "summary.md").read_text()
    assert "Each map takes 30 evaluations of the model" in text
    assert "## insertion: large is good" in text


def test_the_right_method_wins_on_files_too(tmp_path: Path, out: Path) -> None:
    source = save(pictures_of(12), tmp_path / "in")
    masks = save(masks_of(12).float(), tmp_path / "masks", ".bmp")
    (masks / "05.bmp").unlink()
    preprocessing = tmp_path / "grey.json"
    preprocessing.write_text(json.dumps({"channels": 1, "size": [32, 32]}))
    options = [
        "--methods", "input_x_gradient", "--masks", str(masks), "--preprocessing",
        str(preprocessing), "--metrics", "deletion,energy_inside",
    ]  # fmt: skip
    assert run(source, out, *options, model=f"python:{CASES}:load") == 0
    of = {(line["metric"], line["method"]): line for line in summary(out)["results"]}
    right = of["deletion", "input_x_gradient"]["minus_random"]
    assert right["verdict"] == "better" and right["high"] < 0
    assert of["energy_inside", "input_x_gradient"]["mean"] == 1
    assert of["energy_inside", "input_x_gradient"]["pictures"] == 11


def test_bad_files_are_told_and_skipped(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(load_digits("test")[0][:3], tmp_path / "in")
    (source / "01.png").write_bytes(b"nonsense")
    assert run(source, out, "--methods", "saliency", "--metrics", "deletion") == 1
    told = capsys.readouterr()
    assert "01.png: not an image file that can be read: PNG, " in told.err
    assert "2 pictures compared; 1 could not be read" in told.out
    assert {row["picture"] for row in rows(out)} == {"0", "2"}
    assert list(summary(out)["failures"]) == [str(source / "01.png")]


def test_a_folder_of_bad_files_is_a_failure(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"nonsense")
    assert run(tmp_path / "in", out, "--memory-format", "contiguous") == 1
    assert "no picture could be read" in capsys.readouterr().err


def test_options_go_to_the_methods_that_take_them(digits: Path, out: Path) -> None:
    options = [
        "--methods", "few=integrated_gradients,many=integrated_gradients,rise,expected_gradients",
        "--metrics", "sparseness", "--limit", "2", "--seed", "4", "--baseline", "white",
        "--set", "many.n_steps=12", "--set", "few.n_steps=3", "--set", "n_queries=20",
        "--set", "n_samples=5", "--references", str(digits / "08.png"), "--precision", "bf16",
    ]  # fmt: skip
    assert run(digits, out, *options) == 0
    said = summary(out)
    cost = said["cost_per_picture"]
    assert [cost[n]["gradients"] for n in ("few", "many", "expected_gradients")] == [3, 12, 5]
    assert cost["rise"]["queries"] == 21
    settings = said["settings"]
    assert settings["few"]["baseline"] == settings["rise"]["baseline"] == "white"
    assert settings["expected_gradients"]["baseline"] is None
    assert list(settings["expected_gradients"]["references"]) == [str(digits / "08.png")]
    assert settings["rise"]["seed"] == 4 and settings["few"]["seed"] is None
    assert settings["few"]["precision"] == "bf16"


def test_classes_of_a_list_are_explained(
    digits: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="lists with classes are parquet files")
    from pyarrow import parquet

    listed, targets = tmp_path / "list.parquet", [3, 0, 7]
    paths = [str(digits / f"0{number}.png") for number in range(3)]
    parquet.write_table(pyarrow.table({"path": paths, "target": targets}), listed)
    options = ["--methods", "saliency", "--metrics", "deletion"]
    assert run(listed, out, *options, "--target", "3") == 2
    told = capsys.readouterr().err
    assert "target must not be given where the pictures have their own, got 3" in told
    assert not out.exists()
    assert run(listed, out, *options) == 0
    assert [row["target"] for row in rows(out) if row["method"] == "saliency"] == [*"307"]
    assert "Explained is each picture's own target; judged" in (out / "summary.md").read_text()
    assert summary(out)["target"] == targets


def test_a_model_that_only_answers_is_compared(tmp_path: Path, digits: Path, out: Path) -> None:
    source = tmp_path / "answers.py"
    source.write_text(
        "from pyxai_fast import BlackBox, Preprocessing\n"
        "from pyxai_fast.demo.model import load_demo_model\n"
        "def load():\n"
        "    model = load_demo_model()\n"
        "    return BlackBox(lambda x: model(x)), Preprocessing(size=(32, 32), channels=1)\n"
    )
    options = ["--methods", "lime,saliency", "--gradient", "likelihood_ratio", "--limit", "2"]
    more = ["--gradient-set", "n_samples=16", "--budget", "34", "--metrics", "deletion"]
    assert run(digits, out, *options, *more, model=f"python:{source}:load") == 0
    queries = {name: cost["queries"] for name, cost in summary(out)["cost_per_picture"].items()}
    assert queries["lime"] == 35 and 16 <= queries["saliency"] - 1 <= 34


# ---------------------------------------------------------------- how it goes on


def stop_after(monkeypatch: pytest.MonkeyPatch, units: int, error: type[BaseException]) -> None:
    """Whatever is compared stops when so many methods have been judged on a batch."""
    judge, done = Comparing._judge, []

    def judged(self: Comparing, *arguments: Any) -> None:
        if len(done) == units:
            raise error("stopped")
        judge(self, *arguments)
        done.append(1)

    monkeypatch.setattr(Comparing, "_judge", judged)


OPTIONS = ("--methods", "integrated_gradients,rise", "--set", "n_queries=30", "--both")


@pytest.fixture(scope="module")
def undisturbed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(digits, out, *OPTIONS) == 0
    return out


def same(one: Path, other: Path) -> None:
    for name in ("maps.csv", "comparison.json", "summary.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    kept = [np.load(folder / "gallery.npz") for folder in (one, other)]
    assert set(kept[0]) == set(kept[1])
    assert all(np.array_equal(kept[0][name], kept[1][name]) for name in kept[0])


@pytest.mark.parametrize("units", [0, 1, 5, 11])
def test_a_comparison_that_was_stopped_ends_with_the_same_bytes(
    digits: Path,
    out: Path,
    undisturbed: Path,
    units: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, units, KeyboardInterrupt)
        assert run(digits, out, *OPTIONS) == 130
    assert "what is done is kept; --resume goes on from there" in capsys.readouterr().err
    assert not (out / "summary.md").exists()
    if units:  # and half a row, as a machine leaves it that went down
        whole = (out / "maps.csv").read_bytes()
        (out / "maps.csv").write_bytes(whole[: -7 * units])
    assert run(digits, out, *OPTIONS, "--resume") == 0
    same(out, undisturbed)


def test_what_is_finished_is_not_asked_again(
    digits: Path, out: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(digits, out, *OPTIONS) == 0
    for name in ("summary.md", "curves.png", "maps.png"):
        (out / name).unlink()
    stop_after(monkeypatch, 0, AssertionError)
    assert run(digits, out, *OPTIONS, "--resume") == 0
    same(out, undisturbed)
    assert {path.name for path in out.iterdir()} == WRITTEN


def test_a_failure_keeps_what_was_done(
    digits: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_after(monkeypatch, 2, RuntimeError)
    assert run(digits, out, *OPTIONS) == 1
    told = capsys.readouterr().err
    assert "what is done is kept; --resume goes on from there (once that is mended)" in told
    assert "error: stopped" in told and "Traceback" not in told
    assert {row["method"] for row in rows(out)} == {"integrated_gradients", "rise"}


# Seconds in which something must have happened.
LIMIT = 120
# A model that answers no more as soon as there are rows.
WAITS = """
import pathlib, time
from torch import nn
from pyxai_fast import Preprocessing
from pyxai_fast.demo.model import load_demo_model

class Waits(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = load_demo_model()

    def forward(self, x):
        deadline = time.monotonic() + {limit}
        while pathlib.Path({path!r}).exists():
            assert time.monotonic() < deadline, "nobody interrupted"
            time.sleep(0.01)
        return self.model(x)

def load():
    return Waits().eval(), Preprocessing(size=(32, 32), channels=1)
"""


def test_a_process_that_is_interrupted_says_how_to_go_on(
    digits: Path, tmp_path: Path, out: Path
) -> None:
    source = tmp_path / "waits.py"
    source.write_text(WAITS.format(path=str(out / "maps.csv"), limit=LIMIT))
    process = subprocess.Popen(
        [
            sys.executable, "-m", "pyxai_fast", "evaluate", str(digits), "--out", str(out),
            "--model", f"python:{source}:load", "--device", "cpu", "--batch-size", "2",
            "--methods", "saliency",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # What a shell starts in the background, such as these tests may be, ignores interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + LIMIT
        while process.poll() is None and not (out / "maps.csv").exists():
            assert time.monotonic() < deadline, "no rows came"
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "--resume goes on from there" in said and "Traceback" not in said
    # Of two pictures, by one method: three metrics, one of which has two parts.
    assert len(rows(out)) == 2 * 5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "has a comparison already; resume (--resume) goes on with it"),
        (["--resume", "--overwrite"], "resume and overwrite must not be given together"),
        (["--resume", "--seed", "9"], "seed 0 then, 9 now"),
        (["--resume", "--metrics", "deletion"], "metrics"),
        (["--resume", "--limit", "3"], "pictures.count 9 then, 3 now"),
    ],
)
def test_what_cannot_go_on_is_refused(
    digits: Path,
    undisturbed: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    before = (undisturbed / "maps.csv").read_bytes()
    assert run(digits, undisturbed, *OPTIONS, *more) == 2
    told = capsys.readouterr().err
    assert message in told.splitlines()[0]
    assert (undisturbed / "maps.csv").read_bytes() == before


def test_masks_that_changed_are_refused(
    digits: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = save(masks_of(4).float(), tmp_path / "masks", ".bmp")
    arguments = ["--methods", "saliency", "--metrics", "iou", "--limit", "3"]
    assert run(digits, out, *arguments, "--masks", str(masks)) == 0
    before = (out / "maps.csv").read_bytes()
    # The same masks may lie somewhere else, and those of other pictures do not count.
    masks = masks.rename(tmp_path / "moved")
    (masks / "03.bmp").unlink()
    assert run(digits, out, *arguments, "--masks", str(masks), "--resume") == 0
    capsys.readouterr()
    for change, told in ((edit, "masks.digest"), (Path.unlink, "masks.count 3 then, 2 now")):
        change(masks / "01.bmp")
        assert run(digits, out, *arguments, "--masks", str(masks), "--resume") == 2
        assert told in capsys.readouterr().err
    assert (out / "maps.csv").read_bytes() == before


def edit(mask: Path) -> None:
    """Another mask, in a file of as many bytes."""
    bytes_ = mask.read_bytes()
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    assert len(mask.read_bytes()) == len(bytes_) and mask.read_bytes() != bytes_


def test_a_package_that_a_metric_misses_is_told_before_anything_is_made(
    digits: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    assert run(digits, out, "--methods", "saliency", "--metrics", "deletion,sic") != 0
    assert "evaluate: sic: SciPy is needed" in capsys.readouterr().err
    assert not out.exists()


def test_files_of_a_comparison_without_a_record_are_kept(
    digits: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--methods", "saliency", "--metrics", "deletion", "--limit", "2"]
    out.mkdir()
    (out / "maps.csv").write_text("mine")
    (out / "gallery.npz").write_text("mine too")
    for more in ([], ["--resume"]):
        assert run(digits, out, *arguments, *more) == 2
        told = capsys.readouterr().err
        assert "has maps.csv and gallery.npz, and no comparison.json to go on with" in told
    assert (out / "maps.csv").read_text() == "mine"
    assert (out / "gallery.npz").read_text() == "mine too"
    assert run(digits, out, *arguments, "--overwrite") == 0
    assert {row["picture"] for row in rows(out)} == {"0", "1"}


def test_overwrite_begins_anew(digits: Path, out: Path) -> None:
    arguments = ["--methods", "saliency", "--metrics", "deletion", "--limit"]
    assert run(digits, out, *arguments, "4") == 0
    assert run(digits, out, *arguments, "2", "--overwrite") == 0
    assert {row["picture"] for row in rows(out)} == {"0", "1"}


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "salience"], "--methods: must be among"),
        (["--methods", "saliency,saliency"], "got 'saliency' twice; LABEL=saliency"),
        (["--methods", "random=saliency"], "none of them random or centre, got 'random'"),
        (["--methods", ","], "--methods: must be names with commas"),
        (["--metrics", "?"], "metrics must be among insertion, deletion, road"),
        (["--metrics", "iou"], "masks must be given for iou"),
        (["--set", "nonsense=3"], "--set: none of the methods takes nonsense"),
        (["--set", "lime.n_queries=3"], "--set: must be of one of the methods"),
        (["--set", "saliency.n_steps=3"], "options of saliency must be among"),
        (["--set", "n_steps=3", "--budget", "5"], "must not be given together with n_steps"),
        (["--prior", "demo"], "--prior: none of the methods takes one"),
        (["--path-model", "demo"], "--path-model: none of the methods takes one"),
        (["--references", "x.png"], "--references: none of the methods takes one"),
        (["--methods", "saliency", "--baseline", "black"], "--baseline: none of the methods"),
        (["--baseline", "green"], "--baseline: must be black, white"),
        (["--gradient", "nonsense"], "--gradient: must be one of"),
        (["--methods", "lime", "--gradient", "likelihood_ratio"], "--gradient: none of"),
        (["--budget", "0"], "--budget: must be a whole number of at least 1"),
        (["--signed", "--both"], "not allowed with argument"),
        (["--masks", "nowhere"], "masks must be a folder, got nowhere"),
    ],
)
def test_wrong_options_are_named(
    digits: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    base = [] if "--methods" in arguments else ["--methods", "saliency,integrated_gradients"]
    assert run(digits, out, *base, *arguments) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not out.exists()


def test_masks_of_other_pictures_are_refused(
    digits: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save(masks_of(1).float(), tmp_path / "masks")
    (other / "00.png").rename(other / "cat.png")
    assert run(digits, out, "--masks", str(other)) == 2
    assert "must have files with the stems of the pictures, got none" in capsys.readouterr().err
    (other / "cat.png").unlink()
    assert run(digits, out, "--masks", str(other)) == 2
    assert "masks must hold pictures, got none" in capsys.readouterr().err
    for suffix in (".png", ".bmp"):
        save(masks_of(1).float(), other, suffix)
    assert run(digits, out, "--masks", str(other)) == 2
    assert "masks must have a stem each" in capsys.readouterr().err


def in_folders(pixels: torch.Tensor, folder: Path, *names: str, suffix: str = ".png") -> Path:
    """A picture in each of these folders, all of the same name."""
    for picture, name in zip(pixels, names, strict=True):
        save(picture[None], folder / name, suffix)
    return folder


def test_pictures_of_one_stem_have_masks_of_their_own(tmp_path: Path, out: Path) -> None:
    """The second picture's mask is of its other half: only where the first's is not."""
    source = in_folders(pictures_of(3), tmp_path / "in", "cat", "dog", "elsewhere")
    inside = masks_of(1).float()
    masks = in_folders(torch.cat([inside, inside.flip(3)]), tmp_path / "masks", "cat", "dog")
    save(torch.ones_like(inside), masks)
    preprocessing = tmp_path / "grey.json"
    preprocessing.write_text(json.dumps({"channels": 1, "size": [32, 32]}))
    options = [
        "--methods", "input_x_gradient", "--metrics", "energy_inside", "--preprocessing",
        str(preprocessing), "--masks", str(masks),
    ]  # fmt: skip
    assert run(source, out, *options, model=f"python:{CASES}:load") == 0
    found = {
        Path(row["file"]).parent.name: float(row["value"])
        for row in rows(out)
        if row["method"] == "input_x_gradient"
    }
    assert found == {"cat": 1, "dog": 0, "elsewhere": 1}


@pytest.mark.parametrize(
    ("folders", "suffixes", "mask"),
    [
        (("cat", "dog"), (".png", ".png"), "."),
        (("cat", "zoo/cat"), (".png", ".png"), "cat"),
        ((".", "."), (".png", ".bmp"), "."),
    ],
)
def test_pictures_that_would_share_a_mask_are_refused(
    tmp_path: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    folders: tuple[str, str],
    suffixes: tuple[str, str],
    mask: str,
) -> None:
    for folder, suffix in zip(folders, suffixes, strict=True):
        save(load_digits("test")[0][:1], tmp_path / "in" / folder, suffix)
    save(masks_of(1).float(), tmp_path / "masks" / mask)
    assert run(tmp_path / "in", out, "--masks", str(tmp_path / "masks")) == 2
    told = capsys.readouterr().err
    assert "masks must be of one picture each" in told
    for folder, suffix in zip(folders, suffixes, strict=True):
        assert str(Path("in", folder, f"00{suffix}")) in told
    assert not out.exists()


def test_pictures_without_masks_are_told(
    digits: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = save(masks_of(3).float(), tmp_path / "masks")
    options = ["--masks", str(some), "--methods", "saliency", "--metrics", "iou"]
    assert run(digits, out, *options) == 0
    assert "6 of 9 pictures have no mask" in capsys.readouterr().err
    (line, *_) = [r for r in summary(out)["results"] if r["method"] == "saliency"]
    assert line["pictures"] == 3


def test_sounds_and_tables_are_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, kind in (("a.wav", "sound"), ("b.csv", "table")):
        assert run(name, out) == 2
        assert f"SOURCE: must hold pictures, got the {kind} {name}" in capsys.readouterr().err

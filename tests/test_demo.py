"""The demo: its data, its trained network, its training script, and the main job."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("safetensors")
pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")

from pyxai_fast import METHODS, BlurPath
from pyxai_fast.demo import __main__ as demo
from pyxai_fast.demo import data, heard, model, runs, train

PRIOR = importlib.util.find_spec("diffusers") is not None
SOUND = importlib.util.find_spec("soundfile") is not None
SHOWN = {*METHODS, *runs.PATHS, *((runs.ON_MANIFOLD,) if PRIOR else ())}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The network is so small that on a busy machine threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def splits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {"train": data.load_digits("train"), "test": data.load_digits("test")}


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_are_pixels(
    splits: dict[str, tuple[torch.Tensor, torch.Tensor]], split: data.Split
) -> None:
    images, labels = splits[split]
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert images.shape == (len(labels), 1, 32, 32)
    assert images.min() == 0.0 and images.max() == 1.0
    assert labels.unique().tolist() == list(range(10))


def test_split_is_deterministic_stratified_and_disjoint(
    splits: dict[str, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    again, labels_again = data.load_digits("test")
    images, labels = splits["test"]
    assert torch.equal(images, again) and torch.equal(labels, labels_again)

    everything = torch.cat([splits["train"][1], labels])
    full = torch.tensor(data._bunch().target)
    parts = [data.split_indices(full, split) for split in ("train", "test")]
    assert torch.cat(parts).sort().values.tolist() == list(range(len(full)))
    assert len(everything) == len(full) == 1797
    per_class = full.bincount(minlength=10)
    assert torch.equal(labels.bincount(minlength=10), per_class // data.TEST_EVERY)
    # Disjoint as images too, not only as positions.
    distance = torch.cdist(images.flatten(1), splits["train"][0].flatten(1))
    assert distance.min() > 0.1


def test_split_indices_by_hand() -> None:
    labels = torch.tensor([3, 3, 7, 3, 3, 3, 7, 7, 7, 7, 3])
    assert data.split_indices(labels, "test").tolist() == [5, 9]
    assert data.split_indices(labels, "train").tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 10]


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        data.load_digits("val")  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["train", "test"])
def test_stated_accuracy_is_the_accuracy(
    splits: dict[str, tuple[torch.Tensor, torch.Tensor]], split: str
) -> None:
    net, recipe = model.load_demo_model(), model.load_demo_recipe()
    found = train.evaluate(net, *splits[split])
    stated = recipe[split]
    for key in ("images", "correct", "accuracy", "confusion"):
        assert found[key] == stated[key], key
    # Nothing is close enough to a tie for rounding to change the count.
    assert found["smallest_margin"] > 1e-2
    assert recipe["parameters"] == sum(p.numel() for p in net.parameters()) < 150_000
    if split == "test":
        assert stated["accuracy"] >= 0.985


def test_model_is_plain_and_small() -> None:
    net = model.load_demo_model()
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    assert model.WEIGHTS_PATH.stat().st_size < 600_000
    assert net(torch.zeros(3, 1, 32, 32)).shape == (3, 10)


def test_folding_keeps_the_function() -> None:
    torch.manual_seed(0)
    net = model.DigitsCNN(batch_norm=True)
    images = torch.rand(16, 1, 32, 32)
    for _ in range(3):  # moves the running statistics away from 0 and 1
        net(images)
    for name, parameter in net.named_parameters():
        if name.endswith("weight") and parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    net.eval()
    torch.testing.assert_close(net.folded()(images), net(images), rtol=1e-4, atol=1e-5)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = model.DigitsCNN().state_dict()
    save_file(state | {"head.bias": torch.zeros(11)}, tmp_path / "wide.safetensors")
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        model.load_demo_model(tmp_path / "wide.safetensors")
    del state["head.bias"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        model.load_demo_model(tmp_path / "less.safetensors")
    with pytest.raises(FileNotFoundError, match=r"pyxai_fast\.demo\.train"):
        model.load_demo_model(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("missing", "call"),
    [("sklearn", data.load_digits), ("safetensors.torch", model.load_demo_model)],
)
def test_missing_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str, call: object
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert callable(call)
    with pytest.raises(ImportError, match=r"pip install pyxai-fast\[demo\]"):
        call()


def test_augmentation_stays_small_and_in_range(
    splits: dict[str, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    images = splits["train"][0][:64]
    recipe = train.Recipe(noise=0.0)
    first = train.augment(images, recipe, torch.Generator().manual_seed(1))
    again = train.augment(images, recipe, torch.Generator().manual_seed(1))
    assert torch.equal(first, again) and not torch.equal(first, images)
    assert first.min() >= 0.0 and first.max() <= 1.0
    still = train.Recipe(shift_pixels=0.0, rotation_degrees=0.0, scale=0.0, contrast=0.0, noise=0.0)
    same = train.augment(images, still, torch.Generator())
    torch.testing.assert_close(same, images, rtol=0, atol=1e-5)
    noisy = train.augment(images, replace(still, noise=0.3), torch.Generator())
    sigma = (noisy - images).flatten(1).std(1)  # uniform in [0, 0.3]
    assert sigma.max() < 0.33 and 0.1 < float(sigma.mean()) < 0.2


def test_one_epoch_of_training(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    splits: dict[str, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    before = torch.random.get_rng_state()
    assert train.main(["--epochs", "1", "--seed", "7", "--out", str(tmp_path)]) == 0
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's randomness is intact
    printed = capsys.readouterr()
    net = model.load_demo_model(tmp_path / "digits_cnn.safetensors")
    report = json.loads((tmp_path / "digits_cnn.json").read_text())
    assert report["recipe"]["epochs"] == 1 and report["recipe"]["seed"] == 7
    assert report["recipe"].keys() == model.load_demo_recipe()["recipe"].keys()
    found = train.evaluate(net, *splits["test"])
    assert found == report["test"]
    assert found["accuracy"] > 0.2  # chance is 0.1
    assert sum(map(sum, report["test"]["confusion"])) == report["test"]["images"]
    assert f"test: {found['correct']}/{found['images']} right" in printed.out
    assert "epoch 1/1" in printed.err


def test_train_refuses_no_epochs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train.main(["--epochs", "0", "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


# ---------------------------------------------------------------- the main job


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    assert demo.main(["--out", str(out), "--images", "12", "--steps", "8", "--no-progress"]) == 0
    return out


def test_demo_writes_what_it_says(written: Path) -> None:
    from safetensors.torch import load_file

    names = {"gallery.png", "attributions.safetensors", "table.md", "table.json", "digits"}
    names |= {"table.png"}
    names |= {"counterfactuals.png"} if PRIOR else set()
    names |= set(heard.FILES) if SOUND else set()
    assert {path.name for path in written.iterdir()} == names
    tensors = load_file(written / "attributions.safetensors")
    assert tensors.keys() == {"inputs", "labels", "indices", "targets", *SHOWN}
    images, labels = data.load_digits("test")
    assert torch.equal(tensors["inputs"], images[tensors["indices"]])
    assert torch.equal(tensors["labels"], labels[tensors["indices"]])
    assert torch.equal(tensors["targets"], model.load_demo_model()(tensors["inputs"]).argmax(1))
    for method in SHOWN:
        assert tensors[method].shape == tensors["inputs"].shape
        assert tensors[method].isfinite().all() and tensors[method].abs().max() > 0


def test_demo_table_is_true(written: Path) -> None:
    from safetensors.torch import load_file

    record = json.loads((written / "table.json").read_text())
    tensors = load_file(written / "attributions.safetensors")
    recipe = model.load_demo_recipe()
    assert record["test"] == {k: recipe["test"][k] for k in ("images", "correct", "accuracy")}
    assert record["targets"] == tensors["targets"].tolist()
    rows = record["runs"]
    assert [(row["method"], row["backend"]) for row in rows] == runs.plan(PRIOR)
    assert {row["method"] for row in rows} == SHOWN

    net = model.load_demo_model()
    pick = tensors["targets"][:, None]
    with torch.no_grad():
        ends = net(tensors["inputs"])
        black = net(torch.zeros(1, 1, 32, 32)).expand(12, -1)
        blurred = net(BlurPath(**runs.PATHS["blur_ig"]).start(tensors["inputs"], torch.tensor(0.0)))
    starts = {
        "integrated_gradients": black,
        "guided_ig": black,
        runs.REFERRED: ends.mean(0).expand(12, -1),
        "blur_ig": blurred,
        "stick_breaking_ig": black,
        runs.LEARNT: black,
    }
    # Learnt paths have at least the steps of their model, 8.
    points = {"stick_breaking_ig": 4 * 8, runs.LEARNT: 4 * 8}
    for row in rows:
        method = row["method"]
        assert row["seconds_per_input"] > 0
        if method not in starts:
            assert row["completeness_gap"] is None
            continue
        assert row["gradients"] == 12 * points.get(method, 8)
        assert row["queries"] >= 12 + 1  # the ends of the paths; one start serves all
        difference = (ends - starts[method]).gather(1, pick).double().squeeze(1)
        gap = tensors[method].double().flatten(1).sum(1) - difference
        assert row["completeness_gap"] == pytest.approx(float(gap.abs().max()), abs=2e-5)
        relative = float((gap / difference).abs().max())
        assert row["relative_completeness_gap"] == pytest.approx(relative, abs=2e-5)


def test_demo_gallery_is_a_picture(written: Path) -> None:
    image = pytest.importorskip("PIL.Image").open(written / "gallery.png").convert("RGB")
    assert min(image.size) > 1000
    pixels = np.asarray(image).astype(int)
    assert pixels.std() > 30  # not blank
    assert (pixels[:, :, 0] - pixels[:, :, 2] > 60).any()  # red
    assert (pixels[:, :, 2] - pixels[:, :, 0] > 60).any()  # blue


def test_demo_prints_the_table_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--out", str(tmp_path), "--images", "1", "--steps", "2"]) == 0
    printed = capsys.readouterr()
    table = (tmp_path / "table.md").read_text()
    assert table in printed.out
    assert f"Look at {tmp_path / 'gallery.png'}" in printed.out
    stated = model.load_demo_recipe()["test"]
    assert f"reads {stated['correct']} of {stated['images']} test digits" in table
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(runs.plan(PRIOR))
    assert len({len(line) for line in lines}) == 1  # aligned
    assert "demo" in printed.err  # the progress bar
    assert ("lies within the event" in table) == SOUND
    assert ("listen to" if SOUND else "Install soundfile") in printed.out


def test_digits_are_written_as_pictures_for_the_commands(written: Path, tmp_path: Path) -> None:
    from pyxai_fast.cli import main

    files = {path.name for path in (written / "digits").iterdir()}
    assert {f"{digit}.png" for digit in range(10)} < files and len(files) == 12
    picture = str(written / "digits" / "3.png")
    assert main(["explain", picture, "--model", "demo", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "run.json").read_text())["results"][0]["class_name"] == "3"


@pytest.mark.skipif(not PRIOR, reason="the demo's prior needs diffusers")
def test_the_commands_on_the_data_manifold_run_on_the_demo(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyxai_fast.cli import main

    picture = str(written / "digits" / "3.png")
    named = ["--model", "demo", "--prior", "demo"]
    out = str(tmp_path / "map")
    explain = ["explain", picture, *named, "--out", out, "--method", "freemcg", "--samples", "16"]
    assert main(explain) == 0
    assert (tmp_path / "map" / "3.png").stat().st_size > 10_000
    out = str(tmp_path / "changed")
    small = ["--particles", "16", "--steps", "12"]
    assert main(["counterfactual", picture, *named, "--to", "8", "--out", out, *small]) == 0
    assert (tmp_path / "changed" / "3-counterfactual.png").exists()
    result = json.loads((tmp_path / "changed" / "run.json").read_text())["results"][0]
    assert result["before"] == "3" and result["probability"] > 0.05


@pytest.mark.skipif(not PRIOR, reason="the demo's prior needs diffusers")
def test_counterfactuals_of_the_demo_are_pictures_and_figures(written: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
    image = pillow.open(written / "counterfactuals.png")
    assert min(image.size) > 800
    assert "are read as it (" in (written / "table.md").read_text()


@pytest.mark.skipif(not SOUND, reason="sound files need soundfile")
def test_the_command_on_sounds_runs_on_the_demo(written: Path, tmp_path: Path) -> None:
    from pyxai_fast.cli import main

    sound = str(written / "sound.wav")
    brief = ["--samples", "40", "--set", "n_epochs=2"]
    arguments = ["--model", "demo", "--method", "dax", *brief, "--out", str(tmp_path)]
    assert main(["explain", sound, *arguments]) == 0
    (result,) = json.loads((tmp_path / "run.json").read_text())["results"]
    assert result["class_name"] == "rising" and (tmp_path / result["heard"]).exists()


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with runs.fastest_threads(model.load_demo_model(), torch.rand(1, 1, 32, 32)):
            assert torch.get_num_threads() in (1, 2)
        assert torch.get_num_threads() == 2
        with (
            pytest.raises(KeyError),
            runs.fastest_threads(model.DigitsCNN(), torch.rand(1, 1, 32, 32)),
        ):
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_chosen_digits_are_one_of_each_class_then_the_hardest(
    splits: dict[str, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    net = model.load_demo_model()
    images, labels = splits["test"]
    chosen = demo.choose(net, images, labels, 30)
    assert len(chosen.unique()) == 30
    assert torch.equal(demo.choose(net, images, labels, 12), chosen[:12])
    assert labels[chosen[:10]].tolist() == list(range(10))
    logits = net(images)
    assert torch.equal(logits[chosen[:10]].argmax(1), labels[chosen[:10]])
    wrong = (logits.argmax(1) != labels).nonzero().squeeze(1).tolist()
    assert set(chosen[10 : 10 + len(wrong)].tolist()) == set(wrong)
    probability = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    hard = torch.tensor([i for i in range(len(labels)) if i not in set(chosen.tolist())])
    assert probability[chosen[10:]].max() < probability[hard].mean()


def test_backends_agree(splits: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    net = model.load_demo_model()
    images = splits["test"][0][:3]
    made = [
        runs.run(net, images, runs.COMPARED, backend, steps=4) for backend in runs.cpu_backends()
    ]
    for item in made[1:]:
        torch.testing.assert_close(item.attributions, made[0].attributions, rtol=1e-4, atol=1e-5)
    sentence = runs.agreement(made)
    assert (sentence is None) == (len(made) == 1)
    moved = runs.Run(made[0].backend, made[0].explanation, made[0].seconds)
    assert runs.agreement([moved]) is None
    assert "bit for bit" in (runs.agreement([moved, moved]) or "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images must be at least 1, got 0"),
        (["--images", "356"], "--images must be at most 355"),
        (["--steps", "-1"], "--steps must be at least 1, got -1"),
    ],
)
def test_demo_refuses_what_cannot_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(["--out", str(tmp_path / "none"), "--no-progress", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_demo_refuses_a_file_for_a_folder_and_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(SystemExit):
        demo.main(["--out", str(file)])
    assert "must be a folder" in capsys.readouterr().err and file.read_text() == "mine"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        demo.main(["--out", str(tmp_path)])
    assert "matplotlib; run: pip install pyxai-fast[demo]" in capsys.readouterr().err

"""`pyxai-fast train-prior`: pictures in, a prior out that diffusers reads too."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyxai_fast.cli import main
from pyxai_fast.cli_train_prior import add_options
from pyxai_fast.errors import ArgumentError
from pyxai_fast.priors import DiffusionPrior, training
from pyxai_fast.priors.recipe import PriorRecipe
from pyxai_fast.priors.training import held_out_losses, shifted, train_prior
from pyxai_fast.priors.training_data import DataError, Pictures, load_pictures
from pyxai_fast.runtime.training import TrainingError, write_whole

diffusers = pytest.importorskip("diffusers", reason="what is trained is a network of diffusers")
Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")

TINY = PriorRecipe(
    size=8,
    channels=1,
    widths=(8, 8),
    layers=1,
    norm_groups=4,
    steps=6,
    batch_size=4,
    warm_up=2,
    flip=True,
    shift=1,
    dropout=0.1,
    held_out=0.2,
)


def bars(count: int = 20, size: int = 8) -> Pictures:
    """A bright column each."""
    pixels = torch.zeros(count, 1, size, size)
    pixels[torch.arange(count), 0, :, torch.arange(count) % size] = 1
    return Pictures(pixels, "bars")


def run(out: Path, recipe: PriorRecipe = TINY, **options: Any) -> dict[str, Any]:
    options = {"progress": False, "say": lambda text: None, **options}
    return train_prior(options.pop("pictures", bars()), recipe, out, **options)


def weights(out: Path) -> dict[str, Tensor]:
    return {
        name: value.clone()
        for name, value in DiffusionPrior.from_pretrained(out).unet.state_dict().items()
    }


@pytest.fixture(scope="module", autouse=True)
def quick_samples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "GRID_STEPS", 3)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prior")
    run(out, checkpoint_every=3)
    return out


# --- what comes out ------------------------------------------------------------------------------


def test_the_pipeline_loads_here_and_in_diffusers(trained: Path) -> None:
    names = {"model_index.json", "unet", "scheduler", "recipe.json", "samples.png"}
    assert {path.name for path in trained.iterdir()} == names
    prior = DiffusionPrior.from_pretrained(trained)
    assert prior.shape == (1, 8, 8)
    pipeline = diffusers.DDPMPipeline.from_pretrained(trained)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)
    noisy = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        expected = pipeline.unet(noisy, torch.tensor([7, 7])).sample
    torch.testing.assert_close(prior.predict_noise(noisy, 7), expected)


def test_the_report_says_how(trained: Path) -> None:
    report = json.loads((trained / "recipe.json").read_text())
    assert report["recipe"]["widths"] == [8, 8] and report["recipe"]["steps"] == 6
    assert report["data"] | {"fingerprint": ""} == {
        "source": "bars",
        "pictures": 16,
        "held_out": 4,
        "fingerprint": "",
    }
    assert [entry["step"] for entry in report["history"]] == [3, 6]
    assert report["versions"]["diffusers"] == diffusers.__version__
    assert report["parameters"] == sum(value.numel() for value in weights(trained).values())
    assert report["seconds"] > 0
    by_level = report["held_out_loss_by_level"]
    assert report["held_out_loss"] == pytest.approx(
        sum(by_level.values()) / len(by_level), abs=1e-6
    )
    assert report["history"][-1]["held_out_loss"] == report["held_out_loss"]


def test_the_samples_are_a_picture(trained: Path) -> None:
    picture = Image.open(trained / "samples.png")
    assert picture.size == (64, 64) and picture.mode == "L"


@pytest.mark.parametrize("stop_at", [2, 3])
def test_a_run_that_goes_on_has_the_bits_of_one_that_was_never_stopped(
    stop_at: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    def stop(text: str) -> None:
        if text.startswith(f"step {stop_at * 2}"):
            raise Stopped

    with pytest.raises(Stopped):
        run(tmp_path, checkpoint_every=stop_at, say=stop)
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "recipe.json").exists()
    torch.rand(7)  # whatever happens in between
    said: list[str] = []
    run(tmp_path, checkpoint_every=stop_at, resume=True, say=said.append)
    assert said[0] == f"going on from step {stop_at} of 6"
    found, expected = weights(tmp_path), weights(trained)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_callers_random_numbers_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    reseeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    run(tmp_path, replace(TINY, steps=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not reseeded, "every GPU was"


def test_a_seed_is_a_network(trained: Path, tmp_path: Path) -> None:
    run(tmp_path / "same", checkpoint_every=4)
    run(tmp_path / "other", replace(TINY, seed=1))
    expected = weights(trained)
    assert all(torch.equal(a, expected[n]) for n, a in weights(tmp_path / "same").items())
    assert not all(torch.equal(a, expected[n]) for n, a in weights(tmp_path / "other").items())


def test_training_learns_to_denoise(tmp_path: Path) -> None:
    recipe = replace(
        TINY,
        widths=(16, 16),
        steps=150,
        batch_size=16,
        learning_rate=3e-3,
        warm_up=20,
        dropout=0.0,
        ema=0.95,
    )
    report = run(tmp_path, recipe, pictures=bars(80))
    assert report["training_loss"] < 0.5  # the answer of no noise at all has a loss of 1
    losses = held_out_losses(
        DiffusionPrior.from_pretrained(tmp_path), bars().pixels, torch.device("cpu")
    )
    assert list(losses) == ["20", "50", "100", "200", "300", "500", "800"]
    assert losses["500"] < 0.3 and losses["500"] < losses["50"]


def test_bfloat16_trains_to_nearly_the_same(trained: Path, tmp_path: Path) -> None:
    run(tmp_path, replace(TINY, bf16=True))
    found, expected = weights(tmp_path), weights(trained)
    assert any(not torch.equal(found[name], expected[name]) for name in expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2 * 6 * 4e-4)


def test_attention_is_where_it_is_asked_for(tmp_path: Path) -> None:
    recipe = replace(TINY, widths=(8, 8, 8), norm_groups=8, attention=(4,), steps=1)
    run(tmp_path, recipe)
    config = DiffusionPrior.from_pretrained(tmp_path).config
    assert list(config["down_block_types"]) == ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"]
    assert list(config["up_block_types"]) == ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = PriorRecipe(steps=100, warm_up=10, learning_rate=1.0)
    rates = [recipe.learning_rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[10] == 1
    assert rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0)
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_shifts_move_whole_pictures_and_repeat_edges() -> None:
    pictures = torch.arange(16.0).reshape(1, 1, 4, 4).expand(200, 1, 4, 4)
    moved = shifted(pictures, 1)
    padded = torch.nn.functional.pad(pictures[:1], (1, 1, 1, 1), mode="replicate")[0, 0]
    expected = {
        tuple(padded[i : i + 4, j : j + 4].flatten().tolist()) for i in range(3) for j in range(3)
    }
    assert {tuple(one.flatten().tolist()) for one in moved} == expected


# --- the command ---------------------------------------------------------------------------------


def test_the_command_trains_on_an_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).integers(0, 255, (12, 8, 8), np.uint8))
    out = tmp_path / "out"
    settings = ["--widths", "8,8", "--layers", "1", "--steps", "2", "--batch-size", "4"]
    command = ["train-prior", str(tmp_path / "a.npz"), "--out", str(out), *settings]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "step 2 of 2: loss " in printed
    assert f"use it with DiffusionPrior.from_pretrained({str(out)!r})" in printed
    assert DiffusionPrior.from_pretrained(out).shape == (1, 8, 8)
    assert main([*command, "--resume"]) == 0
    assert "is finished" in capsys.readouterr().out
    for more, message in (
        ([], "already has model_index.json; resume, overwrite or name another folder"),
        (["--resume", "--seed", "1"], "holds a finished prior of another recipe"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--overwrite", "--threads", "0"], "--threads: must be at least 1, got 0"),
        (["--overwrite", "--steps", "0"], "steps must be a whole number of at least 1, got 0"),
        (["--overwrite", "--size", "9"], "size must be a multiple of 2, because 2 widths halve it"),
    ):
        assert main([*command, *more]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, "--overwrite", "--seed", "1"]) == 0
    assert json.loads((out / "recipe.json").read_text())["recipe"]["seed"] == 1


def test_the_commands_defaults_are_the_recipes() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    said = vars(parser.parse_args(["x", "--out", "y"]))
    recipe = PriorRecipe()
    for field in fields(PriorRecipe):
        if field.name not in ("size", "channels", "norm_groups", "levels"):
            assert said[field.name] == getattr(recipe, field.name), field.name


# --- data ----------------------------------------------------------------------------------------


def draw(path: Path, height: int, width: int, colour: tuple[int, int, int] = (255, 0, 0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


def test_a_folder_is_searched_and_its_pictures_are_cropped(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1.png", 10, 30)
    draw(tmp_path / "b" / "c" / "2.JPG", 16, 12, (0, 0, 255))
    (tmp_path / "b" / "notes.txt").write_text("not a picture")
    pictures = load_pictures(tmp_path, size=8)
    assert pictures.pixels.dtype == torch.uint8 and pictures.pixels.shape == (2, 3, 8, 8)
    assert pictures.take(torch.tensor([0]))[0, :, 4, 4].tolist() == [1, 0, 0]
    assert load_pictures(tmp_path, size=4, channels=1).pixels.shape == (2, 1, 4, 4)
    (tmp_path / "broken.png").write_text("nothing")
    with pytest.warns(UserWarning, match=r"1 of 3 pictures are left out; .*broken.png"):
        assert len(load_pictures(tmp_path, size=8)) == 2


def test_arrays_of_every_kind(tmp_path: Path) -> None:
    def saved(array: Any) -> Path:
        np.save(tmp_path / "x.npy", array)
        return tmp_path / "x.npy"

    bytes_ = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)
    grey = load_pictures(saved(bytes_)).take(torch.arange(2))
    assert torch.equal(grey, torch.from_numpy(bytes_)[:, None] / 255)
    colour = np.random.default_rng(0).random((2, 8, 8, 3))
    found = load_pictures(saved(colour)).take(torch.arange(2))
    torch.testing.assert_close(found, torch.from_numpy(colour).permute(0, 3, 1, 2).float())
    assert load_pictures(saved(bytes_), channels=3).pixels.shape == (2, 3, 8, 8)
    assert load_pictures(saved(np.zeros((2, 8, 6))), size=4).pixels.shape == (2, 1, 4, 4)
    same = load_pictures(saved(colour)).fingerprint
    assert load_pictures(saved(colour)).fingerprint == same
    assert load_pictures(saved(1 - colour)).fingerprint != same


def test_the_digits_are_the_training_ones() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    from pyxai_fast.demo.data import load_digits

    assert torch.equal(load_pictures("digits").pixels, load_digits("train")[0])


def test_data_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    def refused(message: str, source: Any, **options: Any) -> None:
        with pytest.raises(DataError, match=message):
            load_pictures(source, **options)

    refused("must be a folder of pictures, a .npy or .npz file, or digits", "nothing")
    refused("has no pictures", tmp_path, size=8)
    (tmp_path / "a.png").write_text("nothing")
    refused("the pictures of a folder need a size", tmp_path)
    refused("none of 1 pictures could be read", tmp_path, size=8)
    refused("channels must be 1 or 3, got 2", tmp_path, channels=2)
    file = tmp_path / "x.npy"
    file.write_text("nothing")
    refused("could not be read as an array", file)
    for array, message in (
        (np.zeros((2, 8)), r"must be \[N, H, W\] or \[N, H, W, C\], .* got float64 \[2, 8\]"),
        (np.zeros((2, 8, 8, 4)), "C being 1 or 3"),
        (np.zeros((2, 8, 8), np.int64), "must be uint8 or floats from 0 to 1, got int64"),
        (np.full((2, 8, 8), 255.0), "floats must be from 0 to 1, got 255 to 255"),
        (np.full((2, 8, 8), np.nan), "floats must be from 0 to 1, got nan"),
        (np.zeros((2, 8, 6)), "pictures of 8x6 need a size"),
    ):
        np.save(file, array)
        refused(message, file)
    np.save(file, np.zeros((2, 8, 8, 3)))
    refused("channels must be 3 for these colour pictures", file, channels=1)
    archive = tmp_path / "x.npz"
    np.savez(archive, a=np.zeros((2, 8, 8)), b=np.zeros((2, 8, 8)))
    refused("a key is needed; the arrays are a, b", archive)
    refused("has no array 'c'; the arrays are a, b", archive, key="c")
    assert len(load_pictures(archive, key="b")) == 2


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 10, "widths": (8, 8, 8)}, "size must be a multiple of 4, because 3 widths"),
        ({"widths": (12,)}, r"widths must be multiples of norm_groups \(8\), got \(12,\)"),
        ({"widths": ()}, "widths must be multiples"),
        ({"attention": (5,)}, "attention must be among the sides of the feature maps, 32, 16, 8"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"shift": -1}, "shift must be a whole number of at least 0, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"ema": 1.0}, "ema must be at least 0 and less than 1, got 1.0"),
        ({"held_out": 0.0}, "held_out must be between 0 and 1"),
    ],
)
def test_recipes_that_make_no_sense_are_named(options: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"PriorRecipe: {message}"):
        PriorRecipe(**options)


def test_training_that_cannot_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least 10 pictures are needed, got 9"):
        run(tmp_path, pictures=bars(9))
    with pytest.raises(ArgumentError, match=r"pictures must be 1x8x8, .* got 1x16x16"):
        run(tmp_path, pictures=bars(size=16))
    with pytest.raises(ArgumentError, match="checkpoint_every must be at least 1, got 0"):
        run(tmp_path, checkpoint_every=0)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArgumentError, match="out must be a folder, got the file"):
        run(tmp_path / "file")
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_only_the_same_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(text: str) -> None:
        if text.startswith("step 4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, checkpoint_every=2, say=stop)
    with pytest.raises(ArgumentError, match=r"already has samples.png; resume, overwrite"):
        run(tmp_path)
    with pytest.raises(ArgumentError, match=r"batch_size must be 4, as when .* got 5"):
        run(tmp_path, replace(TINY, batch_size=5), resume=True)
    with pytest.raises(ArgumentError, match="the pictures are not those"):
        run(tmp_path, pictures=bars(21), resume=True)
    (tmp_path / "checkpoint.pt").write_text("nothing")
    with pytest.raises(ArgumentError, match="cannot be read; start again with overwrite"):
        run(tmp_path, resume=True)


def test_a_loss_that_is_no_number_stops_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss is nan or inf at step .* lower learning rate"):
        run(tmp_path, replace(TINY, learning_rate=1e30, gradient_clip=1e30, steps=200))
    assert not (tmp_path / "recipe.json").exists()


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def broken(there: Path) -> None:
        there.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, broken)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_that_write_a_file_at_once_leave_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"

    def interrupted(there: Path) -> None:
        there.write_text("the first, h")
        write_whole(path, lambda other: other.write_text("the second"))
        assert path.read_text() == "the second"
        with there.open("a") as file:
            file.write("alf by half")

    write_whole(path, interrupted)
    assert path.read_text() == "the first, half by half" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_half_written_is_deleted(tmp_path: Path) -> None:
    def killed(there: Path) -> None:
        there.write_text("half")
        there.rename(tmp_path / there.name)  # no `finally` of a killed process deletes it

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(FileNotFoundError):
        write_whole(elsewhere / "checkpoint.pt", killed)
    assert len([*tmp_path.glob(".checkpoint.pt*")]) == 1
    run(tmp_path, replace(TINY, steps=1))
    assert not [*tmp_path.glob(".*")]


def test_a_folder_of_grey_pictures_is_grey(tmp_path: Path) -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    for name in ("a", "b"):
        Image.fromarray(grey).save(tmp_path / f"{name}.png")
    assert load_pictures(tmp_path, size=8).pixels.shape == (2, 1, 8, 8)
    assert load_pictures(tmp_path, size=8, channels=3).pixels.shape == (2, 3, 8, 8)
    grey[0, 0, 0] = 0
    Image.fromarray(grey).save(tmp_path / "b.png")
    assert load_pictures(tmp_path, size=8).pixels.shape == (2, 3, 8, 8)


# --- what must not be lost -----------------------------------------------------------------------


def test_resuming_never_replaces_what_it_did_not_begin(trained: Path, tmp_path: Path) -> None:
    foreign = DiffusionPrior.from_pretrained(trained).unet
    foreign.save_pretrained(tmp_path / "unet")
    before = (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    with pytest.raises(ArgumentError, match="already has unet; resume, overwrite or name another"):
        run(tmp_path, resume=True)
    assert (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before
    with pytest.raises(ArgumentError, match="holds a finished prior of other pictures"):
        run(trained, resume=True, pictures=bars(24))


def test_something_must_be_left_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"held_out must leave pictures to train on, got 0\.99"):
        run(tmp_path, replace(TINY, held_out=0.99))


@pytest.mark.parametrize("levels", [50, 1000])
def test_the_last_level_is_noise_whatever_their_number(levels: int) -> None:
    from pyxai_fast.priors import linear_schedule

    scheduler = training.make_scheduler(replace(TINY, levels=levels))
    shares = scheduler.alphas_cumprod.double()
    assert float(shares[-1]) < 1e-3 and float(shares[0]) > 0.99
    torch.testing.assert_close(linear_schedule(levels), shares, rtol=1e-3, atol=1e-6)

"""`pyxai-fast train-paths`: pictures and a classifier in, a path model out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from path_model_cases import TINY, blobs, classifier
from torch import Tensor

from pyxai_fast.cli import main
from pyxai_fast.cli_train_paths import add_options
from pyxai_fast.errors import ArgumentError
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.path_models import training
from pyxai_fast.path_models.codec import Features
from pyxai_fast.path_models.guide_labels import faithfulness
from pyxai_fast.path_models.path_data import stick_breaking_tokens
from pyxai_fast.path_models.path_model import PathModel
from pyxai_fast.path_models.recipe import PathRecipe
from pyxai_fast.path_models.training import (
    centred,
    rank_correlation,
    standardised,
    train_paths,
)
from pyxai_fast.runtime import chunks
from pyxai_fast.runtime.training import TrainingError

pytest.importorskip("safetensors", reason="a path model is saved as safetensors")

CLASSIFIER = """
import torch

def make():
    torch.manual_seed(11)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.SiLU(), torch.nn.Flatten(),
        torch.nn.Linear(256, 3),
    ).eval()
"""


def run(out: Path, recipe: PathRecipe = TINY, **options: Any) -> dict[str, Any]:
    options = {"progress": False, "say": lambda text: None, **options}
    pictures, model = options.pop("pictures", blobs()), options.pop("model", None) or classifier()
    return train_paths(pictures, model, recipe, out, **options)


def weights(out: Path) -> dict[str, Tensor]:
    return PathModel.from_pretrained(out).networks.state_dict()


class Stopped(Exception):
    pass


def stopping(start: str) -> Callable[[str], None]:
    def say(text: str) -> None:
        if text.startswith(start):
            raise Stopped

    return say


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paths")
    run(out, checkpoint_every=3)
    return out


# --- what comes out ------------------------------------------------------------------------------


def test_what_is_written(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "path_model.json",
        "path_model.safetensors",
        "recipe.json",
    }
    model = PathModel.from_pretrained(trained)
    assert model.config.shape == (1, 8, 8) and model.config.pace_shape == (1, 4, 4)
    assert model.config.points == 4 and model.config.levels == 6


def test_the_report_says_how(trained: Path) -> None:
    report = json.loads((trained / "recipe.json").read_text())
    assert report["recipe"]["points"] == 4 and report["recipe"]["alphas"] == [1.0, 20.0]
    data = report["data"] | {"fingerprint": ""}
    assert data == {
        "source": "blobs",
        "pictures": 8,  # of 16: each with 4 paths at least
        "held_out": 4,
        "paths": 32,
        "held_out_paths": 8,
        "fingerprint": "",
    }
    assert [entry["step"] for entry in report["history"]] == [3, 6]
    assert set(report["history"][0]["training_loss"]) == {"paths", "faithful", "sparse"}
    assert report["guides"] == report["history"][-1]["guides"]
    for guide in report["guides"].values():
        assert set(guide) == {"loss", "rank_correlation"}
    assert set(report["scores"]) == {"faithful", "sparse"}
    assert report["parameters"] == sum(v.numel() for v in weights(trained).values())
    assert set(report["seconds"]) == {"scoring", "training"}


def test_the_guides_learn(tmp_path: Path) -> None:
    """Which paths of a picture are better, on pictures that were held out."""
    recipe = replace(TINY, steps=200, learning_rate=1e-2, paths=120, ema=0.9, alphas=(1.0, 2.0))
    report = run(tmp_path, recipe, checkpoint_every=200)
    for guide in report["guides"].values():
        assert guide["loss"] < 0.9 and guide["rank_correlation"] > 0.2


def test_the_diffusion_model_learns(tmp_path: Path) -> None:
    """Steps of few large jumps are told from noise, better than by what is known untrained: how
    much noise there is."""
    few = {"grid": 2, "width": 32, "levels": 30, "paths": 120, "alphas": (1.0, 2.0)}
    recipe = replace(TINY, **few, steps=500, learning_rate=1e-2, batch_size=32, ema=0.9)
    run(tmp_path, recipe, checkpoint_every=500)
    trained = PathModel.from_pretrained(tmp_path)
    tokens = stick_breaking_tokens(trained.config, torch.full((256,), 1.5), seed=99, part=7)
    noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    for level in (3, 6):
        share = float(trained.shares[level])
        noisy = share**0.5 * tokens + (1 - share) ** 0.5 * noise
        before, after = (
            float((model.noise(noisy, level) - noise).square().mean())
            for model in (PathModel(trained.config), trained)
        )
        assert after < 0.95 * before


def test_pictures_are_left_out_rather_than_told_nothing_of(tmp_path: Path) -> None:
    """A picture with a single path has no better and no worse."""
    report = run(tmp_path, replace(TINY, paths=20, steps=1))
    assert report["data"]["pictures"] == 4 and report["data"]["paths"] == 16
    with pytest.raises(ArgumentError, match="paths must leave at least 4 to train on, got 4"):
        run(tmp_path, replace(TINY, paths=4), overwrite=True)


def test_pictures_are_scored_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, asked = classifier(), blobs().pixels, []
    target, maps = model(images).argmax(1), torch.rand(20, 1, 8, 8)

    def counted(rows: Tensor) -> Tensor:
        asked.append(len(rows))
        return model(rows)

    whole = faithfulness(model, images, 0.0, maps, target)
    monkeypatch.setattr(chunks, "CPU_CHUNK_BYTES", 2**14)
    torch.testing.assert_close(faithfulness(counted, images, 0.0, maps, target), whole)
    assert sum(asked) == 2 * 9 * 20 and max(asked[2:]) < 180


def test_groups_are_centred() -> None:
    values, groups = torch.tensor([[1.0], [2.0], [3.0], [6.0]]), torch.tensor([7, 2, 7, 2])
    assert centred(values, groups).flatten().tolist() == [-1, -2, 1, 2]


def test_groups_are_standardised() -> None:
    values = torch.tensor([[1.0, 5.0], [2.0, 1.0], [3.0, 5.0], [6.0, 3.0], [9.0, 9.0]])
    found = standardised(values, torch.tensor([7, 2, 7, 2, 1]))
    half = 0.5**0.5
    expected = [[-half, 0], [-half, -half], [half, 0], [half, half], [0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_rank_correlations() -> None:
    rising = torch.tensor([0.1, 0.5, 3.0, 9.0])
    assert rank_correlation(rising, rising.exp()) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(-1)
    assert rank_correlation(rising, torch.tensor([2.0, 1.0, 3.0, 4.0])) == pytest.approx(0.8)


def test_paths_may_lie_between_features(tmp_path: Path) -> None:
    codec = Features(
        lambda x: x.flatten(1)[:, ::2],
        lambda z: z.repeat_interleave(2, 1).reshape(-1, 1, 8, 8),
    )
    run(tmp_path, codec=codec)
    model = PathModel.from_pretrained(tmp_path, codec=codec)
    assert model.config.shape == (32,) and model.config.grid is None


# --- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [2, 3])
def test_a_run_that_goes_on_has_the_bits_of_one_that_was_never_stopped(
    stop_at: int, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, checkpoint_every=stop_at, say=stopping(f"step {stop_at * 2}"))
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "recipe.json").exists()
    torch.rand(7)  # whatever happens in between
    said: list[str] = []
    run(tmp_path, checkpoint_every=stop_at, resume=True, say=said.append)
    assert f"going on from step {stop_at} of 6" in said
    found, expected = weights(tmp_path), weights(trained)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "labels.pt").exists()


def test_scoring_goes_on_where_it_stopped(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "LABELLED_TOGETHER", 16)
    monkeypatch.setattr(training, "SAVED_TOGETHER", 16)
    asked, model = 0, classifier()

    def failing(x: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        if asked > 6:
            raise Stopped
        return model(x)

    with pytest.raises(Stopped):
        run(tmp_path, model=failing)
    there = len(torch.load(tmp_path / "labels.pt")["labels"])
    assert 0 < there < 40
    said: list[str] = []
    run(tmp_path, resume=True, checkpoint_every=3, say=said.append)
    assert said[0] == f"going on from path {there} of 40"
    found, expected = weights(tmp_path), weights(trained)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)


def test_a_finished_run_is_not_run_again(trained: Path) -> None:
    said: list[str] = []
    report = run(trained, resume=True, say=said.append)
    assert said == [f"{trained} is finished"]
    assert report == json.loads((trained / "recipe.json").read_text())


def test_nothing_is_replaced_without_being_asked(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"already has path_model.json; resume, overwrite"):
        run(trained)
    with pytest.raises(ArgumentError, match="holds a finished path model of another recipe"):
        run(trained, replace(TINY, steps=7), resume=True)
    with pytest.raises(Stopped):
        run(tmp_path, say=stopping("40 paths scored"))
    with pytest.raises(ArgumentError, match="holds scores of another recipe or of other pictures"):
        run(tmp_path, replace(TINY, seed=1), resume=True)
    run(tmp_path, replace(TINY, seed=1, steps=1), overwrite=True)


def test_another_classifier_or_codec_is_noticed(trained: Path, tmp_path: Path) -> None:
    other = classifier().requires_grad_(False)
    other[-1].weight.mul_(-1)
    half = Features(lambda x: x.flatten(1)[:, ::2], lambda z: z.repeat_interleave(2, 1))
    said = "is of another classifier, preprocessing or autoencoder"
    with pytest.raises(ArgumentError, match=said):
        run(trained, model=other, resume=True)
    with pytest.raises(ArgumentError, match=said):
        run(trained, codec=half, resume=True)
    with pytest.raises(Stopped):
        run(tmp_path, say=stopping("40 paths scored"))
    with pytest.raises(ArgumentError, match=said):
        run(tmp_path, preprocessing=Preprocessing((0.5,), (0.5,), channels=1), resume=True)


def test_the_callers_random_numbers_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    before, model = torch.random.get_rng_state(), classifier()
    reseeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    run(tmp_path, replace(TINY, steps=1), model=model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not reseeded, "every GPU was"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"pictures": blobs(5)}, "at least 10 pictures are needed, got 5"),
        ({"recipe": replace(TINY, held_out=0.99)}, "held_out must leave pictures to train on"),
        ({"model": lambda x: x.flatten(1)[:, :3] * torch.nan}, "answers must be finite, got nan"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=said):
        run(tmp_path, **options)


def test_a_loss_that_is_no_number_stops_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"train_paths: the loss is nan or inf at step"):
        run(tmp_path, replace(TINY, learning_rate=1e30, gradient_clip=1e30, steps=100))
    assert not (tmp_path / "recipe.json").exists()


# --- on the command line -------------------------------------------------------------------------


def test_the_options_have_the_defaults_of_the_recipe() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    args = parser.parse_args(["data", "--out", "there"])
    default = PathRecipe()
    assert {f.name: getattr(args, f.name) for f in fields(PathRecipe)} == {
        f.name: getattr(default, f.name) for f in fields(PathRecipe)
    }


@pytest.fixture(scope="module")
def by_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier, pictures and a path model that the command line has made."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "net.py").write_text(CLASSIFIER)
    np.save(folder / "pictures.npy", blobs(12).pixels[:, 0].numpy())
    words = (
        f"train-paths {folder}/pictures.npy --model python:{folder}/net.py:make "
        f"--preprocessing {folder}/grey.json --out {folder}/paths --grid 4 --points 4 --width 16 "
        "--heads 2 --depth 1 --levels 6 --paths 20 --steps 4 --batch-size 8 --alphas 1,10 "
        "--device cpu"
    )
    (folder / "grey.json").write_text('{"mean": [0.5], "std": [0.5], "channels": 1}')
    assert main(words.split()) == 0
    return folder


def test_the_command_trains_a_path_model(
    by_command: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = PathModel.from_pretrained(by_command / "paths")
    assert model.config.features == 16
    report = json.loads((by_command / "paths" / "recipe.json").read_text())
    assert report["recipe"]["alphas"] == [1.0, 10.0]
    words = f"train-paths {by_command}/none --model python:{by_command}/net.py:make --out x"
    assert main(words.split()) == 2
    assert "must be a folder of pictures" in capsys.readouterr().err
    assert main(f"{words} --points 0".split()) == 2
    assert "points must be a whole number of at least 1" in capsys.readouterr().err


def test_guides_on_the_command_line_change_the_map(
    by_command: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
    pytest.importorskip("matplotlib", reason="maps are drawn by matplotlib")
    pixels = (blobs(1).pixels[0, 0].numpy() * 255).astype(np.uint8)
    image.fromarray(pixels).save(tmp_path / "a.png")
    base = (
        f"explain {tmp_path}/a.png --model python:{by_command}/net.py:make "
        f"--preprocessing {by_command}/grey.json --device cpu --format npz --method diffusion_ig"
    )
    explain = f"{base} --path-model {by_command}/paths --steps 8 --set n_paths=2"
    maps = []
    for number, guides in enumerate(("", "--guide faithful=0", "--guide sparse=50")):
        out = tmp_path / str(number)
        assert main(f"{explain} {guides} --out {out}".split()) == 0
        maps.append(np.load(out / "a.npz")["attributions"])
        settings = json.loads((out / "run.json").read_text())["settings"]
        assert settings["path_model"] == f"{by_command}/paths"
    # The first has the default guides, the second none of them, the third one of them alone.
    assert not np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[1], maps[2])
    for words, said in (
        (f"{base} --out x", "--path-model: must be given for diffusion_ig"),
        (f"{explain} --guide spares=1 --out x", "did you mean sparse?"),
        (f"{explain} --guide sparse --out x", "--guide: must be NAME=VALUE, got 'sparse'"),
        (f"{explain} --guide sparse=much --out x", "must be a number, got 'much'"),
        (
            f"{base.replace('diffusion_ig', 'saliency')} --path-model x --out x",
            "--path-model: the method saliency takes none",
        ),
    ):
        assert main(words.split()) == 2
        assert said in capsys.readouterr().err

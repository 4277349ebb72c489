"""The demo: its data, its trained network, its training script, and the main job."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("safetensors")
pytest.importorskip("tqdm")

from pyxai_fast.demo import data, model, train


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
    recipe = train.Recipe()
    first = train.augment(images, recipe, torch.Generator().manual_seed(1))
    again = train.augment(images, recipe, torch.Generator().manual_seed(1))
    assert torch.equal(first, again) and not torch.equal(first, images)
    assert first.min() >= 0.0 and first.max() <= 1.0
    still = train.Recipe(shift_pixels=0.0, rotation_degrees=0.0, scale=0.0, contrast=0.0)
    same = train.augment(images, still, torch.Generator())
    torch.testing.assert_close(same, images, rtol=0, atol=1e-5)


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

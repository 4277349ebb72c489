"""The demo's prior: digits that it never saw lie where it says that inputs lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pyxai_fast

pytest.importorskip("diffusers", reason="the prior is a network of diffusers")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

from pyxai_fast.demo import train_prior
from pyxai_fast.demo.data import load_digits
from pyxai_fast.demo.model import load_demo_model
from pyxai_fast.demo.prior import PRIOR_PATH, load_demo_prior
from pyxai_fast.gradients import FreeMCG
from pyxai_fast.priors import DiffusionPrior, sample
from pyxai_fast.priors.training import held_out_losses


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return load_demo_prior()


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PRIOR_PATH / "recipe.json").read_text())
    return found


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return load_digits("test")[0]


def test_unseen_digits_are_denoised(prior: DiffusionPrior, digits: Tensor) -> None:
    """At level 200, where 0.66 of the variance of a pixel from -1 to 1 is signal's share."""
    level, clean = 200, prior.encode(digits[:64])
    share = float(prior.shares[level])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy = share**0.5 * clean + (1 - share) ** 0.5 * noise
    found = (noisy - (1 - share) ** 0.5 * prior.predict_noise(noisy, level)) / share**0.5
    found = found.clamp(-1, 1)
    error = float((found - clean).square().mean())
    untouched = float((noisy / share**0.5 - clean).square().mean())
    assert error < 0.05 * untouched


def test_the_report_is_of_these_weights(
    prior: DiffusionPrior, report: dict[str, Any], digits: Tensor
) -> None:
    assert report["parameters"] == sum(p.numel() for p in prior.unet.parameters())
    assert report["recipe"]["steps"] == train_prior.RECIPE.steps
    found = held_out_losses(prior, digits, torch.device("cpu"))
    for level, loss in report["quality"]["test_loss_by_level"].items():
        assert found[level] == pytest.approx(loss, rel=1e-2)


def test_samples_look_like_digits_to_the_classifier(
    prior: DiffusionPrior, report: dict[str, Any], digits: Tensor
) -> None:
    drawn = sample(prior, (32, 1, 32, 32), n_steps=25, seed=2)
    model = load_demo_model()
    said = report["quality"]["recognised"]
    assert train_prior.recognised(model, drawn) > said["samples"] - 0.25
    assert train_prior.recognised(model, digits) == pytest.approx(said["test"], abs=0.01)
    classes = model(drawn).argmax(1)
    assert len(classes.unique()) >= 7


def test_frechet_distances_of_known_distributions() -> None:
    torch.manual_seed(0)
    rows = torch.randn(40_000, 3, dtype=torch.float64)
    assert train_prior.frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    moved = rows * torch.tensor([2.0, 1.0, 1.0]) + torch.tensor([0.0, 3.0, 0.0])
    assert train_prior.frechet_distance(rows, moved) == pytest.approx(1 + 9, rel=0.02)


def test_digits_are_explained_with_it(prior: DiffusionPrior, digits: Tensor) -> None:
    gradient = FreeMCG(prior, 30, levels=(100, 200), target="logit")
    explanation = pyxai_fast.explain(
        load_demo_model(), digits[:2], method="saliency", abs=False, gradient=gradient
    )
    maps = explanation.attributions
    assert maps.shape == (2, 1, 32, 32)
    assert bool(maps.isfinite().all()) and float(maps.abs().amax((1, 2, 3)).min()) > 0


def test_what_is_shipped_is_small_and_complete() -> None:
    files = {str(p.relative_to(PRIOR_PATH)): p for p in PRIOR_PATH.rglob("*") if p.is_file()}
    assert files.keys() == {
        "model_index.json",
        "recipe.json",
        "samples.png",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert sum(p.stat().st_size for p in files.values()) < 4e6
    for path in files.values():
        if path.suffix == ".json":
            assert str(Path.home()) not in path.read_text()

"""Train the demo's prior of digits: ``python -m pyxai_fast.demo.train_prior --out some/folder``.

What ``pyxai-fast train-prior digits`` does, with a recipe of its own, and with figures of how much
its samples are like digits. Nothing is chosen by looking at the test images, which are only
compared with at the end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyxai_fast.demo.data import load_digits
from pyxai_fast.demo.model import DigitsCNN, load_demo_model
from pyxai_fast.priors import DiffusionPrior, sample
from pyxai_fast.priors.recipe import PriorRecipe
from pyxai_fast.priors.training import held_out_losses, train_prior
from pyxai_fast.priors.training_data import load_pictures
from pyxai_fast.runtime.training import REPORT

# The digits hold nothing finer than 4 pixels, so that few channels do at full resolution.
RECIPE = PriorRecipe(
    channels=1,
    widths=(8, 32, 64),
    layers=1,
    norm_groups=4,
    steps=3000,
    batch_size=32,
    learning_rate=4e-3,
    warm_up=100,
    ema=0.995,
    held_out=0.05,
)
N_SAMPLES = 500
SAMPLE_STEPS = 100
SURE = 0.9


def quality(prior: DiffusionPrior) -> dict[str, Any]:
    """How much samples of a prior are like digits, each figure beside that of real digits.

    - recognised: the share that the demo's classifier gives a probability of 0.9 or more to one
      class.
    - frechet: the Frechet distance to the test digits of as many samples, between the
      classifier's last features, averaged over positions (Heusel et al., "GANs Trained by a Two
      Time-Scale Update Rule", 2017, with this classifier in place of Inception).
    - test_loss_by_level: the mean squared error of the predicted noise on test digits.
    """
    model = load_demo_model()
    test, train = load_digits("test")[0], load_digits("train")[0]
    assert prior.shape is not None  # the recipe's
    drawn = sample(prior, (N_SAMPLES, *prior.shape), n_steps=SAMPLE_STEPS, seed=1)
    mixed = torch.randperm(len(train), generator=torch.Generator().manual_seed(1))
    as_many = train[mixed[: len(test)]]
    of_test = features(model, test)
    return {
        "samples": N_SAMPLES,
        "sampling_steps": SAMPLE_STEPS,
        "recognised": {"samples": recognised(model, drawn), "test": recognised(model, test)},
        "frechet": {
            "images": len(test),
            "samples": round(frechet_distance(features(model, drawn[: len(test)]), of_test), 4),
            "train": round(frechet_distance(features(model, as_many), of_test), 4),
        },
        "test_loss_by_level": held_out_losses(prior, test, torch.device("cpu")),
    }


@torch.no_grad()
def recognised(model: DigitsCNN, images: Tensor) -> float:
    probabilities = model(images).softmax(1).amax(1)
    return round(float((probabilities >= SURE).double().mean()), 4)


@torch.no_grad()
def features(model: DigitsCNN, images: Tensor) -> Tensor:
    """The classifier's last features, averaged over positions, float64 [N, 64]."""
    found: Tensor = model.features(images).double().mean((2, 3))
    return found


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Between the normal distributions of two sets of rows [N, D].

    ``|m - n|^2 + tr(C + D - 2 (C^1/2 D C^1/2)^1/2)``
    """
    one, other = first.T.cov(), second.T.cov()
    values, axes = torch.linalg.eigh(one)
    root = (axes * values.clamp(min=0).sqrt()) @ axes.T
    between = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    away = (first.mean(0) - second.mean(0)).square().sum()
    return float(away + one.trace() + other.trace() - 2 * between)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training script; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyxai_fast.demo.train_prior", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-prior"),
        help="folder to write (default: %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    report = train_prior(
        load_pictures("digits"),
        RECIPE,
        args.out,
        resume=args.resume,
        progress=not args.no_progress,
    )
    report["quality"] = quality(DiffusionPrior.from_pretrained(args.out))
    (args.out / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report["quality"], indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

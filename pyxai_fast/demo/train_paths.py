"""Train the demo's path model: ``python -m pyxai_fast.demo.train_paths --out some/folder``.

What ``pyxai-fast train-paths digits --model demo`` does, with a recipe of its own, and with figures
of what the guides do to the attributions of digits that were never trained on. Nothing is chosen
by looking at the test images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pyxai_fast.demo.data import load_digits
from pyxai_fast.demo.model import load_demo_model
from pyxai_fast.methods import IntegratedGradients
from pyxai_fast.path_models.guide_labels import entropy, faithfulness
from pyxai_fast.path_models.path_model import PathModel
from pyxai_fast.path_models.recipe import PathRecipe
from pyxai_fast.path_models.training import train_paths
from pyxai_fast.paths.diffusion_paths import DiffusionPaths
from pyxai_fast.priors.training_data import load_pictures
from pyxai_fast.runtime.training import REPORT

# Few paces, of 8 pixels each way, so that a few thousand paths tell which of them should go first.
RECIPE = PathRecipe(
    grid=4,
    points=8,
    width=64,
    heads=4,
    depth=1,
    levels=50,
    paths=12_000,
    steps=2500,
    batch_size=64,
    learning_rate=2e-3,
    weight_decay=1e-2,
    warm_up=200,
    ema=0.995,
)
N_DIGITS, N_PATHS, N_STEPS = 40, 10, 20
TRIED: tuple[dict[str, float], ...] = (
    {},
    {"faithful": 10.0},
    {"sparse": 5.0},
    {"sparse": -5.0},
    {"faithful": 10.0, "sparse": 5.0},
    {"faithful": 100.0},
)


def quality(paths: PathModel) -> dict[str, Any]:
    """What guidance does to the attributions of the first test digits, for the predicted class:
    faithfulness (insertion less deletion, from 0.1 to 0.9) and entropy in nats, with N_PATHS paths
    of N_STEPS steps; plain Integrated Gradients beside them. Means over the digits, and the share
    of digits where guidance raised faithfulness or lowered the entropy."""
    model, images = load_demo_model(), load_digits("test")[0][:N_DIGITS]
    with torch.no_grad():
        target = model(images).argmax(1)

    def scores(method: IntegratedGradients, n_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        maps = method.attribute(images, target=target, n_steps=n_steps)
        return faithfulness(model, images, 0.0, maps, target), entropy(maps)

    def figures(found: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
        return {
            "faithfulness": round(float(found[0].mean()), 4),
            "entropy": round(float(found[1].mean()), 4),
        }

    straight = scores(IntegratedGradients(model), N_STEPS)
    table: list[dict[str, Any]] = [{"path": "straight line", **figures(straight)}]
    unguided: tuple[torch.Tensor, torch.Tensor] | None = None
    for guides in TRIED:
        path = DiffusionPaths(paths, N_PATHS, guides=guides)
        found = scores(IntegratedGradients(model, path=path), N_STEPS)
        unguided = found if unguided is None else unguided
        table.append(
            {
                "path": "diffusion",
                "guides": guides,
                **figures(found),
                "more_faithful": round(float((found[0] > unguided[0]).double().mean()), 4),
                "sparser": round(float((found[1] < unguided[1]).double().mean()), 4),
            }
        )
    return {"digits": len(images), "paths": N_PATHS, "steps": N_STEPS, "maps": table}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training script; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyxai_fast.demo.train_paths", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-paths"),
        help="folder to write (default: %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from what the folder has")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    report = train_paths(
        load_pictures("digits"),
        load_demo_model(),
        RECIPE,
        args.out,
        resume=args.resume,
        progress=not args.no_progress,
    )
    report["quality"] = quality(PathModel.from_pretrained(args.out))
    (args.out / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report["quality"], indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

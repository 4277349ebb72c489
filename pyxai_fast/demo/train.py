"""Train the demo's digit classifier: ``python -m pyxai_fast.demo.train --out some/folder``.

Writes ``digits_cnn.safetensors`` (BatchNorm folded into the convolutions) and ``digits_cnn.json``
(recipe, versions, accuracy). The weights kept are those of the last epoch: nothing is chosen by
looking at the test images, which are evaluated once, at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyxai_fast.demo.data import N_CLASSES, load_digits
from pyxai_fast.demo.model import RECIPE_PATH, WEIGHTS_PATH, DigitsCNN, load_demo_model
from pyxai_fast.runtime.random_state import seeded


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the versions of the software."""

    epochs: int = 30
    seed: int = 0
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    shift_pixels: float = 2.0
    rotation_degrees: float = 10.0
    scale: float = 0.1
    contrast: float = 0.2
    noise: float = 0.4


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Shift, turn, enlarge, change the contrast of and add noise to each image, at random.

    The noise is there for the attributions: the digits hold nothing finer than 4 pixels, so without
    it the network's slopes along finer patterns are never trained and show up as speckle.

    Args:
        images: float32 [B, 1, H, W] in [0, 1].
        recipe: how far: each amount is drawn uniformly in plus or minus its field; ``noise`` is the
            largest standard deviation of Gaussian noise.
        generator: source of the randomness.

    Returns:
        New images of the same shape, in [0, 1] but for the noise.
    """

    def uniform(limit: float) -> Tensor:
        return (2.0 * torch.rand(len(images), generator=generator) - 1.0) * limit

    angle = uniform(math.radians(recipe.rotation_degrees))
    zoom = 1.0 + uniform(recipe.scale)
    unit = 2.0 / images.shape[-1]  # affine_grid measures the image as [-1, 1]
    dx, dy = uniform(recipe.shift_pixels * unit), uniform(recipe.shift_pixels * unit)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    theta = torch.stack([cos, -sin, dx, sin, cos, dy], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    gain = 1.0 + uniform(recipe.contrast)
    noise = torch.randn(images.shape, generator=generator)
    sigma = torch.rand(len(images), 1, 1, 1, generator=generator) * recipe.noise
    return (moved * gain.view(-1, 1, 1, 1)).clamp_(0.0, 1.0) + sigma * noise


def train(recipe: Recipe, *, progress: bool = True) -> DigitsCNN:
    """Train from scratch; the same recipe gives the same weights on the same machine and torch.

    Args:
        recipe: hyperparameters and seed.
        progress: show a progress bar (needs tqdm).

    Returns:
        The network in eval mode, BatchNorm folded.
    """
    images, labels = load_digits("train")
    generator = torch.Generator().manual_seed(recipe.seed)
    # The layers draw their initial weights from the global generator: borrow it, then restore it.
    with seeded(recipe.seed):
        model = DigitsCNN(batch_norm=True)
    steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=recipe.epochs * steps_per_epoch
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    bar = _bar(recipe.epochs * steps_per_epoch, progress)
    model.train()
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(images), generator=generator)
        n_correct, loss_sum = 0, 0.0
        for batch in torch.split(order, recipe.batch_size):
            logits = model(augment(images[batch], recipe, generator))
            loss = loss_of(logits, labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            n_correct += int((logits.argmax(1) == labels[batch]).sum())
            loss_sum += float(loss.detach()) * len(batch)
            if bar is not None:
                bar.update()
        if bar is not None:
            bar.set_description(f"epoch {epoch + 1}/{recipe.epochs}")
            bar.set_postfix(
                loss=f"{loss_sum / len(images):.3f}", augmented=f"{n_correct / len(images):.3f}"
            )
    if bar is not None:
        bar.close()
    return model.eval().folded().requires_grad_(False)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Count how often the model is right.

    Args:
        model: returns logits [B, 10]; in eval mode.
        images: float32 [N, 1, 32, 32] in [0, 1].
        labels: int64 [N].

    Returns:
        ``images``, ``correct``, ``accuracy``; ``confusion`` [true][predicted] counts; and
        ``smallest_margin``, the smallest gap between an image's two highest logits: far above
        rounding, so ``correct`` does not depend on the machine.
    """
    logits = torch.cat([model(chunk) for chunk in torch.split(images, 256)])
    predicted = logits.argmax(1)
    confusion = torch.bincount(labels * N_CLASSES + predicted, minlength=N_CLASSES**2)
    top = logits.topk(2, dim=1).values
    correct = int((predicted == labels).sum())
    return {
        "images": len(labels),
        "correct": correct,
        "accuracy": correct / len(labels),
        "smallest_margin": float((top[:, 0] - top[:, 1]).min()),
        "confusion": confusion.view(N_CLASSES, N_CLASSES).tolist(),
    }


def save(model: DigitsCNN, recipe: Recipe, out: Path, seconds: float) -> dict[str, Any]:
    """Write the weights and their report into a folder; the report is of the file as written.

    Args:
        model: a folded network.
        recipe: what it was trained with.
        out: folder, made when missing.
        seconds: how long the training took.

    Returns:
        The report, as in ``digits_cnn.json``.
    """
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    weights = out / WEIGHTS_PATH.name
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    written = load_demo_model(weights)
    report = {
        "model": "DigitsCNN",
        "parameters": sum(p.numel() for p in written.parameters()),
        "data": "scikit-learn load_digits, 8x8 enlarged to 32x32 (bicubic); every fifth image of "
        "each class is a test image",
        "weights_of": "last epoch",
        "recipe": asdict(recipe),
        "train": evaluate(written, *load_digits("train")),
        "test": evaluate(written, *load_digits("test")),
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    (out / RECIPE_PATH.name).write_text(_dumps(report), encoding="utf-8")
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training script; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyxai_fast.demo.train", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--epochs", type=int, default=Recipe.epochs, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="default: %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-model"),
        help="folder to write (default: %(default)s)",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {args.epochs}")
    recipe = Recipe(epochs=args.epochs, seed=args.seed)
    started = time.perf_counter()
    model = train(recipe, progress=not args.no_progress)
    seconds = time.perf_counter() - started
    report = save(model, recipe, args.out, seconds)
    for split in ("train", "test"):
        counts = report[split]
        print(f"{split}: {counts['correct']}/{counts['images']} right ({counts['accuracy']:.2%})")
    print(f"wrote {args.out / WEIGHTS_PATH.name} and {args.out / RECIPE_PATH.name}")
    return 0


def _bar(total: int, progress: bool) -> Any:
    if not progress:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit="step")


def _dumps(report: dict[str, Any]) -> str:
    """Indented JSON with each row of a confusion matrix on one line."""
    text = json.dumps(report, indent=2)
    for split in ("train", "test"):
        for row in report[split]["confusion"]:
            text = text.replace(json.dumps(row, indent=2).replace("\n", "\n" + " " * 6), str(row))
    return text + "\n"


if __name__ == "__main__":
    raise SystemExit(main())

"""What would have to change: digits of the demo, led to the class that is likeliest next."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pyxai_fast.counterfactuals import Counterfactuals
from pyxai_fast.demo.data import CLASS_NAMES
from pyxai_fast.methods.counterfactual import Counterfactual
from pyxai_fast.priors import Prior

# A few digits, and fewer particles and steps than the defaults: seconds instead of minutes.
DIGITS, PARTICLES, STEPS = 4, 40, 25


def change(
    model: nn.Module, prior: Prior, images: Tensor, *, progress: bool = False
) -> Counterfactuals:
    """Counterfactuals of pixels [B, 1, 32, 32] for the second most likely class of each."""
    with torch.no_grad():
        second = model(images).topk(2).indices[:, 1]
    method = Counterfactual(model, prior, n_particles=PARTICLES, n_steps=STEPS)
    return method.generate(
        images, second, keep_particles=False, class_names=CLASS_NAMES, show_progress=progress
    )


def section(found: Counterfactuals) -> str:
    """What table.md says of them."""
    cost, n = found.cost, len(found.inputs)
    apart = ", ".join(f"{name} {1e3 * seconds / n:.0f} ms" for name, seconds in cost.parts.items())
    changed = ", ".join(
        f"{int(before)} to {int(after)}"
        for before, after in zip(found.outputs.argmax(1), found.best_outputs.argmax(1), strict=True)
    )
    return (
        f"Counterfactuals for the second most likely digit: {int(found.flipped.sum())} of {n} "
        f"are read as it ({changed}); {PARTICLES} particles, {STEPS} steps, "
        f"{cost.queries // n} queries and {1e3 * cost.seconds / n:.0f} ms a digit ({apart})."
    )


def save_digits(images: Tensor, labels: Tensor, folder: Path) -> None:
    """The digits as pictures, for the commands on files: 0.png to 9.png are one of each class."""
    from pyxai_fast.plots import pixel_image, save_image

    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for pixels, label in zip(images, labels.tolist(), strict=True):
        name, number = str(label), 1
        while name in taken:
            number += 1
            name = f"{label}-{number}"
        taken.add(name)
        save_image(pixel_image(pixels), folder / f"{name}.png")

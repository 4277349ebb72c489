"""Pictures of counterfactuals: the input, the way, what became of it, and what that changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .counterfactuals import Counterfactuals
from .errors import ArgumentError
from .plots import Panels, bar_strip, caption, map_image, panel_grid, pixel_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How far along the way the pictures between input and result are.
ON_THE_WAY = (0.33, 0.67)


def counterfactual_figure(found: Counterfactuals, *, max_rows: int = 8) -> Figure:
    """One row for each input, the first `max_rows` of them.

    Red is what the counterfactual has more of than the input, blue what it has less of.

    Raises:
        ValueError: inputs that are no pictures [B, C, H, W] with C of 1 or 3.
    """
    if found.inputs.dim() != 4 or found.inputs.shape[1] not in (1, 3):
        raise ArgumentError(
            "Counterfactuals.plot: inputs must be pictures [B, 1 or 3, H, W], got "
            f"{list(found.inputs.shape)}"
        )
    rows: list[tuple[str | None, Panels]] = []
    for i in range(min(len(found.inputs), max_rows)):
        panels: Panels = {"input": pixel_image(found.inputs[i])}
        if found.trajectory is not None:
            steps = found.trajectory.shape[1] - 1
            for share in ON_THE_WAY:
                step = round(share * steps)
                panels[f"step {step}"] = pixel_image(found.trajectory[i, step].clamp(0, 1))
        panels["mean particle"] = pixel_image(found.mean[i].clamp(0, 1))
        panels["best particle"] = pixel_image(found.best[i].clamp(0, 1))
        panels["what changed"] = map_image(found.best[i] - found.inputs[i], percentile=100.0)
        rows.append((row_caption(found, i), panels))
    labels = ("less", "0", "more")
    return panel_grid(rows, title=None, bar=bar_strip(signed=True, labels=labels))


def row_caption(found: Counterfactuals, i: int) -> str:
    """From which class to which, and how sure the model is of each."""
    before, after = found.outputs[i].softmax(0), found.best_outputs[i].softmax(0)
    first, last = int(before.argmax()), int(after.argmax())
    parts = [f"{_named(found, first, before)} \N{RIGHTWARDS ARROW} {_named(found, last, after)}"]
    wanted = int(found.target[i])
    if last != wanted:
        parts.append(f"asked for {_named(found, wanted, after)}")
    return ";  ".join(parts)


def _named(found: Counterfactuals, index: int, probabilities: torch.Tensor) -> str:
    name = str(index) if found.class_names is None else found.class_names[index]
    return caption(name, float(probabilities[index])) or name

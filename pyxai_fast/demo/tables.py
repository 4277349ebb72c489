"""A table whose cause is known, and what three methods say of one of its rows.

The model reads one feature alone. Two others go along with it in the data, so that looking at the
data would blame them too; hiding them changes no answer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyxai_fast.explanation import Explanation
from pyxai_fast.front_door import explain

CAUSE = "dose"
NAMES = (CAUSE, "exposure", "weight", "age", "pulse", "height", "sodium", "visits")
# What each goes along with the dose by, and how it is measured.
CORRELATIONS = np.array([1.0, 0.9, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0])
MEANS = np.array([5.0, 12.0, 70.0, 50.0, 75.0, 170.0, 140.0, 4.0])
SPREADS = np.array([2.0, 3.0, 12.0, 15.0, 10.0, 9.0, 3.0, 2.0])
ROWS, QUERIES = 400, 256
METHODS = ("dax", "kernel_shap", "lime")


class Dosage:
    """A classifier that reads the dose: more than 6 is rather toxic than safe."""

    classes_ = ("safe", "toxic")

    def predict_proba(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        toxic = 1 / (1 + np.exp(-1.5 * (rows[:, 0] - 6)))
        return np.stack([1 - toxic, toxic], 1)


def make_table(seed: int = 0) -> NDArray[np.float64]:
    """Patients [ROWS, 8], in the units of each feature."""
    random = np.random.default_rng(seed)
    dose = random.standard_normal((ROWS, 1))
    own = random.standard_normal((ROWS, len(NAMES)))
    scores = CORRELATIONS * dose + np.sqrt(1 - CORRELATIONS**2) * own
    return np.asarray(MEANS + SPREADS * scores, np.float64)


def explain_row(table: NDArray[np.float64], progress: bool = False) -> dict[str, Explanation]:
    """The row with the greatest dose, explained for "toxic" by each of METHODS."""
    row = table[[int(table[:, 0].argmax())]]
    return {
        method: explain(
            Dosage(),
            row,
            method=method,
            target=1,
            baselines=table.mean(0),
            feature_names=NAMES,
            n_queries=2 * QUERIES if method == "dax" else QUERIES,
            progress=progress,
        )
        for method in METHODS
    }


def draw(path: Path, progress: bool = False) -> str:
    """Explains, writes a picture of it, and says in a line what was found."""
    import torch

    from pyxai_fast.plots import bars, save_figure

    found = explain_row(make_table(), progress)
    maps = torch.cat([torch.as_tensor(one.attributions) for one in found.values()])
    # Masks and differences of probabilities have no unit in common.
    figure = bars(
        maps / maps.abs().amax(1, keepdim=True),
        feature_names=NAMES,
        captions=[method.replace("_", " ") for method in found],
        label="attribution, of the largest",
        title=f"Which features speak for toxic (the model reads the {CAUSE} alone)",
    )
    save_figure(figure, path)
    firsts = [NAMES[i] for i in maps.abs().argmax(1).tolist()]
    right = [method for method, first in zip(found, firsts, strict=True) if first == CAUSE]
    return (
        f"Look at {path}: of {len(NAMES)} features, some of which go along with it, the model "
        f"reads the {CAUSE} alone; it comes first for {', '.join(right) or 'no method'}."
    )

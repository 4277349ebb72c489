"""A table: what a fitted estimator reads, by Shapley values that are exact.

    python examples/table.py [FOLDER]

The forest learns a risk from two of six columns; a third goes along with one of them in the data,
so that looking at the data alone would blame it too. Prints, column by column, what the forest's
answers owe to each, and writes FOLDER/table.png, the bars of the four at most risk.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from pyxai_fast import Explanation, explain

NAMES = ("dose", "age", "exposure", "weight", "pulse", "height")
SPREADS = np.array([2.0, 15.0, 3.0, 12.0, 10.0, 9.0])
MEANS = np.array([5.0, 50.0, 12.0, 70.0, 75.0, 170.0])


def patients(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [count, 6] and labels [count]: at risk by dose and age; exposure goes with the dose."""
    random = np.random.default_rng(seed)
    scores = random.standard_normal((count, len(NAMES)))
    scores[:, 2] = 0.7 * scores[:, 0] + 0.7 * scores[:, 2]
    risk = 2.0 * scores[:, 0] + 1.0 * scores[:, 1]
    return MEANS + SPREADS * scores, (risk + 0.3 * random.standard_normal(count) > 1).astype(int)


def main(folder: str = ".") -> Explanation:
    rows, at_risk = patients(1000, seed=0)
    forest = RandomForestClassifier(60, max_depth=6, random_state=0).fit(rows, at_risk)
    others, labels = patients(40, seed=1)
    # Six columns have 64 coalitions: all of them are asked, and the values are Shapley's.
    how = {"method": "kernel_shap", "target": 1, "n_queries": 2 ** len(NAMES)}
    said = {"baselines": rows.mean(0), "feature_names": NAMES}
    found = explain(forest, others, **how, **said)
    print(f"the forest is right about {forest.score(others, labels):.0%} of {len(others)} patients")
    print(f"{'column':10} {'mean size':>10} {'largest':>8}")
    sizes = found.attributions.abs()
    for i in sizes.mean(0).argsort(descending=True).tolist():
        print(f"{NAMES[i]:10} {float(sizes[:, i].mean()):10.3f} {float(sizes[:, i].max()):8.3f}")
    worst = forest.predict_proba(others)[:, 1].argsort()[-4:]
    explain(forest, others[worst], **how, **said).plot(Path(folder) / "table.png")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])

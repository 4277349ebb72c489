"""Pictures: why a network reads scanned digits as it does, by five methods side by side.

    python examples/pictures.py [FOLDER]

Writes FOLDER/pictures.png, and prints what each method asked the network and how well it adds up.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pyxai_fast import Explanation, explain
from pyxai_fast.demo import load_demo_model, load_digits
from pyxai_fast.plots import GalleryRow, gallery, save_figure

DIGITS = 5


def explained() -> dict[str, Explanation]:
    """The first test digits, by method."""
    model, digits = load_demo_model(), load_digits("test")[0][:DIGITS]
    options: dict[str, dict[str, Any]] = {
        "saliency": {"abs": False},
        "integrated_gradients": {"n_steps": 50},
        "expected_gradients": {"baselines": load_digits("train")[0][:50]},
        "kernel_shap": {"segments": "tiles:4", "n_queries": 500},
        "dax": {"segments": "tiles:4", "n_queries": 500},
    }
    return {name: explain(model, digits, method=name, **given) for name, given in options.items()}


def row(found: dict[str, Explanation], i: int) -> GalleryRow:
    """One digit: the class that is read, how surely, and every map."""
    one = found["saliency"]
    maps = {method: each.attributions[i] for method, each in found.items()}
    sure = float(one.outputs[i].softmax(0).max())
    return GalleryRow(one.inputs[i], maps, str(int(one.target[i])), sure)


def main(folder: str = ".") -> dict[str, Explanation]:
    found = explained()
    print(f"{'method':22} {'gradients':>9} {'queries':>8} {'seconds':>8} {'largest gap':>12}")
    for method, each in found.items():
        cost = each.cost
        gap = "" if each.delta is None else f"{float(each.delta.abs().max()):.1e}"
        print(f"{method:22} {cost.gradients:9} {cost.queries:8} {cost.seconds:8.2f} {gap:>12}")
    figure = gallery(*(row(found, i) for i in range(DIGITS)))
    save_figure(figure, Path(folder) / "pictures.png")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])

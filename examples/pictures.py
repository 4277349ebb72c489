"""Pictures: why a network reads scanned digits as it does, by eight methods side by side.

    python examples/pictures.py [FOLDER]

Writes FOLDER/pictures.png, and prints what each method asked the network and how well it adds up.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyxai_fast import Explanation, explain
from pyxai_fast.demo import load_demo_model, load_digits
from pyxai_fast.plots import GalleryRow, gallery, save_figure
from pyxai_fast.priors.spec import load_prior

DIGITS = (0, 2, 4, 7)


def explained() -> dict[str, Explanation]:
    """One test digit of each of some classes, by method."""
    model, (digits, labels) = load_demo_model(), load_digits("test")
    digits = digits[[labels.tolist().index(digit) for digit in DIGITS]]
    options: dict[str, dict] = {
        "integrated_gradients": {},
        "expected_gradients": {"baselines": load_digits("train")[0][:50]},
        "blur_ig": {"max_sigma": 8.0, "schedule": "geometric"},
        "stick_breaking_ig": {"n_paths": 4},
        "geometrically_guided_ig": {"n_ascent": 4},
        "kernel_shap": {"segments": "tiles:4", "n_queries": 500},
        "dax": {"segments": "tiles:4", "n_queries": 500},
        "freemcg": {"prior": load_prior("demo", digits.device), "n_particles": 32},
    }
    return {name: explain(model, digits, method=name, **given) for name, given in options.items()}


def row(found: dict[str, Explanation], i: int) -> GalleryRow:
    """One digit: the class that is read, how surely, and every map."""
    one = found["integrated_gradients"]
    maps = {method: each.attributions[i] for method, each in found.items()}
    sure = one.outputs[i].softmax(0).max()
    return GalleryRow(one.inputs[i], maps, str(one.target[i].item()), sure.item())


def main(folder: str = ".") -> dict[str, Explanation]:
    found = explained()
    print(f"{'method':22} {'gradients':>9} {'queries':>8} {'seconds':>8} {'largest gap':>12}")
    for method, each in found.items():
        cost = each.cost
        gap = "" if each.delta is None else f"{float(each.delta.abs().max()):.1e}"
        print(f"{method:22} {cost.gradients:9} {cost.queries:8} {cost.seconds:8.2f} {gap:>12}")
    rows = (row(found, i) for i in range(len(DIGITS)))
    save_figure(gallery(*rows), Path(folder) / "pictures.png")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])

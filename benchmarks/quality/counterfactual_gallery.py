"""A picture of digits led to every class, and of what that changed.

python benchmarks/quality/counterfactual_gallery.py [--model SPEC] [--prior SPEC]
    [--data digits|FILE.npz] [--pictures 3,40,...] --out FILE.png
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from freemcg import load_data, read_right  # noqa: E402

from pyxai_fast import Counterfactual, Counterfactuals  # noqa: E402
from pyxai_fast.models.spec import LoadedModel, load_model  # noqa: E402
from pyxai_fast.plots import map_image, pixel_image  # noqa: E402
from pyxai_fast.priors import Prior  # noqa: E402
from pyxai_fast.priors.spec import load_prior  # noqa: E402

PANEL, GAP, MARGIN, HEADER, FIRST = 0.80, 0.05, 0.14, 0.62, 0.30
INK, MUTED, MISSED = "#222222", "#666666", "#cb1e2d"


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    data, loaded = load_data(options.data), load_model(options.model)
    prior = load_prior(options.prior, torch.device("cpu"))
    numbers = options.pictures
    if numbers is None:
        numbers = one_of_each(read_right(loaded, data), data.test_labels)[: options.rows]
    found = led_everywhere(loaded, prior, data.test[numbers], options)
    save(gallery(found, data.test_labels[numbers]), options.out, options.dpi)


def save(figure: Figure, path: Path, dpi: int) -> None:
    """As a PNG of 256 colours, a third of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)


def one_of_each(right: Tensor, labels: Tensor) -> list[int]:
    """The first picture of each class that is read right."""
    first: dict[int, int] = {}
    for number in right.tolist():
        first.setdefault(int(labels[number]), number)
    return [first[c] for c in sorted(first)]


def led_everywhere(
    loaded: LoadedModel, prior: Prior, images: Tensor, options: argparse.Namespace
) -> list[Counterfactuals]:
    """Every picture, asked for each class: one entry for each class."""
    with torch.no_grad():
        classes = loaded.module(images[:1]).shape[1]
    method = Counterfactual(
        loaded.module, prior, n_particles=options.particles, n_steps=options.steps,
        strength=options.strength, step_size=options.step_size, seed=options.seed,
        preprocessing=loaded.preprocessing,
    )  # fmt: skip
    return [
        method.generate(images, c, keep_particles=False, keep_trajectory=False)
        for c in range(classes)
    ]


def gallery(found: list[Counterfactuals], labels: Tensor) -> Figure:
    """Two lines for each picture: what it becomes, and what that adds (red) and takes (blue)."""
    count, classes = len(labels), len(found)
    width = 2 * MARGIN + PANEL + FIRST + classes * PANEL + (classes - 1) * GAP
    line = 2 * PANEL + GAP
    height = HEADER + count * line + (count - 1) * 3 * GAP + MARGIN
    figure = Figure(figsize=(width, height), facecolor="white")

    def panel(left: float, top: float) -> Axes:
        box = (left / width, (top - PANEL) / height, PANEL / width, PANEL / height)
        axes: Axes = figure.add_axes(box)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(color="#bbbbbb", linewidth=0.6)
        return axes

    def text(left: float, top: float, words: str, size: float, colour: str, **more: str) -> None:
        figure.text(left / width, top / height, words, fontsize=size, color=colour, **more)

    lefts = [MARGIN + PANEL + FIRST + c * (PANEL + GAP) for c in range(classes)]
    text(MARGIN, height - 0.30, "input", 9, MUTED)
    text(lefts[0], height - 0.22, "What would have to change to be read as", 10, INK)
    for c, left in enumerate(lefts):
        text(left + PANEL / 2, height - HEADER + 0.10, str(c), 11, INK, ha="center")
    for row in range(count):
        top = height - HEADER - row * (line + 3 * GAP)
        panel(MARGIN, top).imshow(pixel_image(found[0].inputs[row]))
        for c, left in enumerate(lefts):
            changed = found[c].best[row].clamp(0, 1)
            axes = panel(left, top)
            axes.imshow(pixel_image(changed))
            if not bool(found[c].flipped[row]):
                for spine in axes.spines.values():
                    spine.set(color=MISSED, linewidth=2.0)
            difference = changed - found[c].inputs[row]
            panel(left, top - PANEL - GAP).imshow(map_image(difference, percentile=100.0))
    return figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", default="demo", help="as in pyxai-fast explain --model")
    add("--prior", default="demo", help="as in pyxai-fast counterfactual --prior")
    add("--data", default="digits", help="FILE.npz, or digits: those of the demo")
    add("--pictures", type=_numbers, help="of the test part; the first of some classes by default")
    add("--rows", type=int, default=4, help="how many, where none are named")
    add("--particles", type=int, default=40)
    add("--steps", type=int, default=25)
    add("--strength", type=float, default=0.5)
    add("--step-size", type=float, default=0.05)
    add("--seed", type=int, default=0)
    add("--threads", type=int, help="of PyTorch")
    add("--dpi", type=int, default=110)
    add("--out", type=Path, required=True)
    return parser


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()

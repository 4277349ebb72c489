"""Explain handwritten digits with every method: ``python -m pyxai_fast.demo --out demo``.

Writes gallery.png, attributions.safetensors, table.md and table.json, the digits as pictures,
table.png, of a row of a table, and where diffusers is installed counterfactuals.png, where
soundfile is installed an explained sound. It needs no download and no GPU; the models are part of
the package, or trained in seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import pyxai_fast
from pyxai_fast.demo import changes, heard, tables
from pyxai_fast.demo.data import CLASS_NAMES, load_digits
from pyxai_fast.demo.model import load_demo_model
from pyxai_fast.demo.prior import load_demo_prior
from pyxai_fast.demo.runs import REPEATS, Run, agreement, fastest_threads, markdown, plan, run
from pyxai_fast.demo.train import evaluate
from pyxai_fast.runtime.progress import progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEEDED = {
    "sklearn": "scikit-learn",
    "safetensors": "safetensors",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
}
_GALLERY_ROWS = 24  # more would make a picture too large to look at


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyxai_fast.demo", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo"), help="folder to write (default: %(default)s)")
    add("--images", type=int, default=12, help="how many digits (default: %(default)s)")
    add("--steps", type=int, default=50, help="path points, noisy copies (default: %(default)s)")
    add("--no-progress", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    _check(parser, args)

    model = load_demo_model()
    images, labels = load_digits("test")
    if args.images > len(images):
        parser.error(f"--images must be at most {len(images)} (the test images), got {args.images}")
    chosen = choose(model, images, labels, args.images)
    with fastest_threads(model, images[chosen]):
        _demo(model, images, labels, chosen, args)
    return 0


def _demo(
    model: nn.Module, images: Tensor, labels: Tensor, chosen: Tensor, args: argparse.Namespace
) -> None:
    """Explain the chosen test images, write the results and say so."""
    started = time.perf_counter()
    test = evaluate(model, images, labels)
    images, labels = images[chosen], labels[chosen]
    progress = not args.no_progress
    prior = load_demo_prior() if importlib.util.find_spec("diffusers") else None
    planned = plan(prior is not None)
    runs = []
    bar = progress_bar(progress, len(planned), "demo", unit=" runs")
    for method, backend in planned:
        runs.append(
            run(model, images, method, backend, steps=args.steps, prior=prior, progress=progress)
        )
        bar.update(1)
    bar.close()
    found = None
    if prior is not None:
        found = changes.change(model, prior, images[: changes.DIGITS], progress=progress)
    listened = heard.hear(progress=progress) if importlib.util.find_spec("soundfile") else None

    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    tensors = {"inputs": images, "labels": labels, "indices": chosen, "targets": _targets(runs[0])}
    _save_tensors(tensors, runs, out / "attributions.safetensors")
    _save_gallery(runs, labels, out / "gallery.png")
    changes.save_digits(images, labels, out / "digits")
    if found is not None:
        found.plot(out / "counterfactuals.png")
    if listened is not None:
        heard.save(listened, out)
    of_table = tables.draw(out / "table.png", progress)
    sections = [
        None if found is None else changes.section(found),
        None if listened is None else heard.section(listened),
    ]
    report = _report(runs, test, labels, sections)
    (out / "table.md").write_text(report, encoding="utf-8")
    record = _record(runs, test, chosen, time.perf_counter() - started)
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(report)
    print(
        f"Wrote gallery.png, table.png, {'' if found is None else 'counterfactuals.png, '}"
        f"{'' if listened is None else ', '.join(heard.FILES) + ', '}"
        f"attributions.safetensors, table.md, table.json and digits/ to {out} in "
        f"{record['seconds']:.1f} s.\n{_look_at(runs[0], labels, out)}"
    )
    print(of_table)
    if found is not None:
        print(
            f"Look at {out / 'counterfactuals.png'}: what would have to change for another digit."
        )
    else:
        print(
            "Install diffusers (pip install pyxai-fast[diffusion]) for maps on the data manifold "
            "and counterfactuals."
        )
    if listened is not None:
        picture, _, part = heard.FILES
        print(f"Look at {out / picture}, and listen to {out / part}: what a network hears.")
    else:
        print("Install soundfile (pip install pyxai-fast[audio]) for a sound, explained.")


def choose(model: nn.Module, images: Tensor, labels: Tensor, n: int) -> Tensor:
    """Positions of the images to show, int64 [n]: one of each class, then the hardest.

    First the first image of each class that the model gets right, by class; then those with the
    smallest margin (logit of the true class less the highest other one), mistakes before close
    calls, without those already chosen.
    """
    with torch.no_grad():
        logits = model(images)
    true = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    margin = true - others
    right = (margin > 0).nonzero().squeeze(1).tolist()
    classes = labels.tolist()
    typical = [next(i for i in right if classes[i] == c) for c in range(len(CLASS_NAMES))]
    hardest = [i for i in margin.argsort(stable=True).tolist() if i not in typical]
    return torch.tensor([*typical, *hardest][:n])


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is computed."""
    for name in ("images", "steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out must be a folder, got the file {args.out}")
    missing = [package for name, package in _NEEDED.items() if not importlib.util.find_spec(name)]
    if missing:
        parser.error(f"needs {', '.join(missing)}; run: pip install pyxai-fast[demo]")


def _targets(item: Run) -> Tensor:
    target = item.explanation.target
    assert target is not None  # the model has ten outputs
    return target


def _by_method(runs: Sequence[Run]) -> dict[str, Run]:
    """One run for each method, in their order: that on the default backend, which comes first."""
    first: dict[str, Run] = {}
    for item in runs:
        first.setdefault(item.method, item)
    return first


def _save_tensors(tensors: dict[str, Tensor], runs: Sequence[Run], path: Path) -> None:
    from safetensors.torch import save_file

    maps = {name: item.attributions for name, item in _by_method(runs).items()}
    save_file({name: value.contiguous() for name, value in (tensors | maps).items()}, path)


def _save_gallery(runs: Sequence[Run], labels: Tensor, path: Path) -> None:
    """In the shape of a screen, about: where the rows are short, in two blocks side by side."""
    from pyxai_fast.plots import GalleryRow, gallery, save_image

    explanation = runs[0].explanation
    assert isinstance(explanation.inputs, Tensor)
    probabilities = explanation.outputs.softmax(1)
    columns = {
        f"{method} (size only)" if _unsigned(item) else method: item.attributions
        for method, item in _by_method(runs).items()
    }
    rows = []
    targets = _targets(runs[0]).tolist()
    for i, caption in enumerate(_captions(targets, labels.tolist())[:_GALLERY_ROWS]):
        rows.append(
            GalleryRow(
                explanation.inputs[i],
                {title: attributions[i] for title, attributions in columns.items()},
                caption,
                float(probabilities[i, targets[i]]),
            )
        )
    title = "Which pixels speak for the predicted digit"
    if len(labels) > len(rows):
        title += f" (first {len(rows)} of {len(labels)})"
    # Two blocks of rows with an input before each are at most three times as wide as they are high.
    side_by_side = len(rows) >= 4 and 4 * (len(columns) + 1) <= 3 * len(rows)
    height = (len(rows) + 1) // 2 if side_by_side else len(rows)
    blocks = [
        # A title of its own, if an empty one, keeps the second block level with the first.
        _pixels(gallery(*rows[first : first + height], title=" " if first else title))
        for first in range(0, len(rows), height)
    ]
    tallest = max(block.shape[0] for block in blocks)
    white = [((0, tallest - block.shape[0]), (0, 0), (0, 0)) for block in blocks]
    padded = [
        np.pad(block, pad, constant_values=255) for block, pad in zip(blocks, white, strict=True)
    ]
    save_image(np.concatenate(padded, axis=1), path)


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """A figure as uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def _unsigned(item: Run) -> bool:
    """Whether a method says how much, but not whether for or against."""
    return bool(item.attributions.min() >= 0)


def _report(
    runs: Sequence[Run], test: dict[str, Any], labels: Tensor, sections: Sequence[str | None]
) -> str:
    """table.md: what was explained, the table, and how far the backends agree."""
    wrong = int((_targets(runs[0]) != labels).sum())
    about = (
        f"{_count(len(labels), 'test digit')} ({wrong} of them misread) explained for the "
        f"predicted class by a network that reads {test['correct']} of {test['images']} test "
        f"digits correctly ({test['accuracy']:.2%})."
    )
    isa = pyxai_fast.ops.cpu_isa()
    notes = (
        f"Times are of the fastest of {REPEATS} calls (freemcg, dax, student_gradient: of one), "
        f"the networks' own work included, on "
        f"{_count(torch.get_num_threads(), 'CPU thread')}. Gradients and queries are inputs sent "
        "through the network with and without a backward pass, for the whole batch."
    )
    if isa is not None:
        notes += f" The backend cpu is the C++ kernels ({isa}), reference is PyTorch."
    parts = ["# Handwritten digits", about, markdown(runs), agreement(runs), notes, *sections]
    return "\n\n".join(part for part in parts if part) + "\n"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _record(
    runs: Sequence[Run], test: dict[str, Any], indices: Tensor, seconds: float
) -> dict[str, Any]:
    return {
        "test": {name: test[name] for name in ("images", "correct", "accuracy")},
        "indices": indices.tolist(),
        "targets": _targets(runs[0]).tolist(),
        "runs": [item.as_dict() for item in runs],
        "seconds": seconds,
        "info": pyxai_fast.info(),
    }


def _look_at(item: Run, labels: Tensor, out: Path) -> str:
    look = f"Look at {out / 'gallery.png'}: red speaks for the predicted digit, blue against it"
    captions = _captions(_targets(item).tolist(), labels.tolist())[:_GALLERY_ROWS]
    wrong = [f'"{caption}"' for caption in captions if caption not in CLASS_NAMES]
    return f"{look}; its mistakes are captioned {', '.join(wrong)}." if wrong else f"{look}."


def _captions(targets: Sequence[int], labels: Sequence[int]) -> list[str]:
    """The predicted class, and the true one where it is another."""
    return [
        CLASS_NAMES[target]
        if target == label
        else f"{CLASS_NAMES[target]} (is a {CLASS_NAMES[label]})"
        for target, label in zip(targets, labels, strict=True)
    ]


if __name__ == "__main__":
    raise SystemExit(main())

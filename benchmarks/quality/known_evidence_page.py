"""The text of known_evidence.md; every figure in it is one of results/known-evidence.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from differences import TOO_FEW, than, verdict
from likelihood_ratio_page import interval, sentence_case, table

INTRODUCTION = """\
# Do maps find evidence that is known

Written by `benchmarks/quality/known_evidence.py --page` from `results/known-evidence.json`. To
measure again, without any data:

    python benchmarks/quality/known_evidence.py --json OUT.json --plot OUT.png --gallery FOLDER

Inputs are made by `pyxai_fast.known_evidence`, each with one thing that decides its class, whose
place is known exactly. The networks are trained so that nothing else says anything about it: the
first table of each set says how sure they are of the whole input, of the same input without its
evidence, and of the evidence in the place of another's.

- Every map may evaluate the network equally often; a gradient, forward and backward, counts as one
  evaluation. "Evaluations" are what was used, for each input: this package's are one or a few
  more, as it tells what the network says of the input itself, and of references. Those of other
  packages were counted at the network.
- Paths start at, and what is hidden becomes, the mean of 100 other inputs; methods with references
  have all of these. Methods that hide segments have 8 x 8 tiles, or each column of a table, and so
  does the likelihood-ratio gradient of images, whose tiles share their noise.
- Signed: of a map, summed over channels, only what speaks for the class counts. Absolute: sizes,
  summed over channels. A slope's sign says for or against more of the input, not for or against the
  class: gradients, SmoothGrad, geometrically guided IG and their like are compared by their
  absolute maps, all others by their signed ones. Both are in the tables.
- Pointing: how often the hottest place is inside the evidence (of a table: how often the cause
  ranks first). Energy: the share of the map's sum that is inside. Best IoU: intersection over union
  at the threshold that suits the map best. Mean IoU: over the thresholds 0, 0.01, ... 0.99.
  Large is good; the perfect map has 1, and none of a network can be expected to be it: an edge is
  seen on both of its sides. All of a tile is as hot: who hides tiles points no better than by the
  share of the hottest tile that is inside.
- Figures are means over inputs, with the 95% bootstrap interval over inputs in brackets. "Better"
  and "worse" are of differences between the same inputs, and are said where the interval of the
  difference leaves out 0, without a correction for how many are compared. Controls are a random map
  and, of images, a Gaussian at the centre; what is compared with "the controls" is compared with
  the better of the two.
- Left out: `diffusion_ig`, which needs a path model for each network, and of images `freemcg`,
  which needs a trained prior.
"""
COLUMNS = {
    "pointing": "pointing",
    "energy": "energy",
    "best_iou": "best IoU",
    "iou_area": "mean IoU",
}
PACKAGES = {
    "captum": "captum, whose LIME and KernelSHAP are among them",
    "lime": "lime, of the authors of LIME",
    "shap": "shap",
    "saliency": "PAIR saliency",
    "torch": "RISE as in its paper, written for this page",
}
TITLES = {
    "pictures": "Pictures",
    "marked_pictures": "Pictures with a planted shortcut",
    "spectrograms": "Spectrograms",
    "tables": "Tables",
}
ABOUT = {
    "pictures": (
        "The object, one of five shapes with a texture, before waves and patches of others; half "
        "of the pictures have a second object, of no class."
    ),
    "marked_pictures": (
        "An object too, and a small mark in a corner that alone decides the class: a map that "
        "points to the object is wrong."
    ),
    "spectrograms": "The event, one of five, in noise and a hum.",
    "tables": (
        "One of twelve columns, a different one for each class; another column follows it in the "
        "data and decides nothing."
    ),
}


def rendered(path: Path) -> str:
    """The text for a file of figures."""
    result = json.loads(path.read_text())
    parts = [INTRODUCTION]
    if path.with_suffix(".png").exists():
        parts.append(f"![How much of every map is inside the evidence](results/{path.stem}.png)\n")
    parts += settings_of(result)
    parts += against_others(result["sets"])
    for one in result["sets"]:
        parts += section(one, path)
    return "\n".join(parts)


def section(one: dict[str, Any], path: Path) -> Iterator[str]:
    name, rows = one["set"], one["maps"]
    yield f"## {TITLES.get(name, name)}\n"
    yield (
        f"{ABOUT.get(name, '')} {one['cases']} inputs; the evidence is {one['share']:.1%} of an "
        f"input on average. The network is right of {one['accuracy']:.1%} of 2,000 others, half of "
        "them without evidence.\n"
    )
    sure = one["probability"]
    yield table(
        ("probability of the class", ""),
        (
            ["of the whole input", interval(sure["whole"])],
            ["without its evidence", interval(sure["without"])],
            ["of the evidence in another's place", interval(sure["elsewhere"])],
        ),
    )
    gallery = path.with_name(f"{path.stem}-{name}.png")
    if gallery.exists():
        yield f"![Maps of some](results/{gallery.name})\n"
    yield from (f"- {sentence}" for sentence in findings(rows, one["cases"]))
    yield ""
    yield table(
        ("map", "read", *COLUMNS.values(), "evaluations", "CPU ms"),
        (
            [
                row["label"], row["reading"],
                *(interval(row[row["reading"]][metric]) for metric in COLUMNS),
                f"{row['evaluations']:,.0f}", f"{1e3 * row['seconds']:,.1f}",
            ]
            for row in rows
        ),
    )  # fmt: skip
    yield "Read the other way:\n"
    yield table(
        ("map", "read", *COLUMNS.values()),
        (
            [row["label"], other(row), *(interval(row[other(row)][metric]) for metric in COLUMNS)]
            for row in rows
            if row["kind"] != "control"
        ),
    )
    compared = [row for row in rows if "ours_minus" in row]
    if compared:
        yield "This package minus the others, of the same method:\n"
        yield table(
            ("other", "this package's", *COLUMNS.values()),
            (
                [
                    row["label"], row["counterpart"],
                    *(difference(row["ours_minus"][metric], one["cases"]) for metric in COLUMNS),
                ]
                for row in compared
            ),
        )  # fmt: skip


def findings(rows: list[dict[str, Any]], inputs: int) -> Iterator[str]:
    """What is better and worse than the controls."""
    ours = [row for row in rows if row["kind"] == "ours"]
    for metric, title in COLUMNS.items():
        best = max(ours, key=lambda row: row[row["reading"]][metric]["mean"])
        found = sorted_by(((row["label"], row["over_controls"][metric]) for row in ours), inputs)
        most = best[best["reading"]][metric]["mean"]
        yield (
            f"{sentence_case(title)}: {best['label']} has the most, {most:.3f}. "
            f"{said(found, 'the controls')}"
        )


def sorted_by(found: Any, inputs: int) -> dict[str, list[str]]:
    """Labels by what is said of their differences, of so many inputs."""
    places: dict[str, list[str]] = {"better": [], "no different": [], "worse": [], TOO_FEW: []}
    for label, interval_of in found:
        places[verdict(interval_of, inputs)].append(label)
    return places


def said(found: dict[str, list[str]], others: str) -> str:
    parts = [
        f"{how} {than(how)} {others}: {', '.join(labels)}"
        for how, labels in found.items()
        if labels and how != "better"
    ]
    if not parts:
        return f"All are better than {others}."
    rest = "; all others are better" if found["better"] else ""
    return sentence_case(f"{'; '.join(parts)}{rest}.")


def difference(found: dict[str, float], inputs: int) -> str:
    how = verdict(found, inputs)
    return interval(found) + (f" {how}" if how in ("better", "worse") else "")


def other(row: dict[str, Any]) -> str:
    return "absolute" if row["reading"] == "signed" else "signed"


def settings_of(result: dict[str, Any]) -> Iterator[str]:
    machine, settings = result["machine_info"], result["settings"]
    yield (
        f"Here: {settings['cases']} inputs of each set, {settings['evaluations']} evaluations for "
        f"each map, {settings['threads']} of PyTorch's threads, {machine['cpu']}, torch "
        f"{machine['torch']}. Times are a processor's, for each input, of one run: what "
        "to expect, no more.\n"
    )


def against_others(sets: list[dict[str, Any]]) -> Iterator[str]:
    """Each map of another package beside this package's of the same method, in every set."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    inputs = {one["set"]: one["cases"] for one in sets}
    for one in sets:
        for row in one["maps"]:
            if "ours_minus" in row:
                rows.setdefault(row["label"], {})[one["set"]] = row
    if not rows:
        return
    yield "## Beside other packages\n"
    yield (
        "The same method of this package and of another, on the same inputs: in what this "
        'package\'s is better and worse. Of what is not named, and where a cell says "=", it is '
        "no different. Figures are in the sections below. By default captum's LIME fits a Lasso, "
        "and shap's KernelExplainer keeps ten segments: they leave less outside.\n"
    )
    for package, title in PACKAGES.items():
        found = [
            verdict(row["ours_minus"][metric], inputs[name])
            for of_sets in rows.values()
            for name, row in of_sets.items()
            if row["package"] == package
            for metric in COLUMNS
        ]
        counts = Counter(found)
        if found:
            few = f", too few inputs to tell in {counts[TOO_FEW]}" if counts[TOO_FEW] else ""
            yield (
                f"- {title}: of {len(found)} comparisons, better in {counts['better']}, no "
                f"different in {counts['no different']}, worse in {counts['worse']}{few}."
            )
    yield ""
    yield table(
        ("other", "this package's", *(TITLES.get(name, name).lower() for name in inputs)),
        (
            [
                label,
                next(iter(of_sets.values()))["counterpart"],
                *(
                    _in_short(of_sets[name], count) if name in of_sets else ""
                    for name, count in inputs.items()
                ),
            ]
            for label, of_sets in rows.items()
        ),
    )


def _in_short(row: dict[str, Any], inputs: int) -> str:
    minus = ((COLUMNS[metric], row["ours_minus"][metric]) for metric in COLUMNS)
    found = sorted_by(minus, inputs)
    if found[TOO_FEW]:
        return "too few inputs"
    parts = [f"{how}: {', '.join(found[how])}" for how in ("better", "worse") if found[how]]
    return "; ".join(parts) or "="

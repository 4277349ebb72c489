"""The text of localisation.md; every figure in it is one of the files in results/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from differences import TOO_FEW, than, verdict
from likelihood_ratio_page import interval, table

INTRODUCTION = """\
# Do maps find the thing: methods that hide segments

Written by `benchmarks/quality/localisation.py --page` from the files in `results/`. To measure a
model, and pictures or sounds, of your own:

    python benchmarks/quality/localisation.py --model SPEC --index FILE.json --json OUT.json
    python benchmarks/quality/localisation.py --model SPEC --images FOLDER --masks FOLDER ...
    python benchmarks/quality/sound_localisation.py --model python:FILE.py:FACTORY \\
        --events FOLDER --table FILE.csv --json OUT.json

Pictures have the mask of the thing that the explained class names; sounds have its time. A model
may answer from elsewhere, so that the best possible map of it does not score 1; random maps and
a Gaussian at the centre say what a score is worth.

- Every map evaluates the model equally often; a gradient, forward and backward, counts as one
  evaluation. DAX of segments and of pixels, the student's slope, LIME and RISE read the same
  queries.
- What DAX of segments is trained with by default was chosen on six other pictures of the first set
  below, and on no sounds; DAX of pixels is trained as its authors did.
- Of a map only what speaks for the class counts: negative values are 0, and the largest is 1.
  Integrated gradients and SmoothGrad are summed over channels, the latter's absolute values; they
  are of the logit, the others of the score in [0, 1] (a model that answers such scores: all of it).
- IoU: intersection over union of the mask and what is above 0.2. Mean IoU: over the thresholds
  0, 0.01, ... 0.99, the area under IoU. Best IoU: of the threshold that suits the map best, which
  no monotone change of the map changes. Pointing: how often the hottest place is inside; of several
  that are as hot, their share. Energy: the share of the map's sum that is inside. Large is good.
- Deletion: the area under the probability of the class as pixels turn black, those first that
  speak most for it, over the probability for the whole picture; small is good. Of sounds, times are
  turned down as hidden segments are.
- Of sounds, maps are averaged over frequency first, and everything is in time.
- Figures are means over cases, of each the mean over seeds; in brackets the 95% bootstrap interval
  over cases. "Better" and "worse" are of differences between the same cases, and are said where the
  interval of the difference leaves out 0; everything is compared one by one, without a correction
  for how many there are. "By seed" is the standard deviation over seeds for one case. Methods
  whose maps are the same for every seed, or nearly, are measured with one. All cases have the same
  seeds, and so share what is drawn at random: intervals leave out a part of that noise.
- "By segment": the mean of a map over each segment.
"""
COLUMNS = {
    "iou": "IoU at 0.2",
    "iou_area": "mean IoU",
    "best_iou": "best IoU",
    "pointing": "pointing",
    "energy": "energy",
    "deletion": "deletion",
}
# Small is good.
SMALL = ("deletion",)


def rendered(files: list[Path]) -> str:
    """The text for these files of figures, a section for each."""
    parts = [INTRODUCTION]
    for path in files:
        parts += section(json.loads(path.read_text()), path.with_suffix(".png"))
    return "\n".join(parts)


def section(result: dict[str, Any], plot: Path) -> Iterator[str]:
    settings, rows, metrics = result["settings"], result["maps"], result["metrics"]
    yield f"## {settings['model']}\n"
    yield about(result)
    if plot.exists():
        yield f"![Every metric of every map](results/{plot.name})\n"
    yield from (f"- {sentence}" for sentence in findings(rows, metrics))
    yield ""
    yield table(
        ("map", *(COLUMNS[metric] for metric in metrics)),
        ([row["label"], *(interval(row[metric]) for metric in metrics)] for row in rows),
    )
    if any(f"{metric}_main_minus" in row for row in rows for metric in metrics):
        yield "DAX minus each of the others:\n"
        yield table(
            ("map", *(COLUMNS[metric] for metric in metrics)),
            (
                [row["label"], *(difference(row, metric) for metric in metrics)]
                for row in rows
                if f"{metrics[0]}_main_minus" in row
            ),
        )
    yield "What it took for each case, the model's evaluations included, and spread by seed:\n"
    yield table(
        (
            "map",
            "how",
            "evaluations",
            "time",
            *(f"{COLUMNS[metric]} by seed" for metric in metrics),
        ),
        (
            [
                row["label"],
                row["how"],
                f"{row['evaluations']:,.0f}",
                f"{row['seconds']:.1f} s",
                *(spread(row, metric) for metric in metrics),
            ]
            for row in rows
        ),
    )
    machine = result["machine_info"]
    yield (
        f"Threads: {settings['threads']}; {machine['cpu']}, torch {machine['torch']}; load at the "
        f"end of the run {machine['load_before']} on {machine['cores']} cores. Where the load is "
        "not near 0, times are no more than an upper bound.\n"
    )


def about(result: dict[str, Any]) -> str:
    settings, cases = result["settings"], result["cases"]
    count = result["maps"][0]["cases"] if result["maps"] else 0
    segments = [case["segments"] for case in cases]
    recipe = ", ".join(f"{name} {value}" for name, value in settings["recipe"].items())
    common = (
        f"{settings['data'] or settings['kind'].capitalize()}: {count} whose class is among the "
        f"first {settings['top']} of the model's; {settings['queries']:,} evaluations, "
        f"{settings['seeds']} seeds; {min(segments)} to {max(segments)} segments. "
        f"DAX of pixels: {recipe or 'defaults'}. "
    )
    if settings["kind"] == "pictures":
        instead = sum(case["segments_by"] != settings["segments"] for case in cases)
        area = sum(case["area"] for case in cases) / len(cases)
        return (
            f"{common}Segments: {settings['segments']}, where it gives fewer than 5 slic "
            f"({instead} of {len(cases)}); hidden: {settings['hidden']}. Masks take "
            f"{area:.2f} of the picture on average.\n"
        )
    hertz, seconds = settings["tiles"]
    behind = "pink noise" if settings["background"] == "noise" else "another kind's clip"
    said = (
        f"{common}Tiles of {hertz:g} Hz and {seconds:g} s; hidden: {hidden_as(settings['hidden'])}."
        f" Events of {settings['event_seconds']:g} s in {settings['seconds']:g} s of {behind}, "
        f"{settings['snr']:g} dB below.\n"
    )
    if "hidden" not in result["said"]:
        return said
    return f"{said}\nThe answers when half of the tiles are hidden, at random:\n\n" + table(
        ("hidden tiles", "mean answer", "standard deviation of answers", "answer to the whole"),
        (
            [
                hidden_as(row["hidden"]),
                *(f"{row[key]['mean']:.3f}" for key in ("mean", "spread", "whole")),
            ]
            for row in result["said"]["hidden"]
        ),
    )


def hidden_as(hidden: str) -> str:
    return hidden if hidden == "silence" else f"turned down by {-float(hidden):g} dB"


def findings(rows: list[dict[str, Any]], metrics: list[str]) -> Iterator[str]:
    """What DAX is better and worse than, for each metric."""
    for metric in metrics:
        found: dict[str, list[str]] = {"better": [], "no different": [], "worse": []}
        for row in rows:
            if f"{metric}_main_minus" in row and (how := compared(row, metric)) != TOO_FEW:
                found[how].append(row["label"])
        said = [f"{how} {than(how)} {', '.join(labels)}" for how, labels in found.items() if labels]
        if said:
            yield f"{COLUMNS[metric]}: DAX is {'; '.join(said)}."


def compared(row: dict[str, Any], metric: str) -> str:
    """How DAX is, beside the map of a row."""
    good = -1 if metric in SMALL else 1
    return verdict(row[f"{metric}_main_minus"], row["cases"], good)


def difference(row: dict[str, Any], metric: str) -> str:
    how = compared(row, metric)
    said = f" {how}" if how in ("better", "worse") else ""
    return interval(row[f"{metric}_main_minus"]) + said


def spread(row: dict[str, Any], metric: str) -> str:
    key = f"{metric}_seed_sd"
    return f"{row[key]:.3f}" if key in row else ""

"""The text of paths.md; every figure in it is one of the files in results/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from differences import verdict
from likelihood_ratio_page import interval, table

INTRODUCTION = """\
# Paths on real models

Written by `benchmarks/quality/paths.py --page` from the files in `results/`. To measure a model and
pictures of your own:

    python benchmarks/quality/paths.py --model SPEC --images FOLDER --json OUT --plot PNG

Figures are means over pictures, with the 95% bootstrap interval over pictures in brackets. All maps
are of the logit of the class that is predicted. "Better" and "worse" compare with integrated
gradients on the same pictures, and are said where the interval of the difference leaves out 0.

- DiffID: from 10% to 90% of the features, of all channels, are replaced by the mean of those that
  are kept; the share of pictures that keep their class when the least important go, minus that when
  the most important go. Large is good.
- Deletion: the area under the probability of the class as pixels turn black, the highest ranked
  first; small is good. Insertion: as they come back into the blurred picture; large is good. Where
  the blurred picture keeps its class, insertion tells little.
- Rankings are by absolute values. Entropy: of the shares of the absolute map, over that of a
  uniform one; small is a sparse map, which is neither good nor bad.
- Gap: between the sum of the attributions and the difference of the scores, relative to it, of the
  pictures whose scores differ. Methods without one promise none.
- Memory is the peak during the call beyond what was resident before, for all pictures together.
- Learnt paths are guided by a network that was trained on the same kind of measure as DiffID, of
  the model's confidence: DiffID favours them, deletion and insertion less.
"""


def rendered(files: list[Path]) -> str:
    """The text for these files of figures."""
    parts = [INTRODUCTION]
    for path in files:
        parts += section(json.loads(path.read_text()), path.with_suffix(".png"))
    return "\n".join(parts)


def section(result: dict[str, Any], plot: Path) -> Iterator[str]:
    settings, chances = result["settings"], result["probabilities"]
    size = "x".join(map(str, settings["shape"]))
    yield f"## {settings['model']}\n"
    yield (
        f"{settings['data'] or 'Pictures'}: {settings['pictures']} of {size}; {settings['n_steps']}"
        f" steps a path. Probability of the class {chances['clean']['mean']:.2f}, of black "
        f"{chances['black']['mean']:.2f}, of the blurred one {chances['blurred']['mean']:.2f}.\n"
    )
    if plot.exists():
        yield f"![DiffID of every path](results/{plot.name})\n"
    yield table(
        ("map", "DiffID", "", "deletion", "", "insertion", "", "entropy"),
        (
            [
                row["label"],
                interval(row["diffid"]),
                compared(row, "diffid", settings["pictures"], 1),
                interval(row["deletion"]),
                compared(row, "deletion", settings["pictures"], -1),
                interval(row["insertion"]),
                compared(row, "insertion", settings["pictures"], 1),
                f"{row['entropy']['mean']:.2f}",
            ]
            for row in result["maps"]
        ),
    )
    yield "What it took, for each picture:\n"
    yield table(
        ("map", "how", "gradients", "time", "peak memory, all pictures", "gap"),
        (
            [
                row["label"],
                settings["options"][row["map"]],
                f"{row['gradients']:,.0f}",
                f"{1e3 * row['seconds']:,.0f} ms",
                f"{row['peak_bytes'] / 1e6:,.0f} MB",
                gap_of(row["gap"], settings["pictures"]),
            ]
            for row in result["maps"]
            if "gradients" in row
        ),
    )
    machine = result["machine_info"]
    yield (
        f"Threads: {settings['threads']}; {machine['cpu']}, torch {machine['torch']}; load before "
        f"the run {machine['load_before']} on {machine['cores']} cores. One call each: where the "
        "load is not near 0, times are no more than an upper bound.\n"
    )
    if result["guides"]:
        yield "The guides of the learnt paths:\n"
        yield table(
            ("faithful", "sparse", "DiffID", "deletion", "insertion", "entropy"),
            (
                [
                    f"{row['faithful']:g}",
                    f"{row['sparse']:g}",
                    *(interval(row[key]) for key in ("diffid", "deletion", "insertion")),
                    f"{row['entropy']['mean']:.3f}",
                ]
                for row in result["guides"]
            ),
        )


def compared(row: dict[str, Any], key: str, pictures: int, good: int) -> str:
    if f"{key}_minus_ig" not in row or row["map"] in ("integrated_gradients",):
        return ""
    said = verdict(row[f"{key}_minus_ig"], pictures, good)
    return said if said in ("better", "worse") else ""


def gap_of(gap: dict[str, Any] | None, pictures: int) -> str:
    if gap is None:
        return ""
    count = gap.get("pictures", pictures)
    if not count:
        return "of no picture"
    mean, low, high = (f"{100 * gap[key]:.2g}" for key in ("mean", "low", "high"))
    return f"{mean} ({low}..{high}) %" + (f", of {count}" if count != pictures else "")

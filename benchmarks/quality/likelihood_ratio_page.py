"""The text of likelihood_ratio.md; every figure in it is one of the files in results/."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import differences
from differences import TOO_FEW, than

INTRODUCTION = """\
# The likelihood-ratio gradient on real models

Written by `benchmarks/quality/likelihood_ratio.py --page` from the files in `results/`. To measure
a model and pictures of your own:

    python benchmarks/quality/likelihood_ratio.py --model SPEC --images FOLDER --json OUT --plot PNG

- Cosines are means over pictures, with the 95% bootstrap interval over pictures in brackets; all
  features of a picture are one vector, in the units of its pixels. Every kind of noise is asked for
  the same class of the same pictures.
- `samples` are pairs x + noise, x - noise, of two queries each; one-sided noise has a sample for
  each query. `theory` is the cosine that as many samples reach on a linear score; for Neyman's
  allocation it depends on the slope.
- "All features" perturbs all of a picture in each copy; "tiles in turn" one tile; "random tiles" a
  quarter of them. "Shared in tiles" gives all features of a tile the same noise: it estimates means
  of tiles, so its cosine to these is given too, and its theory is for it.
- Noise on all features converges to SmoothGrad of the same sigma and not to the gradient: the
  columns tell its noise (distance from SmoothGrad) from its smoothing (SmoothGrad's distance from
  the gradient). Tiles in turn leave the rest of the picture clean and smooth less, random tiles in
  between; shared noise smooths along tiles. They may come nearer to the gradient than SmoothGrad.
- Deletion: the area under the probability of the class as pixels turn black, the highest ranked
  first; small is good. Insertion: as they come back into the blurred picture; large is good. Pixels
  rank by absolute values, summed over channels.
- Rows of other queries, noises or tiles were not measured. Neyman's allocation needs four pairs of
  copies for each tile, tiles in turn one.
"""


def rendered(files: list[Path]) -> str:
    """The text for these files of figures: what they say together, and a section for each."""
    results = [json.loads(path.read_text()) for path in files]
    parts = [INTRODUCTION]
    if results:
        parts += summary(results)
    for path, result in zip(files, results, strict=True):
        parts += section(result, path.with_suffix(".png"))
    return "\n".join(parts)


def summary(results: list[dict[str, Any]]) -> Iterator[str]:
    """Where each kind of noise comes nearer to the gradient than noise on all features."""
    yield "## When tiles help\n"
    yield "Cosine to the gradient with the most queries that both were given:\n"
    for name in ("in_turn", "neyman", "random", "shared"):
        places: dict[str, list[str]] = {"better": [], "worse": [], "no different": [], TOO_FEW: []}
        label = ""
        for result in results:
            found = [
                row
                for row in result["cosines"]
                if row["noise"] == name and "to_autograd_minus_gaussian" in row
            ]
            if not found:
                continue
            label = sentence_case(result["settings"]["noises"][name]["label"])
            row = max(found, key=lambda row: row["queries"])
            pictures = result["settings"]["pictures"]
            places[differences.verdict(row["to_autograd_minus_gaussian"], pictures)].append(
                f"{result['settings']['model']} ({difference(row, 'to_autograd_minus_gaussian')}, "
                f"{row['queries']} queries)"
            )
        parts = [
            f"{kind} {than(kind)} Gaussian noise on all features in pairs: {'; '.join(where)}"
            for kind, where in places.items()
            if where
        ]
        if parts:
            yield f"- {label}. {'. '.join(sentence_case(part) for part in parts)}."
    yield "\nWhat smoothing alone does, without the noise of few queries:\n"
    yield table(
        ("model", "sigma", "features", "cosine of SmoothGrad to the gradient"),
        (
            [
                result["settings"]["model"],
                f"{result['settings']['sigma']:g}",
                str(result["settings"]["features"]),
                interval(result["references"]["smooth_grad_to_autograd"]),
            ]
            for result in results
        ),
    )


def section(result: dict[str, Any], plot: Path) -> Iterator[str]:
    settings, references = result["settings"], result["references"]
    size = "x".join(map(str, settings["shape"]))
    yield f"## {settings['model']}\n"
    yield (
        f"{settings['data'] or 'Pictures'}: {settings['pictures']} of {size}, "
        f"{settings['features']} features in {settings['tiles']} tiles of {settings['tile']}x"
        f"{settings['tile']} pixels. Sigma {settings['sigma']:g} of the range of pixels, copies "
        f"not clipped. Score: {settings['score']}. {result['queries_spent']:,} queries.\n"
    )
    if plot.exists():
        yield f"![Cosine against queries](results/{plot.name})\n"
    yield from (f"- {sentence}" for sentence in findings(result))
    yield ""
    yield table(
        ("between", "cosine"),
        (
            [label, interval(references[key])]
            for key, label in {
                "smooth_grad_to_autograd": "SmoothGrad and the gradient",
                "smooth_grad_between_halves": (
                    f"two halves of SmoothGrad's {settings['smooth_grad_samples']} gradients"
                ),
                "tile_means_to_autograd": "means of tiles and the gradient",
                "smooth_grad_tile_means_to_autograd_tile_means": (
                    "means of tiles, SmoothGrad and the gradient"
                ),
            }.items()
        ),
    )
    yield "### Cosines\n"
    yield table(
        (
            "noise",
            "queries",
            "samples",
            "theory",
            "to the gradient",
            "to SmoothGrad",
            "minus all features, Gaussian",
            "to the gradient's means of tiles",
            "to SmoothGrad's",
        ),
        (cosine_row(row, settings) for row in by_kind(result)),
    )
    yield "### Deletion and insertion\n"
    chances = result["probabilities"]
    yield (
        f"Probability of the class: {chances['clean']['mean']:.2f} of the clean pictures, "
        f"{chances['black']['mean']:.2f} of black, {chances['blurred']['mean']:.2f} of the blurred "
        f"({settings['insertion_base']}).\n"
    )
    yield table(
        (
            "map",
            "queries",
            "deletion",
            "minus the gradient's",
            "minus random",
            "insertion",
            "minus the gradient's",
            "minus random",
        ),
        (deletion_row(row) for row in result["deletion"]),
    )


def cosine_row(row: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    return [
        settings["noises"][row["noise"]]["label"],
        str(row["queries"]),
        str(row["samples"]),
        "" if row["theory"] is None else f"{row['theory']:.3f}",
        interval(row["to_autograd"]),
        interval(row["to_smooth_grad"]),
        difference(row, "to_autograd_minus_gaussian") if row["noise"] != "gaussian" else "",
        interval(row.get("to_autograd_tile_means")),
        interval(row.get("to_smooth_grad_tile_means")),
    ]


def deletion_row(row: dict[str, Any]) -> list[str]:
    line = [row["map"], "" if row["queries"] is None else str(row["queries"])]
    for key in ("deletion", "insertion"):
        line.append(interval(row[key]["area"]))
        line.append(difference(row[key], "minus_autograd") if row["map"] != "autograd" else "")
        line.append(difference(row[key], "minus_random") if row["map"] != "random order" else "")
    return line


# --- sentences -----------------------------------------------------------------------------------


def findings(result: dict[str, Any]) -> Iterator[str]:
    """What the figures say; nothing is said that an interval does not bear out."""
    of = {(row["noise"], row["queries"]): row for row in result["cosines"]}
    pictures = result["settings"]["pictures"]
    labels = {name: noise["label"] for name, noise in result["settings"]["noises"].items()}
    yield (
        "SmoothGrad of this sigma, which noise on all features approaches with more queries, has a "
        f"cosine of {result['references']['smooth_grad_to_autograd']['mean']:.2f} to the gradient."
    )
    for name in ("gaussian_one_sided", "in_turn", "neyman", "random"):
        found = [(q, of[n, q]) for n, q in of if n == name and ("gaussian", q) in of]
        if not found:
            continue
        parts = [
            f"{verdict(row['to_autograd_minus_gaussian'], pictures)} with {queries} queries"
            for queries, row in found
        ]
        yield (
            f"{sentence_case(labels[name])}, against Gaussian noise on all features in pairs, "
            f"cosine to the gradient: {', '.join(parts)}."
        )
    yield from shared_findings(result, of)
    for row in result["deletion"]:
        if row["map"] in (labels.get("gaussian"), labels.get("shared")):
            yield (
                f"The map of {row['map']}, {row['queries']} queries. "
                + " ".join(
                    f"{sentence_case(key)}: "
                    f"{compared(row[key]['minus_autograd'], pictures, good)} the gradient's map, "
                    f"{compared(row[key]['minus_random'], pictures, good)} a random order."
                    for key, good in (("deletion", -1), ("insertion", 1))
                )
            )


def shared_findings(result: dict[str, Any], of: dict[Any, dict[str, Any]]) -> Iterator[str]:
    queries = [q for name, q in of if name == "shared"]
    if not queries:
        return
    first, last = of["shared", min(queries)], of["shared", max(queries)]
    means = result["references"]["tile_means_to_autograd"]["mean"]
    yield (
        f"Shared noise has a cosine of {first['to_autograd_tile_means']['mean']:.2f} to the means "
        f"of tiles with {first['queries']} queries and {last['to_autograd_tile_means']['mean']:.2f}"
        f" with {last['queries']}. Exact means of tiles have {means:.2f} to the gradient itself: "
        "nothing that is equal within tiles has more."
    )
    better = [q for q in queries if of["shared", q].get("to_autograd_minus_gaussian")]
    if better:
        pictures = result["settings"]["pictures"]
        parts = [
            f"{verdict(of['shared', q]['to_autograd_minus_gaussian'], pictures)} with {q}"
            for q in better
        ]
        yield (
            "To the gradient itself, shared noise against Gaussian noise on all features, at "
            f"equal queries: {', '.join(parts)}."
        )


def compared(found: dict[str, float], pictures: int, good: int) -> str:
    words = verdict(found, pictures, good)
    return f"{words} {than(words)}"


def sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]


def verdict(found: dict[str, float], pictures: int, good: int = 1) -> str:
    """As in `differences`, and by how much: "better by 0.100"."""
    words = differences.verdict(found, pictures, good)
    return f"{words} by {abs(found['mean']):.3f}" if words in ("better", "worse") else words


# --- tables --------------------------------------------------------------------------------------


def by_kind(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a kind of noise together, in the order of the settings."""
    order = list(result["settings"]["noises"])
    return sorted(result["cosines"], key=lambda row: (order.index(row["noise"]), row["queries"]))


def interval(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    return f"{found['mean']:.3f} ({found['low']:.3f}..{found['high']:.3f})"


def difference(row: dict[str, Any], key: str) -> str:
    found = row.get(key)
    if found is None:
        return ""
    return f"{found['mean']:+.3f} ({found['low']:+.3f}..{found['high']:+.3f})"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

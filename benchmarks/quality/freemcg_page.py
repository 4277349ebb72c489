"""The text of freemcg.md; every figure in it is one of the files in results/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from likelihood_ratio_page import difference, interval, sentence_case, table, verdict
from real_models_page import SHARED_DRAWS

INTRODUCTION = """\
# FreeMCG and its counterfactuals on real models

Written by `benchmarks/quality/freemcg.py --page` from the files in `results/`. To measure a model,
a prior and data of your own:

    python benchmarks/quality/freemcg.py --model SPEC --prior SPEC --judge SPEC --data FILE.npz \\
        --json OUT --plot PNG

Figures are means over pictures, with the 95% bootstrap interval over pictures in brackets;
differences are those of the same pictures. "Better" and "worse" are said where the interval of the
difference leaves out 0.

Maps. All are of the class that is predicted, and may ask the same number of queries; a forward and
backward pass counts as two. The gradient's need only two.

- Off the manifold: the share of a map's squared norm outside of the first principal directions of
  the nearest training pictures; small is good. "To a real picture" is that share of the difference
  between a picture and the nearest training picture that the directions were not made from.
- Deletion: the area under the probability of the class as pixels turn black, the highest ranked
  first; small is good. Insertion: as they come back into the blurred picture; large is good.
- ROAD: the same as pixels become the weighted mean of their neighbours, from 10% to 90% of them;
  most relevant first, where small is good, and least relevant first, where large is good.
- Pixels rank by absolute values, summed over channels.
- Two controls. "Gradient, through FreeMCG's particles" is what FreeMCG finds for the linear model
  with the gradient's slope: the gradient times the covariance of the particles. "Random answers at
  FreeMCG's particles" is what it finds for a model that answers at random: what is owed to the
  prior alone.

Counterfactuals. All have at most the same number of evaluations of the model; they differ in how
often they ask the prior (`denoised`), which is what takes the time.

- "Ensemble" and "diagonal" are couplings of `Counterfactual`, which only asks the model. "Gradient"
  is the same reverse diffusion with half the particles, each guided by its own gradient of log p at
  its clean estimate; "gradient through the prior" takes it with respect to the noisy particle,
  through the denoiser, where a forward and backward pass counts as two as well. "Unguided" is
  "ensemble" with a step size of 0: what the best of so many samples is worth. "Ensemble, strength
  0.4" has a step size of 0.2. The default step size, 0.05, is for
  its default of 50 steps.
- "Pixels, nearest" is projected gradient descent without a prior, in L2 balls from small to large,
  of which the nearest that the model takes for the class is kept; "pixels, one radius" has all
  steps in one ball.
- Flipped: the model takes it for the class. Judge: an independent classifier does, which was not
  asked on the way. Both: both do. Change: the mean absolute difference from the picture. Nearness:
  the distance to the nearest training picture of the class, over that of real test pictures of the
  class; 1 is as near as real ones.
- "Best" is the particle nearest to the picture among those that the model takes for the class;
  "mean" the mean of the particles.
- Every kind of guidance is scaled to the norm of the predicted noise, as `Counterfactual` does it:
  gradients of another scale were not tried. One seed. The gradients' best is one of half as many.
- Settings were searched on other pictures, asked for a random other class: most of both, and among
  these the least change.
"""

MAP_COLUMNS = {
    "off_manifold": "off the manifold",
    "deletion": "deletion",
    "insertion": "insertion",
    "road_most": "ROAD, most relevant first",
    "road_least": "ROAD, least relevant first",
}
GOOD = {"off_manifold": -1, "deletion": -1, "insertion": 1, "road_most": -1, "road_least": 1}
COUNTERFACTUAL_COLUMNS = {
    "flipped": "flipped",
    "judge": "judge",
    "both": "both",
    "probability": "probability",
    "change": "change",
    "nearness": "nearness",
}
BETTER = {"both": 1, "flipped": 1, "change": -1, "nearness": -1}
TARGETS = {"second": "The second most likely class", "other": "A random other class"}


def rendered(files: list[Path]) -> str:
    """The text for these files of figures, a section for each."""
    parts = [INTRODUCTION]
    for path in files:
        parts += section(json.loads(path.read_text()), path.with_suffix(".png"))
    return "\n".join(parts)


def section(result: dict[str, Any], plot: Path) -> Iterator[str]:
    settings = result["settings"]
    size = "x".join(map(str, settings["shape"]))
    judge = ""
    if settings["judge_accuracy"] is not None:
        judge = f" Judge: {settings['judge']}, accuracy {settings['judge_accuracy']:.3f}."
    yield f"## {settings['model']}\n"
    yield (
        f"{settings['data'] or 'Pictures'}, {size}; those that the model reads right. Model: "
        f"accuracy {settings['accuracy']:.3f}. Prior: {settings['prior']}.{judge}\n"
    )
    if plot.exists():
        yield f"![Maps and counterfactuals](results/{plot.name})\n"
    yield from of_maps(result["maps"])
    yield from of_counterfactuals(result["counterfactuals"])


# --- maps ----------------------------------------------------------------------------------------


def of_maps(maps: dict[str, Any]) -> Iterator[str]:
    settings, rows = maps["settings"], maps["maps"]
    yield "### Maps\n"
    yield (
        f"{settings['pictures']} pictures, {settings['queries']} queries. FreeMCG: "
        f"{settings['particles']} particles at levels {', '.join(map(str, settings['levels']))}. "
        f"SmoothGrad and likelihood ratio: sigma {settings['sigma']:g} of the range of pixels, "
        f"single copies. Tangent space: {settings['directions']} directions of "
        f"{settings['neighbours']} pictures; a random direction in {settings['features']} "
        f"dimensions has {1 - settings['directions'] / settings['features']:.3f} outside. "
        f"Insertion starts at a Gaussian blur of sigma {settings['insertion_blur']:.1f} pixels."
        + ("" if "drawn" in settings else SHARED_DRAWS)
        + "\n"
    )
    yield from (f"- {sentence}" for sentence in map_findings(maps))
    yield ""
    yield table(
        ("map", "queries", *MAP_COLUMNS.values()),
        (
            [row["map"], str(row["queries"]), *(interval(row[key]["mean"]) for key in MAP_COLUMNS)]
            for row in rows
        ),
    )
    yield "Minus the gradient's:\n"
    yield table(
        ("map", *MAP_COLUMNS.values()),
        (
            [row["map"], *(difference(row[key], "minus_gradient") for key in MAP_COLUMNS)]
            for row in rows
            if row["map"] != "gradient"
        ),
    )


def map_findings(maps: dict[str, Any]) -> Iterator[str]:
    of, pictures = {row["map"]: row for row in maps["maps"]}, maps["settings"]["pictures"]
    for name in (
        "FreeMCG, logit",
        "FreeMCG, log p",
        "SmoothGrad",
        "likelihood ratio",
        "gradient, through FreeMCG's particles",
        "random answers at FreeMCG's particles",
    ):
        row = of[name]
        words = [
            f"{label}: {verdict(row[key]['minus_gradient'], pictures, GOOD[key])}"
            for key, label in MAP_COLUMNS.items()
        ]
        yield f"{sentence_case(name)}, against the gradient. {sentence_case('; '.join(words))}."
    yield (
        f"The difference to a real picture has {interval(maps['to_a_real_picture'])} off the "
        "manifold, by the same measure."
    )
    share = maps["saturated"]["mean"]
    yield (
        f'{share:.0%} of the pictures have a probability of 1 to six digits: what "log p" '
        "explains is small there, and only its direction counts."
    )


# --- counterfactuals -----------------------------------------------------------------------------


def of_counterfactuals(found: dict[str, Any]) -> Iterator[str]:
    settings, rows = found["settings"], found["counterfactuals"]
    yield "### Counterfactuals\n"
    yield (
        f"{settings['pictures']} pictures, {settings['evaluations']} evaluations each: "
        f"{settings['particles']} particles, {settings['steps']} steps. Pixels, nearest: "
        f"{len(settings['radii'])} radii from {settings['radii'][0]:g} to "
        f"{settings['radii'][-1]:g}. "
        + (
            "Seconds are the processor's, for one picture.\n"
            if "seconds" in rows[0]
            else "Seconds were not measured: the machine was shared.\n"
        )
    )
    for kind, title in TARGETS.items():
        some = [row for row in rows if row["target"] == kind]
        timed = ("seconds",) if "seconds" in some[0] else ()
        keys = [key for key in COUNTERFACTUAL_COLUMNS if key in some[0]["measures"]]
        yield f"#### {title}\n"
        yield from (
            f"- {sentence}" for sentence in counterfactual_findings(some, settings["pictures"])
        )
        yield ""
        yield table(
            (
                "method", "picture", "evaluations", "denoised", *timed,
                *(COUNTERFACTUAL_COLUMNS[key] for key in keys),
            ),
            (
                [
                    row["method"], row["picture"], str(row["evaluations"]), str(row["denoised"]),
                    *(f"{row[key]:.1f}" for key in timed),
                    *(interval(row["measures"][key]) for key in keys),
                ]
                for row in some
            ),
        )  # fmt: skip
        yield 'Minus that of "ensemble":\n'
        yield table(
            ("method", "picture", *(COUNTERFACTUAL_COLUMNS[key] for key in keys)),
            (
                [
                    row["method"], row["picture"],
                    *(difference(row["minus_ensemble"], key) for key in keys),
                ]
                for row in some
                if row["method"] != "ensemble"
            ),
        )  # fmt: skip
    yield "#### Settings that were searched\n"
    yield (
        f"On {settings['search_pictures']} other pictures, asked for a random other class; best "
        "particle. Where settings tie, the least change is chosen. Others were not tried.\n"
    )
    yield table(
        ("method", "settings", "flipped", "both", "change", "chosen"),
        (
            [
                row["method"],
                ", ".join(f"{key} {value:g}" for key, value in row["options"].items()),
                f"{row['flipped']:.2f}",
                f"{row['both']:.2f}",
                f"{row['change']:.3f}",
                "yes" if row["chosen"] else "",
            ]
            for row in found["search"]
        ),
    )


def counterfactual_findings(rows: list[dict[str, Any]], pictures: int) -> Iterator[str]:
    """Ensemble against each of the others, by the same kind of picture."""
    unguided = {row["picture"]: row["measures"] for row in rows if row["method"] == "unguided"}
    if unguided:
        yield (
            f"The model takes {interval(unguided['best']['flipped'])} of the unguided best for the "
            f"class, and {interval(unguided['mean']['flipped'])} of the unguided means: that the "
            "best of many samples is flipped says little."
        )
    for row in rows:
        if row["method"] == "ensemble":
            continue
        # The differences are the other's minus ensemble's, so signs turn round.
        words = [
            f"{COUNTERFACTUAL_COLUMNS[key]}: "
            f"{verdict(negated(row['minus_ensemble'][key]), pictures, good)}"
            for key, good in BETTER.items()
            if key in row["measures"]
        ]
        said = sentence_case("; ".join(words))
        yield f"Ensemble against {row['method']}, {row['picture']}. {said}."


def negated(found: dict[str, float]) -> dict[str, float]:
    return {"mean": -found["mean"], "low": -found["high"], "high": -found["low"]}

"""Whether maps find the thing: methods that hide segments, on pictures with masks or boxes.

    python benchmarks/quality/localisation.py --model SPEC --index FILE.json --json OUT.json
        [--queries 1000] [--seeds 5] [--limit N] [--minutes M] [--plot OUT.png] [--out FOLDER]
    python benchmarks/quality/localisation.py --model SPEC --images FOLDER --masks FOLDER ...
    python benchmarks/quality/localisation.py --page

Overlap with the mask, pointing game, energy inside and deletion of each map, at equal numbers of
evaluations of the model, and what it took. Figures are kept as they come, in a CSV file beside the
JSON file: a run that was stopped goes on where it was. Pictures go to `--out` alone. `--page`
writes localisation.md from results/; sound_localisation.py does the same for sounds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from localisation_gallery import KeptMaps  # noqa: E402
from localisation_page import rendered  # noqa: E402
from localisation_plot import localisation_figure  # noqa: E402
from localisation_run import METRICS, Results, judged, run  # noqa: E402
from masked_pictures import Entry, chosen_of, from_folders, from_index  # noqa: E402
from segment_maps import MAPS, Case, Setup, available  # noqa: E402

from pyxai_fast.images import ImageError, read_image  # noqa: E402
from pyxai_fast.metrics import deletion  # noqa: E402
from pyxai_fast.models.spec import LoadedModel, load_model  # noqa: E402
from pyxai_fast.segments import n_segments, segments_for  # noqa: E402

# Quickshift gives a smooth picture fewer segments than this at times, which hide it whole.
LEAST_SEGMENTS = 5
INSTEAD = "slic"


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.page:
        (HERE / "localisation.md").write_text(
            rendered(sorted(HERE.glob("results/localisation-*.json")))
        )
        return
    torch.set_num_threads(options.threads)
    entries = entries_of(options)
    loaded = load_model(options.model, options.device)
    setup = Setup(loaded.module, options.queries, loaded.preprocessing, recipe=recipe_of(options))
    names = available(loaded.module, options.methods)
    results = Results(
        options.json,
        {
            "kind": "pictures",
            # Not the spec: it may hold a path.
            "model": options.name or options.model.rpartition(":")[2],
            "data": options.data,
            "queries": options.queries,
            "methods": list(names),
            "recipe": setup.recipe,
            "segments": options.segments,
            "hidden": options.hidden,
            "top": options.top,
            "deletion_steps": options.deletion_steps,
            "seeds": options.seeds,
            "threads": options.threads,
        },
        (*METRICS, "deletion"),
    )
    cases: list[Case] = []

    def chosen() -> Iterator[Case]:
        for case in cases_of(loaded, entries, options):
            if options.limit is not None and len(cases) >= options.limit:
                return
            cases.append(case)
            yield case

    def judge(case: Case, values: Tensor) -> dict[str, float]:
        found = judged(values, case.mask)
        return found | {"deletion": deletion_of(loaded, case, values, options.deletion_steps)}

    kept = KeptMaps(options.out)
    seeds = range(options.seeds)
    done = run(chosen(), setup, seeds, names, judge, results.rows, kept.keep, options.minutes)
    finish(results, cases, kept, done, options)


def finish(results: Results, cases: list[Case], kept: KeptMaps, done: bool, options: Any) -> None:
    """Writes figures and draws pictures; a run that stopped has those of what is complete."""
    if not cases:
        raise SystemExit("no case is of a class that the model names among its first")
    result = results.write(cases)
    if options.plot and result["maps"]:
        localisation_figure(result).savefig(options.plot, dpi=110)
    kept.draw(cases, options.rows)
    if not done:
        print("stopped for the time; the same command goes on", flush=True)


def cases_of(
    loaded: LoadedModel, entries: list[Entry], options: argparse.Namespace
) -> Iterator[Case]:
    """Of the entries that can be read, those whose class is among the first `top` of the model's
    and whose mask is not cut off."""
    for entry in entries:
        try:
            inputs = read_image(entry.image, loaded.preprocessing)[None].to(options.device)
            mask = entry.inside(loaded.preprocessing)
        except ImageError as error:
            print(error, file=sys.stderr)
            continue
        with torch.no_grad():
            logits = loaded.module(loaded.preprocessing.normalise(inputs))[0]
        target = chosen_of(entry.labels, logits, options.top)
        if target is None or not bool(mask.any()):
            continue
        labels, made_by = segmented(inputs, options.segments)
        yield Case(
            entry.name, inputs, target, mask, labels, options.hidden,
            {
                "target": target,
                "probability": float(logits.double().softmax(0)[target]),
                "area": float(mask.double().mean()),
                "segments": n_segments(labels),
                "segments_by": made_by,
            },
        )  # fmt: skip


def segmented(inputs: Tensor, segments: str) -> tuple[Tensor, str]:
    """Segments [1, 1, H, W], and what made them: INSTEAD, where there are too few."""
    labels = segments_for(inputs, segments).int()
    if n_segments(labels) >= LEAST_SEGMENTS:
        return labels, segments
    return segments_for(inputs, INSTEAD).int(), INSTEAD


def deletion_of(loaded: LoadedModel, case: Case, values: Tensor, steps: int) -> float:
    """The area under the probability of the class as pixels turn black, over that of the picture:
    those first that speak most for it."""
    curve = deletion(
        loaded.module, case.inputs, values.float()[None, None], case.target,
        n_steps=steps, preprocessing=loaded.preprocessing,
    )  # fmt: skip
    return float(curve.area / curve.scores[0])


def entries_of(options: argparse.Namespace) -> list[Entry]:
    if options.index is not None:
        return from_index(options.index, options.labels)
    if options.images is None or options.masks is None:
        raise SystemExit("localisation: give --index, or --images and --masks")
    return from_folders(options.images, options.masks)


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    return {"student_size": options.student_size}


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in MAPS:
            raise argparse.ArgumentTypeError(f"must be among {', '.join(MAPS)}, got {name!r}")
    return tuple(name for name in MAPS if name in names)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of pictures and sounds."""
    add = parser.add_argument
    add("--model", default="demo", help="as in pyxai-fast explain --model")
    add("--device", default="cpu")
    add("--queries", type=int, default=1000, help="evaluations of the model for each map")
    add("--seeds", type=int, default=5, help="how many times each case is explained")
    add("--limit", type=int, help="the first so many of the cases that qualify")
    add("--top", type=int, default=5, help="a case's class is among so many first of the model's")
    add("--methods", type=_names, default=tuple(MAPS), help=",".join(MAPS))
    add("--student-size", type=int, default=64, help="of DAX that sees pixels")
    add("--deletion-steps", type=int, default=14)
    add("--minutes", type=float, help="stop after so many; the same command goes on")
    add("--threads", type=int, default=1, help="of PyTorch")
    add("--name", help="of the model, in tables")
    add("--data", default="", help="what the cases are, in tables")
    add("--json", type=Path, default=Path("localisation.json"), help="where figures go")
    add("--plot", type=Path, help="where the plot goes")
    add("--out", type=Path, help="folder for maps and a gallery, which shows the inputs")
    add("--rows", type=int, default=4, help="of the gallery")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common(found)
    add = found.add_argument
    add("--index", type=Path, help="JSON file of pictures with masks or boxes; see from_index")
    add("--labels", default="labels", help="key of the classes in the index")
    add("--images", type=Path, help="folder; what the model predicts is explained")
    add("--masks", type=Path, help="folder of masks, named as the pictures")
    add("--segments", default="quickshift", help=f"{INSTEAD} where it gives fewer than 5")
    add("--hidden", default="segment_grey", help="what stands for hidden segments")
    add("--page", action="store_true", help="write localisation.md from results/, no more")
    return found


if __name__ == "__main__":
    main()

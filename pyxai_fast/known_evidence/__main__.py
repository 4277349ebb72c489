"""Train networks on made-up inputs, and see which maps find what decides: ``python -m
pyxai_fast.known_evidence --out known-evidence``.

Prints how often each network is right and how well each method finds the evidence, and writes
gallery.png. It needs no download and no GPU; the networks are trained in seconds, the first time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from ..models.errors import MissingDependency
from ..runtime.progress import progress_bar
from .examples import Examples
from .localised import METRICS, controls_of, judged, values_of
from .maps import Budget, names_of
from .sets import SETS, KnownSet
from .training import accuracy, load_net

TESTED_ON, REFERENCES, OF_REFERENCES = 500, 100, 2
# Of tables, the rows that are drawn; and the maps that are drawn of everything.
ROWS = 12
DRAWN = (
    "saliency", "smooth_grad", "integrated_gradients", "expected_gradients", "likelihood_ratio",
    "lime", "kernel_shap", "rise", "dax",
)  # fmt: skip
# What evidence to be found by chance comes to is beside it.
HEADINGS = {
    "pointing": "hottest place inside",
    "energy": "share inside",
    "best_iou": "best IoU",
    "iou_area": "mean IoU",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyxai_fast.known_evidence",
        description="train networks on made-up inputs, and see which maps find what decides",
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("known-evidence"), help="folder (default: %(default)s)")
    add("--sets", default=",".join(SETS), help="which, with commas (default: %(default)s)")
    add("--examples", type=int, default=24, help="explained of each set (default: %(default)s)")
    add("--evaluations", type=int, default=128, help="for each map (default: %(default)s)")
    add("--cache", help="folder where networks are kept (default: the user's cache)")
    add("--no-progress", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    names = args.sets.split(",")
    for name in names:
        if name not in SETS:
            parser.error(f"--sets must be among {', '.join(SETS)}, got {name!r}")
    for name, least in (("examples", 1), ("evaluations", 16)):
        if getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(args, name)}")
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out must be a folder, got the file {args.out}")

    rows = []
    for known in map(SETS.__getitem__, names):
        started = time.perf_counter()
        net = load_net(
            known.name, cache=True if args.cache is None else args.cache,
            progress=not args.no_progress,
        )  # fmt: skip
        right = accuracy(net, known.held_out(TESTED_ON))
        seconds = time.perf_counter() - started
        print(f"## {known.name}\n")
        held_out = f"{2 * TESTED_ON} held out, half without evidence"
        print(f"{right:.1%} right of {held_out}; {seconds:.1f} s.\n")
        examples = known.held_out(args.examples)
        budget = Budget(args.evaluations, known.held_out(REFERENCES, OF_REFERENCES).inputs)
        maps = _maps(net, known, examples, budget, not args.no_progress)
        print(table(maps, examples.masks) + "\n", flush=True)
        rows.append((known, examples, maps))
    _draw(rows, args.out)
    return 0


def table(maps: Mapping[str, Tensor], masks: Tensor) -> str:
    """In Markdown: the mean of every metric of every map."""
    lines = [
        f"| {'map':<24} | {' | '.join(HEADINGS[name] for name in METRICS)} |",
        f"| {'-' * 24} | {' | '.join('-' * (len(HEADINGS[name]) - 1) + ':' for name in METRICS)} |",
    ]
    for name, values in maps.items():
        found = judged(values, masks)
        cells = (f"{float(found[m].mean()):>{len(HEADINGS[m])}.3f}" for m in METRICS)
        lines.append(f"| {name.replace('_', ' '):<24} | {' | '.join(cells)} |")
    share = float(masks.double().mean())
    return "\n".join(lines) + f"\n\nThe evidence is {share:.1%} of an input."


def _maps(
    net: nn.Module, known: KnownSet, examples: Examples, budget: Budget, progress: bool
) -> dict[str, Tensor]:
    names = (*names_of(budget), *controls_of(examples))
    bar = progress_bar(progress, len(names), known.name, unit=" maps")
    found = {}
    for name in names:
        bar.say(name)
        found[name] = values_of(net, examples, name, budget)
        bar.update(1)
    bar.close()
    return found


def _draw(rows: Sequence[tuple[KnownSet, Examples, dict[str, Tensor]]], out: Path) -> None:
    from ..plots import save_figure
    from .gallery import Shown, evidence_gallery

    shown = []
    for known, examples, maps in rows:
        chosen = {name.replace("_", " "): maps[name] for name in DRAWN if name in maps}
        kind = known.name.replace("_", " ")
        if examples.masks.dim() == 2:
            some = {name: values[:ROWS] for name, values in chosen.items()}
            shown.append(Shown(f"{kind}: a row each", examples.take(slice(ROWS)), some))
            continue
        others = (examples.labels != examples.labels[0]).nonzero()[:1, 0].tolist()
        for i in (0, *others):  # of two classes, where there are two
            one = {name: values[i : i + 1] for name, values in chosen.items()}
            what = known.caption_of(int(examples.labels[i]))
            shown.append(
                Shown(
                    f"{kind}: {what}", examples.take(slice(i, i + 1)), one,
                    upside_down=known.name == "spectrograms",
                )
            )  # fmt: skip
    try:
        figure = evidence_gallery(shown, title="What decides is outlined")
    except MissingDependency as error:
        print(f"No gallery: {error}")
        return
    out.mkdir(parents=True, exist_ok=True)
    save_figure(figure, out / "gallery.png")
    print(f"Look at {out / 'gallery.png'}: what decides is outlined, and what maps say is red.")


if __name__ == "__main__":
    raise SystemExit(main())

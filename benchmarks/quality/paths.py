"""Which path to integrate along: maps of every path on a model and pictures of your own.

    python benchmarks/quality/paths.py --model SPEC --images FOLDER_OR_FILES
        [--path-model SPEC] [--steps 50] [--limit N] [--methods a,b] --json OUT [--plot OUT.png]
    python benchmarks/quality/paths.py --page

DiffID, deletion, insertion, completeness and spread of each map, and what it took: gradients, time
and memory. With a path model also the trade-off of its guides. `--page` writes paths.md from
results/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from differences import minus  # noqa: E402
from likelihood_ratio import files_of, probability  # noqa: E402
from machine import machine  # noqa: E402
from path_maps import GUIDES, LABELS, MAPS, Settings, options_of  # noqa: E402
from paths_page import rendered  # noqa: E402
from paths_plot import paths_figure  # noqa: E402
from resident import peak_during  # noqa: E402

from pyxai_fast import Explanation, explain  # noqa: E402
from pyxai_fast.images import gaussian_blur, read_images  # noqa: E402
from pyxai_fast.metrics import complexity, deletion, diffid, insertion  # noqa: E402
from pyxai_fast.metrics.bootstrap import LEVEL, RESAMPLES, Mean, mean_of  # noqa: E402
from pyxai_fast.metrics.diffid import RATIOS  # noqa: E402
from pyxai_fast.models.spec import LoadedModel, load_model  # noqa: E402

# Of the picture that pixels are inserted into, in shares of the longer side.
BLUR = 1 / 20


@dataclass(frozen=True)
class Judged:
    """The figures of a map, one for each picture."""

    diffid: Tensor
    deletion: Tensor
    insertion: Tensor
    entropy: Tensor


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.page:
        (HERE / "paths.md").write_text(rendered(sorted(HERE.glob("results/paths-*.json"))))
        return
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model)
    images, kept, failures = read_images(
        files_of(options.images)[: options.limit], loaded.preprocessing
    )
    for path, reason in failures:
        print(f"{path}: {reason}", file=sys.stderr)
    if not kept:
        raise SystemExit("paths: --images must name pictures, found none to read")
    references = images
    if options.references:
        references, _, _ = read_images(files_of(options.references), loaded.preprocessing)
    settings = Settings(options.steps, options.path_model, references, options.seed)
    result = measured(loaded, images, settings, options.methods, options.deletion_steps)
    result["settings"] = {
        # Not the spec: it may hold a path.
        "model": options.name or options.model.rpartition(":")[2],
        "data": options.data,
        **result["settings"],
        "threads": torch.get_num_threads(),
    }
    result = {"machine_info": machine(), **result}
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        paths_figure(result).savefig(options.plot, dpi=110)


def measured(
    loaded: LoadedModel,
    images: Tensor,
    settings: Settings,
    methods: tuple[str, ...],
    deletion_steps: int,
) -> dict[str, Any]:
    """All figures for pixels [B, C, H, W] in [0, 1]."""
    with torch.no_grad():
        pixels = images
        if loaded.preprocessing is not None:
            pixels = loaded.preprocessing.normalise(images)
        target = loaded.module(pixels).argmax(1)
    blurred = gaussian_blur(images, max(images.shape[-2:]) * BLUR)

    def judged(attributions: Tensor) -> Judged:
        common = (loaded.module, images, attributions.abs(), target)
        asking = {"preprocessing": loaded.preprocessing}
        steps = {"n_steps": deletion_steps, **asking}
        return Judged(
            diffid(*common, **asking),
            deletion(*common, **steps).area,
            insertion(*common, baselines=blurred, **steps).area,
            complexity(attributions, normalised=True),
        )

    generator = torch.Generator().manual_seed(settings.seed)
    random = judged(torch.rand(images.shape, generator=generator))
    found = {"random": random}
    rows: list[dict[str, Any]] = [{"map": "random", "label": "random order", **means(random)}]
    for name in methods:
        options = options_of(name, settings, images)
        if options is None:
            continue
        # A first call measures what a row of the model takes, and is not timed.
        mapped(loaded, images[:1], target[:1], options_of(name, settings, images[:1]) or {})
        seconds, memory, explanation = timed(loaded, images, target, options)
        assert isinstance(explanation.attributions, Tensor)
        found[name] = judged(explanation.attributions.detach())
        rows.append(
            {
                "map": name,
                "label": LABELS[name],
                **means(found[name]),
                "gap": gap_of(explanation),
                "gradients": explanation.cost.gradients / len(images),
                "seconds": seconds / len(images),
                "peak_bytes": memory,
            }
        )
        print(
            f"{LABELS[name]}: DiffID {rows[-1]['diffid']['mean']:.3f}, {seconds:.1f} s", flush=True
        )
    for row in rows:
        for key in ("diffid", "deletion", "insertion"):
            mine = getattr(found[row["map"]], key)
            row[f"{key}_minus_random"] = minus(mine, getattr(random, key))
            if "integrated_gradients" in found:
                against = getattr(found["integrated_gradients"], key)
                row[f"{key}_minus_ig"] = minus(mine, against)
    guides = []
    if settings.path_model is not None:
        for faithful, sparse in GUIDES:
            chosen = options_of("diffusion_ig", settings, images) or {}
            chosen |= {"guides": {"faithful": faithful, "sparse": sparse}, "n_paths": 5}
            guided = judged(mapped(loaded, images, target, chosen).attributions)
            guides.append({"faithful": faithful, "sparse": sparse, **means(guided)})
            print(f"faithful={faithful:g} sparse={sparse:g}: {guides[-1]['diffid']['mean']:.3f}")
    return {
        "settings": {
            "pictures": len(images),
            "shape": list(images.shape[1:]),
            "n_steps": settings.n_steps,
            "deletion_steps": deletion_steps,
            "diffid_ratios": list(RATIOS),
            "options": {row["map"]: MAPS[row["map"]].said for row in rows if row["map"] in MAPS},
            "seed": settings.seed,
            "bootstrap": {"resamples": RESAMPLES, "level": LEVEL},
        },
        "probabilities": {
            "clean": mean_of(probability(loaded, images, target)),
            "black": mean_of(probability(loaded, torch.zeros_like(images), target)),
            "blurred": mean_of(probability(loaded, blurred, target)),
        },
        "maps": rows,
        "guides": guides,
    }


def mapped(
    loaded: LoadedModel, images: Tensor, target: Tensor, options: dict[str, Any]
) -> Explanation:
    return explain(
        loaded.module, images, target=target, preprocessing=loaded.preprocessing, **options
    )


def timed(
    loaded: LoadedModel, images: Tensor, target: Tensor, options: dict[str, Any]
) -> tuple[float, int, Explanation]:
    """Seconds, peak memory beyond what was resident before, and the explanation."""
    kept: list[Explanation] = []
    begin = time.perf_counter()
    memory = peak_during(lambda: kept.append(mapped(loaded, images, target, options)))
    return time.perf_counter() - begin, memory, kept[0]


def means(judged: Judged) -> dict[str, Mean]:
    return {name: mean_of(getattr(judged, name)) for name in Judged.__annotations__}


def gap_of(explanation: Explanation) -> dict[str, Any] | None:
    """The completeness gap, relative to the difference of the scores, and of how many pictures: one
    whose score does not change has none. None of methods that promise nothing."""
    if explanation.delta is None:
        return None
    assert isinstance(explanation.attributions, Tensor)
    gap = explanation.delta.double()
    way = explanation.attributions.double().flatten(1).sum(1) - gap
    shares = (gap / way).abs()
    shares = shares[shares.isfinite()]
    of = mean_of(shares) if len(shares) else dict.fromkeys(("mean", "low", "high"))
    return {**of, "pictures": len(shares)}


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in MAPS:
            raise argparse.ArgumentTypeError(f"must be among {', '.join(MAPS)}, got {name!r}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", default="demo", help="as in pyxai-fast explain --model")
    add("--images", nargs="+", type=Path, default=[], help="folders and files")
    add("--references", nargs="+", type=Path, help="for expected gradients; --images by default")
    add("--limit", type=int, help="the first so many of the images")
    add("--path-model", help="as in pyxai-fast explain --path-model; without, no learnt paths")
    add("--steps", type=int, default=50, help="n_steps of every path")
    add("--methods", type=_names, default=tuple(MAPS), help=",".join(MAPS))
    add("--deletion-steps", type=int, default=28, help="of deletion and insertion")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=2, help="of PyTorch")
    add("--name", help="of the model, in tables")
    add("--data", default="", help="what the pictures are, in tables")
    add("--json", type=Path, default=Path("paths.json"), help="where figures go")
    add("--plot", type=Path, help="where the plot goes")
    add("--page", action="store_true", help="write paths.md from results/, no more")
    return parser


if __name__ == "__main__":
    main()

"""How good the likelihood-ratio gradient is on a model and pictures of your own.

    python benchmarks/quality/likelihood_ratio.py --model SPEC --images FOLDER_OR_FILES
        [--queries 256,1024,4096] [--tile 16] [--sigma 0.05] [--limit N] --json OUT [--plot OUT.png]
    python benchmarks/quality/likelihood_ratio.py --page

The estimates' cosine to the autograd gradient of the same score and to SmoothGrad of the same
sigma, to which noise on all features converges, for each kind of noise and number of queries; then
deletion and insertion by the maps of the most queries. `--page` writes likelihood_ratio.md from
results/.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from differences import minus  # noqa: E402
from likelihood_ratio_page import rendered  # noqa: E402
from likelihood_ratio_plot import cosine_figure  # noqa: E402
from machine import machine  # noqa: E402
from noises import NOISES, Noise  # noqa: E402

from pyxai_fast import Cost, Saliency, SmoothGrad  # noqa: E402
from pyxai_fast.images import gaussian_blur, read_images  # noqa: E402
from pyxai_fast.metrics import deletion, insertion  # noqa: E402
from pyxai_fast.metrics.bootstrap import LEVEL, RESAMPLES, Mean, mean_of  # noqa: E402
from pyxai_fast.models.spec import LoadedModel, load_model  # noqa: E402
from pyxai_fast.segments import tiles  # noqa: E402

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Of the picture that pixels are inserted into, in shares of the longer side.
BLUR = 1 / 20


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        queries: of each kind of noise, ascending; a kind stops where its own limit is lower.
        kinds: of noise, by name, and the most queries of each (None: no limit of its own).
        tile: side of the square tiles, in pixels.
        sigma: of the noise, in pixels of [0, 1].
        smooth_samples: gradients of each SmoothGrad, half of them for each half.
        steps: of deletion and insertion.
        blur: sigma, in pixels, of the picture that pixels are inserted into; None takes a share of
            the longer side. It should take the class from most pictures.
        rows: sent through the model at once, at most; None leaves it to the planner.
        seed: of the noise.
    """

    queries: tuple[int, ...] = (256, 1024, 4096)
    kinds: tuple[tuple[str, int | None], ...] = tuple((name, None) for name in NOISES)
    tile: int = 16
    sigma: float = 0.05
    smooth_samples: int = 512
    steps: int = 28
    blur: float | None = None
    rows: int | None = None
    seed: int = 0

    def blurred(self, images: Tensor) -> Tensor:
        return gaussian_blur(images, self.blur_of(images))

    def blur_of(self, images: Tensor) -> float:
        return self.blur or max(images.shape[-2:]) * BLUR

    def runs(self, n_tiles: int) -> Iterator[tuple[str, Noise, int]]:
        for queries in self.queries:
            for name, most in self.kinds:
                noise = NOISES[name]
                if (most is None or queries <= most) and noise.fits(queries, n_tiles):
                    yield name, noise, queries


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.page:
        (HERE / "likelihood_ratio.md").write_text(rendered(sorted(HERE.glob("results/lr-*.json"))))
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load_model(options.model)
    images, kept, failures = read_images(
        files_of(options.images)[: options.limit], loaded.preprocessing
    )
    for path, reason in failures:
        print(f"{path}: {reason}", file=sys.stderr)
    if not kept:
        raise SystemExit("likelihood_ratio: --images must name pictures, found none to read")
    plan = Plan(
        options.queries, options.kinds, options.tile, options.sigma, options.smooth_samples,
        options.steps, options.blur, options.rows, options.seed,
    )  # fmt: skip
    result = measured(loaded, images, plan)
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
        cosine_figure(result).savefig(options.plot, dpi=110)


def measured(loaded: LoadedModel, images: Tensor, plan: Plan) -> dict[str, Any]:
    """All figures for pixels [B, C, H, W] in [0, 1]."""
    model, cost = loaded.module, Cost()
    features = images[0].numel()
    map_of_tiles = tiles(images.shape[1:], plan.tile)
    n_tiles = int(map_of_tiles.max()) + 1
    method = {"preprocessing": loaded.preprocessing}
    call: dict[str, Any] = {"internal_batch_size": plan.rows, "cost": cost}
    saliency = Saliency(model, **method)
    with torch.no_grad():
        target = saliency.outputs(images, cost=cost).argmax(1)
    autograd = saliency.attribute(images, target, abs=False, **call)
    smooth = SmoothGrad(model, **method)
    halves = [
        smooth.attribute(
            images, target, None, plan.smooth_samples // 2, plan.sigma, plan.seed + half, **call
        )
        for half in (1, 2)
    ]
    smoothed = (halves[0] + halves[1]) / 2
    means = {
        "autograd": tile_means(autograd, map_of_tiles),
        "smooth": tile_means(smoothed, map_of_tiles),
    }

    cosines: list[dict[str, Any]] = []
    maps: dict[str, tuple[int, Tensor]] = {}
    of_pairs: dict[int, Tensor] = {}
    for name, noise, queries in plan.runs(n_tiles):
        gradient = noise.gradient(queries, plan.sigma, plan.tile, plan.seed)
        estimate = Saliency(model, gradient=gradient, **method).attribute(
            images, target, abs=False, **call
        )
        each = cosines_of(estimate, autograd)
        if name == "gaussian":
            of_pairs[queries] = each
        row: dict[str, Any] = {
            "noise": name,
            "queries": queries,
            "samples": noise.units(queries),
            "theory": noise.theory(features, n_tiles, queries),
            "to_autograd": mean_of(each),
            "to_smooth_grad": cosine(estimate, smoothed),
        }
        if queries in of_pairs:
            row["to_autograd_minus_gaussian"] = minus(each, of_pairs[queries])
        if noise.shared:
            row["to_autograd_tile_means"] = cosine(estimate, means["autograd"])
            row["to_smooth_grad_tile_means"] = cosine(estimate, means["smooth"])
        cosines.append(row)
        maps[name] = (queries, estimate)
        print(f"{noise.label}, {queries}: {row['to_autograd']['mean']:.3f}", flush=True)

    generator = torch.Generator().manual_seed(plan.seed)
    of_tiles = torch.rand(len(images), n_tiles, generator=generator)
    controls = {
        "random order": torch.rand(images[:, :1].shape, generator=generator) + 1,
        "random order of tiles": of_tiles[:, map_of_tiles[0].long()] + 1,
        "autograd": autograd,
        "autograd, means of tiles": means["autograd"],
        "SmoothGrad": smoothed,
    }
    ranked = {name: (None, m) for name, m in controls.items()}
    for name in NOISES:
        if name in maps:
            assert NOISES[name].label not in ranked
            ranked[NOISES[name].label] = maps[name]
    return {
        "settings": {
            "pictures": len(images),
            "shape": list(images.shape[1:]),
            "features": features,
            "tile": plan.tile,
            "tiles": n_tiles,
            "sigma": plan.sigma,
            "score": "logit of the class that is predicted for the clean picture",
            "copies_clipped": False,
            "noises": {
                name: {"label": NOISES[name].label, **NOISES[name].options}
                for name in NOISES
                if name in maps
            },
            "smooth_grad_samples": 2 * (plan.smooth_samples // 2),
            "deletion_steps": plan.steps,
            "deletion_base": "black",
            "insertion_base": f"Gaussian blur, sigma {plan.blur_of(images):g} pixels",
            "seed": plan.seed,
            "bootstrap": {"resamples": RESAMPLES, "level": LEVEL},
        },
        "references": {
            "smooth_grad_to_autograd": cosine(smoothed, autograd),
            "smooth_grad_between_halves": cosine(*halves),
            "tile_means_to_autograd": cosine(means["autograd"], autograd),
            "smooth_grad_tile_means_to_autograd_tile_means": cosine(
                means["smooth"], means["autograd"]
            ),
        },
        "probabilities": {
            name: mean_of(probability(loaded, pixels, target))
            for name, pixels in (
                ("clean", images),
                ("black", torch.zeros_like(images)),
                ("blurred", plan.blurred(images)),
            )
        },
        "cosines": cosines,
        "deletion": areas_of(loaded, images, target, ranked, plan),
        "queries_spent": cost.queries,
        "gradients_spent": cost.gradients,
    }


def areas_of(
    loaded: LoadedModel,
    images: Tensor,
    target: Tensor,
    maps: dict[str, tuple[int | None, Tensor]],
    plan: Plan,
) -> list[dict[str, Any]]:
    """Deletion and insertion by each map, and their paired differences from autograd's."""
    blurred = plan.blurred(images)
    asking = {"n_steps": plan.steps, "preprocessing": loaded.preprocessing}
    areas = {}
    for name, (_, attributions) in maps.items():
        common = (loaded.module, images, attributions.abs(), target)
        areas[name] = {
            "deletion": deletion(*common, **asking).area,
            "insertion": insertion(*common, baselines=blurred, **asking).area,
        }
    return [
        {
            "map": name,
            "queries": maps[name][0],
            **{
                key: {
                    "area": mean_of(values),
                    "minus_autograd": minus(values, areas["autograd"][key]),
                    "minus_random": minus(values, areas["random order"][key]),
                }
                for key, values in found.items()
            },
        }
        for name, found in areas.items()
    ]


@torch.no_grad()
def probability(loaded: LoadedModel, images: Tensor, target: Tensor) -> Tensor:
    """Of the target of each picture, [B]."""
    outputs = Saliency(loaded.module, preprocessing=loaded.preprocessing).outputs(images)
    return outputs.double().softmax(1).gather(1, target[:, None])[:, 0]


def cosine(a: Tensor, b: Tensor) -> Mean:
    """Mean cosine over pictures, all features of a picture being one vector."""
    return mean_of(cosines_of(a, b))


def cosines_of(a: Tensor, b: Tensor) -> Tensor:
    return cosine_similarity(a.double().flatten(1), b.double().flatten(1))


def tile_means(maps: Tensor, of_tiles: Tensor) -> Tensor:
    """Maps [B, C, ...] with the mean of each tile, over all channels, in place of its features."""
    number = of_tiles.expand(maps.shape).flatten(1).long()
    zeros = torch.zeros(len(maps), int(of_tiles.max()) + 1, dtype=torch.float64)
    sums = zeros.scatter_add(1, number, maps.double().flatten(1))
    sizes = zeros.scatter_add(1, number, torch.ones_like(number, dtype=torch.float64))
    return (sums / sizes).gather(1, number).reshape(maps.shape)


def files_of(names: list[Path]) -> list[Path]:
    """The files that are named, and the pictures in folders that are named, by name."""
    files = []
    for path in names:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [p for p in inside if not path.is_dir() or p.suffix.lower() in PICTURES]
    return files


def _kinds(text: str) -> tuple[tuple[str, int | None], ...]:
    kinds = []
    for entry in text.split(","):
        name, _, most = entry.partition(":")
        if name not in NOISES:
            raise argparse.ArgumentTypeError(f"must be among {', '.join(NOISES)}, got {name!r}")
        kinds.append((name, int(most) if most else None))
    return tuple(kinds)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(number) for number in text.split(",")}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add, plan = parser.add_argument, Plan()
    add("--model", default="demo", help="as in pyxai-fast explain --model")
    add("--images", nargs="+", type=Path, default=[], help="folders and files")
    add("--limit", type=int, help="the first so many of them")
    add("--queries", type=_numbers, default=plan.queries, help="for each picture, even numbers")
    add(
        "--kinds", type=_kinds, default=plan.kinds,
        help=f"of noise, with :MOST queries where fewer are wanted: {','.join(NOISES)}",
    )  # fmt: skip
    add("--tile", type=int, default=plan.tile, help="side of the tiles, in pixels")
    add("--sigma", type=float, default=plan.sigma, help="of the noise; pixels are in [0, 1]")
    add("--smooth-samples", type=int, default=plan.smooth_samples, help="of SmoothGrad")
    add("--steps", type=int, default=plan.steps, help="of deletion and insertion")
    add("--blur", type=float, help="sigma, in pixels, of the picture that insertion begins with")
    add("--rows", type=int, help="sent through the model at once, at most")
    add("--seed", type=int, default=plan.seed)
    add("--threads", type=int, help="of PyTorch")
    add("--name", help="of the model, in tables")
    add("--data", default="", help="what the pictures are, in tables")
    add("--json", type=Path, default=Path("likelihood_ratio.json"), help="where figures go")
    add("--plot", type=Path, help="where the plot goes")
    add("--page", action="store_true", help="write likelihood_ratio.md from results/, no more")
    return parser


if __name__ == "__main__":
    main()

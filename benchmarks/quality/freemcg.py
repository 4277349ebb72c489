"""How good FreeMCG's maps and counterfactuals are on a model, a prior and data of your own.

    python benchmarks/quality/freemcg.py --model SPEC --prior SPEC [--judge SPEC]
        --data FILE.npz|digits [--limit N] [--counterfactuals N] --json OUT [--plot OUT.png]
    python benchmarks/quality/freemcg.py --page

The file has train_x, train_y, test_x and test_y: pictures [N, H, W] or [N, H, W, C] of bytes, and
their classes. `--page` writes freemcg.md from results/.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from freemcg_counterfactuals import (  # noqa: E402
    Bench,
    CounterfactualPlan,
    measured_counterfactuals,
    real_nearness,
)
from freemcg_maps import MapPlan, measured_maps  # noqa: E402
from freemcg_page import rendered  # noqa: E402
from freemcg_plot import freemcg_figure  # noqa: E402
from machine import machine  # noqa: E402

from pyxai_fast.metrics.bootstrap import LEVEL, RESAMPLES  # noqa: E402
from pyxai_fast.models.spec import LoadedModel, load_model  # noqa: E402
from pyxai_fast.priors.spec import load_prior  # noqa: E402


@dataclass(frozen=True)
class Data:
    """Pictures [N, C, H, W] in [0, 1] and their classes [N]."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.page:
        (HERE / "freemcg.md").write_text(rendered(sorted(HERE.glob("results/mcg-*.json"))))
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    cpu = torch.device("cpu")
    data, loaded = load_data(options.data), load_model(options.model)
    judge = None if options.judge is None else load_model(options.judge)
    prior = load_prior(options.prior, cpu)
    right = read_right(loaded, data)
    maps = MapPlan(seed=options.seed)
    plan = CounterfactualPlan(seed=options.seed)
    if options.quick:
        maps = replace(
            maps, particles=8, levels=(100, 200), directions=5, neighbours=10, steps=4,
            fractions=(0.1, 0.9),
        )  # fmt: skip
        plan = replace(
            plan, particles=8, steps=4, strengths=(0.4,), step_sizes=(0.5,), radii=(2.0,),
            search_pictures=2,
        )  # fmt: skip
    chosen, others = right[: options.limit], right.flip(0)[: plan.search_pictures]
    fewer = chosen[: options.counterfactuals]
    if len(others) + len(chosen) > len(right):
        raise SystemExit(f"freemcg: {len(right)} pictures are read right, too few for --limit")
    bench = Bench(
        loaded, prior, judge, data.train, data.train_labels,
        real_nearness(data.test, data.test_labels, data.train, data.train_labels), plan,
    )  # fmt: skip
    result = {
        "machine_info": machine(),
        "settings": {
            # Not the specs: they may hold a path.
            "model": options.name or options.model.rpartition(":")[2],
            "prior": options.prior_name or options.prior.rpartition(":")[2],
            "judge": options.judge_name or (options.judge or "").rpartition(":")[2],
            "data": options.data_name,
            "shape": list(data.test.shape[1:]),
            "accuracy": accuracy(loaded, data),
            "judge_accuracy": None if judge is None else accuracy(judge, data),
            "threads": torch.get_num_threads(),
            "bootstrap": {"resamples": RESAMPLES, "level": LEVEL},
        },
        "maps": measured_maps(loaded, prior, data.test[chosen], data.train, maps),
        "counterfactuals": measured_counterfactuals(
            bench, data.test[fewer], data.test_labels[fewer],
            data.test[others], data.test_labels[others],
        ),
    }  # fmt: skip
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        freemcg_figure(result).savefig(options.plot, dpi=110)


def load_data(spec: str) -> Data:
    """Of a file, or the demo's digits."""
    if spec == "digits":
        from pyxai_fast.demo.data import load_digits

        return Data(*load_digits("train"), *load_digits("test"))
    with np.load(spec) as file:
        parts = []
        for split in ("train", "test"):
            pixels = torch.from_numpy(file[f"{split}_x"]).float() / 255
            pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
            parts += [pixels.contiguous(), torch.from_numpy(file[f"{split}_y"]).long()]
    return Data(*parts)


def read_right(loaded: LoadedModel, data: Data) -> Tensor:
    """Numbers of the test pictures that the model reads right, ascending."""
    return (_predicted(loaded, data.test) == data.test_labels).nonzero()[:, 0]


def accuracy(loaded: LoadedModel, data: Data) -> float:
    return float((_predicted(loaded, data.test) == data.test_labels).double().mean())


@torch.no_grad()
def _predicted(loaded: LoadedModel, pixels: Tensor) -> Tensor:
    if loaded.preprocessing is not None:
        pixels = loaded.preprocessing.normalise(pixels)
    return torch.cat([loaded.module(part) for part in pixels.split(100)]).argmax(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", default="demo", help="as in pyxai-fast explain --model")
    add("--prior", default="demo", help="as in pyxai-fast counterfactual --prior")
    add("--judge", help="another classifier, which tells whether a counterfactual is real")
    add("--data", default="digits", help="FILE.npz, or digits: those of the demo")
    add("--limit", type=int, default=100, help="pictures whose maps are compared")
    add("--counterfactuals", type=int, default=40, help="how many of them are changed")
    add("--seed", type=int, default=0)
    add("--threads", type=int, help="of PyTorch")
    add("--quick", action="store_true", help="hardly any particles and steps, to see that it runs")
    for part in ("", "prior-", "judge-", "data-"):
        what = part.rstrip("-") or "model"
        add(f"--{part}name", default="", help=f"of the {what}, in tables")
    add("--json", type=Path, default=Path("freemcg.json"), help="where figures go")
    add("--plot", type=Path, help="where the plot goes")
    add("--page", action="store_true", help="write freemcg.md from results/, no more")
    return parser


if __name__ == "__main__":
    main()

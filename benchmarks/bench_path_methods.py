"""Blur IG, expected gradients and DiffIG end to end, against careful PyTorch and the peers' calls.

    python benchmarks/bench_path_methods.py [--quick] [--json OUT]

Before they are timed, contenders must agree: maps of Blur IG to rounding (PAIR's, whose rule is of
first order, in its completeness gap), those of random paths in what they add up to. Then they take
turns, and medians are compared. Careful versions are tried in several chunk sizes and both memory
formats; the fastest counts. Those far behind in the first round drop out.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_integrated_gradients import distance, summary, take_turns
from ig_cases import CASES
from machine import machine
from path_contenders import (
    CAPTUM,
    MAX_SIGMA,
    ONE_BY_ONE,
    OURS,
    PAIR,
    blur_calls,
    careful_names,
    diffusion_calls,
    expected_calls,
)
from torch import Tensor, nn

from pyxai_fast.demo.data import load_digits
from pyxai_fast.demo.model import load_demo_model
from pyxai_fast.demo.path_model import load_demo_path_model
from pyxai_fast.images import gaussian_blur
from pyxai_fast.paths.blur import BlurPath

THREADS = 2
# Of maps that follow the same rule; of completeness gaps, relative to the difference of scores.
AGREEMENT, GAP, GAP_OF_A_SAMPLE = 1e-9, 0.25, 5.0
# Contenders this much slower than the best of the careful ones in the first round drop out.
HOPELESS = 1.25
# Pixels that random pictures are blurred by.
SMOOTH = 8.0
PEERS = (PAIR, CAPTUM, ONE_BY_ONE)
Calls = dict[str, Callable[[], Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps, 2 rounds")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    rounds = 2 if options.quick else 5
    cases = [
        blur_case(rounds, 4 if options.quick else 32),
        expected_case(rounds, 4 if options.quick else 50),
        diffusion_case(rounds, 2 if options.quick else 16, 2 if options.quick else 10),
    ]
    results: dict[str, Any] = {
        "machine_info": machine(),
        "settings": {
            "rounds": rounds,
            "threads": THREADS,
            "dtype": "float32",
            "agreement": AGREEMENT,
        },
        "cases": cases,
    }
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def blur_case(rounds: int, n_steps: int) -> dict[str, Any]:
    model, images, target = strided()
    calls = blur_calls(model, images, target, n_steps)
    starts = BlurPath(MAX_SIGMA).start(images, torch.zeros(()))
    way = scores(model, images, target) - scores(model, starts, target)
    # In float64: in float32 rounding beside a kink of the network decides which slope it has.
    wide = blur_calls(copy.deepcopy(model).double(), images[:2].double(), target[:2], n_steps)
    ours = wide[OURS]()
    for name in careful_names():
        apart = distance(wide[name](), ours)
        assert apart <= AGREEMENT, f"{name}: attributions differ by {apart}"
    return raced("Blur IG", f"{n_steps} steps", images, calls, way, rounds)


def expected_case(rounds: int, n_samples: int) -> dict[str, Any]:
    model, images, target = strided()
    references = torch.rand((32, *images.shape[1:]), generator=torch.Generator().manual_seed(3))
    calls = expected_calls(model, images, references, target, n_samples)
    with torch.no_grad():
        way = scores(model, images, target) - model(references).mean(0)[target]
    what = f"{n_samples} samples, 32 references"
    # Samples are random, and gaps as large as chance makes them.
    most = GAP_OF_A_SAMPLE / n_samples**0.5
    return raced("expected gradients", what, images, calls, way, rounds, most)


def diffusion_case(rounds: int, batch: int, n_paths: int) -> dict[str, Any]:
    model, images = load_demo_model(), load_digits("test")[0][:batch]
    with torch.no_grad():
        target = model(images).argmax(1)
    paths, n_steps = load_demo_path_model(), 20
    calls = diffusion_calls(model, images, target, n_steps, n_paths, paths)
    way = scores(model, images, target) - scores(model, torch.zeros_like(images), target)
    what = f"{n_paths} paths of {n_steps} steps, both guides"
    return raced("DiffIG, the demo's networks", what, images, calls, way, rounds)


def strided() -> tuple[nn.Module, Tensor, Tensor]:
    case = CASES["strided conv net"]
    model, images = case.model().requires_grad_(False), case.inputs()
    # All that white noise has is gone within the first pixel of a blur: pictures are smooth.
    images = gaussian_blur(images, SMOOTH)
    images = (images - images.amin((1, 2, 3), True)) / (images.amax() - images.amin())
    return model, images, model(images).argmax(1)


def scores(model: nn.Module, rows: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        return model(rows).gather(1, target[:, None]).squeeze(1)


def raced(
    name: str,
    what: str,
    images: Tensor,
    calls: Calls,
    way: Tensor,
    rounds: int,
    most: float = GAP,
) -> dict[str, Any]:
    """Gaps, `most` at most, and times of all contenders of a case."""
    gaps = {}
    for contender, call in calls.items():
        off = call().flatten(1).sum(1) - way
        gaps[contender] = float(off.norm() / way.norm())
        assert gaps[contender] <= most, f"{contender}: the gap is {gaps[contender]}"
    first = take_turns({each: calls[each] for each in careful_names()}, 1)
    best = min(values[0] for values in first.values())
    kept = {
        each: call
        for each, call in calls.items()
        if each not in first or first[each][0] <= HOPELESS * best
    }
    slow = {each: kept.pop(each) for each in PEERS if each in kept}
    times = take_turns(kept, rounds) | take_turns(slow, min(rounds, 3))
    medians = {each: statistics.median(values) for each, values in times.items()}
    rival = min((each for each in times if each in first), key=medians.__getitem__)
    result = {
        "case": name,
        "what": what,
        "shape": list(images.shape),
        "gaps": gaps,
        "seconds": {each: summary(values) for each, values in times.items()},
        "rival": rival,
        "speed_up": medians[rival] / medians[OURS],
        "peers": {each: medians[each] / medians[OURS] for each in slow},
    }
    show(result)
    return result


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['case']} {result['shape']}, {result['what']}")
    seconds: dict[str, dict[str, float]] = result["seconds"]
    for name, row in sorted(seconds.items(), key=lambda row: row[1]["median"]):
        gap = result["gaps"][name]
        print(f"  {name:44} {row['median']:8.3f} s  (iqr {row['iqr']:.3f}, gap {gap:.1e})")
    print(f"  {result['speed_up']:.2f}x the best careful version, {result['rival']}")


if __name__ == "__main__":
    main()

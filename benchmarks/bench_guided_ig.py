"""Guided IG end to end: against PAIR's saliency, and against a careful PyTorch version.

    python benchmarks/bench_guided_ig.py [--quick] [--json OUT]

Contenders must agree before they are timed; then they take turns, and medians are compared. PAIR's
call takes one image, so that it is called for each; it takes part where `pip install saliency` has
been said (its Guided IG runs on a NumPy that has renamed an argument, see guided_contenders.py).
The careful version is batched, and the best of its ways to a quantile counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from bench_integrated_gradients import (
    MODEL_ALONE,
    distance,
    model_alone,
    summary,
    take_turns,
)
from guided_contenders import FRACTION, MAX_DIST, OURS, PAIR, contenders, made
from ig_cases import CASES, Case
from machine import machine
from torch import Tensor

from pyxai_fast import Cost, GuidedIG

N_STEPS = 200
THREADS = 2
MODELS = ("strided conv net", "digits conv net")
# In float64. In float32 the rounding of a point beside a kink of the network, or of a gradient next
# to a quantile, may decide where the path goes on.
AGREEMENT = 1e-6
# Careful versions this much slower than the best of them in the first round drop out.
HOPELESS = 1.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="4 steps, 3 rounds")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    n_steps, rounds = (4, 3) if options.quick else (N_STEPS, 5)
    results: dict[str, Any] = {
        "machine_info": machine(),
        "settings": {
            "n_steps": n_steps,
            "fraction": FRACTION,
            "max_dist": MAX_DIST,
            "rounds": rounds,
            "threads": THREADS,
            "dtype": "float32",
            "agreement": AGREEMENT,
        },
        "cases": [],
    }
    for name in MODELS:
        results["cases"].append(run_case(CASES[name], n_steps, rounds))
        show(results["cases"][-1])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def run_case(case: Case, n_steps: int, rounds: int) -> dict[str, Any]:
    """Agreement, and the times of all contenders of one case."""
    model, inputs = case.model().requires_grad_(False), case.inputs()
    with torch.no_grad():
        target = model(inputs).argmax(1)
    names = contenders()
    calls = {name: made(name, model, inputs, target, n_steps) for name in names}
    apart = distances(case, names, target[:2], n_steps)
    assert max(apart.values()) <= AGREEMENT, f"{case.name}: attributions differ, {apart}"
    single = calls[OURS]()[:2]

    cost, sizes = Cost(), []
    hook = model.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[0]))
    GuidedIG(model).attribute(inputs, target=target, n_steps=n_steps, cost=cost)
    hook.remove()
    calls[MODEL_ALONE] = model_alone(model, inputs, target, sizes, cost.memory_format)
    rivals = [name for name in names if name.startswith("PyTorch")]
    first = take_turns({name: calls[name] for name in rivals}, 1)
    quickest = min(first[name][0] for name in rivals)
    for name in rivals:
        if first[name][0] > HOPELESS * quickest:
            del calls[name]
    slow = {PAIR: calls.pop(PAIR)} if PAIR in calls else {}
    times = take_turns(calls, rounds)
    # Far from the others: two rounds will do.
    times |= take_turns(slow, min(rounds, 2)) if slow else {}
    medians = {name: statistics.median(values) for name, values in times.items()}
    rival = min((name for name in times if name in rivals), key=medians.__getitem__)
    return {
        "case": case.name,
        "shape": list(case.shape),
        "n_steps": n_steps,
        "distance": apart[OURS],
        "distance_of_float32": distance(single, in_double(OURS, case, target[:2], n_steps)),
        "memory_format": cost.memory_format,
        "rows_per_chunk": cost.rows_per_chunk,
        "seconds": {name: summary(values) for name, values in times.items()},
        "rival": rival,
        "speed_up": medians[rival] / medians[OURS],
        "speed_up_to_pair": medians[PAIR] / medians[OURS] if PAIR in medians else None,
        "share_outside_model": 1 - medians[MODEL_ALONE] / medians[OURS],
    }


def distances(case: Case, names: list[str], target: Tensor, n_steps: int) -> dict[str, float]:
    """Of all contenders in float64 to the last, PAIR's where it is there, on the first inputs."""
    *others, last = names
    expected = in_double(last, case, target, n_steps)
    return {name: distance(in_double(name, case, target, n_steps), expected) for name in others}


def in_double(name: str, case: Case, target: Tensor, n_steps: int) -> Tensor:
    inputs = case.inputs()[: len(target)].double()
    return made(name, case.model().double(), inputs, target, n_steps)()


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['case']} {result['shape']}, {result['n_steps']} steps")
    seconds: dict[str, dict[str, float]] = result["seconds"]
    for name, row in sorted(seconds.items(), key=lambda row: row[1]["median"]):
        print(f"  {name:34} {row['median']:8.3f} s  (iqr {row['iqr']:.3f})")
    pair = result["speed_up_to_pair"]
    print(
        f"  {result['speed_up']:.2f}x the best careful version, {result['rival']}; "
        + ("PAIR is not installed" if pair is None else f"{pair:.2f}x PAIR")
        + f"; outside the model: {result['share_outside_model']:.0%}; {result['memory_format']}, "
        f"{result['rows_per_chunk']} rows a chunk; apart by {result['distance']:.1e}"
    )


if __name__ == "__main__":
    main()

"""Geometrically guided Integrated Gradients end to end: time, and time outside the model.

    python benchmarks/bench_geometrically_guided.py [--quick] [--json OUT]

Contenders must agree before they are timed; then they take turns, so that a busy moment of the
machine does not fall on one of them, and medians are compared. The rivals are the loop that follows
the definition, and the best of a careful PyTorch version over batch sizes and memory formats.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from dataclasses import asdict, dataclass, replace
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
from gg_contenders import ONE_BY_ONE, OURS, Climbs, contenders, made
from ig_cases import CASES, Case
from machine import machine
from torch import nn

from pyxai_fast import Cost, GeometricallyGuidedIG

THREADS = 2
AGREEMENT = 1e-9


@dataclass(frozen=True)
class Setting:
    case: Case
    batch: int
    climbs: Climbs


def digits_mlp() -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)]


SETTINGS = (
    Setting(Case("digits MLP", digits_mlp, (4, 1, 28, 28)), 4, Climbs(50, 20, 1e-2)),
    Setting(CASES["digits conv net"], 4, Climbs(50, 20, 1e-2)),
    Setting(CASES["strided conv net"], 4, Climbs(10, 5, 1e-2)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one input, few points, 2 rounds")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    rounds = 2 if options.quick else 7
    results: dict[str, Any] = {
        "machine_info": machine(),
        "settings": {
            "rounds": rounds,
            "threads": THREADS,
            "dtype": "float32",
            "agreement": AGREEMENT,
        },
        "cases": [],
    }
    for setting in SETTINGS:
        if options.quick:
            setting = replace(setting, batch=1, climbs=replace(setting.climbs, n_steps=4))
        results["cases"].append(run_case(setting, rounds))
        show(results["cases"][-1])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def run_case(setting: Setting, rounds: int) -> dict[str, Any]:
    """Agreement, and the times of all contenders of one setting."""
    case, climbs = setting.case, setting.climbs
    model, inputs = case.model().requires_grad_(False), case.inputs()[: setting.batch]
    target = model(inputs).argmax(1)
    names = contenders(tuple(inputs.shape))
    calls = {name: made(name, model, inputs, target, climbs) for name in names}
    # In float64: in float32 a climb that rounding sends over an edge of a ReLU goes another way.
    wide = copy.deepcopy(model).double()
    answers = {name: made(name, wide, inputs.double(), target, climbs)() for name in names}
    apart = {name: distance(answer, answers[ONE_BY_ONE]) for name, answer in answers.items()}
    assert max(apart.values()) <= AGREEMENT, f"{case.name}: attributions differ, {apart}"
    for call in calls.values():  # what a first call sets up and measures
        call()

    cost, sizes = Cost(), []
    hook = model.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[0]))
    GeometricallyGuidedIG(model).attribute(
        inputs, target=target, n_steps=climbs.n_steps, n_ascent=climbs.n_ascent, cost=cost
    )
    hook.remove()
    calls[MODEL_ALONE] = model_alone(model, inputs, target, sizes, cost.memory_format)
    calls[MODEL_ALONE]()
    # The loop is far from the others: fewer rounds will do.
    slow = {ONE_BY_ONE: calls.pop(ONE_BY_ONE)}
    times = take_turns(calls, rounds) | take_turns(slow, min(rounds, 3))

    medians = {name: statistics.median(values) for name, values in times.items()}
    rival = min((n for n in times if n.startswith("PyTorch")), key=medians.__getitem__)
    return {
        "case": case.name,
        "shape": list(inputs.shape),
        **asdict(climbs),
        "distance": apart[OURS],
        "memory_format": cost.memory_format,
        "rows_per_chunk": cost.rows_per_chunk,
        "gradients": cost.gradients,
        "seconds": {name: summary(values) for name, values in times.items()},
        "rival": rival,
        "speed_up": medians[rival] / medians[OURS],
        "speed_up_over_loop": medians[ONE_BY_ONE] / medians[OURS],
        "share_outside_model": 1 - medians[MODEL_ALONE] / medians[OURS],
    }


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['case']} {result['shape']}, {result['gradients']} gradients")
    seconds: dict[str, dict[str, float]] = result["seconds"]
    for name, row in sorted(seconds.items(), key=lambda row: row[1]["median"]):
        print(f"  {name:46} {1e3 * row['median']:9.1f} ms  (iqr {1e3 * row['iqr']:.1f})")
    print(
        f"  {result['speed_up_over_loop']:.2f}x the loop, {result['speed_up']:.2f}x the best "
        f"careful version, {result['rival']}; outside the model: "
        f"{result['share_outside_model']:.0%}; {result['memory_format']}, "
        f"{result['rows_per_chunk']} rows a chunk; apart by {result['distance']:.1e}"
    )


if __name__ == "__main__":
    main()

"""Attributions of an image along many stick-breaking paths: time, and peak memory.

    python benchmarks/bench_stick_breaking.py [--quick] [--json OUT]

Paths are random, so what must agree is their mean: each contender's attributions must add up to the
difference of the scores, and lie as near to the straight line's as its number of paths allows. Then
they take turns and medians are compared. The rival is the best of a careful PyTorch version over
chunk sizes and memory formats. Peak memory is measured in a process of its own for each figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from bench_integrated_gradients import summary, take_turns
from ig_cases import CASES, Case
from machine import machine
from resident import peak_during, peak_of_process
from sb_contenders import ALPHA, OURS, STRAIGHT, made, rivals
from torch import Tensor, nn

THREADS = 2
MODELS = ("strided conv net", "digits conv net")
N_PATHS, N_STEPS = 50, 20
# Largest completeness gap, relative to the difference of the scores.
GAP = 0.05
HOPELESS = 1.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 paths, 2 rounds, no memory")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--peak", nargs=3, metavar=("CASE", "CONTENDER", "PATHS"), help="one peak")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    if options.peak:
        case, contender, n_paths = options.peak
        print(json.dumps(peak(CASES[case], contender, int(n_paths))))
        return
    n_paths, rounds = (3, 2) if options.quick else (N_PATHS, 3)
    results: dict[str, Any] = {
        "machine_info": machine(),
        "settings": {
            "alpha": ALPHA,
            "n_paths": n_paths,
            "n_steps": N_STEPS,
            "rounds": rounds,
            "threads": THREADS,
            "dtype": "float32",
        },
        "cases": [run_case(CASES[name], n_paths, rounds) for name in MODELS],
        "peak_bytes": [],
    }
    for case in results["cases"]:
        show(case)
    if not options.quick:
        best = results["cases"][0]["rival"]
        for contender, count in ((STRAIGHT, 1), (OURS, 1), (OURS, n_paths), (best, n_paths)):
            row = {"case": MODELS[0], "contender": contender, "n_paths": count}
            row["peak_bytes"] = peak_of_process(
                __file__, "--peak", MODELS[0], contender, str(count)
            )
            results["peak_bytes"].append(row)
            print(f"  peak memory, {contender}, {count} paths: {row['peak_bytes'] / 1e6:.1f} MB")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def run_case(case: Case, n_paths: int, rounds: int) -> dict[str, Any]:
    """Agreement, and the times of all contenders for one image."""
    model, image = case.model().requires_grad_(False), case.inputs()[:1]
    target = int(model(image).argmax())
    names = [OURS, STRAIGHT, *rivals()]
    calls = {name: made(name, model, image, target, n_paths, N_STEPS) for name in names}
    gaps, first = {}, {}
    for name in names:
        begin = time.perf_counter()
        maps = calls[name]()
        first[name] = time.perf_counter() - begin
        gaps[name] = check(maps, model, image, target, name)
    # Those that are far from the best when they are first called drop out.
    quickest = min(first[name] for name in rivals())
    for name in rivals():
        if first[name] > HOPELESS * quickest:
            del calls[name]
    times = take_turns(calls, rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    rival = min((name for name in medians if name in rivals()), key=medians.__getitem__)
    return {
        "case": case.name,
        "shape": [1, *case.shape[1:]],
        "gaps": gaps,
        "seconds": {name: summary(values) for name, values in times.items()},
        "rival": rival,
        "speed_up": medians[rival] / medians[OURS],
        "of_straight_line": medians[OURS] / medians[STRAIGHT],
    }


def check(maps: Tensor, model: nn.Module, image: Tensor, target: int, name: str) -> float:
    """The completeness gap, relative to the difference of the scores."""
    with torch.no_grad():
        way = float(model(image)[0, target] - model(torch.zeros_like(image))[0, target])
    gap = abs(float(maps.double().sum()) - way) / abs(way)
    assert gap < GAP, (name, gap)
    return gap


def peak(case: Case, contender: str, n_paths: int) -> int:
    """The resident set's growth during a call, in a process that has made a small one before."""
    model, image = case.model().requires_grad_(False), case.inputs()[:1]
    made(contender, model, image, 0, 1, N_STEPS)()
    return peak_during(made(contender, model, image, 0, n_paths, N_STEPS))


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['case']} {result['shape']}")
    seconds: dict[str, dict[str, float]] = result["seconds"]
    for name, row in sorted(seconds.items(), key=lambda row: row[1]["median"]):
        print(f"  {name:44} {row['median']:8.3f} s  (iqr {row['iqr']:.3f})")
    print(
        f"  {result['speed_up']:.2f}x the best careful version, {result['rival']}; "
        f"{result['of_straight_line']:.2f} of the straight line's time"
    )


if __name__ == "__main__":
    main()

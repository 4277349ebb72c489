"""The likelihood-ratio gradient of an image: time, time outside the model, peak memory.

    python benchmarks/bench_likelihood_ratio.py [--quick] [--json OUT]

Contenders draw different noise, so what must agree is what they estimate: each is checked against
the exact gradient, to the cosine that its number of copies allows. Then they take turns and medians
are compared. The rival is the best of a careful PyTorch version over chunk sizes and memory
formats. Peak memory is measured in a process of its own for each figure.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_integrated_gradients import FORMATS, MODEL_ALONE, summary, take_turns
from ig_cases import CASES, Case
from lr_contenders import (
    ALL_AT_ONCE,
    MOST_AT_ONCE,
    ONE_PAIR,
    OURS,
    SIGMA,
    contenders,
    made,
)
from machine import machine
from resident import peak_during, peak_of_process
from torch import Tensor, nn

from pyxai_fast import Cost, LikelihoodRatio, Saliency

N_SAMPLES = 4000
THREADS = 2
MODELS = ("strided conv net",)
# Copies with which contenders are checked; what they estimate does not depend on how many.
CHECKED = 400
# Copies whose peak memory is compared.
FEW, MANY = 1_000, 96_000
# Rivals this much slower than the best of their kind in the first round drop out.
HOPELESS = 1.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="400 copies, 3 rounds, no memory")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--peak", nargs=3, metavar=("CASE", "CONTENDER", "N"), help="one peak")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    if options.peak:
        case, contender, n_samples = options.peak
        print(json.dumps(peak(CASES[case], contender, int(n_samples))))
        return
    n_samples, rounds = (400, 3) if options.quick else (N_SAMPLES, 5)
    results: dict[str, Any] = {
        "machine_info": machine(),
        "settings": {
            "n_samples": n_samples,
            "sigma": SIGMA,
            "rounds": rounds,
            "threads": THREADS,
            "dtype": "float32",
        },
        "cases": [],
        "peak_bytes": [],
    }
    for name in MODELS:
        results["cases"].append(run_case(CASES[name], n_samples, rounds))
        show(results["cases"][-1])
    if not options.quick:
        best = results["cases"][0]["rival"]
        for contender, count in (
            (OURS, FEW), (OURS, MANY), (best, FEW), (ALL_AT_ONCE, FEW),
        ):  # fmt: skip
            row = {"case": MODELS[0], "contender": contender, "n_samples": count}
            row["peak_bytes"] = peak_of_process(
                __file__, "--peak", MODELS[0], contender, str(count)
            )
            results["peak_bytes"].append(row)
            print(f"  peak memory, {contender}, {count}: {row['peak_bytes'] / 1e6:.1f} MB")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def run_case(case: Case, n_samples: int, rounds: int) -> dict[str, Any]:
    """Agreement, and the times of all contenders for one image."""
    model, image = case.model().requires_grad_(False), case.inputs()[:1]
    with torch.no_grad():
        target = int(model(image).argmax())
    fits = 4 * n_samples * image.numel() <= MOST_AT_ONCE
    names = [name for name in contenders() if fits or name != ALL_AT_ONCE]
    calls = {name: made(name, model, image, target, n_samples) for name in names}
    agreement = {
        name: check(made(name, model, image, target, CHECKED)(), model, image, target, CHECKED)
        for name in names
    }
    sizes: list[int] = []
    cost = Cost()
    hook = model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    Saliency(model, gradient=LikelihoodRatio(n_samples, SIGMA)).attribute(
        image, target, abs=False, cost=cost
    )
    hook.remove()
    calls[MODEL_ALONE] = model_alone(model, image, sizes, cost.memory_format)
    rivals = [name for name in names if name.startswith("PyTorch")]
    first = take_turns({name: calls[name] for name in rivals}, 1)
    quickest = min(first[name][0] for name in rivals)
    for name in rivals:
        if first[name][0] > HOPELESS * quickest:
            del calls[name]
    slow = {name: calls.pop(name) for name in (ONE_PAIR, ALL_AT_ONCE) if name in calls}
    times = take_turns(calls, rounds)
    # Peers are far from the others: two rounds will do.
    times |= take_turns(slow, min(rounds, 2))
    medians = {name: statistics.median(values) for name, values in times.items()}
    rival = min((name for name in times if name in rivals), key=medians.__getitem__)
    return {
        "case": case.name,
        "shape": [1, *case.shape[1:]],
        "n_samples": n_samples,
        "cosine": agreement,
        "cosine_of_theory": theory(image, CHECKED),
        "memory_format": cost.memory_format,
        "rows_per_chunk": cost.rows_per_chunk,
        "seconds": {name: summary(values) for name, values in times.items()},
        "rival": rival,
        "speed_up": medians[rival] / medians[OURS],
        "share_outside_model": 1 - medians[MODEL_ALONE] / medians[OURS],
    }


def theory(image: Tensor, n_samples: int) -> float:
    return 1 / math.sqrt(1 + (image.numel() + 1) / (n_samples / 2))


def check(estimate: Tensor, model: nn.Module, image: Tensor, target: int, n_samples: int) -> float:
    """The cosine to the exact gradient, which must be what so many pairs give."""
    x = image.clone().requires_grad_()
    (exact,) = torch.autograd.grad(model(x)[0, target], x)
    cosine = torch.nn.functional.cosine_similarity(estimate.flatten(), exact.flatten(), 0)
    # A cosine of D features strays by 1/sqrt(D); the smoothing takes a little away.
    slack = 5 / math.sqrt(image.numel())
    expected = theory(image, n_samples)
    assert 0.7 * expected - slack < float(cosine) < 1.1 * expected + slack, (cosine, expected)
    size = float((estimate.norm() ** 2 - exact.norm() ** 2) / exact.norm() ** 2)
    variance = (image.numel() + 1) / (n_samples / 2)
    assert 0.5 * variance < size < 2 * variance, (size, variance)
    return float(cosine)


def model_alone(
    model: nn.Module, image: Tensor, sizes: list[int], memory_format: str
) -> Callable[[], Tensor]:
    """The model's share of our call: chunks of the same sizes in the same format."""
    buffer = image.repeat(max(sizes), 1, 1, 1).contiguous(memory_format=FORMATS[memory_format])

    @torch.no_grad()
    def run() -> Tensor:
        for size in sizes:
            answers = model(buffer[:size])
        return answers

    return run


def peak(case: Case, contender: str, n_samples: int) -> int:
    """The resident set's growth during a call, in a process that has made a small one before."""
    model, image = case.model().requires_grad_(False), case.inputs()[:1]
    made(contender, model, image, 0, 200)()
    return peak_during(made(contender, model, image, 0, n_samples))


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['case']} {result['shape']}, {result['n_samples']} copies")
    seconds: dict[str, dict[str, float]] = result["seconds"]
    for name, row in sorted(seconds.items(), key=lambda row: row[1]["median"]):
        print(f"  {name:40} {row['median']:8.3f} s  (iqr {row['iqr']:.3f})")
    print(
        f"  {result['speed_up']:.2f}x the best careful version, {result['rival']}; "
        f"outside the model: {result['share_outside_model']:.0%}; {result['memory_format']}, "
        f"{result['rows_per_chunk']} rows a chunk"
    )


if __name__ == "__main__":
    main()

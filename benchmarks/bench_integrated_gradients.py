"""Integrated Gradients end to end, against captum: time, time outside the model, peak memory.

    python benchmarks/bench_integrated_gradients.py [--quick] [--json OUT]

Contenders must agree before they are timed; then they take turns, so that a busy moment of the
machine does not fall on one of them, and medians are compared. captum is asked with several values
of internal_batch_size, and its best is the rival.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from ig_cases import CASES, STEPS_CASE, Case
from ig_contenders import (
    CAPTUM_DEFAULT,
    MODEL_BATCH,
    OURS,
    REFERENCE,
    THREADS,
    captum_chunk,
    contenders,
    forward_backward,
    made,
)
from machine import machine
from peak_memory import peak_bytes
from torch import Tensor, nn

from pyxai_fast import ops
from pyxai_fast.methods import IntegratedGradients
from pyxai_fast.runtime.cost import Cost
from pyxai_fast.runtime.linear_layers import linear_layers

N_STEPS = 50
AGREEMENT = 1e-3
# Chunks of captum's that are slower than its best by this much in the first round drop out.
HOPELESS = 1.25
MODEL_ALONE = "model alone"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="10 steps, 3 rounds, no memory")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n_steps, rounds = (10, 3) if options.quick else (N_STEPS, 5)
    results: dict[str, Any] = {
        "machine_info": machine(),
        "settings": {
            "n_steps": n_steps,
            "rounds": rounds,
            "threads": options.threads,
            "dtype": "float32",
            "method": "gausslegendre",
            "agreement": AGREEMENT,
        },
        "cases": [],
        "memory_by_steps": [],
    }
    for case in CASES.values():
        result = run_case(case, n_steps, rounds)
        if case.memory and not options.quick:
            result["peak_bytes"] = {
                name: peak_bytes(case.name, name, n_steps, case.batch)
                for name in (MODEL_BATCH, OURS, result["captum_best"], CAPTUM_DEFAULT)
            }
        results["cases"].append(result)
        show(result)
    if not options.quick:
        results["memory_by_steps"] = memory_by_steps()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def run_case(case: Case, n_steps: int, rounds: int) -> dict[str, Any]:
    """Agreement, first calls, and the times of all contenders of one case."""
    model, inputs = case.model(), case.inputs()
    target = model(inputs).argmax(1)
    forward_backward(model, inputs, target)
    names = contenders(case.batch, n_steps)
    calls = {name: made(name, model, inputs, target, n_steps) for name in names}
    first, answers = {}, {}
    for name in names:
        with settings_of(name):
            start = time.perf_counter()
            answers[name] = calls[name]()
            first[name] = time.perf_counter() - start
    expected = answers.pop(CAPTUM_DEFAULT)
    apart = {name: distance(answer, expected) for name, answer in answers.items()}
    assert max(apart.values()) <= AGREEMENT, f"{case.name}: attributions differ, {apart}"
    del answers, expected

    cost, sizes = Cost(), []
    hook = model.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[0]))
    IntegratedGradients(model).attribute(inputs, target=target, n_steps=n_steps, cost=cost)
    hook.remove()
    calls[MODEL_ALONE] = model_alone(model, inputs, target, sizes, cost.memory_format)
    calls[MODEL_ALONE]()
    drop_hopeless(calls, first)
    times = take_turns(calls, rounds)

    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min((name for name in times if name.startswith("captum")), key=medians.__getitem__)
    return {
        "case": case.name,
        "shape": list(case.shape),
        "n_steps": n_steps,
        "distance": max(apart[name] for name in apart if name.startswith(OURS)),
        "distance_to_float64": distance_to_float64(case, n_steps),
        "memory_format": cost.memory_format,
        "rows_per_chunk": cost.rows_per_chunk,
        "probes": cost.probes,
        "first_call": first,
        "seconds": {name: summary(values) for name, values in times.items()},
        "captum_best": best,
        "ratio_to_captum_best": medians[OURS] / medians[best],
        "ratio_to_captum_default": medians[OURS] / medians[CAPTUM_DEFAULT],
        "share_outside_model": (medians[OURS] - medians[MODEL_ALONE]) / medians[OURS],
    }


def drop_hopeless(calls: dict[str, Callable[[], Tensor]], first: dict[str, float]) -> None:
    captums = [name for name in first if name.startswith("captum")]
    best = min(first[name] for name in captums)
    for name in captums:
        if first[name] > HOPELESS * best and name != CAPTUM_DEFAULT:
            del calls[name]


def settings_of(name: str) -> AbstractContextManager[None]:
    return ops.native_kernels(False) if name == REFERENCE else nullcontext()


def distance(a: Tensor, b: Tensor) -> float:
    """Euclidean, relative to the length of `b`. Not the largest difference: where a ReLU or a
    max-pool is at a tie, the model's rounding decides, and a few features jump."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def distance_to_float64(case: Case, n_steps: int) -> dict[str, float]:
    """How far ours and captum's float32 attributions of one input are from float64 ones."""
    model, inputs = case.model(), case.inputs()[:1]
    target = model(inputs).argmax(1)
    rows = captum_chunk(10)
    truth = made(rows, case.model().double(), inputs.double(), target, n_steps)()
    return {
        name: distance(made(name, model, inputs, target, n_steps)(), truth) for name in (OURS, rows)
    }


def model_alone(
    model: nn.Module, inputs: Tensor, target: Tensor, sizes: list[int], memory_format: str
) -> Callable[[], Tensor]:
    """The model's share of our call: chunks of the same sizes in the same memory format, from a
    buffer that is there already, with nothing made of the gradients. Large linear layers go the
    way that they go in our call."""
    rows = torch.arange(max(sizes)) % inputs.shape[0]
    buffer, targets = inputs[rows], target[rows]
    if inputs.dim() == 4:
        buffer = buffer.contiguous(memory_format=FORMATS[memory_format])

    module = model if isinstance(model, nn.Module) else None

    def run() -> Tensor:
        for size in sizes:
            with linear_layers(module, buffer[:size]):
                grads = forward_backward(model, buffer[:size], targets[:size])
        return grads

    return run


def take_turns(calls: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call in every round; each round starts with another contender."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            shift = turn * len(names) // rounds
            for name in names[shift:] + names[:shift]:
                if name == CAPTUM_DEFAULT and turn % 2:
                    continue  # far from the others: every other round will do
                with settings_of(name):
                    start = time.perf_counter()
                    calls[name]()
                    times[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return times


def summary(values: list[float]) -> dict[str, float | int]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "iqr": high - low, "min": min(values), "rounds": len(values)}


def memory_by_steps() -> list[dict[str, Any]]:
    """Peak memory as the number of steps grows."""
    names = (OURS, captum_chunk(4 * STEPS_CASE.batch), CAPTUM_DEFAULT)
    return [
        {
            "case": STEPS_CASE.name,
            "shape": list(STEPS_CASE.shape),
            "n_steps": n_steps,
            "peak_bytes": {
                name: peak_bytes(STEPS_CASE.name, name, n_steps, STEPS_CASE.batch) for name in names
            },
        }
        for n_steps in (50, 200, 800)
    ]


def show(result: dict[str, Any]) -> None:
    seconds: dict[str, dict[str, float]] = result["seconds"]
    print(f"\n{result['case']} {result['shape']}, {result['n_steps']} steps")
    rows: Iterable[tuple[str, dict[str, float]]] = sorted(
        seconds.items(), key=lambda row: row[1]["median"]
    )
    for name, row in rows:
        print(f"  {name:36} {1e3 * row['median']:9.1f} ms  (iqr {1e3 * row['iqr']:.1f})")
    print(
        f"  ours / captum's best: {result['ratio_to_captum_best']:.2f}; outside the model: "
        f"{result['share_outside_model']:.1%}; {result['memory_format']}, "
        f"{result['rows_per_chunk']} rows a chunk; apart by {result['distance']:.1e}"
    )
    for name, peak in result.get("peak_bytes", {}).items():
        print(f"  peak memory, {name}: {peak / 2**20:.0f} MB")


if __name__ == "__main__":
    main()

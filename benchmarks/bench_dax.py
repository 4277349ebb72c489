"""DAX without the black box: its inputs, training, and both, against plain and careful PyTorch.

    python benchmarks/bench_dax.py [--quick] [--json OUT]
    python benchmarks/bench_dax.py --together [--device cuda] [--quick] [--json OUT]

Answers cost nothing, so that what is timed is what a method adds to its queries. Before they are
timed, contenders must agree: masked pictures bit for bit, and weights after a step closely, from
the same ones and without dropout. Then they take turns, and medians are compared.

Training is timed on a share of the queries, whose epochs are that much shorter: an epoch is linear
in its steps, so that a full one is their time multiplied up. The networks' making and the black
box's inputs are timed in full and added.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from bench_integrated_gradients import summary
from dax_contenders import (
    CAREFUL,
    CHUNK,
    LOOPS,
    OURS,
    PLAIN,
    Careful,
    Contender,
    Plain,
    apart_after_training,
    batches,
    contenders,
    maskings,
    parts_of,
    problem,
)
from dax_segments import PLAIN_SEGMENTS, PlainSegments
from machine import machine
from torch import Tensor

from pyxai_fast.distillation import DistillationRecipe, distil, recipe_for
from pyxai_fast.queries import Queries

THREADS = 2
# Of weights after a step, relative to its length.
AGREEMENT = 1e-4
# Of masks after a whole training, in which rounding grows.
SAME_MASK = 0.05
# Contenders this much slower than the best of the careful ones in the first round drop out.
HOPELESS = 1.25


@dataclass(frozen=True)
class Sizes:
    """How much there is to do.

    Attributes:
        side: of pictures.
        segments: about so many.
        queries: of an explanation.
        trained: the share of them whose epochs are timed.
        together: pictures that are trained side by side, and queries about each.
        rounds: of turns.
        recipe: what is trained.
    """

    side: int = 224
    segments: int = 64
    queries: int = 3000
    trained: float = 0.16
    together: tuple[int, int] = (8, 96)
    rounds: int = 5
    recipe: DistillationRecipe = field(default_factory=DistillationRecipe)

    @property
    def steps(self) -> int:
        """Of a full epoch."""
        return steps_of(self.queries, self.recipe)


QUICK = Sizes(
    side=32, segments=9, queries=60, trained=0.5, together=(2, 40), rounds=2,
    recipe=DistillationRecipe(student_size=16, filters=4, width=8, batch_size=8),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny pictures, 2 rounds")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--together", action="store_true", help="only several pictures at once")
    parser.add_argument("--device", default="cpu", help="of --together")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    sizes = QUICK if options.quick else Sizes()
    if options.together:
        sizes = replace(sizes, rounds=2)
        found = {
            "pixels": together(sizes, options.device),
            "segments": of_segments(sizes, options.device),
        }
    else:
        found = measured(sizes)
    results = {"machine_info": machine(), **found}
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def measured(sizes: Sizes) -> dict[str, Any]:
    check_training()
    recipe = sizes.recipe
    return {
        "settings": {
            "threads": torch.get_num_threads(),
            "dtype": "float32",
            "rounds": sizes.rounds,
            "shape": [1, 3, sizes.side, sizes.side],
            "student_side": min(sizes.side, recipe.student_size),
            "n_queries": sizes.queries,
            "batch_size": recipe.batch_size,
            "n_epochs": recipe.n_epochs,
            "shipped_epochs": recipe.mask_epochs[1],
        },
        "perturbation": perturbation(sizes),
        "together": together(sizes),
        "segments": of_segments(sizes),
        "end_to_end": end_to_end(sizes),
    }


def check_training() -> None:
    """A step of small networks, from the same weights: of more, rounding decides at kinks which way
    they go."""
    queries = problem(1, 32, 8, 9)
    recipe = DistillationRecipe(
        n_epochs=1, mask_epochs=(0, 0), batch_size=8, width=16, dropout=0.0, held_out=0.0
    )
    for contender, norm in ((Plain, "batch"), (Careful, "sample")):
        apart = apart_after_training(contender, queries, replace(recipe, mask_norm=norm))
        assert apart <= AGREEMENT, f"{contender.__name__}: weights differ by {apart}"


# --- perturbation --------------------------------------------------------------------------------


def perturbation(sizes: Sizes) -> dict[str, Any]:
    """All queries about a picture written, chunk by chunk."""
    queries = problem(1, sizes.side, sizes.queries, sizes.segments)
    masked = maskings(queries)
    parts = parts_of(len(queries))
    for name, call in masked.items():
        for rows in (parts[0], parts[-1]):
            same = torch.equal(call(rows), queries.masked(rows))
            assert same, f"{name}: pictures differ"

    def all_of(name: str) -> Callable[[], None]:
        def run() -> None:
            for rows in parts:
                masked[name](rows)

        return run

    times = take_turns({name: all_of(name) for name in masked}, sizes.rounds)
    result = {
        "n_segments": queries.n_segments[0],
        "n_queries": len(queries),
        "rows_of_a_chunk": CHUNK,
        **compared(times, [name for name in masked if name not in (OURS, *LOOPS)]),
    }
    show("perturbation", result)
    return result


# --- several pictures ----------------------------------------------------------------------------


def together(sizes: Sizes, device: str = "cpu") -> dict[str, Any]:
    """An epoch of several pictures side by side, and of one picture after the other."""
    count, n_queries = sizes.together
    queries = on(device, problem(count, sizes.side, n_queries, sizes.segments))
    each = [queries.of_example(number) for number in range(count)]
    ours = contenders(of_two_epochs(sizes.recipe))[OURS]
    epochs: dict[str, list[float]] = {"together": [], "one by one": []}

    def side_by_side() -> None:
        epochs["together"].append(timed_epochs(ours, queries, queries.inputs)[1])

    def one_by_one() -> None:
        found = [timed_epochs(ours, one, one.inputs)[1] for one in each]
        epochs["one by one"].append(sum(found))

    take_turns({"together": side_by_side, "one by one": one_by_one}, sizes.rounds)
    result = {
        "count": count,
        "steps": steps_of(n_queries, sizes.recipe),
        "seconds": {name: summary(values) for name, values in epochs.items()},
        "speed_up": statistics.median(epochs["one by one"]) / statistics.median(epochs["together"]),
    }
    show("several pictures", result)
    return result


def of_segments(sizes: Sizes, device: str = "cpu") -> dict[str, Any]:
    """The whole training of networks that see segments: several pictures side by side, one after
    the other, and on the CPU by PyTorch's own layers and optimiser."""
    count = sizes.together[0]
    recipe = recipe_for("segments")
    queries = on(device, problem(count, sizes.side, sizes.queries, sizes.segments))
    each = [queries.of_example(number) for number in range(count)]
    check_segments(problem(1, 32, 60, 9))
    runs: dict[str, Callable[[], object]] = {
        "together": lambda: distil(queries, recipe),
        "one by one": lambda: [distil(one, recipe) for one in each],
    }
    if device == "cpu":
        runs[PLAIN_SEGMENTS] = lambda: [PlainSegments(one, recipe).train() for one in each]
    times = take_turns(runs, sizes.rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "count": count,
        "n_queries": sizes.queries,
        "n_segments": max(queries.n_segments),
        "seconds": {name: summary(values) for name, values in times.items()},
        "speed_up": {name: medians[name] / medians["together"] for name in list(runs)[1:]},
    }
    show("networks that see segments", result)
    return result


def on(device: str, queries: Queries) -> Queries:
    moved = {
        field.name: value.to(device)
        for field in fields(queries)
        if isinstance(value := getattr(queries, field.name), Tensor)
    }
    words, weights = (part.to(device) for part in queries.coalitions[:2])
    return replace(
        queries, **moved, coalitions=queries.coalitions._replace(words=words, weights=weights)
    )


def check_segments(queries: Queries) -> None:
    """PyTorch's layers and optimiser learn the same mask."""
    recipe = recipe_for("segments")
    theirs = PlainSegments(queries, recipe).train()
    ours = queries.means(distil(queries, recipe).masks.expand(-1, -1, 3, -1, -1))[0, 0]
    apart = float((ours - theirs).abs().max())
    assert apart <= SAME_MASK, f"{PLAIN_SEGMENTS}: masks differ by {apart}"


# --- end to end ----------------------------------------------------------------------------------


def end_to_end(sizes: Sizes) -> dict[str, Any]:
    every = problem(1, sizes.side, sizes.queries, sizes.segments)
    some = problem(1, sizes.side, round(sizes.trained * sizes.queries), sizes.segments)
    runs = contenders(of_two_epochs(sizes.recipe))
    seen = {name: run.perturb(some) for name, run in runs.items()}
    stamps: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}

    def training(name: str) -> Callable[[], None]:
        def run() -> None:
            stamps[name].append(timed_epochs(runs[name], some, seen[name]))

        return run

    first = take_turns({name: training(name) for name in runs}, 1)
    best = min(values[0] for name, values in first.items() if name.startswith(CAREFUL))
    kept = [
        name for name in runs if not name.startswith(CAREFUL) or first[name][0] <= HOPELESS * best
    ]
    for values in stamps.values():
        values.clear()  # the first round warmed up
    take_turns({name: training(name) for name in kept}, sizes.rounds)
    rival = min(
        (name for name in kept if name.startswith(CAREFUL)),
        key=lambda name: statistics.median(epoch for _, epoch in stamps[name]),
    )
    names = [OURS, PLAIN, rival]
    written = take_turns({name: lambda run=runs[name]: run.perturb(every) for name in names}, 3)  # type: ignore[misc]
    parts = {name: parts_of_a_run(written[name], stamps[name], some, sizes) for name in names}
    epochs, shipped = sizes.recipe.n_epochs, sizes.recipe.mask_epochs[1]
    result = {
        "timed_steps": steps_of(len(some), sizes.recipe) * sizes.rounds,
        "steps_of_an_epoch": sizes.steps,
        "rival": rival,
        "parts": parts,
        "speed_up": {
            name: {
                "equal epochs": total(parts[name], epochs) / total(parts[OURS], epochs),
                "as shipped": total(parts[name], epochs) / total(parts[OURS], shipped),
            }
            for name in (PLAIN, rival)
        },
    }
    show_end_to_end(result, epochs, shipped)
    return result


def of_two_epochs(recipe: DistillationRecipe) -> DistillationRecipe:
    """The first of them has the making of the networks before it."""
    return replace(recipe, n_epochs=2, mask_epochs=(0, 1))


def timed_epochs(run: Contender, queries: Queries, seen: Tensor) -> tuple[float, float]:
    """Seconds until the first of two epochs begins, and of one with its look at what is held
    out."""
    stamps = [time.perf_counter()]
    run.train(queries, seen, lambda losses: stamps.append(time.perf_counter()))
    start, first, second = stamps
    return max(0.0, 2 * first - start - second), second - first


def parts_of_a_run(
    written: list[float], trained: list[tuple[float, float]], some: Queries, sizes: Sizes
) -> dict[str, Any]:
    """Medians, in seconds; those of an epoch from the share of its steps that was timed."""
    scale = sizes.steps / steps_of(len(some), sizes.recipe)
    making, epochs = zip(*trained, strict=True)
    return {
        "perturbation": statistics.median(written),
        "making": statistics.median(making),
        "epoch": statistics.median(epochs) * scale,
        "step": summary([epoch * scale / sizes.steps for epoch in epochs]),
    }


def total(parts: Mapping[str, Any], epochs: int) -> float:
    value: float = parts["perturbation"] + parts["making"] + epochs * parts["epoch"]
    return value


def steps_of(n_queries: int, recipe: DistillationRecipe) -> int:
    trained = n_queries - round(recipe.held_out * n_queries)
    return len(batches(trained, recipe.batch_size))


# --- turns ---------------------------------------------------------------------------------------


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call in every round; each round starts with another contender."""
    names, times = list(calls), {name: list[float]() for name in calls}
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                start = time.perf_counter()
                calls[name]()
                times[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return times


def compared(times: dict[str, list[float]], careful: list[str]) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "seconds": {name: summary(values) for name, values in times.items()},
        "rival": min(careful, key=medians.__getitem__),
        "speed_up": {name: medians[name] / medians[OURS] for name in times if name != OURS},
    }


def show(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name}")
    for each, row in sorted(result["seconds"].items(), key=lambda row: row[1]["median"]):
        print(f"  {each:44} {row['median']:8.3f} s  (iqr {row['iqr']:.3f})")


def show_end_to_end(result: dict[str, Any], epochs: int, shipped: int) -> None:
    print("\nend to end")
    for name, parts in result["parts"].items():
        print(
            f"  {name:44} {1e3 * parts['step']['median']:7.1f} ms a step, perturbation "
            f"{parts['perturbation']:.2f} s, making {parts['making']:.2f} s; {epochs} epochs "
            f"{total(parts, epochs):.1f} s, {shipped} epochs {total(parts, shipped):.1f} s"
        )
    for name, found in result["speed_up"].items():
        print(f"  over {name}: " + ", ".join(f"{k} {v:.2f}x" for k, v in found.items()))


if __name__ == "__main__":
    main()

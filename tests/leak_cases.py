"""What is called again and again, and what of it stays: run in a process of its own.

    python tests/leak_cases.py TIMES PART [PLANTED]

prints, as JSON, for each kind of call how many there were in a window, TIMES as many as usual, and
by how much resident memory, what malloc has given away, tensors and other objects grew over it.
PART, from 0 to PARTS - 1, are some of the kinds. PLANTED are calls that lose something each time,
in the place of all others, made as often as the quickest of these ("often") and as the slowest
("seldom"): "tensors", "objects", "bytes" or "pages", which malloc does not know of.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import mmap
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from pyxai_fast.runtime.heap import MallocCounts

Call = Callable[[int], object]

# Calls in each window, whatever the machine and its load; fewer of those of 5 ms and more.
OFTEN, LESS_OFTEN, SELDOM = 100, 50, 25
PARTS = 4
COUNTS = dict.fromkeys(
    ("a new model", "counterfactual", "expected_gradients", "guided_ig", "kernel_shap",
     "completeness_gap", "max_sensitivity", "mprt", "performance_information"), LESS_OFTEN
) | dict.fromkeys(("dax", "diffusion_ig", "evaluate", "student_gradient"), SELDOM)  # fmt: skip
HOW_OFTEN = {"often": OFTEN, "seldom": SELDOM}
# What the planted calls lose each time: of bytes, and of pages.
LOST, LOST_PAGES = 1_000, 2**15
SIDE, CLASSES = 12, 4

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


# glibc has it since 2.33.
_counts = getattr(ctypes.CDLL(None), "mallinfo2", None)
MALLOC_COUNTS = _counts is not None
if _counts is not None:
    _counts.restype = MallocCounts


class Held(NamedTuple):
    """What a process holds: resident bytes, those that malloc has given away, tensors, and other
    objects."""

    resident: int
    given: int
    tensors: int
    objects: int


def held() -> Held:
    gc.collect()
    if _trim is not None:
        _trim(0)  # what is free, and kept for the next time, is no leak
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    counts = _counts() if _counts is not None else MallocCounts()
    objects = gc.get_objects()
    tensors = sum(isinstance(one, torch.Tensor) for one in objects)
    return Held(resident, counts.uordblks + counts.hblkhd, tensors, len(objects) - tensors)


def grown(call: Call, count: int) -> Held:
    """The least that anything grew by in one of three windows of calls, after one that is not
    looked at: what is made once, whenever that is, grows in one alone."""
    numbers = itertools.count()

    def after_a_window() -> Held:
        for _ in range(count):
            call(next(numbers))
        return held()

    found = [after_a_window() for _ in range(4)]
    grew = [[b - a for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(found)]
    return Held(*map(min, zip(*grew, strict=True)))


# --- what is called -------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(4 * (SIDE - 2) ** 2, CLASSES)
    ).eval()


def methods() -> dict[str, Call]:
    """Every name that `explain` knows, on batches of changing sizes."""
    from method_cases import NAMES, options_of

    from pyxai_fast import LikelihoodRatio, Targets, explain

    net, images = network(), torch.rand(5, 1, SIDE, SIDE)
    calls: dict[str, dict[str, Any]] = {
        name: {"method": name, **options_of(name, (1, SIDE, SIDE))} for name in NAMES
    }
    slow = {"method": "saliency"}
    calls["expected_gradients"]["baselines"] = torch.zeros(3, 1, SIDE, SIDE)
    calls |= {
        "refined": {"n_steps": 17, "tolerance": 0.05},
        "several targets": {**slow, "target": Targets(0, 2, 3)},
        "bf16": {"n_steps": 4, "precision": "bf16"},
        "likelihood ratio": {**slow, "gradient": LikelihoodRatio(8, 0.1)},
        "likelihood ratio, blocks": {
            **slow, "gradient": LikelihoodRatio(80, 0.1, blocks=6, allocation="neyman")
        },
        "likelihood ratio, tolerance": {**slow, "gradient": LikelihoodRatio(16, tolerance=0.9)},
        "with numbers": {"method": "smooth_grad", "n_samples": 2, "numbers": True},
    }  # fmt: skip

    def asking(given: dict[str, Any]) -> Call:
        def ask(number: int) -> object:
            some = images[: 1 + number % 5]
            own = dict(given)
            if "numbers" in own:
                own["numbers"] = [number + i for i in range(len(some))]
            return explain(net, some, **own)

        return ask

    return {name: asking(given) for name, given in calls.items()}


def others() -> dict[str, Call]:
    """What else a process does all day."""
    from pyxai_fast import Counterfactual, IntegratedGradients, explain, prepare
    from pyxai_fast.priors import GaussianPrior
    from pyxai_fast.serving.micro_batcher import MicroBatcher

    net, images = network(), torch.rand(3, 1, SIDE, SIDE)
    prior = GaussianPrior(torch.zeros(1, SIDE, SIDE), torch.eye(SIDE * SIDE))
    trained = network()
    fast = prepare(trained, precision="bf16")

    def a_new_model(number: int) -> object:
        return explain(network(), images, n_steps=3, precision=("fp32", "bf16")[number % 2])

    def weights_that_change(number: int) -> object:
        with torch.no_grad():
            next(trained.parameters()).mul_(1.001)
        return IntegratedGradients(fast).attribute(images, target=1, n_steps=3)

    def a_mistake(number: int) -> object:
        try:
            return explain(net, images, target=99)
        except ValueError:
            return None

    def a_model_that_fails(number: int) -> object:
        def fails(x: torch.Tensor) -> torch.Tensor:
            if number % 2:
                raise RuntimeError("out of luck")
            return net(x).clone().requires_grad_(False) + x.sum() * 0

        try:
            return explain(fails, images, n_steps=3)
        except RuntimeError:
            return None

    def counterfactual(number: int) -> object:
        made = Counterfactual(net, prior, n_particles=8, n_steps=3)
        return made.generate(images, target=number % CLASSES)

    batcher: MicroBatcher[int, int] = MicroBatcher(
        lambda key, items: [item + 1 for item in items],
        max_batch=8, max_wait=0.0, max_queue=64,
    )  # fmt: skip
    batcher.start()

    def micro_batches(number: int) -> object:
        futures = batcher.submit(number % 3, [number] * 4)
        futures[3].cancel()
        return [future.result() for future in futures[:3]]

    return {
        "a new model": a_new_model,
        "weights that change": weights_that_change,
        "a mistake": a_mistake,
        "a model that fails": a_model_that_fails,
        "counterfactual": counterfactual,
        "micro batches": micro_batches,
    }


def judges() -> dict[str, Call]:
    """Metrics of every kind, on batches of changing sizes, and comparisons."""
    from pyxai_fast import metrics
    from pyxai_fast.evaluation import evaluate

    net, images = network(), torch.rand(5, 1, SIDE, SIDE)
    maps, masks = torch.randn_like(images), torch.zeros(5, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., :4] = True
    options: dict[str, dict[str, Any]] = {
        "completeness_gap": {},
        "deletion": {"n_steps": 7},
        "diffid": {},
        "faithfulness_correlation": {"subset_size": 20, "n_runs": 10},
        "infidelity": {"normalise": True},
        "insertion": {"n_steps": 7},
        "performance_information": {"thresholds": (0.1, 0.5), "n_points": 10},
        "road": {"fractions": (0.2, 0.6)},
    }

    def of_a_model(name: str) -> Call:
        metric, own = getattr(metrics, name), options[name]

        def ask(number: int) -> object:
            count = 1 + number % 5
            return metric(net, images[:count], maps[:count], target=number % CLASSES, **own)

        return ask

    def of_maps(number: int) -> object:
        some, inside = maps[: 1 + number % 5], masks[: 1 + number % 5]
        metrics.pointing_game(some, inside, tolerance=2)
        for measure in (metrics.best_iou, metrics.energy_inside, metrics.iou, metrics.iou_area):
            measure(some, inside)
        return metrics.complexity(some), metrics.sparseness(some)

    def max_sensitivity(number: int) -> object:
        some = images[: 1 + number % 5]
        return metrics.max_sensitivity("saliency", some, n_samples=3, model=net)

    def mprt(number: int) -> object:
        return metrics.mprt(net, "saliency", images[: 1 + number % 5], seed=number)

    def compare(number: int) -> object:
        count = 1 + number % 5
        found = evaluate(
            net, images[:count], "saliency", ("deletion", "diffid", "complexity", "iou"),
            masks=masks[:count], seed=number,
        )  # fmt: skip
        return repr(found)

    def not_compared(number: int) -> object:
        try:
            return evaluate(net, images, "saliency", ("deletion", "iou"))
        except ValueError:
            return None

    return {name: of_a_model(name) for name in options} | {
        "metrics of maps": of_maps,
        "max_sensitivity": max_sensitivity,
        "mprt": mprt,
        "evaluate": compare,
        "a comparison that is refused": not_compared,
    }


def kernels() -> dict[str, Call]:
    """Every op on tensors, and every function on arrays, all of them in one call each."""
    import numpy_route
    from op_calls import CALLS

    runs = [make((2, 8, 16), torch.device("cpu")).run for make in CALLS.values()]
    calls: dict[str, Call] = {"ops": lambda number: [run() for run in runs]}
    if not numpy_route.BUILT:
        return calls
    from pyxai_fast import arrays

    x = np.random.default_rng(0).random((3, 2, 8, 16), np.float32)
    key, steps = arrays.random_key(3), np.linspace(0, 1, 4)
    path = {"concentration": 3.0, "n_steps": 4}
    words = arrays.pack_coalitions(np.ones((4, 40), bool))
    labels = np.arange(16, dtype=np.int32).reshape(1, 1, 1, 16).repeat(8, 2)

    def with_arrays(number: int) -> object:
        points = arrays.path_points(x, 0.0, steps, n_threads=1 + number % 2)
        arrays.path_accumulate(points, steps, x, 0.0)
        arrays.perturb(x, 4, 0.1, key)
        arrays.noise_contract(x[:, :, 0, 0], (2, 8), key)
        arrays.dirichlet_accumulate(arrays.dirichlet_points(x, 0.0, key, **path), key, **path)
        arrays.mask_segments(x, labels, words, 0.5)
        arrays.mask_blend(x, x)
        arrays.rank_mask(x, 0.0, arrays.ranks_of(x), np.arange(4))
        arrays.ensemble_moments(x)
        arrays.ensemble_contract(x, x[:, :, 0, 0])
        try:
            arrays.path_points(x, x[:, :1], steps)
        except ValueError:
            return points
        raise AssertionError("it was taken")

    return calls | {"arrays": with_arrays}


def planted(kind: str) -> Call:
    """A call that loses something each time."""
    lost: list[Any] = []
    malloc, map_pages = ctypes.CDLL(None).malloc, ctypes.CDLL(None).mmap
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    size, whole, offset = ctypes.c_size_t, ctypes.c_int, ctypes.c_long
    map_pages.restype = ctypes.c_void_p
    map_pages.argtypes = [ctypes.c_void_p, size, whole, whole, whole, offset]

    def lose(number: int) -> object:
        if kind == "tensors":
            return lost.append(torch.zeros(8))
        if kind == "objects":
            return lost.append([number])
        if kind == "pages":
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            page = map_pages(None, LOST_PAGES, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
            return ctypes.memset(page, 1, LOST_PAGES)
        return ctypes.memset(malloc(LOST), 1, LOST)

    return lose


def all_calls() -> dict[str, Call]:
    return methods() | others() | judges() | kernels()


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    times, part, *kinds = sys.argv[1:]
    calls = all_calls()
    assert set(COUNTS) <= set(calls)
    calls = {name: calls[name] for name in list(calls)[int(part) :: PARTS]}
    counts = {name: COUNTS.get(name, OFTEN) for name in calls}
    if kinds:
        counts = {f"{kind} {often}": HOW_OFTEN[often] for kind in kinds for often in HOW_OFTEN}
        calls = {name: planted(name.split()[0]) for name in counts}
    gc.collect()
    gc.freeze()  # modules: they are gone through once, not each time
    found = {}
    for name, call in calls.items():
        count = int(times) * counts[name]
        found[name] = [count, *grown(call, count)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()

"""Inputs a second of Integrated Gradients at equal completeness error, against its peers.

    python benchmarks/bench_throughput.py [--quick] [--device cuda] [--json OUT]

A contender takes as many steps as it needs until, for at least 90 % of the inputs, attributions add
up to the rise of the score within a tolerance, by the best of the rules that it has. The rise is
that of the float32 network, in float64: what low precision costs counts as error, and has to be
made up for. Then that many steps are timed. Of each peer several numbers of rows and memory
formats are tried, and its best counts; contenders take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import captum.attr
import torch
from bench_integrated_gradients import distance, model_alone, summary
from machine import machine
from resident import peak_during, peak_of_process
from throughput_cases import CASES, GPU_CASES, QUICK_CASES, Case, Question, of_most
from throughput_contenders import (
    CAPTUM,
    COMPILED,
    FORMATS,
    OURS,
    RULES,
    SHAP,
    TOLERANCE,
    Call,
    Contender,
    Task,
    contenders,
    made,
    slopes,
)
from torch import Tensor, nn

import pyxai_fast
from pyxai_fast.runtime.cost import Cost

THREADS = 2
TOLERANCES = (0.05, 0.01)
CPU = torch.device("cpu")
LADDER = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# Steps that are taken to find the best form of a peer, and how many of the best go on.
TRIED_STEPS, FINALISTS, CLOSE = 8, 2, 1.1
# Peers but captum that take this many times the fastest peer's time are timed once.
FAR = 1.5
# Of methods without steps to choose.
N_SAMPLES, SIGMA = 16, 0.15
METHOD_CASES = ("strided conv net", "pooling conv net")
# Rows of the chunks in which slopes are taken to find how many steps are needed.
LINE_ROWS, SMALL_LINE_ROWS = 16, 1024
# Instructions that multiply bfloat16 numbers.
BF16_FLAGS = ("amx_bf16", "avx512_bf16")
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}
# Where compiling is the longest part, for one precision.
COMPILED_ON = {"cpu": ("fp32", "bf16"), "cuda": ("bf16",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="do they run? Small models, no memory")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--cases", nargs="*", metavar="NAME", help="only these models")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds; then no more")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--peak", nargs=3, metavar=("CASE", "CONTENDER", "N"), help="one peak")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        case, contender, n_steps = options.peak
        print(json.dumps(peak(CASES[case], contender, int(n_steps))))
        return
    cases = cases_on(options.device, options.quick)
    chosen = [case for case in cases.values() if not options.cases or case.name in options.cases]
    for results in measured(
        chosen, torch.device(options.device), options.budget, not options.quick
    ):
        if options.json:  # after every model, so that what ends the run leaves what was measured
            options.json.write_text(json.dumps(results, indent=1) + "\n")


def cases_on(device: str, quick: bool) -> dict[str, Case]:
    if quick:
        return QUICK_CASES
    return CASES if device == "cpu" else GPU_CASES


def measured(
    cases: Iterable[Case], device: torch.device, budget: float, memory: bool
) -> Iterator[dict[str, Any]]:
    """The figures of all cases that there is time for, after each of them."""
    started = time.perf_counter()
    results: dict[str, Any] = {
        "machine_info": machine(),
        "settings": {
            "threads": torch.get_num_threads(),
            "tolerances": TOLERANCES,
            "device": device.type,
            "bf16_instructions": bf16_instructions(),
            "n_samples": N_SAMPLES,
        },
        "cases": [],
        "methods": [],
        "left_out": [],
    }
    for case in cases:
        if time.perf_counter() - started > budget:
            results["left_out"].append(case.name)
            yield results
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tolerances that are not reached, which is told
            result = run_case(case, device)
        if memory and case.image_net:
            result["peak_bytes"] = peaks(case, result, device)
        results["cases"].append(result)
        if case.name in METHOD_CASES:
            results["methods"] += run_methods(case, device)
        yield results


def bf16_instructions() -> list[str]:
    path = Path("/proc/cpuinfo")
    flags = path.read_text().split() if path.exists() else []
    return [flag for flag in BF16_FLAGS if flag in flags]


# --- steps that are needed -----------------------------------------------------------------------


class Line:
    """The slope of the score along the line from black to each input, in one precision.

    All that completeness asks of a gradient: what a rule's attributions add up to is the rule's sum
    of these slopes. They are kept, so that every rule is tried for the price of its new nodes.
    """

    def __init__(self, gradient: Callable[..., Tensor], task: Task, rows: int) -> None:
        self.gradient, self.task, self.rows = gradient, task, rows
        self.known: dict[float, Tensor] = {}

    def total(self, nodes: Tensor, weights: Tensor) -> Tensor:
        new = [node for node in nodes.tolist() if node not in self.known]
        batch = self.task.inputs.shape[0]
        step = max(1, self.rows // batch)
        for first in range(0, len(new), step):
            part = new[first : first + step]
            points = torch.cat([node * self.task.inputs for node in part])
            grads = self.gradient(points, self.task.target.repeat(len(part)))
            along = (grads.unflatten(0, (len(part), batch)).double() * self.task.inputs).flatten(2)
            self.known.update(zip(part, along.sum(2), strict=True))
        slope = torch.stack([self.known[node] for node in nodes.tolist()], 1)
        return slope @ weights.to(slope)


def steps_needed(
    line: Line, peer: str, question: Question, tolerance: float, ladder: Iterable[int]
) -> tuple[str, int] | None:
    """The fewest steps that reach the tolerance, and the rule; None where no number does."""
    for n_steps in ladder:
        errors = {}
        for name, rule in RULES[peer].items():
            total = line.total(*rule(n_steps))
            errors[name] = of_most(((total - question.way) / question.way).abs())
        best = min(errors, key=errors.__getitem__)
        if errors[best] <= tolerance:
            return best, n_steps
    return None


def ladder_to(most: int) -> list[int]:
    return [n_steps for n_steps in LADDER if n_steps <= most]


# --- one model -----------------------------------------------------------------------------------


def run_case(case: Case, device: torch.device) -> dict[str, Any]:
    """Steps, forms and times of all contenders, for every tolerance."""
    say(f"\n{case.name} {list(case.shape)}")
    model, inputs = case.model().to(device), case.inputs().to(device)
    question = Question.of(model, inputs)
    task = Task(model, inputs, question.target)
    everyone = contenders(
        inputs.shape[0],
        inputs.dim() == 4,
        PRECISIONS[device.type],
        COMPILED_ON[device.type] if case.compiled else (),
        most_rows(case, device),
    )
    forms = best_forms(everyone, task, device)
    lines: dict[str, Line] = {}
    for one in everyone:
        if (kind := kind_of(one)) is not None and kind not in lines:
            at_once = LINE_ROWS if case.image_net else SMALL_LINE_ROWS
            lines[kind] = Line(slopes(one, task), task, at_once)
    result: dict[str, Any] = {
        "case": case.name,
        "shape": list(case.shape),
        "image_net": case.image_net,
        "most_steps": case.most_steps,
        "rise": float(question.way.median()),
        "tolerances": [],
    }
    for tolerance in TOLERANCES:
        say(f"  gap of at most {tolerance:.0%}: steps")
        tasks = tasks_of(forms, lines, task, question, tolerance, case.most_steps)
        rows = race(tasks, question, device, case.rounds)
        rows += [
            {"group": group, "gap": None, "seconds": None}
            for group in dict.fromkeys(one.group for one in forms)
            if group not in {row["group"] for row in rows}
        ]
        result["tolerances"].append({"tolerance": tolerance, "rows": rows})
    torch._dynamo.reset()  # what was compiled for this model is of no use to the next
    return result


def most_rows(case: Case, device: torch.device) -> int:
    if device.type == "cuda":
        return 512 if case.image_net else 16384
    return 64 if case.image_net else 4096


def kind_of(contender: Contender) -> str | None:
    """Whose gradients are the same; None for shap, which draws its nodes."""
    if contender.peer == SHAP:
        return None
    return "fp32" if contender.precision == "fp32" else f"{contender.peer} {contender.precision}"


def best_forms(everyone: list[Contender], task: Task, device: torch.device) -> list[Contender]:
    """Of every group those that are fastest in a few steps; the clock decides again, in turns."""
    seconds = {}
    for one in everyone:
        if one.peer == OURS:
            seconds[one] = 0.0
            continue
        call = made(one, of_steps(task, "gausslegendre", TRIED_STEPS))
        first = timed(call, device)[0]
        seconds[one] = first if first > 0.5 else min(timed(call, device)[0] for _ in range(2))
    found = []
    for group in dict.fromkeys(one.group for one in everyone):
        same = sorted((one for one in everyone if one.group == group), key=seconds.__getitem__)
        close = [one for one in same if seconds[one] <= CLOSE * seconds[same[0]]]
        found += close[:FINALISTS]
        if same[0].peer != OURS:
            rate = len(task.inputs) * TRIED_STEPS / seconds[same[0]]
            say(f"    {same[0].name:50} {rate:8.1f} gradients/s, the best of {len(same)}")
    return found


def of_steps(task: Task, rule: str, n_steps: int, tolerance: float | None = None) -> Task:
    return Task(task.model, task.inputs, task.target, rule, n_steps, tolerance)


def tasks_of(
    forms: list[Contender],
    lines: dict[str, Line],
    task: Task,
    question: Question,
    tolerance: float,
    most: int,
) -> dict[Contender, Task]:
    """What each contender has to do; those that cannot reach the tolerance are missing.

    shap takes as many steps as captum: with nodes that are drawn it would need thousands.
    """
    found: dict[Contender, Task] = {}
    needed: dict[tuple[str, str], tuple[str, int] | None] = {}
    for one in forms:
        kind = kind_of(one)
        if one.variant == TOLERANCE:
            found[one] = of_steps(task, "", 2 ** most.bit_length() + 1, tolerance)
            continue
        if kind is None:
            continue
        key = one.peer, kind
        if key not in needed:
            needed[key] = steps_needed(lines[kind], one.peer, question, tolerance, ladder_to(most))
            chosen = needed[key]
            words = f"{chosen[1]:4} of {chosen[0]}" if chosen else f"not within {most}"
            say(f"    {one.peer}, {one.precision}: {words}")
        if (chosen := needed[key]) is not None:
            found[one] = of_steps(task, *chosen)
    captums = [one for one in found if one.peer == CAPTUM and one.precision == "fp32"]
    for one in forms:
        if one.peer == SHAP and captums:
            found[one] = of_steps(task, "random nodes", found[captums[0]].n_steps)
    return found


def race(
    tasks: dict[Contender, Task], question: Question, device: torch.device, rounds: int
) -> list[dict[str, Any]]:
    """A row for each group that is fine enough (and shap's): its best form's time."""
    costs = {one: Cost() for one in tasks if one.peer == OURS}
    calls = {one: made(one, task, costs.get(one)) for one, task in tasks.items()}
    first, gaps, answers = {}, {}, {}
    expected = None
    for one, call in list(calls.items()):
        first[one], found = timed(call, device)
        gaps[one] = of_most(question.gaps(found.to(question.way.device)))
        if expected is None and one.peer == CAPTUM:
            expected = found
        answers[one] = found.cpu()
        allowed = max(TOLERANCES) if tasks[one].tolerance is None else tasks[one].tolerance
        # A tolerance that precision does not let ours reach; others do what their slopes promised.
        if one.variant == TOLERANCE and gaps[one] > allowed:  # type: ignore[operator]
            del calls[one]
    apart = {
        one: distance(found, expected.cpu()) if expected is not None else None
        for one, found in answers.items()
    }
    probes = {one: cost.probes for one, cost in costs.items()}
    alone = {
        one: alone_call(one, task)
        for one, task in tasks.items()
        if one.peer == OURS and one.variant == "" and one in calls
    }
    for call in alone.values():
        call()
    seconds = take_turns(calls, alone, first, device, rounds)
    rows = []
    for group in dict.fromkeys(one.group for one in calls):
        best = min(
            (one for one in calls if one.group == group),
            key=lambda one: seconds[one.name]["median"],
        )
        time_ = seconds[best.name]
        row: dict[str, Any] = {
            "group": group,
            "form": best.form,
            "rule": tasks[best].rule,
            "n_steps": tasks[best].n_steps,
            "gap": gaps[best],
            "distance": apart[best],
            "first_call": first[best],
            "seconds": time_,
            "items_per_second": len(tasks[best].inputs) / time_["median"],
        }
        if best in costs:
            cost = costs[best]
            row |= {
                "gradients": cost.gradients / (time_["rounds"] + 1) / len(tasks[best].inputs),
                "rows_per_chunk": cost.rows_per_chunk,
                "memory_format": cost.memory_format,
                "probes": probes[best],
            }
        if best in alone:
            model = seconds[ALONE + best.name]["median"]
            row["share_outside_model"] = (time_["median"] - model) / time_["median"]
        rows.append(row)
        say(f"    {best.name:50} {row['items_per_second']:9.2f} inputs/s, gap {row['gap']:.2%}")
    return rows


ALONE = "model alone: "


def alone_call(one: Contender, task: Task) -> Call:
    """The model's passes in one of our calls, and nothing else."""
    prepared = pyxai_fast.prepare(task.model, precision=one.precision)
    cost, sizes = Cost(), []
    network = getattr(prepared, "module", prepared)
    hook = network.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[0]))
    made(one, task, cost)()
    hook.remove()
    return model_alone(prepared, task.inputs, task.target, sizes, cost.memory_format)


def take_turns(
    calls: dict[Contender, Call],
    alone: dict[Contender, Call],
    first: dict[Contender, float],
    device: torch.device,
    rounds: int,
) -> dict[str, dict[str, float | int]]:
    """Seconds of all; each round starts with another. Those that are far behind run once."""
    near = FAR * min((first[one] for one in calls if one.peer != OURS), default=0.0)
    named = {one.name: call for one, call in calls.items()}
    named |= {ALONE + one.name: call for one, call in alone.items()}
    far = {one.name for one in calls if one.peer not in (OURS, CAPTUM) and first[one] > near}
    names, times = list(named), {name: [] for name in named}  # type: ignore[var-annotated]
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            shift = turn * len(names) // rounds
            for name in names[shift:] + names[:shift]:
                if turn == 0 or name not in far:
                    times[name].append(timed(named[name], device)[0])
    finally:
        gc.enable()
    return {
        name: summary(values * 2 if len(values) == 1 else values) for name, values in times.items()
    }


def timed(call: Call, device: torch.device) -> tuple[float, Tensor]:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    found = call()
    wait()
    return time.perf_counter() - start, found


# --- peak memory ---------------------------------------------------------------------------------


def peaks(case: Case, result: dict[str, Any], device: torch.device) -> dict[str, int]:
    """Of ours, and of captum's best, each in a process of its own on a CPU."""
    rows = [row for part in result["tolerances"] for row in part["rows"] if row["seconds"]]
    # Of the finest that it reaches.
    wanted = {row["group"]: row for row in rows if is_compared(row["group"])}
    found = {}
    for row in wanted.values():
        name = ", ".join(filter(None, (row["group"], row["form"])))
        n_steps = row["n_steps"]
        if device.type == "cuda":
            found[row["group"]] = peak(case, name, n_steps, device)
        else:
            threads = "--threads", str(torch.get_num_threads())
            command = "--peak", case.name, name, str(n_steps)
            found[row["group"]] = peak_of_process(__file__, *threads, *command)
        say(f"    peak memory: {row['group']:40} {found[row['group']] / 1e6:6.0f} MB")
    return found


def is_compared(group: str) -> bool:
    return group.startswith((OURS, CAPTUM)) and not group.endswith((TOLERANCE, COMPILED))


def peak(case: Case, name: str, n_steps: int, device: torch.device = CPU) -> int:
    """Beyond what is there after a call of one input and one step."""
    model, inputs = case.model().to(device), case.inputs().to(device)
    target = torch.zeros(len(inputs), dtype=torch.long, device=device)
    everyone = contenders(
        len(inputs), inputs.dim() == 4, PRECISIONS[device.type], (), most_rows(case, device)
    )
    one = next(one for one in everyone if one.name == name)
    task = Task(model, inputs, target)
    made(one, Task(model, inputs[:1], target[:1]))()
    call = made(one, of_steps(task, "gausslegendre", n_steps))
    if device.type == "cpu":
        return peak_during(call)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


# --- other methods -------------------------------------------------------------------------------


def run_methods(case: Case, device: torch.device) -> list[dict[str, Any]]:
    """Methods whose samples are given: inputs a second of ours and of captum's best."""
    model, inputs = case.model().to(device), case.inputs().to(device)
    target = Question.of(model, inputs).target
    task = Task(model, inputs, target)
    found = []
    for method in ("saliency", "input_x_gradient", "smooth_grad"):
        calls: dict[str, Call] = {
            f"{OURS}, {precision}": of_ours(method, task, precision)
            for precision in PRECISIONS[device.type]
        }
        for layout in FORMATS:
            placed = task.laid_out(layout)
            for samples in (1, 4, N_SAMPLES) if method == "smooth_grad" else (None,):
                words = (CAPTUM, layout, f"{samples} samples" if samples else "")
                name = ", ".join(filter(None, words))
                calls[name] = of_captum(method, *placed, target, samples)
        for call in calls.values():
            call()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(min(case.rounds, 3) if method == "smooth_grad" else 2 * case.rounds):
            for name, call in calls.items():
                times[name].append(timed(call, device)[0])
        seconds = {name: summary(values) for name, values in times.items()}
        captums = [name for name in calls if name.startswith(CAPTUM)]
        best = min(captums, key=lambda name: seconds[name]["median"])
        row = {
            "case": case.name,
            "shape": list(case.shape),
            "method": method,
            "rival": best,
            "seconds": {
                name: seconds[name] for name in calls if name not in captums or name == best
            },
        }
        found.append(row)
        say(
            f"    {method}: "
            + ", ".join(
                f"{name} {len(inputs) / figures['median']:.1f}/s"
                for name, figures in row["seconds"].items()  # type: ignore[attr-defined]
            )
        )
    return found


def of_ours(method: str, task: Task, precision: str) -> Call:
    made_ready = pyxai_fast.prepare(task.model, precision=precision)
    ours = pyxai_fast.METHODS[method](made_ready)
    more: dict[str, Any] = {}
    if method == "smooth_grad":
        more = {"n_samples": N_SAMPLES, "sigma": SIGMA}
    return lambda: ours.attribute(task.inputs, target=task.target, **more)


def of_captum(
    method: str, model: nn.Module, inputs: Tensor, target: Tensor, samples: int | None
) -> Call:
    if method == "input_x_gradient":
        theirs = captum.attr.InputXGradient(model)
        return lambda: theirs.attribute(inputs.clone().requires_grad_(), target=target)
    plain = captum.attr.Saliency(model)
    if method == "saliency":
        return lambda: plain.attribute(inputs.clone().requires_grad_(), target=target, abs=False)
    noisy = captum.attr.NoiseTunnel(plain)
    return lambda: noisy.attribute(
        inputs,
        nt_type="smoothgrad",
        nt_samples=N_SAMPLES,
        nt_samples_batch_size=samples,
        stdevs=SIGMA,
        target=target,
        abs=False,
    )


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()

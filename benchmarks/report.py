"""Writes benchmarks/README.md; every figure in it is one of benchmarks/results/*.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from contest import FAMILIES, ops_of
from machine import RESULTS
from report_counterfactual import counterfactual_section
from report_dax import dax_section
from report_geometrically_guided import geometrically_guided_section
from report_guided_ig import guided_ig_section
from report_likelihood_ratio import likelihood_ratio_section
from report_metrics import metrics_section
from report_path_methods import path_methods_section
from report_server import server_section
from report_stick_breaking import stick_breaking_section
from report_throughput import throughput_section
from tables import chunk, mb, median, ms, ratio, size, table, table_of_used, times
from targets import (
    LARGE_BYTES,
    NOT_SLOWER,
    Reached,
    Row,
    best_of,
    best_pytorch,
    bounded_by_memory,
    cpu_targets,
    geometric_mean,
    gpu_targets,
    label,
    names_of,
    of_copy,
    seconds,
    speed_up,
)

README = RESULTS.parent / "README.md"
TEXTS = {op.name: op.text for family in FAMILIES for op in ops_of(family)}
# What makes a setting, but for its threads.
SETTING = ("case", "variant", "layout", "dtype")

INTRODUCTION = """\
# Benchmarks

Written by `benchmarks/report.py` from the files in `benchmarks/results/`. To measure again, on an
idle machine, and on a machine with a GPU:

    make bench
    benchmarks/gpu.sh

- `bench_ops.py` times the ops, a file for each family: against the best plain PyTorch for the same
  job (several candidates, of which the fastest counts), torch.compile, and what peers do.
  `bench_integrated_gradients.py` times Integrated Gradients end to end against captum, and measures
  peak memory; `bench_throughput.py` times it at equal completeness error and in low precision,
  against captum, PAIR's saliency, zennit and shap; `bench_likelihood_ratio.py` does the first for
  gradients estimated from answers, against a careful PyTorch version, `bench_counterfactual.py`
  for counterfactuals,
  `bench_guided_ig.py` for Guided IG, against PAIR's saliency too,
  `bench_geometrically_guided.py` for climbs, against a plain loop too,
  `bench_stick_breaking.py` for random paths, `bench_path_methods.py` for Blur IG, expected
  gradients and DiffIG, and `bench_dax.py` for DAX, without the black box.
  `load_server.py` asks a running server, and `bench_metrics.py` times metrics of maps against
  captum's, Quantus's and PAIR's.
- Nothing is timed that is not checked first: on a CPU, native kernels equal the reference bit for
  bit; rivals agree with it closely, or, where they draw numbers of their own, in distribution.
- Contenders of a setting take turns, and figures are medians. `3.10x` is a speed-up: above 1 ours
  is faster. Columns headed "ours / ..." are ratios of times or of memory: below 1 ours is less.
  Python's garbage collector is off while the clock runs.
- Models have random weights. The residual branches of ResNet-50 are scaled by 0.2, without which an
  untrained network of that depth has gradients of noise, and no rule comes to 1 %: trained networks
  may need more steps, or fewer.
- A row that is not in the tables was not measured.
"""


def main() -> None:
    README.write_text(rendered(stored()))


def stored() -> list[Path]:
    """The files of figures: of processors and GPUs, and in folders of servers and of metrics."""
    return [
        file
        for files in ("*.json", "server/*.json", "metrics/*.json")
        for file in sorted(RESULTS.glob(files))
    ]


def rendered(files: list[Path]) -> str:
    """The text for these files of figures: a section for each processor, each server and each run
    of metrics, and one for GPUs."""
    parts = [INTRODUCTION]
    for path in files:
        if path.name.startswith("cpu-"):
            parts += machine_section(json.loads(path.read_text()))
    for path in files:
        if path.parent.name == "server":
            parts += server_section(json.loads(path.read_text()))
        elif path.parent.name == "metrics":
            parts += metrics_section(json.loads(path.read_text()))
    parts.append("## GPU\n")
    gpus = [path for path in files if path.name.startswith("gpu-")]
    for path in gpus:
        parts += gpu_section(json.loads(path.read_text()))
    if not gpus:
        parts.append("not measured\n")
    return "\n".join(parts)


def machine_section(result: dict[str, Any]) -> Iterator[str]:
    info = result["machine_info"]
    yield f"## {info['cpu']}\n"
    yield table(("", ""), ([key.replace("_", " "), str(info[key])] for key in info))
    if parts := result.get("measured"):
        yield "When each part was measured, and on what code:\n"
        yield table(
            ("part", "commit", "date", "load before"),
            ([name, *(str(value) for value in run.values())] for name, run in parts.items()),
        )
    if "integrated_gradients" in result:
        yield from ig_section(result["integrated_gradients"])
    if "throughput" in result:
        yield from throughput_section(result["throughput"])
    if "geometrically_guided" in result:
        yield from geometrically_guided_section(result["geometrically_guided"])
    if "likelihood_ratio" in result:
        yield from likelihood_ratio_section(result["likelihood_ratio"])
    if "counterfactual" in result:
        yield from counterfactual_section(result["counterfactual"])
    if "guided_ig" in result:
        yield from guided_ig_section(result["guided_ig"])
    if "stick_breaking" in result:
        yield from stick_breaking_section(result["stick_breaking"])
    if "path_methods" in result:
        yield from path_methods_section(result["path_methods"])
    if "dax" in result:
        yield from dax_section(result["dax"])
    if result.get("ops"):
        yield from ops_section(result["ops"])


# --- Integrated Gradients ------------------------------------------------------------------------


def ig_section(ig: dict[str, Any]) -> Iterator[str]:
    settings = ig["settings"]
    yield "### Integrated Gradients, end to end\n"
    yield (
        f"{settings['n_steps']} steps of {settings['method']}, {settings['dtype']}, "
        f"{settings['threads']} threads, {settings['rounds']} rounds in which the contenders take "
        "turns. captum's best is the fastest of several values of `internal_batch_size`, named.\n"
    )
    yield table(
        (
            "model",
            "inputs",
            "ours",
            "captum, best",
            "ours / best",
            "captum, default",
            "ours / default",
            "first call of ours",
        ),
        (
            [
                case["case"],
                size(case["shape"]),
                ms(median(case, "ours")),
                f"{ms(median(case, case['captum_best']))} ({chunk(case['captum_best'])})",
                ratio(case["ratio_to_captum_best"]),
                ms(median(case, "captum, default")),
                ratio(case["ratio_to_captum_default"]),
                ms(case["first_call"]["ours"]),
            ]
            for case in ig["cases"]
        ),
    )
    yield "Where ours comes from:\n"
    yield table(
        (
            "model",
            "format chosen",
            "rows a chunk",
            "ours",
            "ours, contiguous inputs",
            "ours, reference ops",
            "model alone",
            "outside the model",
            "distance to captum",
        ),
        (
            [
                case["case"],
                case["memory_format"],
                str(case["rows_per_chunk"]),
                ms(median(case, "ours")),
                ms(median(case, "ours, contiguous")),
                ms(median(case, "ours, reference ops")),
                ms(median(case, "model alone")),
                f"{case['share_outside_model']:.0%}",
                f"{case['distance']:.0e}",
            ]
            for case in ig["cases"]
        ),
    )
    yield (
        '"Model alone" is the forward and backward passes of the same chunks, in the same format, '
        "from a buffer that is there already. The first call includes the measurements that are "
        "made once for each model. Distances are Euclidean, relative to the length of captum's "
        "attributions; on one input, float32 lies this far from float64:\n"
    )
    yield table(
        ("model", "ours", "captum"),
        (
            [case["case"], *(f"{value:.1e}" for value in case["distance_to_float64"].values())]
            for case in ig["cases"]
        ),
    )
    yield from memory_section(ig)


def memory_section(ig: dict[str, Any]) -> Iterator[str]:
    measured = [case for case in ig["cases"] if "peak_bytes" in case]
    if not measured:
        return
    yield "#### Peak memory\n"
    yield (
        "Measured in a fresh process for each figure: the resident set's high-water mark during "
        "the call, minus the resident set before it. The process has run one forward and backward "
        "pass of the batch before, and has explained a model of one layer, so that code and "
        "weights are loaded. What the model itself keeps for its backward pass is included.\n"
    )
    yield table(
        (
            "model",
            "inputs",
            "model: one pass of the batch",
            "ours",
            "captum, best",
            "captum, default",
            "ours / default",
        ),
        (
            [
                case["case"],
                size(case["shape"]),
                mb(case["peak_bytes"]["model, one forward and backward of the batch"]),
                mb(case["peak_bytes"]["ours"]),
                mb(case["peak_bytes"][case["captum_best"]]),
                mb(case["peak_bytes"]["captum, default"]),
                ratio(case["peak_bytes"]["ours"] / case["peak_bytes"]["captum, default"], 3),
            ]
            for case in measured
        ),
    )
    rows = ig["memory_by_steps"]
    yield f"As the number of steps grows ({rows[0]['case']}, {size(rows[0]['shape'])}):\n"
    names = list(rows[0]["peak_bytes"])
    yield table(
        ("steps", *names),
        ([str(row["n_steps"]), *(mb(row["peak_bytes"][name]) for name in names)] for row in rows),
    )


# --- ops -----------------------------------------------------------------------------------------


def ops_section(rows: list[Row]) -> Iterator[str]:
    timed = [row for row in rows if "native" in row["seconds"]]
    yield "### Ops: summary\n"
    yield (
        "Speed-ups over the best plain PyTorch (eager or compiled), over all settings of an op on "
        "one and two threads; then the share of the speed of a copy of as many bytes, where "
        f"the op is bound by memory and moves {LARGE_BYTES >> 20} MB or more.\n"
    )
    yield table(
        ("op", "settings", "geometric mean", "lowest", "highest", "of copy, lowest", "mean"),
        (summary_row(name, group) for name, group in by_op(timed).items()),
    )
    yield "### Ops: targets\n"
    yield from targets_table(cpu_targets(rows))
    for family, group in grouped(timed, "family").items():
        yield f"### Ops: {family}\n"
        for name, op_rows in by_op(group).items():
            yield from op_section(name, op_rows)
    yield from slower_section(timed)
    yield from peak_section(timed)
    yield from isa_section(timed)


def op_section(name: str, rows: list[Row]) -> Iterator[str]:
    """One line for a setting, its threads side by side."""
    yield f"#### `{name}`\n"
    if text := TEXTS.get(name):
        yield text + "\n"
    lines = []
    for setting, both in grouped(rows, *SETTING).items():
        threads = {row["threads"]: row for row in both}
        line = [label(both[0])]
        for count in (1, 2):
            line += native_and_best(threads.get(count))
        # The reference and torch.compile run with two threads.
        last = threads.get(2, both[-1])
        line += [against(last, ("reference",)), against(last, names_of(last, "compile"))]
        line += [against(last, names_of(last, "peer", "own"), named=True)]
        line += [" / ".join(share(threads.get(count)) for count in (1, 2))]
        lines.append((setting, line))
    head = ["setting", "1 thread", "best PyTorch", "2 threads", "best PyTorch", "reference"]
    head += ["torch.compile", "others", "of copy"]
    yield table_of_used(head, [line for _, line in lines])


def native_and_best(row: Row | None) -> list[str]:
    if row is None:
        return ["", ""]
    best = best_pytorch(row)
    rival = "" if best is None else f"{times(speed_up(row, best))} {best}"
    return [ms(seconds(row), 3), rival]


def against(row: Row, names: Iterable[str], named: bool = False) -> str:
    """Speed-ups over rivals, where they were timed."""
    timed = [name for name in names if name in row["seconds"]]
    return ", ".join(times(speed_up(row, name)) + f" {name}" * named for name in timed)


def share(row: Row | None) -> str:
    found = None if row is None else of_copy(row)
    return "" if found is None else f"{found:.0%}"


def slower_section(rows: list[Row]) -> Iterator[str]:
    slower = [
        (row, best)
        for row in rows
        if (best := best_pytorch(row)) is not None and speed_up(row, best) < NOT_SLOWER
    ]
    yield f"### Where plain PyTorch is faster: below {NOT_SLOWER}x\n"
    if not slower:
        yield "Nowhere in these tables.\n"
        return
    yield table(
        ("op", "setting", "threads", "native", "speed-up", "the best"),
        (
            [
                row["op"],
                label(row),
                str(row["threads"]),
                ms(seconds(row), 3),
                times(speed_up(row, best)),
                best,
            ]
            for row, best in slower
        ),
    )


def peak_section(rows: list[Row]) -> Iterator[str]:
    measured = [row for row in rows if "peak_bytes" in row]
    if not measured:
        return
    yield "### Peak memory of ops\n"
    yield "Beyond the inputs and the reused buffer; on a CPU each in a process of its own.\n"
    yield table(
        ("op", "setting", "contender", "peak"),
        (
            [row["op"], label(row), name, mb(count)]
            for row in measured
            for name, count in row["peak_bytes"].items()
        ),
    )


def isa_section(rows: list[Row]) -> Iterator[str]:
    levels = sorted(
        {name for row in rows for name in row["seconds"] if name.startswith("native ")},
        key=lambda name: -rank_of(name),
    )
    if not levels:
        return
    yield "### Lower instruction sets\n"
    yield (
        "The same kernels held back by `PYXAI_FAST_CPU_ISA`, one thread: time divided by that of "
        "the processor's best, the geometric mean over an op's settings and the highest. All give "
        "the same bits.\n"
    )
    lines = []
    for name, group in by_op(rows).items():
        line = [f"`{name}`"]
        for level in levels:
            ratios = [speed_up(row, level) for row in group if level in row["seconds"]]
            line.append(f"{geometric_mean(ratios):.2f} ({max(ratios):.2f})" if ratios else "")
        lines.append(line)
    yield table(("op", *(level.removeprefix("native ") for level in levels)), lines)


def rank_of(level: str) -> int:
    return ["native baseline", "native avx2", "native avx512"].index(level)


def summary_row(name: str, rows: list[Row]) -> list[str]:
    ratios = [speed_up(row, best) for row in rows if (best := best_pytorch(row)) is not None]
    shares = [found for row in bounded_by_memory(rows) if (found := of_copy(row)) is not None]
    line = [f"`{name}`", str(len(rows))]
    line += (
        [times(geometric_mean(ratios)), times(min(ratios)), times(max(ratios))]
        if ratios
        else [""] * 3
    )
    return line + ([f"{min(shares):.0%}", f"{geometric_mean(shares):.0%}"] if shares else ["", ""])


def targets_table(targets: Iterable[Reached]) -> Iterator[str]:
    words = {True: "met", False: "missed", None: ""}
    yield table(
        ("target", "measured", ""),
        ([target.target, target.measured, words[target.met]] for target in targets),
    )


# --- GPUs ----------------------------------------------------------------------------------------


def gpu_section(result: dict[str, Any]) -> Iterator[str]:
    info = result["machine_info"]
    yield f"### {info['gpu']}\n"
    yield table(("", ""), ([key.replace("_", " "), str(info[key])] for key in info))
    yield "What ran, each stage within a limit of time:\n"
    yield table(
        ("stage", "result", "time", ""),
        (
            [stage["name"], stage["result"], f"{stage['seconds']:.0f} s", stage.get("detail", "")]
            for stage in result["stages"]
        ),
    )
    for stage in result["stages"]:
        if "throughput" in stage:
            yield from throughput_section(stage["throughput"], "####")
    rows = [row for row in result["rows"] if "native" in row["seconds"]]
    if not rows:
        return
    yield "#### Targets on this GPU\n"
    yield from targets_table(gpu_targets(rows))
    yield "#### Ops on this GPU\n"
    yield (
        "Medians, the second-level cache written over before every call; speed-ups over the best "
        "eager PyTorch (named), torch.compile and what others do; and the share of the speed of a "
        "copy that moves as many bytes.\n"
    )
    yield table_of_used(
        ["op", "setting", "ours", "best eager", "torch.compile", "others", "of copy", "bits"],
        [gpu_row(row) for row in rows],
    )


def gpu_row(row: Row) -> list[str]:
    best = best_of(row, "eager")
    return [
        row["op"],
        label(row),
        f"{1e6 * seconds(row):.1f} us",
        "" if best is None else f"{times(speed_up(row, best))} {best}",
        against(row, names_of(row, "compile")),
        against(row, names_of(row, "peer", "own"), named=True),
        share(row),
        "the reference's" if row.get("same_bits") else "close",
    ]


# --- groups of rows -------------------------------------------------------------------------------


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...] | str, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        key = row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys)
        groups.setdefault(key, []).append(row)
    return groups


def by_op(rows: Iterable[Row]) -> dict[Any, list[Row]]:
    return grouped(rows, "op")


if __name__ == "__main__":
    main()

"""Writes benchmarks/README.md; every figure in it is one of benchmarks/results/*.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from machine import RESULTS

README = RESULTS.parent / "README.md"
# Slower than the best plain PyTorch by more than this is listed.
SLOWER = 1.05

INTRODUCTION = """\
# Benchmarks

Written by `benchmarks/report.py` from the files in `benchmarks/results/`. To measure again, on an
idle machine:

    make bench

- `bench_path_ops.py` times the ops against the best plain PyTorch for the same job and against
  captum's expression. `bench_integrated_gradients.py` times Integrated Gradients end to end against
  captum, and measures peak memory.
- Nothing is timed that is not checked first: native kernels equal the reference bit for bit, rivals
  and captum agree with it closely.
- Figures are medians, and ratios are of medians of one run: below 1, ours is faster. Models have
  random weights. Python's garbage collector is off while the clock runs.
"""

OPS = {
    "points": (
        "`path_points`: points of the paths, written into a reused buffer",
        "Columns: the native kernel's time; then its time divided by the time of the PyTorch "
        "reference, of the best plain PyTorch (named), of torch.compile and of captum's "
        "expression (a fresh tensor each time). With an affine map, `torch.lerp` gets ends that "
        "are normalised first.",
    ),
    "sum": (
        "`path_accumulate`: gradients contracted to attributions",
        "Columns as above. Ours adds in float64, rivals in the gradients' type.",
    ),
    "total": (
        "`path_accumulate(total=...)`: a chunk added to a running sum",
        "The form that the loop over chunks calls. Ours keeps the sum in float64, which is twice "
        "the rival's traffic for it: the price of attributions that do not depend on the chunks.",
    ),
}
PEERS = ("reference", "torch.compile", "captum's")
NOT_PLAIN = ("reference", "captum's")


def main() -> None:
    files = sorted(RESULTS.glob("*.json"))
    parts = [INTRODUCTION]
    for path in files:
        parts += machine_section(json.loads(path.read_text()))
    if not any(path.name.startswith("gpu-") for path in files):
        parts.append("## GPU\n\nnot measured\n")
    README.write_text("\n".join(parts))


def machine_section(result: dict[str, Any]) -> Iterator[str]:
    info = result["machine_info"]
    yield f"## {info['cpu']}\n"
    yield table(("", ""), ([key.replace("_", " "), str(info[key])] for key in info))
    yield from ig_section(result["integrated_gradients"])
    yield from ops_section(result["path_ops"])


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


def ops_section(rows: list[dict[str, Any]]) -> Iterator[str]:
    groups = grouped(rows)
    for op, (title, text) in OPS.items():
        yield f"### {title}\n"
        yield text + "\n"
        yield table(
            (
                "case",
                "layout",
                "type",
                *(("affine", "baselines") if op == "points" else ()),
                "threads",
                "native",
                "/ best PyTorch",
                *(f"/ {peer}" for peer in PEERS if op != "total"),
            ),
            (op_row(group) for group in groups if group["op"] == op),
        )
    slower = [group for group in groups if best_ratio(group)[1] > SLOWER]
    yield f"### Where plain PyTorch is faster by more than {SLOWER - 1:.0%}\n"
    if not slower:
        yield "Nowhere in these tables.\n"
    else:
        yield table(
            ("op", "case", "layout", "type", "affine", "threads", "native / best", "the best"),
            (
                [
                    group["op"],
                    group["case"],
                    group["layout"],
                    group["dtype"],
                    yes(group["affine"]),
                    str(group["threads"]),
                    ratio(best_ratio(group)[1]),
                    best_ratio(group)[0],
                ]
                for group in slower
            ),
        )
    yield from isa_section(groups)


def isa_section(groups: list[dict[str, Any]]) -> Iterator[str]:
    with_levels = [group for group in groups if "native avx2" in group["medians"]]
    if not with_levels:
        return
    yield "### Lower instruction sets\n"
    yield (
        "The same kernels held back by `PYXAI_FAST_CPU_ISA`, one thread: time divided by that of "
        "the processor's best. All give the same bits.\n"
    )
    levels = [name for name in with_levels[0]["medians"] if name.startswith("native ")]
    yield table(
        ("op", "case", "layout", "affine", *levels),
        (
            [
                group["op"],
                group["case"],
                group["layout"],
                yes(group["affine"]),
                *(
                    ratio(group["medians"][level] / group["medians"]["native"])
                    if level in group["medians"]
                    else ""
                    for level in levels
                ),
            ]
            for group in with_levels
        ),
    )


def grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One dict a group: its settings, and "medians" by contender."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        setting = {k: v for k, v in row["extra_info"].items() if k != "contender"}
        group = groups.setdefault(tuple(setting.values()), {**setting, "medians": {}})
        group["medians"][row["extra_info"]["contender"]] = row["median"]
    return [group for group in groups.values() if "native" in group["medians"]]


def best_ratio(group: dict[str, Any]) -> tuple[str, float]:
    """The fastest plain PyTorch, compiled or not, and native's time divided by its."""
    medians = group["medians"]
    rivals = [n for n in medians if not n.startswith("native") and n not in NOT_PLAIN]
    best = min(rivals, key=medians.__getitem__)
    return best, medians["native"] / medians[best]


def op_row(group: dict[str, Any]) -> list[str]:
    medians = group["medians"]
    best, value = best_ratio(group)
    row = [group["case"], group["layout"], group["dtype"]]
    if group["op"] == "points":
        row += [yes(group["affine"]), group["baselines"]]
    row += [str(group["threads"]), ms(medians["native"], 3), f"{ratio(value)} ({best})"]
    if group["op"] != "total":
        row += [ratio(medians["native"] / medians[p]) if p in medians else "" for p in PEERS]
    return row


# --- formatting ----------------------------------------------------------------------------------


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def median(case: dict[str, Any], name: str) -> float:
    value: float = case["seconds"][name]["median"]
    return value


def chunk(name: str) -> str:
    return "default" if name == "captum, default" else name.rpartition("=")[2] + " rows"


def size(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def ms(seconds: float, digits: int = 1) -> str:
    return f"{1e3 * seconds:.{digits}f} ms"


def mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def ratio(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}"


def yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    main()

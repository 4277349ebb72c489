"""The section on inputs a second at equal completeness error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tables import against, mb, size, table, table_of_used, times
from targets import geometric_mean

OURS, CAPTUM = "ours, ", "captum, fp32"
CALLED = "captum, fp32, as called"
AUTOCAST = "captum, autocast"
PEERS = ("PAIR saliency", "zennit", "shap")
LOW = ("bf16", "fp16")
# What is wanted, over captum's best in float32: in float32, and in low precision where the
# processor multiplies it (on networks that see pictures of ImageNet's size).
AT_LEAST, AT_LEAST_LOW = 1.3, 2.0
Row = dict[str, Any]


def throughput_section(result: dict[str, Any], title: str = "###") -> Iterator[str]:
    settings = result["settings"]
    on_gpu = settings["device"] == "cuda"
    threads = settings["threads"]
    where = "the GPU" if on_gpu else f"{threads} thread" + "s" * (threads > 1)
    yield f"{title} Integrated Gradients at equal completeness error\n"
    yield (
        f"Inputs a second, {where}; each contender takes the fewest steps with which, for at least "
        "90 % of the inputs, attributions add up to the rise of the score within the tolerance, "
        "by the best of the rules that it has (ours by fixed steps, or by `tolerance=`). The rise "
        "from black is that of the float32 network, so that what low precision costs counts as "
        "error. Peers are given several numbers of rows and memory formats (of weights and "
        "inputs), and their fastest counts; contenders take turns. captum as called is at its best "
        "number of rows, without `channels_last` chosen by hand; ours chooses itself. PAIR and "
        "shap take one input at a time, zennit the batch at each step. shap draws its nodes and "
        "would need thousands: it takes as many steps as captum, and its gap is larger.\n"
    )
    for number, tolerance in enumerate(settings["tolerances"]):
        rows_of = [(case, case["tolerances"][number]["rows"]) for case in result["cases"]]
        yield f"A gap of at most {tolerance:.0%}:\n"
        yield table_of_used(*_summary(rows_of))
        yield from _targets(rows_of, settings)
    if result["left_out"]:
        yield f"Left out, as there was no time: {', '.join(result['left_out'])}.\n"
    yield "Every contender in its best form:\n"
    yield table_of_used(*_details(result["cases"]))
    yield (
        '"Outside" is the share of our time that the forward and backward passes of the same '
        "chunks do not take. The first call includes measuring the model, on rows counted as "
        "probes, or compiling it. Distances are Euclidean, to captum's float32 attributions with "
        "its own steps, relative to their length.\n"
    )
    yield from _memory(result["cases"], on_gpu)
    yield from _methods(result["methods"], settings)


# --- inputs a second -----------------------------------------------------------------------------


def _summary(rows_of: list[tuple[Row, list[Row]]]) -> tuple[list[str], list[list[str]]]:
    kinds = {
        "captum, fp32": CAPTUM,
        "as called": CALLED,
        "captum, autocast": AUTOCAST,
        **{name: name for name in PEERS},
    }
    kinds |= {f"ours, {name}": f"{OURS}{name}" for name in ("fp32", *LOW)}
    lines = []
    for case, rows in rows_of:
        line = [case["case"], size(case["shape"])]
        for kind in kinds.values():
            same = of_group(rows, kind)
            best = fastest(same)
            missed = f"not in {case['most_steps']} steps" if same else ""
            line.append(missed if best is None else f"{best['items_per_second']:.2f}")
        lines.append(line)
    return ["model", "inputs", *kinds], lines


def _targets(rows_of: list[tuple[Row, list[Row]]], settings: Row) -> Iterator[str]:
    """Speed-ups over captum's best, model by model, and their geometric mean."""
    low = settings["device"] == "cuda" or bool(settings["bf16_instructions"])
    wanted: list[tuple[str, str, str, float | None]] = [
        ("ours, fp32, over captum, fp32", f"{OURS}fp32", CAPTUM, AT_LEAST),
        ("ours, fp32, over it as called", f"{OURS}fp32", CALLED, None),
    ]
    for name in LOW:
        least = AT_LEAST_LOW if low and name == "bf16" else None
        wanted.append((f"ours, {name}, over captum, fp32", OURS + name, CAPTUM, least))
        wanted.append((f"ours, {name}, over it as called", OURS + name, CALLED, None))
        wanted.append((f"ours, {name}, over captum, autocast", OURS + name, AUTOCAST, None))
    lines = []
    for case, rows in rows_of:
        line = [case["case"]]
        for _, ours, theirs, least in wanted:
            found = speed_up(rows, ours, theirs)
            applies = least is not None and (case["image_net"] or ours.endswith("fp32"))
            line.append(_shown(found, least if applies else None))
        lines.append(line)
    for words, image_net in (("geometric mean", False), ("of the ImageNet-size ones", True)):
        line = [words]
        for _, ours, theirs, least in wanted:
            values = [
                value
                for case, rows in rows_of
                if (case["image_net"] or not image_net)
                and (value := speed_up(rows, ours, theirs)) is not None
            ]
            applies = least is not None and (image_net or ours.endswith("fp32"))
            mean = geometric_mean(values) if values else None
            line.append(_shown(mean, least if applies else None))
        lines.append(line)
    head = [name for name, *_ in wanted]
    yield table_of_used(["model", *head], lines)
    yield (
        f"Wanted are at least {AT_LEAST}x in float32"
        + (f", and {AT_LEAST_LOW:.0f}x in bfloat16 at ImageNet's size" if low else "")
        + f" ({', '.join(settings['bf16_instructions']) or 'no bfloat16 instructions'}).\n"
    )


def of_group(rows: Iterable[Row], start: str) -> list[Row]:
    return [row for row in rows if row["group"].startswith(start)]


def fastest(rows: Iterable[Row]) -> Row | None:
    timed = [row for row in rows if row["seconds"]]
    return max(timed, key=lambda row: float(row["items_per_second"]), default=None)


def speed_up(rows: list[Row], ours: str, theirs: str) -> float | None:
    mine, other = fastest(of_group(rows, ours)), fastest(of_group(rows, theirs))
    if mine is None or other is None:
        return None
    return float(mine["items_per_second"] / other["items_per_second"])


def _shown(value: float | None, least: float | None) -> str:
    if value is None:
        return ""
    return times(value) if least is None else against(value, least)


def _details(cases: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
    cells: dict[str, Callable[[Row], str]] = {
        "contender": lambda row: row["group"],
        "form": lambda row: row["form"],
        "steps": _steps,
        "gap": lambda row: f"{row['gap']:.2%}",
        "inputs/s": lambda row: f"{row['items_per_second']:.2f}",
        "first call": lambda row: f"{row['first_call']:.2f} s",
        "rows a chunk": lambda row: str(row.get("rows_per_chunk", "")),
        "format": lambda row: row.get("memory_format", ""),
        "probes": lambda row: str(row.get("probes", "")),
        "outside": lambda row: (
            f"{row['share_outside_model']:.0%}" if "share_outside_model" in row else ""
        ),
        "distance": lambda row: "" if row["distance"] is None else f"{row['distance']:.0e}",
    }
    lines = [
        [case["case"], f"{part['tolerance']:.0%}", *(cell(row) for cell in cells.values())]
        for case in cases
        for part in case["tolerances"]
        for row in part["rows"]
        if row["seconds"]
    ]
    return ["model", "tolerance", *cells], lines


def _steps(row: Row) -> str:
    """The rule and its steps; of nested rules the mean number of gradients."""
    return f"{row['n_steps']}, {row['rule']}" if row["rule"] else f"{row['gradients']:.1f}, nested"


# --- memory, other methods -----------------------------------------------------------------------


def _memory(cases: Iterable[Row], on_gpu: bool) -> Iterator[str]:
    measured = [case for case in cases if case.get("peak_bytes")]
    if not measured:
        return
    yield (
        "Peak memory, of what is allocated during a call:\n"
        if on_gpu
        else "Peak memory, of the resident set during a call, in a process of its own:\n"
    )
    groups = list(dict.fromkeys(name for case in measured for name in case["peak_bytes"]))
    yield table(
        ("model", "inputs", *groups),
        (
            [
                case["case"],
                size(case["shape"]),
                *(
                    mb(case["peak_bytes"][name]) if name in case["peak_bytes"] else ""
                    for name in groups
                ),
            ]
            for case in measured
        ),
    )


def _methods(rows: list[Row], settings: Row) -> Iterator[str]:
    if not rows:
        return
    yield (
        "Methods without steps to choose, inputs a second (smooth_grad with "
        f"{settings['n_samples']} samples; captum's NoiseTunnel with several at once):\n"
    )
    ours = list(
        dict.fromkeys(name for row in rows for name in row["seconds"] if name.startswith(OURS))
    )
    lines = []
    for row in rows:
        rate = {name: row["shape"][0] / s["median"] for name, s in row["seconds"].items()}
        line = [row["case"], size(row["shape"]), row["method"]]
        line += [f"{rate[name]:.1f} ({times(rate[name] / rate[row['rival']])})" for name in ours]
        lines.append([*line, f"{rate[row['rival']]:.1f}", row["rival"].partition(", ")[2]])
    yield table(("model", "inputs", "method", *ours, "captum, fp32", "its best form"), lines)

"""What the kernels are meant to reach, and what a run of the benchmarks reached of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
# As fast as the best PyTorch, within what timing resolves.
NOT_SLOWER = 0.95
COPY = "copy"
# A copy of fewer bytes stays in a processor's cache.
LARGE_BYTES = 16 << 20


@dataclass(frozen=True)
class Reached:
    """A target: `measured` is the worst of `count` rows, in words, and `met` says whether all are
    as they should be; None where nothing was measured."""

    target: str
    measured: str
    met: bool | None


def seconds(row: Row, name: str = "native") -> float:
    value: float = row["seconds"][name][0]
    return value


def names_of(row: Row, *kinds: str) -> list[str]:
    """Rivals of a row that were timed."""
    return [name for kind in kinds for name in row["rivals"].get(kind, [])]


def best_of(row: Row, *kinds: str) -> str | None:
    names = names_of(row, *kinds)
    return min(names, key=lambda name: seconds(row, name)) if names else None


def best_pytorch(row: Row) -> str | None:
    """The fastest plain PyTorch, compiled or not."""
    return best_of(row, "eager", "compile")


def speed_up(row: Row, over: str, ours: str = "native") -> float:
    return seconds(row, over) / seconds(row, ours)


def of_copy(row: Row) -> float | None:
    """The share of the speed of a copy that moves as many bytes."""
    return speed_up(row, COPY) if COPY in row["seconds"] else None


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def label(row: Row) -> str:
    """What tells a row from the others of its op."""
    usual = {"layout": "contiguous", "dtype": "float32", "variant": ""}
    parts = [row["case"], *(row[key] for key in usual if row[key] != usual[key])]
    return ", ".join(parts)


def worst(
    target: str,
    rows: Iterable[Row],
    value: Callable[[Row], float | None],
    least: float,
    unit: str = "x",
) -> Reached:
    """A target that every row must reach."""
    found = [(reached, row) for row in rows if (reached := value(row)) is not None]
    if not found:
        return Reached(target, "not measured", None)
    lowest, row = min(found, key=lambda pair: pair[0])
    short = sum(reached < least for reached, _ in found)
    shown = f"{lowest:.0%}" if unit == "%" else f"{lowest:.2f}{unit}"
    where = f"{row['op']}, {label(row)}"
    if row["device"] == "cpu":
        where += f", {row['threads']} thread" + "s" * (row["threads"] > 1)
    text = f"{shown} ({where})" if len(found) == 1 else f"{shown} at worst ({where})"
    if short and len(found) > 1:
        text += f"; {short} of {len(found)} fall short"
    return Reached(target, text, short == 0)


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    return [
        row
        for row in rows
        if all(row[key] == value for key, value in wanted.items()) and "native" in row["seconds"]
    ]


def over(name: str) -> Callable[[Row], float | None]:
    """The speed-up over one rival, where it was timed."""
    return lambda row: speed_up(row, name) if name in row["seconds"] else None


def over_each(*names: str) -> Callable[[Row], float | None]:
    """The lowest speed-up over some rivals, of those that were timed."""

    def value(row: Row) -> float | None:
        return min((speed_up(row, name) for name in names if name in row["seconds"]), default=None)

    return value


def over_best(*kinds: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        best = best_of(row, *kinds)
        return None if best is None else speed_up(row, best)

    return value


def rate(name: str) -> Callable[[Row], float | None]:
    """Random numbers a second, in billions."""
    return lambda row: row["draws"] / seconds(row, name) / 1e9 if name in row["seconds"] else None


def over_gaussian(rows: list[Row]) -> Callable[[Row], float | None]:
    """The speed-up over the same case and threads with gaussian noise."""

    def value(row: Row) -> float | None:
        same = select(rows, **{**key_of(row), "variant": ""})
        return seconds(same[0]) / seconds(row) if same else None

    return value


def key_of(row: Row) -> dict[str, Any]:
    return {key: row[key] for key in ("op", "case", "layout", "dtype", "threads", "device")}


def bounded_by_memory(rows: Iterable[Row]) -> list[Row]:
    return [
        row
        for row in rows
        if row.get("memory_bound")
        and row["moved_bytes"] >= LARGE_BYTES
        and "native" in row["seconds"]
    ]


def cpu_targets(rows: list[Row]) -> Iterator[Reached]:
    image = {"case": "imagenet_224", "layout": "contiguous", "dtype": "float32"}
    gaussian = {**image, "variant": ""}
    signs = {**image, "variant": "rademacher"}
    contracted = select(rows, op="noise_contract", **gaussian, threads=1)
    yield worst(
        "`perturb`, gaussian, [64, 3, 224, 224]: at least 6x `torch.add(x, torch.randn(...))`, one "
        "thread and two",
        select(rows, op="perturb", **gaussian),
        over("torch.add(x, torch.randn)"),
        6.0,
    )
    for level, name, least in (("AVX-512", "avx512", 0.6), ("AVX2", "avx2", 0.3)):
        yield worst(
            f"`noise_contract`: at least {least} billion normals a second and core, {level}",
            contracted,
            lambda row, name=name: rate(native_at(row, name))(row),  # type: ignore[misc]
            least,
            " G/s",
        )
    yield worst(
        "`noise_contract`: no slower than `perturb` draws the noise",
        select(rows, op="noise_contract", **gaussian),
        over("perturb alone"),
        1.0,
    )
    drawn = select(rows, op="noise_contract", **signs)
    yield worst(
        "`noise_contract`, rademacher: at least 5x faster than gaussian",
        drawn,
        over_gaussian(rows),
        5.0,
    )
    yield worst(
        "`noise_contract`, rademacher: at least 5x the best PyTorch",
        drawn,
        over_best("eager", "compile"),
        5.0,
    )
    segments = [
        row for row in select(rows, op="mask_segments", variant="") if "imagenet" in row["case"]
    ]
    yield worst(
        "`mask_segments`, 224x224: at least 5x `torch.where` with a gathered mask",
        segments,
        over("torch.where"),
        5.0,
    )
    yield worst(
        "`mask_segments`, 224x224: at least 50x LIME's loop over rows",
        segments,
        over("LIME's loop"),
        50.0,
    )
    both = select(rows, op="points and accumulate", variant="", case="imagenet_224")
    yield worst(
        "`dirichlet_points` and `dirichlet_accumulate`, 224x224: at least 10x scattered sticks",
        both,
        over("sticks, scattered"),
        10.0,
    )
    yield worst(
        "the same: memory for no more than 8 float64 values a feature, whatever the steps",
        both,
        lambda row: (
            64 * row["features"] / max(row["peak_bytes"]["native"], 1)
            if "peak_bytes" in row
            else None
        ),
        1.0,
        "x of it left",
    )
    students = select(rows, op="linear_step", case="student")
    yield worst(
        "`linear_step`, 49152 features, 512 outputs: at least 1.5x torch's backward pass and SGD, "
        "foreach and fused",
        students,
        over_each("backward, SGD(foreach)", "backward, SGD(fused)"),
        1.5,
    )
    yield worst(
        "the same: at least 1.5x the best PyTorch",
        students,
        over_best("eager", "compile"),
        1.5,
    )
    yield worst(
        "every op bound by memory, from 16 MB: at least 80 % of the speed of a copy",
        bounded_by_memory(rows),
        of_copy,
        0.8,
        "%",
    )
    yield worst(
        f"every op, everywhere: at least {NOT_SLOWER}x the best PyTorch",
        [row for row in rows if "native" in row["seconds"]],
        over_best("eager", "compile"),
        NOT_SLOWER,
    )


def gpu_targets(rows: list[Row]) -> Iterator[Reached]:
    timed = [row for row in rows if "native" in row["seconds"]]
    yield worst(
        "every op bound by memory, from 16 MB: at least 85 % of the speed of a copy",
        bounded_by_memory(timed),
        of_copy,
        0.85,
        "%",
    )
    yield worst("every op: faster than its torch.compile rival", timed, over_best("compile"), 1.0)
    text = "all ops: a geometric mean of at least 2x over the best eager PyTorch"
    values = [value for row in timed if (value := over_best("eager")(row)) is not None]
    if values:
        mean = geometric_mean(values)
        yield Reached(text, f"{mean:.2f}x over {len(values)} rows", mean >= 2.0)
    else:
        yield Reached(text, "not measured", None)


def native_at(row: Row, level: str) -> str:
    """Our contender of an instruction set: "native" is that of the processor's best."""
    lower = [name for name in row["seconds"] if name.startswith("native ")]
    if f"native {level}" in lower:
        return f"native {level}"
    levels = ["native baseline", "native avx2"]
    best = ["baseline", "avx2", "avx512"][sum(name in levels for name in lower)]
    return "native" if best == level else "none"

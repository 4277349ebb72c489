"""What the benchmarks of all op families share: settings, contenders, their check, their rows.

A family's file, bench_NAME_ops.py, has a list OPS. An `Op` says how its tensors are made, what
our call is, what its rivals are and in which settings they meet. Every contender's result is
checked before it is timed: native kernels must have the reference's bits on a CPU, rivals must be
close to it, and those that draw numbers of their own must draw them from the same distribution.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from clock import Contender, Effort, quantiles, race
from torch import Tensor

from pyxai_fast import ops

HERE = Path(__file__).resolve().parent
# The cases that are timed are the cases that are tested.
sys.path.insert(0, str(HERE.parent / "tests"))

FAMILIES = ("path", "noise", "mask", "rank", "ensemble", "dirichlet", "ascend", "linear")
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Rivals round every operation, and their coefficients, to the type; ours is rounded once.
TOLERANCE = {"float32": 1e-5, "bfloat16": 4e-2, "float16": 4e-3}
COPY = "copy"


@dataclass(frozen=True)
class Setting:
    """What the contenders of a row have in common."""

    op: str
    case: str
    variant: str = ""
    layout: str = "contiguous"
    dtype: str = "float32"
    threads: int = 1
    device: str = "cpu"

    def __str__(self) -> str:
        return " ".join(str(value) for value in asdict(self).values() if value != "")

    @property
    def on_cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"


Result = Tensor | tuple[Tensor, ...]
Run = Callable[[], Result]
# The tensors of a setting, of a family's own type; every contender may write into its buffers.
Data = Any


def always(setting: Setting) -> bool:
    return True


@dataclass(frozen=True)
class Rival:
    """What PyTorch, or a peer, has for the job.

    Attributes:
        make: takes the data and returns what is timed.
        kind: "eager", what a good engineer would write; "compile", the same under torch.compile;
            "peer", what another library does, which is not the best PyTorch can do; "own", what can
            be put together of our other ops.
        when: the settings in which it takes part.
        draws: it draws random numbers of its own, so that only their distribution can be compared.
        checked: whether it does the same job; one that does not is timed as a yardstick.
    """

    make: Callable[[Data], Run]
    kind: str = "eager"
    when: Callable[[Setting], bool] = always
    draws: bool = False
    checked: bool = True


@dataclass(frozen=True)
class Op:
    """An op in its contests.

    Attributes:
        family, name: as in the tables.
        text: what the tables' readers must know.
        data: makes the tensors of a setting.
        ours: takes the data and returns our call.
        rivals: by the name in the tables.
        settings: on a CPU; those with two threads run on other devices too.
        large: settings for a GPU alone, of sizes that keep it busy.
        moved: the fewest bytes that the op must read and write; a copy that moves as many is timed
            beside it.
        memory_bound: whether nothing but moving these bytes takes time.
        reset: brings buffers that are added to back to their start.
        draws: how many random numbers are drawn.
        law: by how much, relatively, the distributions of rivals that draw may differ from ours.
        peak: the features of an example, in settings in which peak memory is measured too; else 0.
    """

    family: str
    name: str
    text: str
    data: Callable[[Setting], Data]
    ours: Callable[[Data], Run]
    rivals: Mapping[str, Rival]
    settings: Iterable[Setting]
    moved: Callable[[Data], int] | None = None
    memory_bound: Callable[[Setting], bool] = always
    reset: Callable[[Data], None] = field(default=lambda data: None)
    draws: Callable[[Data], int] | None = None
    law: float = 0.0
    peak: Callable[[Setting], int] = field(default=lambda setting: 0)
    large: Iterable[Setting] = ()
    tolerance: Mapping[str, float] = field(default_factory=lambda: TOLERANCE)


def ops_of(family: str) -> list[Op]:
    found: list[Op] = importlib.import_module(f"bench_{family}_ops").OPS
    return found


def settings_on(op: Op, device: str) -> Iterator[Setting]:
    if device == "cpu":
        yield from op.settings
        return
    for setting in (*op.settings, *op.large):
        if setting.threads == 2:
            yield replace(setting, device=device)


# --- what families need --------------------------------------------------------------------------


def over_threads(*settings: Setting) -> Iterator[Setting]:
    for setting in settings:
        for threads in (1, 2):
            yield replace(setting, threads=threads)


def compiled_in(*cases: str, large: str) -> Callable[[Setting], bool]:
    """Where torch.compile takes part: few cases, and on a GPU the large one alone, since compiling
    takes seconds."""

    def when(setting: Setting) -> bool:
        plain = setting.dtype == "float32" and setting.layout == "contiguous"
        chosen = setting.case == large if setting.on_cuda else setting.case in cases
        return plain and setting.threads == 2 and chosen

    return when


def compiled(expression: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    made: Callable[..., Any] = torch.compile(expression, dynamic=False)
    return made


def nbytes(*tensors: Tensor | None) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors if tensor is not None)


def layouts(features: tuple[int, ...]) -> tuple[str, ...]:
    """One channel has one layout."""
    images = len(features) == 3 and features[0] > 1
    return tuple(FORMATS) if images else ("contiguous",)


# --- one setting ---------------------------------------------------------------------------------


def contest(op: Op, setting: Setting, effort: Effort) -> dict[str, Any]:
    """Checks and times all contenders of a setting; the row that is stored."""
    if not setting.on_cuda:
        torch.set_num_threads(setting.threads)
    device = torch.device(setting.device)
    data = op.data(setting)
    row: dict[str, Any] = {"family": op.family, **asdict(setting)}
    kinds: dict[str, list[str]] = {}
    with torch.no_grad():
        truth, seconds_of_reference = reference_result(op, setting, data)
        contenders: dict[str, Contender] = {}
        for name in ours_in(setting):
            run = op.ours(data)
            with running(name):
                op.reset(data)
                row["same_bits"] = check(op, setting, name, run(), truth)
            contenders[name] = Contender(run, functools.partial(running, name))
        for name, rival in op.rivals.items():
            if not rival.when(setting):
                continue
            try:
                run = rival.make(data)
                op.reset(data)
                result = run()
            except torch._dynamo.exc.TorchDynamoException as error:
                row.setdefault("failed", {})[name] = str(error).split("\n")[0][:200]
                continue
            if rival.checked:
                check(op, setting, name, result, truth, draws=rival.draws)
            contenders[name] = Contender(run, functools.partial(running, name))
            kinds.setdefault(rival.kind, []).append(name)
        if op.moved is not None:
            row["moved_bytes"] = op.moved(data)
            row["memory_bound"] = op.memory_bound(setting)
            copy = Contender(copy_of(op.moved(data), device), functools.partial(running, COPY))
            contenders[COPY] = copy
        if op.draws is not None:
            row["draws"] = op.draws(data)
        times = race(contenders, device, effort)
    row["seconds"] = {name: quantiles(values) for name, values in times.items()}
    if setting.threads == 2:
        row["seconds"]["reference"] = quantiles([seconds_of_reference])
    row["rivals"] = kinds
    if features := op.peak(setting):
        row["features"] = features
        names = ["native", *(name for name in contenders if name in op.rivals)]
        row["peak_bytes"] = {name: peak_bytes(op, setting, name) for name in names}
    return row


def ours_in(setting: Setting) -> list[str]:
    """The names of our contenders: the best kernels, and those of lower instruction sets."""
    if ops.backend_of(torch.device(setting.device)) == "reference":
        return []
    names = ["native"]
    if setting.threads == 1 and setting.dtype == "float32" and not setting.on_cuda:
        names += [f"native {level}" for level in ops.available_cpu_isas()[:-1]]
    return names


@contextmanager
def running(name: str) -> Iterator[None]:
    """Within the block ops run as the contender's name says."""
    if not name.startswith("native "):
        yield
        return
    best = ops.cpu_isa()
    assert best is not None
    ops.set_cpu_isa(name.removeprefix("native "))
    try:
        yield
    finally:
        ops.set_cpu_isa(best)


_truth: tuple[tuple[str, Setting], Result, float] | None = None


def reference_result(op: Op, setting: Setting, data: Data) -> tuple[Result, float]:
    """What the reference returns (a copy, since buffers are every contender's) and its seconds.

    Kept for the same setting with another number of threads, which does not change it.
    """
    global _truth
    key = (op.family, replace(setting, threads=2))
    if _truth is None or _truth[0] != key:
        _truth = None  # freed before the next
        torch.set_num_threads(2)
        with ops.native_kernels(False):
            run = op.ours(data)
            op.reset(data)
            start = time.perf_counter()
            result = run()
            if setting.on_cuda:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            truth = tuple(part.clone() for part in parts(result))
            if seconds < 0.1:  # the first call was a warm-up
                start = time.perf_counter()
                run()
                if setting.on_cuda:
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - start
        torch.set_num_threads(setting.threads)
        _truth = (key, truth, seconds)
    return _truth[1], _truth[2]


def parts(result: Result) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def check(
    op: Op, setting: Setting, name: str, result: Result, truth: Result, draws: bool = False
) -> bool:
    """Raises where a result is not the reference's; returns whether it has its bits."""
    where = f"{op.name}, {setting}: {name}"
    same = True
    for got, wanted in zip(parts(result), parts(truth), strict=True):
        assert got.shape == wanted.shape, f"{where} has shape {list(got.shape)}"
        same = same and torch.equal(got, wanted)
        if name.startswith("native") and not setting.on_cuda:
            assert same, f"{where} differs from the reference"
        elif draws:
            compare_distributions(where, got, wanted, op.law)
        else:
            size = wanted.abs().max().clamp(min=1e-30)
            error = float((got - wanted).abs().max() / size)
            assert error <= op.tolerance[setting.dtype], f"{where} is off by {error:.1e}"
    return same


def compare_distributions(where: str, got: Tensor, wanted: Tensor, law: float) -> None:
    """Means and standard deviations, within what chance explains for heavy tails too."""
    slack = law + 10.0 / math.sqrt(wanted.numel())
    (mean, deviation), (true_mean, true_deviation) = (
        (float(x.double().mean()), float(x.double().std())) for x in (got, wanted)
    )
    near = abs(mean - true_mean) <= slack * true_deviation
    assert near, f"{where} has mean {mean}, not {true_mean}"
    near = abs(deviation / true_deviation - 1) <= slack
    assert near, f"{where} has standard deviation {deviation}, not {true_deviation}"


def copy_of(count: int, device: torch.device) -> Run:
    """A copy that reads and writes this many bytes together."""
    source = torch.ones(max(count // 8, 1), device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


# --- peak memory ---------------------------------------------------------------------------------


def peak_bytes(op: Op, setting: Setting, name: str) -> int:
    """Of one contender, beyond the tensors of the setting."""
    if setting.on_cuda:
        return peak_here(op, setting, name)
    # The resident set of a process that has run other things says nothing: a process of its own.
    command = [sys.executable, str(HERE / "contest.py"), op.family, name]
    done = subprocess.run(
        [*command, json.dumps(asdict(setting))], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"peak memory of {name} failed\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])


def peak_here(op: Op, setting: Setting, name: str) -> int:
    from resident import peak_during

    data = op.data(setting)
    make = op.ours if name.startswith("native") else op.rivals[name].make
    run = make(data)
    with torch.no_grad(), running(name):
        if setting.on_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            return torch.cuda.max_memory_allocated() - before
        torch.set_num_threads(setting.threads)
        run()  # code, threads and the buffers of the setting are in memory from here on
        return peak_during(run)


def main() -> None:
    """FAMILY CONTENDER SETTING: prints the peak memory of one call."""
    family, name, values = sys.argv[1:]
    setting = Setting(**json.loads(values))
    op = next(op for op in ops_of(family) if op.name == setting.op)
    print(peak_here(op, setting, name))


if __name__ == "__main__":
    main()

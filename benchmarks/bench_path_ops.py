"""The path ops against the best plain PyTorch, shape by shape.

Every contender's result is checked before it is timed: native kernels must equal the reference bit
for bit, rivals must be close to it. Contenders of one group run one after the other and write into
the same buffer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch
from path_cases import LARGE
from torch import Tensor

from pyxai_fast import ops

pytestmark = pytest.mark.benchmark(
    disable_gc=True, min_rounds=7, max_time=0.08, min_time=2e-5, warmup=True, warmup_iterations=2
)

CASES = {case.name: case for case in LARGE}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Rivals round every operation, and their coefficients, to the type; ours is rounded once.
TOLERANCE = {"float32": 1e-5, "bfloat16": 4e-2, "float16": 4e-3}
# Cases that also run with zero baselines, in half precision, and compiled.
FEW = ("digits_28", "imagenet_224")


@dataclass(frozen=True)
class Setting:
    """What a group of rows has in common."""

    op: str
    case: str
    layout: str = "contiguous"
    dtype: str = "float32"
    affine: bool = False
    baselines: str = "tensor"
    threads: int = 1

    @property
    def group(self) -> str:
        return " ".join(str(value) for value in asdict(self).values())


@dataclass(frozen=True)
class Data:
    """The tensors of a setting; `out` and `total` are written by every contender."""

    steps: int
    batch: int
    inputs: Tensor
    baselines: Tensor
    alphas: Tensor
    weights: Tensor
    grads: Tensor
    scale: Tensor | None
    shift: Tensor | None
    out: Tensor
    total: Tensor


@functools.lru_cache(maxsize=1)
def tensors(case: str, dtype: str, layout: str) -> dict[str, Tensor]:
    made = CASES[case].tensors(DTYPES[dtype], FORMATS[layout])
    made["out"] = torch.empty_like(made["grads"])
    made["total"] = torch.zeros_like(made["inputs"], dtype=torch.float64)
    return made


def data(setting: Setting) -> Data:
    made = dict(tensors(setting.case, setting.dtype, setting.layout))
    if setting.baselines == "zero":
        made["baselines"] = torch.zeros((), dtype=made["inputs"].dtype)
    case = CASES[setting.case]
    channels = case.features[0]
    return Data(
        case.steps,
        case.batch,
        **made,
        scale=torch.linspace(4.0, 5.0, channels) if setting.affine else None,
        shift=torch.linspace(-2.0, -1.5, channels) if setting.affine else None,
    )


def by_step(values: Tensor, d: Data) -> Tensor:
    """[S] shaped to multiply [S, B, ...]."""
    return values.to(d.inputs.dtype).reshape(-1, *[1] * d.inputs.dim())


def by_channel(values: Tensor | None, d: Data) -> Tensor:
    """[C] shaped to multiply [B, C, ...]."""
    assert values is not None
    return values.to(d.inputs.dtype).reshape(-1, *[1] * (d.inputs.dim() - 2))


def rows(tensor: Tensor) -> Tensor:
    """A view without gaps in which the features of an example follow each other."""
    return tensor if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1)


# --- contenders: each takes the data and returns what is timed -----------------------------------

Contender = Callable[[Data], Callable[[], Tensor]]


def points_of_ours(d: Data) -> Callable[[], Tensor]:
    return lambda: ops.path_points(
        d.inputs, d.baselines, d.alphas, scale=d.scale, shift=d.shift, out=d.out
    )


def points_by_lerp(d: Data) -> Callable[[], Tensor]:
    """torch.lerp over all steps at once; ends are normalised first, which is less work than
    normalising the points."""
    alphas, out = by_step(d.alphas, d), d.out.unflatten(0, (d.steps, d.batch))

    def run() -> Tensor:
        torch.lerp(*_ends(d), alphas, out=out)
        return d.out

    return run


def points_by_lerp_steps(d: Data) -> Callable[[], Tensor]:
    """torch.lerp step by step, with numbers for weights."""
    alphas, out = d.alphas.tolist(), d.out.unflatten(0, (d.steps, d.batch))

    def run() -> Tensor:
        start, end = _ends(d)
        for step, alpha in enumerate(alphas):
            torch.lerp(start, end, alpha, out=out[step])
        return d.out

    return run


def _ends(d: Data) -> tuple[Tensor, Tensor]:
    if d.scale is None:
        return d.baselines, d.inputs
    scale, shift = by_channel(d.scale, d), by_channel(d.shift, d)
    return torch.addcmul(shift, d.baselines, scale), torch.addcmul(shift, d.inputs, scale)


def points_by_lerp_in_place(d: Data) -> Callable[[], Tensor]:
    """torch.lerp, then the affine map in place."""
    alphas, out = by_step(d.alphas, d), d.out.unflatten(0, (d.steps, d.batch))
    scale, shift = by_channel(d.scale, d), by_channel(d.shift, d)

    def run() -> Tensor:
        torch.lerp(d.baselines, d.inputs, alphas, out=out)
        d.out.mul_(scale).add_(shift)
        return d.out

    return run


def points_by_mul(d: Data) -> Callable[[], Tensor]:
    """What lerp is for zero baselines."""
    alphas, out = by_step(d.alphas, d), d.out.unflatten(0, (d.steps, d.batch))

    def run() -> Tensor:
        torch.mul(d.inputs, alphas, out=out)
        return d.out

    return run


def points_compiled(d: Data) -> Callable[[], Tensor]:
    """torch.compile of the whole expression, writing into the buffer."""
    alphas, out = by_step(d.alphas, d), d.out.unflatten(0, (d.steps, d.batch))
    scale = None if d.scale is None else by_channel(d.scale, d)
    shift = None if d.shift is None else by_channel(d.shift, d)

    def expression(start: Tensor, end: Tensor, alphas: Tensor, out: Tensor) -> None:
        points = start + alphas * (end - start)
        out.copy_(points if scale is None else points * scale + shift)

    compiled = _compiled(expression)

    def run() -> Tensor:
        compiled(d.baselines, d.inputs, alphas, out)
        return d.out

    return run


def points_by_captum(d: Data) -> Callable[[], Tensor]:
    """captum's expression: a fresh tensor, concatenated from one piece a step."""
    alphas = d.alphas.tolist()

    def run() -> Tensor:
        return torch.cat(
            [d.baselines + alpha * (d.inputs - d.baselines) for alpha in alphas], dim=0
        )

    return run


def sum_of_ours(d: Data) -> Callable[[], Tensor]:
    return lambda: ops.path_accumulate(d.grads, d.weights, d.inputs, d.baselines)


def sum_by_matvec(d: Data) -> Callable[[], Tensor]:
    grads, shaped = rows(d.grads).reshape(d.steps, -1), rows(d.inputs).shape
    weights = d.weights.to(d.grads.dtype)

    def run() -> Tensor:
        total = (weights @ grads).view(shaped)
        return _like(d, total * (rows(d.inputs) - rows(d.baselines)))

    return run


def sum_by_einsum(d: Data) -> Callable[[], Tensor]:
    grads = rows(d.grads).unflatten(0, (d.steps, d.batch))
    weights = d.weights.to(d.grads.dtype)

    def run() -> Tensor:
        total = torch.einsum("s,s...->...", weights, grads)
        return _like(d, total * (rows(d.inputs) - rows(d.baselines)))

    return run


def sum_compiled(d: Data) -> Callable[[], Tensor]:
    weights, grads = by_step(d.weights, d), d.grads.unflatten(0, (d.steps, d.batch))

    def expression(grads: Tensor, weights: Tensor, end: Tensor, start: Tensor) -> Tensor:
        return (grads * weights).sum(0) * (end - start)

    compiled = _compiled(expression)
    return lambda: compiled(grads, weights, d.inputs, d.baselines)


def sum_by_captum(d: Data) -> Callable[[], Tensor]:
    """captum's expression: scaled gradients of all steps, then their sum."""
    weights = d.weights.tolist()

    def run() -> Tensor:
        scaled = d.grads.contiguous().view(d.steps, -1) * torch.tensor(weights).float().view(
            d.steps, 1
        )
        total = torch.sum(scaled.reshape(d.steps, d.batch, *d.grads.shape[1:]), dim=0)
        return total * (d.inputs - d.baselines)

    return run


def total_of_ours(d: Data) -> Callable[[], Tensor]:
    return lambda: ops.path_accumulate(d.grads, d.weights, total=d.total)


def total_by_addmv(d: Data) -> Callable[[], Tensor]:
    """A running sum in float32 (ours is float64), as a matrix-vector product that adds."""
    grads = rows(d.grads).reshape(d.steps, -1).T
    weights = d.weights.to(d.grads.dtype)
    total = torch.zeros(grads.shape[0], dtype=d.grads.dtype)
    shaped = rows(d.inputs).shape

    def run() -> Tensor:
        return _like(d, total.addmv_(grads, weights).view(shaped))

    return run


def _like(d: Data, result: Tensor) -> Tensor:
    return result if d.inputs.is_contiguous() else result.permute(0, 3, 1, 2)


def _compiled(expression: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(expression, dynamic=False)


OURS = {"points": points_of_ours, "sum": sum_of_ours, "total": total_of_ours}
RIVALS: dict[str, dict[str, Contender]] = {
    "points": {
        "torch.lerp": points_by_lerp,
        "torch.lerp, by step": points_by_lerp_steps,
        "torch.lerp, mul_, add_": points_by_lerp_in_place,
        "torch.mul": points_by_mul,
        "torch.compile": points_compiled,
        "captum's": points_by_captum,
    },
    "sum": {
        "torch matvec": sum_by_matvec,
        "torch.einsum": sum_by_einsum,
        "torch.compile": sum_compiled,
        "captum's": sum_by_captum,
    },
    "total": {"torch.addmv_": total_by_addmv},
}


def rivals(setting: Setting) -> list[str]:
    names = list(RIVALS[setting.op])
    compiled = setting.dtype == "float32" and setting.threads == 2
    compiled = compiled and setting.case == "imagenet_224" and setting.baselines == "tensor"
    drop = set() if compiled else {"torch.compile"}
    if setting.affine:
        drop.add("captum's")  # normalises nothing
    else:
        drop.add("torch.lerp, mul_, add_")
    if setting.baselines == "zero":
        drop |= {"torch.lerp", "torch.lerp, by step"}
    else:
        drop.add("torch.mul")
    if setting.dtype != "float32":
        drop.add("captum's")
    return [name for name in names if name not in drop]


def settings() -> Iterator[Setting]:
    for case in LARGE:
        # One channel has one layout.
        images = len(case.features) == 3 and case.features[0] > 1
        for layout in FORMATS if images else ("contiguous",):
            for threads in (1, 2):
                for affine in (False, True):
                    yield Setting("points", case.name, layout, affine=affine, threads=threads)
                yield Setting("sum", case.name, layout, threads=threads)
                yield Setting("total", case.name, layout, threads=threads)
    for name in FEW:
        for threads in (1, 2):
            yield Setting("points", name, baselines="zero", threads=threads)
        for dtype in ("bfloat16", "float16"):
            yield Setting("points", name, dtype=dtype, threads=2)
            yield Setting("sum", name, dtype=dtype, threads=2)


def contenders() -> Iterator[Any]:
    """(setting, name) of every row; the rows of a group follow each other."""
    levels = ops.available_cpu_isas()
    for setting in settings():
        names = ["native"] if levels else []
        if setting.threads == 1 and setting.dtype == "float32":
            names += [f"native {level}" for level in levels[:-1]]
        if setting.op != "total" and setting.threads == 2:
            names.append("reference")
        for name in names + rivals(setting):
            yield pytest.param(setting, name, id=f"{setting.group}-{name}")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Ours, run as the contender's name says."""
    best = ops.cpu_isa()
    if name.startswith("native "):
        ops.set_cpu_isa(name.removeprefix("native "))
    try:
        with ops.native_kernels(name != "reference"):
            yield
    finally:
        if best is not None:
            ops.set_cpu_isa(best)


@functools.lru_cache(maxsize=1)
def expected(setting: Setting) -> Tensor:
    """The reference's result; a copy, since the buffers are every contender's."""
    d = data(setting)
    d.total.zero_()
    with ops.native_kernels(False):
        return OURS[setting.op](d)().clone()


def check(setting: Setting, name: str, d: Data, run: Callable[[], Tensor]) -> None:
    """Compares a contender with the reference before it is timed."""
    truth = expected(setting)
    d.total.zero_()
    result = run()
    if name.startswith("native") or name == "reference":
        assert torch.equal(result, truth), f"{name} differs from the reference"
        return
    error = (result - truth).abs().max() / truth.abs().max()
    assert error <= TOLERANCE[setting.dtype], f"{name} is off by {error:.1e}"


@pytest.mark.parametrize(("setting", "name"), list(contenders()))
def test_path_op(benchmark: Any, setting: Setting, name: str) -> None:
    torch.set_num_threads(setting.threads)
    d = data(setting)
    benchmark.group = setting.group
    benchmark.extra_info.update(asdict(setting), contender=name)
    with torch.no_grad(), backend(name):
        ours = name.startswith("native") or name == "reference"
        make = OURS[setting.op] if ours else RIVALS[setting.op][name]
        run = make(d)
        try:
            check(setting, name, d, run)
        except torch._dynamo.exc.TorchDynamoException as error:
            pytest.skip(f"torch.compile does not work here: {error}")
        benchmark(run)

"""The path ops against the best plain PyTorch and captum's expression."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from contest import (
    DTYPES,
    FORMATS,
    Op,
    Rival,
    Setting,
    compiled,
    compiled_in,
    layouts,
    nbytes,
    over_threads,
)
from path_cases import LARGE
from torch import Tensor

from pyxai_fast import ops

# For a GPU: 800 points of 600 kB.
MANY = replace(LARGE[-1], name="imagenet_224_many", steps=50, batch=16)
CASES = {case.name: case for case in (*LARGE, MANY)}
# Cases that also run with zero baselines and in half precision.
FEW = ("digits_28", "imagenet_224")
AFFINE, ZERO = "affine", "zero baselines"


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
def tensors(case: str, dtype: str, layout: str, device: str) -> dict[str, Tensor]:
    made = CASES[case].tensors(DTYPES[dtype], FORMATS[layout], device)
    made["out"] = torch.empty_like(made["grads"])
    made["total"] = torch.zeros_like(made["inputs"], dtype=torch.float64)
    return made


def data(setting: Setting) -> Data:
    made = dict(tensors(setting.case, setting.dtype, setting.layout, setting.device))
    if setting.variant == ZERO:
        made["baselines"] = torch.zeros((), dtype=made["inputs"].dtype, device=setting.device)
    case = CASES[setting.case]
    channels, affine = case.features[0], setting.variant == AFFINE
    return Data(
        case.steps,
        case.batch,
        **made,
        scale=torch.linspace(4.0, 5.0, channels, device=setting.device) if affine else None,
        shift=torch.linspace(-2.0, -1.5, channels, device=setting.device) if affine else None,
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

    fused = compiled(expression)

    def run() -> Tensor:
        fused(d.baselines, d.inputs, alphas, out)
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

    fused = compiled(expression)
    return lambda: fused(grads, weights, d.inputs, d.baselines)


def sum_by_captum(d: Data) -> Callable[[], Tensor]:
    """captum's expression: scaled gradients of all steps, then their sum."""
    weights = d.weights.tolist()

    def run() -> Tensor:
        scaled = d.grads.contiguous().view(d.steps, -1) * torch.tensor(
            weights, device=d.grads.device
        ).float().view(d.steps, 1)
        total = torch.sum(scaled.reshape(d.steps, d.batch, *d.grads.shape[1:]), dim=0)
        return total * (d.inputs - d.baselines)

    return run


def total_of_ours(d: Data) -> Callable[[], Tensor]:
    return lambda: ops.path_accumulate(d.grads, d.weights, total=d.total)


def total_by_addmv(d: Data) -> Callable[[], Tensor]:
    """A running sum in float32 (ours is float64), as a matrix-vector product that adds."""
    grads = rows(d.grads).reshape(d.steps, -1).T
    weights = d.weights.to(d.grads.dtype)
    total = torch.zeros(grads.shape[0], dtype=d.grads.dtype, device=d.grads.device)
    shaped = rows(d.inputs).shape

    def run() -> Tensor:
        return _like(d, total.addmv_(grads, weights).view(shaped))

    return run


def _like(d: Data, result: Tensor) -> Tensor:
    return result if d.inputs.is_contiguous() else result.permute(0, 3, 1, 2)


# --- settings ------------------------------------------------------------------------------------


def settings(op: str, variants: tuple[str, ...] = ("",), few: bool = True) -> Iterator[Setting]:
    for case in LARGE:
        for layout in layouts(case.features):
            for variant in variants:
                yield from over_threads(Setting(op, case.name, variant, layout))
    for name in FEW if few else ():
        if AFFINE in variants:
            yield from over_threads(Setting(op, name, ZERO))
        for dtype in ("bfloat16", "float16"):
            yield Setting(op, name, dtype=dtype, threads=2)


def large(op: str, *variants: str) -> list[Setting]:
    return [
        Setting(op, MANY.name, variant, layout, threads=2)
        for variant in ("", *variants)
        for layout in FORMATS
    ]


def zero(setting: Setting) -> bool:
    return setting.variant == ZERO


def not_zero(setting: Setting) -> bool:
    return not zero(setting)


def as_captum(setting: Setting) -> bool:
    """captum normalises nothing."""
    return setting.variant != AFFINE and setting.dtype == "float32"


def compiles(setting: Setting) -> bool:
    return not_zero(setting) and compiled_in("imagenet_224", large=MANY.name)(setting)


OPS = [
    Op(
        "path",
        "path_points",
        "Points of the paths, written into a reused buffer. With an affine map, `torch.lerp` gets "
        "ends that are normalised first. captum's expression makes a fresh tensor each time.",
        data,
        points_of_ours,
        {
            "torch.lerp": Rival(points_by_lerp, when=not_zero),
            "torch.lerp, by step": Rival(points_by_lerp_steps, when=not_zero),
            "torch.lerp, mul_, add_": Rival(
                points_by_lerp_in_place, when=lambda setting: setting.variant == AFFINE
            ),
            "torch.mul": Rival(points_by_mul, when=zero),
            "torch.compile": Rival(points_compiled, "compile", compiles),
            "captum's": Rival(points_by_captum, "peer", as_captum),
        },
        list(settings("path_points", ("", AFFINE))),
        moved=lambda d: nbytes(d.inputs, d.baselines, d.out),
        large=large("path_points", AFFINE),
    ),
    Op(
        "path",
        "path_accumulate",
        "Gradients contracted to attributions. Ours adds in float64, rivals in their type.",
        data,
        sum_of_ours,
        {
            "torch matvec": Rival(sum_by_matvec),
            "torch.einsum": Rival(sum_by_einsum),
            "torch.compile": Rival(sum_compiled, "compile", compiles),
            "captum's": Rival(sum_by_captum, "peer", as_captum),
        },
        list(settings("path_accumulate")),
        moved=lambda d: nbytes(d.grads, d.inputs, d.baselines, d.inputs),
        large=large("path_accumulate"),
    ),
    Op(
        "path",
        "path_accumulate(total)",
        "A chunk added to a running sum: the form that the loop over chunks calls. Ours keeps the "
        "sum in float64, which is twice the rival's traffic for it: the price of attributions that "
        "do not depend on the chunks.",
        data,
        total_of_ours,
        {"torch.addmv_": Rival(total_by_addmv)},
        list(settings("path_accumulate(total)", few=False)),
        moved=lambda d: nbytes(d.grads, d.total, d.total),
        reset=lambda d: d.total.zero_(),
        large=large("path_accumulate(total)"),
    ),
]

"""The ascend op against eager PyTorch and torch.compile."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from ascend_cases import LARGE
from contest import (
    DTYPES,
    FORMATS,
    Op,
    Result,
    Rival,
    Setting,
    compiled,
    compiled_in,
    layouts,
    nbytes,
    over_threads,
)
from torch import Tensor

from pyxai_fast import ops

IMAGE = "imagenet_224"
# For a GPU: 408 points of 600 kB.
MANY = replace(LARGE[-1], name="imagenet_224_many", batch=8)
CASES = {case.name: case for case in (*LARGE, MANY)}
ABSOLUTE = "absolute"


@dataclass(frozen=True)
class Data:
    """The tensors of a setting; `points` and `best` are moved by every contender."""

    points: Tensor
    start: Tensor
    grads: Tensor
    sizes: Tensor
    best: Tensor
    absolute: bool

    @property
    def steps(self) -> int:
        return self.sizes.shape[0]

    def by_step(self, rows: Tensor) -> Tensor:
        """[S, B, ...]"""
        return rows.unflatten(0, (self.steps, -1))

    @property
    def each(self) -> Tensor:
        """The step sizes, shaped to multiply points by step."""
        sizes = self.sizes.to(self.points.dtype)
        return sizes.view(*sizes.shape, *[1] * (self.points.dim() - 1))


@functools.lru_cache(maxsize=1)
def data(setting: Setting) -> Data:
    made = CASES[setting.case].tensors(
        DTYPES[setting.dtype], FORMATS[setting.layout], setting.device
    )
    names = ("grads", "step_sizes", "best")
    absolute = setting.variant == ABSOLUTE
    # Steps of almost nothing: points stay in range however often they are moved.
    made["step_sizes"] *= 1e-6
    return Data(made["points"].clone(), made["points"], *(made[name] for name in names), absolute)


def reset(d: Data) -> None:
    d.points.copy_(d.start)
    d.best.fill_(0.0 if d.absolute else -torch.inf)


# --- contenders: each takes the data and returns what is timed -----------------------------------


def ascend_of_ours(d: Data) -> Callable[[], Result]:
    def run() -> Result:
        ops.ascend_max(d.points, d.grads, d.sizes, d.best, absolute=d.absolute)
        return d.points, d.best

    return run


def greatest(grads: Tensor, absolute: bool) -> Tensor:
    """[B, ...] of [S, B, ...]"""
    if not absolute:
        return grads.amax(0)
    low, high = torch.aminmax(grads, dim=0)
    return torch.where(-low > high, low, high)


def keep_better(best: Tensor, found: Tensor, absolute: bool) -> None:
    if absolute:
        best.copy_(torch.where(found.abs() > best.abs(), found, best))
    else:
        torch.maximum(best, found, out=best)


def ascend_in_place(d: Data) -> Callable[[], Result]:
    sizes = d.each

    def run() -> Result:
        grads = d.by_step(d.grads)
        keep_better(d.best, greatest(grads, d.absolute).to(d.best.dtype), d.absolute)
        d.by_step(d.points).addcmul_(grads, sizes)
        return d.points, d.best

    return run


def ascend_by_step(d: Data) -> Callable[[], Result]:
    """Step by step: gradients are read once from memory, and once from a cache."""
    sizes = d.each

    def run() -> Result:
        for points, grads, size in zip(d.by_step(d.points), d.by_step(d.grads), sizes, strict=True):
            keep_better(d.best, grads.to(d.best.dtype), d.absolute)
            points.addcmul_(grads, size)
        return d.points, d.best

    return run


def ascend_compiled(d: Data) -> Callable[[], Result]:
    absolute = d.absolute

    def expression(points: Tensor, grads: Tensor, sizes: Tensor, best: Tensor) -> None:
        if absolute:
            low, high = grads.amin(0), grads.amax(0)
            found = torch.where(-low > high, low, high)
            best.copy_(torch.where(found.abs() > best.abs(), found, best))
        else:
            best.copy_(torch.maximum(best, grads.amax(0)))
        points.add_(sizes * grads)

    fused, sizes = compiled(expression), d.each

    def run() -> Result:
        fused(d.by_step(d.points), d.by_step(d.grads), sizes, d.best)
        return d.points, d.best

    return run


def settings() -> Iterator[Setting]:
    for case in LARGE:
        for layout in layouts(case.features):
            yield from over_threads(Setting("ascend_max", case.name, layout=layout))
    yield from over_threads(Setting("ascend_max", IMAGE, ABSOLUTE))
    yield Setting("ascend_max", IMAGE, dtype="bfloat16", threads=2)


OPS = [
    Op(
        "ascend",
        "ascend_max",
        "Points moved along their gradients, and the greatest gradient kept, in place.",
        data,
        ascend_of_ours,
        {
            "amax, maximum, addcmul_": Rival(ascend_in_place),
            "maximum, addcmul_, by step": Rival(ascend_by_step),
            "torch.compile": Rival(ascend_compiled, "compile", compiled_in(IMAGE, large=MANY.name)),
        },
        list(settings()),
        moved=lambda d: nbytes(d.points, d.grads, d.points, d.best, d.best),
        reset=reset,
        large=[Setting("ascend_max", MANY.name, layout=layout, threads=2) for layout in FORMATS],
    ),
]

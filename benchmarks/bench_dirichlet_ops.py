"""The dirichlet ops against stick-breaking and gamma increments, written out in PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from contest import DTYPES, FORMATS, Op, Rival, Setting, compiled, compiled_in, nbytes, over_threads
from dirichlet_cases import LARGE, DirichletCase
from torch import Tensor

from pyxai_fast import ops

CONCENTRATION = 10.0
# What is left of the stick is broken off last; 1e-4 of it is left on average.
STICKS = 100
IMAGE = "imagenet_224"
TABLE = DirichletCase("table_20", 50, 1, 256, (20,))
DIGITS = DirichletCase("digits_28", 50, 1, 8, (1, 28, 28))
BATCH = replace(LARGE[0], name="cifar_32_batch", batch=32)
# For a GPU: 400 points of 600 kB.
MANY = replace(LARGE[1], name="imagenet_224_many", batch=8)
CASES = {case.name: case for case in (TABLE, DIGITS, *LARGE, BATCH, MANY)}
PIXEL = "per pixel"
# Of 50 steps ours are one or two cells of 64 long, and the rivals' equally long: 1 % in the
# standard deviation of a contraction, whose tails are heavy besides.
LAW = 0.03


@dataclass(frozen=True)
class Data:
    """The tensors of a setting; `out` and `total` are written by every contender."""

    steps: int
    inputs: Tensor
    baselines: Tensor
    grads: Tensor
    key: Tensor
    per: str
    out: Tensor
    total: Tensor

    @property
    def path(self) -> dict[str, float | int | str]:
        return {"concentration": CONCENTRATION, "n_steps": self.steps, "per": self.per}

    @property
    def by_step(self) -> Tensor:
        """The buffer as [T, B, ...]."""
        return self.out.unflatten(0, (self.steps, -1))


@functools.lru_cache(maxsize=1)
def data(setting: Setting) -> Data:
    case = CASES[setting.case]
    made = case.tensors(DTYPES[setting.dtype], FORMATS[setting.layout], setting.device)
    return Data(
        case.n_steps,
        *(made[name] for name in ("inputs", "baselines", "grads", "key")),
        "pixel" if setting.variant == PIXEL else "feature",
        torch.empty_like(made["grads"]),
        torch.zeros_like(made["inputs"], dtype=torch.float64),
    )


# --- increments of paths, [T, B, ...], by the rivals ---------------------------------------------


def increments_by_sticks(d: Data) -> Tensor:
    """The construction of the literature: sticks are broken off, and each falls into a step."""
    shape = (STICKS, *d.inputs.shape)
    broken = 1 - torch.rand(shape, device=d.inputs.device).pow_(1 / CONCENTRATION)
    broken[-1] = 1.0  # the last takes the rest
    weights = broken.clone()
    weights[1:] *= torch.cumprod(1 - broken, 0)[:-1]
    steps = torch.randint(d.steps, shape, device=d.inputs.device)
    return torch.zeros(d.steps, *d.inputs.shape, device=d.inputs.device).scatter_add_(
        0, steps, weights
    )


def increments_by_sticks_in_turn(d: Data) -> Tensor:
    """The same stick by stick, with memory for the steps alone."""
    total = torch.zeros(d.steps, *d.inputs.shape, device=d.inputs.device)
    left = torch.ones_like(total[:1])
    for stick in range(STICKS):
        kept = torch.rand_like(left).pow_(1 / CONCENTRATION)
        if stick == STICKS - 1:
            kept.zero_()
        steps = torch.randint(d.steps, left.shape, device=left.device)
        total.scatter_add_(0, steps, left * (1 - kept))
        left *= kept
    return total


def increments_by_gammas(d: Data) -> Tensor:
    """Increments of equal steps are a Dirichlet distribution: gamma variables over their sum."""
    shapes = torch.full_like(d.by_step, CONCENTRATION / d.steps, dtype=torch.float32)
    gammas = torch._standard_gamma(shapes)
    return gammas.div_(gammas.sum(0))


Increments = Callable[[Data], Tensor]


# --- contenders: each takes the data and returns what is timed -----------------------------------


def points_of_ours(d: Data) -> Callable[[], Tensor]:
    return lambda: ops.dirichlet_points(d.inputs, d.baselines, d.key, out=d.out, **d.path)


def points_by(increments: Increments) -> Callable[[Data], Callable[[], Tensor]]:
    def make(d: Data) -> Callable[[], Tensor]:
        def run() -> Tensor:
            steps = increments(d)
            at = steps.cumsum(0).sub_(steps, alpha=0.5)
            torch.addcmul(d.baselines, at, d.inputs - d.baselines, out=d.by_step)
            return d.out

        return run

    return make


def points_compiled(d: Data) -> Callable[[], Tensor]:
    """Sticks in turn: the step that each falls into is drawn, and compared with every step."""

    def expression(inputs: Tensor, baselines: Tensor, grads: Tensor) -> Tensor:
        broken = 1 - torch.rand(STICKS, *inputs.shape, device=inputs.device) ** (1 / CONCENTRATION)
        weights = broken.clone()
        weights[1:] *= torch.cumprod(1 - broken, 0)[:-1]
        steps = torch.randint(d.steps, weights.shape, device=inputs.device)
        zeros = torch.zeros(d.steps, *inputs.shape, device=inputs.device)
        increments = zeros.scatter_add(0, steps, weights)
        at = increments.cumsum(0) - 0.5 * increments
        return baselines + at * (inputs - baselines)

    fused = compiled(expression)
    return lambda: fused(d.inputs, d.baselines, d.grads).flatten(0, 1)


def sum_of_ours(d: Data) -> Callable[[], Tensor]:
    def run() -> Tensor:
        return ops.dirichlet_accumulate(
            d.grads, d.key, inputs=d.inputs, baselines=d.baselines, **d.path
        )

    return run


def sum_by(increments: Increments) -> Callable[[Data], Callable[[], Tensor]]:
    def make(d: Data) -> Callable[[], Tensor]:
        grads = d.grads.unflatten(0, (d.steps, -1))

        def run() -> Tensor:
            total = torch.linalg.vecdot(grads.float(), increments(d), dim=0)
            return total * (d.inputs - d.baselines)

        return run

    return make


def points_and_sum_of_ours(d: Data) -> Callable[[], Tensor]:
    points, accumulate = points_of_ours(d), sum_of_ours(d)

    def run() -> Tensor:
        points()
        return accumulate()

    return run


def points_and_sum_by(increments: Increments) -> Callable[[Data], Callable[[], Tensor]]:
    """Increments are kept from the points until the gradients are there."""

    def make(d: Data) -> Callable[[], Tensor]:
        grads = d.grads.unflatten(0, (d.steps, -1))

        def run() -> Tensor:
            steps = increments(d)
            at = steps.cumsum(0).sub_(steps, alpha=0.5)
            torch.addcmul(d.baselines, at, d.inputs - d.baselines, out=d.by_step)
            return torch.linalg.vecdot(grads.float(), steps, dim=0) * (d.inputs - d.baselines)

        return run

    return make


# --- settings ------------------------------------------------------------------------------------


def settings(op: str) -> Iterator[Setting]:
    for name in (TABLE.name, DIGITS.name, "cifar_32", BATCH.name, IMAGE):
        yield from over_threads(Setting(op, name))
    if op == "dirichlet_points":
        yield from over_threads(Setting(op, "imagenet_224_steps_64"), Setting(op, IMAGE, PIXEL))
    if op == "dirichlet_accumulate":
        yield from over_threads(Setting(op, IMAGE, layout="channels_last"))


def meets_rivals(setting: Setting) -> bool:
    """Seconds of sticks in images are spent on the points, and on both together."""
    usual = setting.variant == "" and setting.layout == "contiguous"
    if not setting.case.startswith(IMAGE):
        return usual
    points = setting.op == "dirichlet_points" and setting.threads == 2
    return usual and setting.case == IMAGE and (points or setting.op == BOTH)


BOTH = "points and accumulate"
NAMES: dict[str, Increments] = {
    "sticks, scattered": increments_by_sticks,
    "sticks in turn": increments_by_sticks_in_turn,
    "gamma increments": increments_by_gammas,
}


def rivals(
    make: Callable[[Increments], Callable[[Data], Callable[[], Tensor]]],
) -> dict[str, Rival]:
    return {
        name: Rival(make(increments), when=meets_rivals, draws=True)
        for name, increments in NAMES.items()
    }


OPS = [
    Op(
        "dirichlet",
        "dirichlet_points",
        f"Points of stick-breaking paths of concentration {CONCENTRATION:.0f}, written into a "
        f"reused buffer. Rivals break {STICKS} sticks, or draw gamma variables.",
        data,
        points_of_ours,
        {
            **rivals(points_by),
            "torch.compile, sticks": Rival(
                points_compiled, "compile", compiled_in("cifar_32", large=MANY.name), draws=True
            ),
        },
        list(settings("dirichlet_points")),
        moved=lambda d: nbytes(d.inputs, d.baselines, d.out),
        memory_bound=lambda setting: False,
        law=LAW,
        large=[Setting("dirichlet_points", MANY.name, threads=2)],
    ),
    Op(
        "dirichlet",
        "dirichlet_accumulate",
        "Gradients contracted with the increments of the paths, which are drawn again. Rivals draw "
        "increments of their own.",
        data,
        sum_of_ours,
        rivals(sum_by),
        list(settings("dirichlet_accumulate")),
        moved=lambda d: nbytes(d.grads, d.inputs, d.baselines, d.inputs),
        memory_bound=lambda setting: False,
        law=LAW,
        large=[Setting("dirichlet_accumulate", MANY.name, threads=2)],
    ),
    Op(
        "dirichlet",
        BOTH,
        "What an explanation needs: the points, and then the contraction. Rivals draw increments "
        "once and keep them, ours draws them twice.",
        data,
        points_and_sum_of_ours,
        rivals(points_and_sum_by),
        list(settings(BOTH)),
        law=LAW,
        peak=lambda setting: 3 * 224 * 224 * (setting.case == IMAGE and setting.threads == 2),
        large=[Setting(BOTH, MANY.name, threads=2)],
    ),
]

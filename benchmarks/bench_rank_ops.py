"""The rank op against torch.where, and the loop of RISE's metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

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
from mask_cases import LARGE
from torch import Tensor

from pyxai_fast import ops

IMAGE, ONE = "imagenet_224", "imagenet_224_one"
# For a GPU: 800 images.
MANY = replace(LARGE[-1], name="imagenet_224_many", steps=100, batch=8)
CASES = {case.name: case for case in (*LARGE, MANY)}


@dataclass(frozen=True)
class Data:
    """The tensors of a setting; `out` is written by every contender."""

    inputs: Tensor
    base: Tensor
    order: Tensor
    ranks: Tensor
    steps: Tensor
    out: Tensor

    @property
    def by_step(self) -> Tensor:
        """The buffer as [S, B, ...]."""
        return self.out.unflatten(0, (len(self.steps), -1))


@functools.lru_cache(maxsize=1)
def data(setting: Setting) -> Data:
    case, device = CASES[setting.case], setting.device
    layout = FORMATS[setting.layout]
    made = case.tensors(DTYPES[setting.dtype], layout, device)
    shape = case.shared_shape(per_example=True)
    attributions = torch.rand(shape, generator=torch.Generator().manual_seed(3)).to(device)
    flat = attributions.flatten(1)
    steps = torch.arange(1, case.steps + 1, device=device) * flat.shape[1] // case.steps
    out = torch.empty(
        case.steps * case.batch, *case.features, dtype=made["inputs"].dtype, device=device
    )
    return Data(
        made["inputs"],
        made["fill"],
        flat.argsort(dim=1, descending=True, stable=True),
        ops.ranks_of(attributions),
        steps,
        out.contiguous(memory_format=layout) if out.dim() == 4 else out,
    )


# --- contenders: each takes the data and returns what is timed -----------------------------------


def masked_of_ours(d: Data) -> Callable[[], Tensor]:
    return lambda: ops.rank_mask(d.inputs, d.base, d.ranks, d.steps, out=d.out)


def masked_by_where(d: Data) -> Callable[[], Tensor]:
    """The expression of the literature, on ranks that are there already."""
    steps = d.steps.view(-1, *[1] * d.inputs.dim())
    return lambda: torch.where(d.ranks < steps, d.base, d.inputs).flatten(0, 1)


def masked_by_where_out(d: Data) -> Callable[[], Tensor]:
    steps = d.steps.to(d.ranks.dtype).view(-1, *[1] * d.inputs.dim())

    def run() -> Tensor:
        torch.where(d.ranks < steps, d.base, d.inputs, out=d.by_step)
        return d.out

    return run


def masked_by_where_steps(d: Data) -> Callable[[], Tensor]:
    """Step by step: a mask is small, and the inputs stay in cache."""
    steps = d.steps.tolist()

    def run() -> Tensor:
        for step, rows in zip(steps, d.by_step.unbind(), strict=True):
            torch.where(d.ranks < step, d.base, d.inputs, out=rows)
        return d.out

    return run


def masked_compiled(d: Data) -> Callable[[], Tensor]:
    steps = d.steps.view(-1, *[1] * d.inputs.dim())

    def expression(ranks: Tensor, steps: Tensor, base: Tensor, inputs: Tensor, out: Tensor) -> None:
        out.copy_(torch.where(ranks < steps, base, inputs))

    fused = compiled(expression)

    def run() -> Tensor:
        fused(d.ranks, steps, d.base, d.inputs, d.by_step)
        return d.out

    return run


def masked_by_rise(d: Data) -> Callable[[], Tensor]:
    """RISE's metric: each step's features are assigned into the images of the step before."""
    steps = [0, *d.steps.tolist()]

    def run() -> Tensor:
        start = d.inputs.contiguous().flatten(2) if d.inputs.dim() > 2 else d.inputs[:, None]
        base = d.base.contiguous().flatten(2) if d.inputs.dim() > 2 else d.base[:, None]
        now, images = start.clone(), []
        for step, following in pairwise(steps):
            chosen = d.order[:, None, step:following].expand(-1, now.shape[1], -1)
            now.scatter_(2, chosen, base.gather(2, chosen))
            images.append(now.clone())
        return torch.cat(images).view(d.out.shape)

    return run


def settings() -> Iterator[Setting]:
    for case in LARGE:
        for layout in layouts(case.features):
            yield from over_threads(Setting("rank_mask", case.name, layout=layout))
    yield from over_threads(Setting("rank_mask", ONE, dtype="bfloat16"))


OPS = [
    Op(
        "rank",
        "rank_mask",
        "Images of insertion and deletion, written into a reused buffer. All but RISE's loop start "
        "from ranks.",
        data,
        masked_of_ours,
        {
            "torch.where": Rival(masked_by_where),
            "torch.where(out=)": Rival(masked_by_where_out),
            "torch.where(out=), by step": Rival(masked_by_where_steps),
            "torch.compile": Rival(
                masked_compiled, "compile", compiled_in(IMAGE, ONE, large=MANY.name)
            ),
            "RISE's loop": Rival(
                masked_by_rise, "peer", lambda setting: setting.dtype == "float32"
            ),
        },
        list(settings()),
        moved=lambda d: nbytes(d.inputs, d.base, d.ranks, d.out),
        large=[Setting("rank_mask", MANY.name, layout=layout, threads=2) for layout in FORMATS],
    ),
]

"""The mask ops against torch.where with gathered masks, and the loops of LIME, captum and RISE."""

from __future__ import annotations

import functools
import math
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
from mask_cases import LARGE, MaskCase
from torch import Tensor

from pyxai_fast import ops

IMAGE, ONE = "imagenet_224", "imagenet_224_one"
# For a GPU: 800 images.
MANY = replace(LARGE[-1], name="imagenet_224_many", steps=100, batch=8)
CASES = {case.name: case for case in (*LARGE, MANY)}
AFFINE = "affine"


@dataclass(frozen=True)
class Data:
    """The tensors of a setting; `out` is written by every contender."""

    steps: int
    inputs: Tensor
    segments: Tensor
    fill: Tensor
    kept: Tensor
    coalitions: Tensor
    masks: Tensor
    scale: Tensor | None
    shift: Tensor | None
    out: Tensor
    halves: Tensor

    @property
    def by_step(self) -> Tensor:
        """The buffer as [S, B, ...]."""
        return self.out.unflatten(0, (self.steps, -1))


def grid_of_segments(case: MaskCase) -> Tensor:
    """[1, 1, H, W]: tiles of an image, as a regular superpixel segmentation; or the features."""
    if len(case.features) < 3:
        return torch.arange(case.features[0], dtype=torch.int32)[None] % case.n_segments
    side = math.isqrt(case.n_segments)
    rows, columns = (torch.arange(size) * side // size for size in case.features[1:])
    return (rows[:, None] * side + columns).to(torch.int32)[None, None]


@functools.lru_cache(maxsize=1)
def data(setting: Setting) -> Data:
    case, device = CASES[setting.case], setting.device
    layout = FORMATS[setting.layout]
    made = case.tensors(DTYPES[setting.dtype], layout, device)
    inputs, kept = made["inputs"], made["kept"]
    out = torch.empty(case.steps * case.batch, *case.features, dtype=inputs.dtype, device=device)
    halves = torch.empty(2 * case.batch, *case.features, dtype=inputs.dtype, device=device)
    if inputs.dim() == 4:
        out, halves = (x.contiguous(memory_format=layout) for x in (out, halves))
    affine = setting.variant == AFFINE
    channels = case.features[0]
    return Data(
        case.steps,
        inputs,
        grid_of_segments(case).to(device),
        made["fill"][:1],
        kept,
        ops.pack_coalitions(kept),
        made["masks"],
        torch.linspace(4.0, 5.0, channels, device=device) if affine else None,
        torch.linspace(-2.0, -1.5, channels, device=device) if affine else None,
        out,
        halves,
    )


def by_channel(values: Tensor, d: Data) -> Tensor:
    """[C] shaped to multiply [B, C, ...]."""
    return values.to(d.inputs.dtype).reshape(-1, *[1] * (d.inputs.dim() - 2))


def ends(d: Data) -> tuple[Tensor, Tensor]:
    """Inputs and fill, normalised before the choice, which is less work than after it."""
    if d.scale is None or d.shift is None:
        return d.inputs, d.fill
    scale, shift = by_channel(d.scale, d), by_channel(d.shift, d)
    return torch.addcmul(shift, d.inputs, scale), torch.addcmul(shift, d.fill, scale)


# --- contenders of mask_segments: each takes the data and returns what is timed ------------------


def segments_of_ours(d: Data) -> Callable[[], Tensor]:
    return lambda: ops.mask_segments(
        d.inputs, d.segments, d.coalitions, d.fill, scale=d.scale, shift=d.shift, out=d.out
    )


def segments_by_where(d: Data) -> Callable[[], Tensor]:
    """The expression of the literature: a mask is gathered, and everything is new."""
    columns = d.segments.long()

    def run() -> Tensor:
        return torch.where(d.kept[:, columns], *ends(d)).flatten(0, 1)

    return run


def segments_by_where_out(d: Data) -> Callable[[], Tensor]:
    columns = d.segments.long()

    def run() -> Tensor:
        torch.where(d.kept[:, columns], *ends(d), out=d.by_step)
        return d.out

    return run


def segments_by_where_steps(d: Data) -> Callable[[], Tensor]:
    """Coalition by coalition: a mask is small, and the inputs stay in cache."""
    columns = d.segments.long()

    def run() -> Tensor:
        start, fill = ends(d)
        for kept, rows in zip(d.kept.unbind(), d.by_step.unbind(), strict=True):
            torch.where(kept[columns], start, fill, out=rows)
        return d.out

    return run


def segments_by_index(d: Data) -> Callable[[], Tensor]:
    """index_select of float masks, then lerp from the fill to the inputs, which is exact at 0; at 1
    it is exact too."""
    columns = d.segments.long().flatten()
    kept = d.kept.to(d.inputs.dtype)

    def run() -> Tensor:
        start, fill = ends(d)
        masks = kept.index_select(1, columns).view(d.steps, *d.segments.shape)
        torch.lerp(fill, start, masks, out=d.by_step)
        return d.out

    return run


def segments_compiled(d: Data) -> Callable[[], Tensor]:
    columns = d.segments.long()

    def expression(kept: Tensor, columns: Tensor, start: Tensor, fill: Tensor, out: Tensor) -> None:
        out.copy_(torch.where(kept[:, columns], start, fill))

    fused = compiled(expression)

    def run() -> Tensor:
        fused(d.kept, columns, *ends(d), d.by_step)
        return d.out

    return run


def segments_by_lime(d: Data) -> Callable[[], Tensor]:
    """LIME's: for every coalition of every input a copy, a mask grown segment by segment, and an
    assignment."""
    removed = [(~kept).nonzero().flatten().tolist() for kept in d.kept.cpu()]

    def run() -> Tensor:
        images = []
        for absent in removed:
            for image in d.inputs:
                masked = image.clone()
                mask = torch.zeros_like(d.segments[0], dtype=torch.bool)
                for segment in absent:
                    mask |= d.segments[0] == segment
                masked = torch.where(mask, d.fill[0], masked)
                images.append(masked)
        return torch.stack(images)

    return run


def segments_by_captum(d: Data) -> Callable[[], Tensor]:
    """captum's Lime and KernelShap: a row at a time, products with the mask and its complement."""
    columns = d.segments.long()

    def run() -> Tensor:
        images = []
        for kept in d.kept.unbind():
            mask = kept[columns].to(d.inputs.dtype)
            images.append(d.inputs * mask + (1 - mask) * d.fill)
        return torch.cat(images)

    return run


# --- contenders of mask_blend --------------------------------------------------------------------


def blend_of_ours(d: Data) -> Callable[[], Tensor]:
    halves = d.halves.unflatten(0, (2, -1))
    return lambda: ops.mask_blend(d.inputs, d.masks, out=halves)


def blend_by_products(d: Data) -> Callable[[], Tensor]:
    """The expression of the literature."""
    return lambda: torch.stack([d.inputs * d.masks, d.inputs * (1 - d.masks)])


def blend_by_out(d: Data) -> Callable[[], Tensor]:
    halves = d.halves.unflatten(0, (2, -1))

    def run() -> Tensor:
        torch.mul(d.inputs, d.masks, out=halves[0])
        torch.mul(d.inputs, 1 - d.masks, out=halves[1])
        return halves

    return run


def blend_by_difference(d: Data) -> Callable[[], Tensor]:
    halves = d.halves.unflatten(0, (2, -1))

    def run() -> Tensor:
        torch.mul(d.inputs, d.masks, out=halves[0])
        torch.sub(d.inputs, halves[0], out=halves[1])
        return halves

    return run


def blend_compiled(d: Data) -> Callable[[], Tensor]:
    halves = d.halves.unflatten(0, (2, -1))

    def expression(inputs: Tensor, masks: Tensor, out: Tensor) -> None:
        out[0].copy_(inputs * masks)
        out[1].copy_(inputs * (1 - masks))

    fused = compiled(expression)

    def run() -> Tensor:
        fused(d.inputs, d.masks, halves)
        return halves

    return run


# --- settings ------------------------------------------------------------------------------------


def segments_settings() -> Iterator[Setting]:
    for case in LARGE:
        for layout in layouts(case.features):
            yield from over_threads(Setting("mask_segments", case.name, layout=layout))
    yield from over_threads(
        Setting("mask_segments", IMAGE, AFFINE), Setting("mask_segments", ONE, dtype="bfloat16")
    )


def blend_settings() -> Iterator[Setting]:
    for case in LARGE:
        if case.name != ONE:
            for layout in layouts(case.features):
                yield from over_threads(Setting("mask_blend", case.name, layout=layout))


def large(op: str) -> list[Setting]:
    return [Setting(op, MANY.name, layout=layout, threads=2) for layout in FORMATS]


def plain(setting: Setting) -> bool:
    """Peers normalise nothing."""
    return setting.variant == "" and setting.dtype == "float32"


OPS = [
    Op(
        "mask",
        "mask_segments",
        "Segments kept or replaced, written into a reused buffer. Rivals gather masks from one "
        "bool for each segment. With an affine map they get inputs that are normalised first.",
        data,
        segments_of_ours,
        {
            "torch.where": Rival(segments_by_where),
            "torch.where(out=)": Rival(segments_by_where_out),
            "torch.where(out=), by coalition": Rival(segments_by_where_steps),
            "index_select, torch.lerp": Rival(segments_by_index),
            "torch.compile": Rival(
                segments_compiled, "compile", compiled_in(IMAGE, ONE, large=MANY.name)
            ),
            "LIME's loop": Rival(
                segments_by_lime,
                "peer",
                lambda setting: plain(setting) and setting.case in (ONE, "cifar_32"),
            ),
            "captum's": Rival(segments_by_captum, "peer", plain),
        },
        list(segments_settings()),
        moved=lambda d: nbytes(d.inputs, d.segments, d.fill, d.out),
        large=large("mask_segments"),
    ),
    Op(
        "mask",
        "mask_blend",
        "Inputs times a mask and times its complement, written into a reused buffer.",
        data,
        blend_of_ours,
        {
            "torch.stack of products": Rival(blend_by_products),
            "torch.mul(out=) twice": Rival(blend_by_out),
            "torch.mul, torch.sub": Rival(blend_by_difference),
            "torch.compile": Rival(blend_compiled, "compile", compiled_in(IMAGE, large=MANY.name)),
        },
        list(blend_settings()),
        moved=lambda d: nbytes(d.inputs, d.masks, d.halves),
        large=large("mask_blend"),
    ),
]

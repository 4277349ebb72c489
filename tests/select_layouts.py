"""What the tests of mask_segments and rank_mask share: arguments of any shape, stride and value."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from mask_cases import FLOATS
from torch import Tensor

ODD_VALUES = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-40, 6e-8, 1e5, -0.0])


def ids(values: tuple) -> list[str]:
    return [getattr(v, "name", str(v).removeprefix("torch.")) for v in values]


def affine_of(inputs: Tensor) -> tuple[Tensor, Tensor]:
    channels = inputs.shape[1]
    return (
        torch.linspace(0.5, 3.0, channels, device=inputs.device),
        torch.linspace(-1.0, 1.0, channels, device=inputs.device),
    )


def fitting(inputs: Tensor, memory_format: torch.memory_format) -> torch.memory_format:
    """The format where the inputs can have it, else contiguous."""
    fits = inputs.dim() == 4 or memory_format is not torch.channels_last
    return memory_format if fits else torch.contiguous_format


@st.composite
def layouts(draw: st.DrawFn, special: bool = False) -> dict:
    """inputs [B, ...] of any small shape and stride; `other` rows of every kind; whole `labels` of
    every kind, some negative; `steps` S; whether sets are `per_example`; a dtype and a format.

    With `special`, some values are NaN, infinite, subnormal or too large for a half.
    """
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple))
    dtype = draw(st.sampled_from(FLOATS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def values(size: tuple[int, ...]) -> Tensor:
        drawn = torch.randn(size, generator=generator)
        if special:
            chosen = ODD_VALUES[torch.randint(len(ODD_VALUES), size, generator=generator)]
            drawn = torch.where(torch.rand(size, generator=generator) < 0.3, chosen, drawn)
        return drawn.to(dtype)

    def whole(size: tuple[int, ...]) -> Tensor:
        drawn = torch.randint(-3, 70, size, generator=generator)
        return drawn if draw(st.booleans()) else drawn.to(torch.int32)

    def tensor(size: tuple[int, ...], make) -> Tensor:
        kind = draw(st.sampled_from(["plain", "strided", "transposed", "expanded", "one_row"]))
        if kind == "strided":
            return make((*size, 2))[..., 0]
        if kind == "transposed" and len(size) > 1:
            return make(size[::-1]).permute(*range(len(size) - 1, -1, -1))
        if kind == "expanded":
            return make((1,) * len(size)).expand(size)
        if kind == "one_row":
            return make((1, *size[1:])).expand(size)
        return make(size)

    other: Tensor | float
    kind = draw(st.sampled_from(["number", "scalar", "one", "batch", "other_dtype"]))
    if kind == "number":
        other = 0.25
    elif kind == "scalar":
        other = torch.tensor(0.5)
    elif kind == "one":
        other = tensor((1, *shape[1:]), values)
    elif kind == "batch":
        other = tensor(shape, values)
    else:
        other = tensor(shape, values).to(draw(st.sampled_from(FLOATS)))
    inputs = tensor(shape, values)
    label_shape = [1 if d < 2 and draw(st.booleans()) else n for d, n in enumerate(shape)]
    formats = [None, torch.contiguous_format, *([torch.channels_last] if len(shape) == 4 else [])]
    options = {"memory_format": draw(st.sampled_from(formats))}
    if len(shape) > 1 and draw(st.booleans()):
        options["scale"], options["shift"] = affine_of(inputs)
    return {
        "inputs": inputs,
        "other": other,
        "labels": tensor(tuple(label_shape), whole),
        "steps": draw(st.sampled_from([1, 2, 6, 33])),
        "per_example": draw(st.booleans()),
        "generator": generator,
        "options": options,
    }

"""Ops on tensors of any shape, stride, type and value: kernels and references say the same thing.

A call is drawn as a recipe, so that each backend gets tensors of its own that are equal in every
bit and lie in memory alike. What comes back is compared as integers: a zero has its sign.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy_route
import pytest
import torch
from conftest import needs_native_cpu
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyxai_fast import ops

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.int32, torch.int64)
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
LAYOUTS = ("plain", "strided", "transposed", "expanded", "one_row", "offset", "channels_last")
ODD_VALUES = torch.tensor(
    [float("nan"), float("inf"), -float("inf"), 1e-40, -6e-8, 1e5, -0.0, 0.0, 3.3e38],
    dtype=torch.float64,
)
SEEDS = (0, 5, -1, 2**63 - 1, -(2**63), 2**64 - 1)


# --- tensors --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """A tensor by what it is made of; every call gives another one with the same bits.

    Attributes:
        layout: how it lies in memory, one of LAYOUTS.
        low, high: of whole numbers.
        odd: whether a third of the values are NaN, infinite, subnormal or too large for a half.
    """

    size: tuple[int, ...]
    dtype: torch.dtype
    layout: str = "plain"
    seed: int = 0
    low: int = -3
    high: int = 70
    odd: bool = False

    def __call__(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        size = self.size
        if self.layout == "strided":
            return self._filled((*size, 2), generator)[..., 1]
        if self.layout == "transposed" and len(size) > 1:
            return self._filled(size[::-1], generator).permute(*range(len(size) - 1, -1, -1))
        if self.layout == "expanded":
            return self._filled((1,) * len(size), generator).expand(size)
        if self.layout == "one_row" and size:
            return self._filled((1, *size[1:]), generator).expand(size)
        if self.layout == "offset":  # from an element that vectors do not begin at
            skipped = 1 + self.seed % 3
            count = int(np.prod(size, dtype=np.int64))
            return self._filled((count + skipped,), generator)[skipped:].view(size)
        if self.layout == "channels_last" and len(size) in (4, 5):
            last = torch.channels_last if len(size) == 4 else torch.channels_last_3d
            return self._filled(size, generator).contiguous(memory_format=last)
        return self._filled(size, generator)

    def _filled(self, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if self.dtype == torch.bool:
            return torch.rand(size, generator=generator) < 0.5
        if not self.dtype.is_floating_point:
            return torch.randint(self.low, self.high, size, generator=generator).to(self.dtype)
        values = torch.randn(size, generator=generator, dtype=torch.float64)
        if self.odd:
            which = torch.randint(len(ODD_VALUES), size, generator=generator)
            chosen = torch.rand(size, generator=generator) < 0.3
            values = torch.where(chosen, ODD_VALUES[which], values)
        return values.to(self.dtype)


@dataclass(frozen=True)
class Call:
    """One call of an op, by the names of its arguments.

    Attributes:
        arguments: Drawn, or what is passed on as it is.
        written: those that the op writes into.
    """

    op: str
    arguments: dict[str, Any]
    written: tuple[str, ...] = ()
    records: bool = False

    def __call__(self) -> tuple[Tensor, ...]:
        given = {k: v() if isinstance(v, Drawn) else v for k, v in self.arguments.items()}
        with torch.set_grad_enabled(self.records), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = getattr(ops, self.op)(**given)
        found = () if result is None else result if isinstance(result, tuple) else (result,)
        written = tuple(given[name] for name in self.written if isinstance(given[name], Tensor))
        return (*found, *written)


def outcome(call: Call) -> tuple[str, Any]:
    """What came back, or what was raised: its type and its text."""
    try:
        return "returned", call()
    except Exception as error:
        return "raised", (type(error), str(error))


def steps_of(tensor: Tensor) -> list[int]:
    """The strides that say something: of a dimension of one element there is no next one."""
    return [step for n, step in zip(tensor.shape, tensor.stride(), strict=True) if n != 1]


def differing(one: Tensor, other: Tensor) -> str | None:
    """What two results differ in; NaN is NaN, and a zero has its sign."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return f"{one.dtype} {list(one.shape)} and {other.dtype} {list(other.shape)}"
    if one.numel() and steps_of(one) != steps_of(other):
        return f"strides {one.stride()} and {other.stride()}"
    if one.device != other.device or one.is_meta:
        return None if one.device == other.device else f"{one.device} and {other.device}"
    one, other = one.detach().contiguous(), other.detach().contiguous()
    if not one.is_floating_point():
        return None if torch.equal(one, other) else "numbers"
    kind = BITS[one.element_size()]
    same = (one.view(kind) == other.view(kind)) | (one.isnan() & other.isnan())
    if bool(same.all()):
        return None
    where = tuple((~same).nonzero()[0].tolist())
    return f"{int((~same).sum())} of {same.numel()}: {one[where]!r}, {other[where]!r} at {where}"


# --- what is drawn --------------------------------------------------------------------------------


class Source:
    """Draws the parts of a call, with a seed of its own for each tensor."""

    def __init__(self, draw: st.DrawFn, odd: bool) -> None:
        self.draw, self.odd = draw, odd
        self.seeds = 0

    def one_of(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def maybe(self, value: Any) -> Any:
        return value if self.draw(st.booleans()) else None

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def shape(self, least: int = 1, most: int = 5, size: int = 5) -> tuple[int, ...]:
        return self.draw(st.lists(st.integers(0, size), min_size=least, max_size=most).map(tuple))

    def floats(
        self, size: tuple[int, ...], dtype: torch.dtype | None = None, *, plain: bool = False
    ) -> Drawn:
        self.seeds += 1
        dtype = self.one_of(*FLOATS) if dtype is None else dtype
        layout = "plain" if plain else self.one_of(*LAYOUTS)
        return Drawn(size, dtype, layout, self.seeds, odd=self.odd)

    def whole(
        self, size: tuple[int, ...], low: int, high: int, dtype: torch.dtype | None = None
    ) -> Drawn:
        self.seeds += 1
        dtype = self.one_of(*WHOLE) if dtype is None else dtype
        return Drawn(size, dtype, self.one_of(*LAYOUTS), self.seeds, low, high)

    def rows(self, size: tuple[int, ...]) -> Any:
        """A number, a scalar, an example or a batch."""
        kind = self.one_of("number", "scalar", "one", "batch")
        if kind == "number":
            return self.one_of(0.1, 0, -3.7, 1e-3)
        shapes: dict[str, tuple[int, ...]] = {"scalar": (), "one": (1, *size[1:]), "batch": size}
        return self.floats(shapes[kind])

    def pixels(self, size: tuple[int, ...], low: int, high: int) -> Drawn:
        """Whole numbers, with 1 in place of the batch or the channels, perhaps."""
        some = [1 if d < 2 and self.draw(st.booleans()) else n for d, n in enumerate(size)]
        return self.whole(tuple(some), low, high)

    def affine(self, size: tuple[int, ...]) -> dict[str, Any]:
        if len(size) < 2 or self.draw(st.booleans()):
            return {}
        return {"scale": self.floats((size[1],)), "shift": self.floats((size[1],))}

    def written(self, size: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
        """How results are written: into a new tensor of any type and format, or into one given."""
        if self.one_of(True, False):
            layout = self.one_of("plain", "offset", "channels_last")
            self.seeds += 1
            return {"out": Drawn(size, self.one_of(*FLOATS), layout, self.seeds)}
        formats = [None, torch.contiguous_format]
        formats += {4: [torch.channels_last], 5: [torch.channels_last_3d]}.get(len(size), [])
        return {"dtype": self.one_of(None, *FLOATS), "memory_format": self.one_of(*formats)}

    def key(self) -> Tensor:
        return ops.random_key(self.one_of(*SEEDS), self.one_of(0, 3, 2**16 - 1))

    def examples(self, batch: int) -> Drawn | None:
        low = self.one_of(0, 2**31 - 2, 2**32 - 9)
        return self.maybe(self.whole((batch,), low, low + 8, torch.int64))


def path_points(s: Source) -> Call:
    size, steps = s.shape(), s.number(0, 6)
    alphas = s.floats((steps, size[0]) if s.one_of(True, False) else (steps,))
    arguments = {
        "inputs": s.floats(size),
        "baselines": s.rows(size),
        "alphas": alphas,
        **s.affine(size),
        **s.written((steps * size[0], *size[1:]), torch.float32),
    }
    return Call("path_points", arguments, ("out",) if "out" in arguments else ())


def path_accumulate(s: Source) -> Call:
    size, steps = s.shape(), s.number(1, 6)
    weights = s.floats((steps, size[0]) if s.one_of(True, False) else (steps,))
    arguments: dict[str, Any] = {
        "grads": s.floats((steps * size[0], *size[1:])),
        "weights": weights,
    }
    kind = s.one_of("sum", "attributions", "total")
    if kind == "attributions":
        arguments |= {"inputs": s.floats(size), "baselines": s.rows(size)}
        if len(size) > 1:
            arguments["scale"] = s.maybe(s.floats((size[1],)))
    if kind == "total":
        s.seeds += 1
        layout = s.one_of("plain", "offset", "channels_last")
        arguments["total"] = Drawn(size, torch.float64, layout, s.seeds)
    return Call("path_accumulate", arguments, ("total",) if kind == "total" else ())


def mask_segments(s: Source) -> Call:
    size, steps, words = s.shape(), s.number(0, 5), s.number(1, 3)
    sets = (steps, size[0], words) if s.one_of(True, False) else (steps, words)
    arguments = {
        "inputs": s.floats(size),
        "segments": s.pixels(size, -3, 32 * words + 3),
        "coalitions": s.whole(sets, -(2**31), 2**31, torch.int32),
        "fill": s.rows(size),
        **s.affine(size),
        **s.written((steps * size[0], *size[1:]), torch.float32),
    }
    return Call("mask_segments", arguments, ("out",) if "out" in arguments else ())


def rank_mask(s: Source) -> Call:
    size, steps = s.shape(), s.number(0, 5)
    ends = (steps, size[0]) if s.one_of(True, False) else (steps,)
    low, high = s.one_of((-2, 40), (2**31 - 3, 2**31 + 3), (-(2**40), 2**40))
    arguments = {
        "inputs": s.floats(size),
        "base": s.rows(size),
        "ranks": s.pixels(size, -3, 40),
        "steps": s.whole(ends, low, high, torch.int64),
        **s.affine(size),
        **s.written((steps * size[0], *size[1:]), torch.float32),
    }
    return Call("rank_mask", arguments, ("out",) if "out" in arguments else ())


def mask_blend(s: Source) -> Call:
    size = s.shape()
    some = tuple(1 if d < 2 and s.one_of(True, False) else n for d, n in enumerate(size))
    inputs = s.floats(size)
    arguments: dict[str, Any] = {"inputs": inputs, "masks": s.floats(some)}
    if s.one_of(True, False):
        s.seeds += 1
        arguments["out"] = Drawn((2, *size), inputs.dtype, s.one_of("plain", "offset"), s.seeds)
    return Call("mask_blend", arguments, ("out",) if "out" in arguments else ())


def noise(s: Source, size: tuple[int, ...], samples: int) -> dict[str, Any]:
    """What is drawn, for features of a shape."""
    arguments: dict[str, Any] = {
        "key": s.key(),
        "distribution": s.one_of("gaussian", "rademacher", "orthogonal", "ones"),
        "antithetic": s.one_of(True, False),
        "first_sample": s.one_of(0, 1, 7, 2**31 - 1, 2**32 - samples),
        "examples": s.examples(size[0]),
        "keep": s.one_of(1.0, 0.3, 1e-9),
    }
    if s.one_of(True, False):
        count = s.number(1, 4)
        one_map = len(size) > 2 and s.one_of(True, False)
        lead = (s.one_of(1, size[0]),) + ((1,) if one_map else size[1:2])
        arguments["blocks"] = s.whole((*lead, *size[2:]), -1, count + 1)
        arguments["n_blocks"] = count
        shape = s.one_of((samples,), (samples, size[0]))
        arguments["active"] = s.maybe(s.whole(shape, -1, count + 1))
    return arguments


def perturb(s: Source) -> Call:
    size, samples = s.shape(), s.number(0, 5)
    low, high = s.one_of((None, None), (-0.5, 0.5), (None, 0.2), (-1, None))
    arguments = {
        "inputs": s.floats(size),
        "n_samples": samples,
        "sigma": s.one_of(0.5, 0, s.floats(()), s.floats((size[0],))),
        **noise(s, size, samples),
        "mask": s.maybe(s.floats(s.one_of((), (1, *size[1:]), size))),
        "clip": s.maybe((low, high)),
        **s.affine(size),
        **s.written((samples * size[0], *size[1:]), torch.float32),
    }
    arguments["reflect"] = arguments["clip"] is not None and s.one_of(True, False)
    arguments["shared"] = "blocks" in arguments and s.one_of(True, False)
    return Call("perturb", arguments, ("out",) if "out" in arguments else ())


def noise_contract(s: Source) -> Call:
    size, samples, targets = s.shape(), s.number(0, 5), s.one_of((), (1,), (3,))
    arguments: dict[str, Any] = {
        "weights": s.floats((size[0], samples, *targets)),
        "shape": list(size[1:]),
        **noise(s, size, samples),
        "squared": s.one_of(True, False),
    }
    if s.one_of(True, False):
        s.seeds += 1
        layout = s.one_of("plain", "offset")
        total = (size[0], *targets, *size[1:])
        arguments |= {"shape": None, "total": Drawn(total, torch.float64, layout, s.seeds)}
    return Call("noise_contract", arguments, ("total",) if "total" in arguments else ())


def paths(s: Source, batch: int) -> dict[str, Any]:
    n_steps = s.one_of(1, 2, 3, 7, 64, 65536)
    first = s.number(0, min(n_steps - 1, 3)) if s.one_of(True, False) else n_steps - 1
    n_paths = s.number(1, 2)
    return {
        "key": s.key(),
        "concentration": s.one_of(10.0, 0.01, 3, 1e6),
        "n_steps": n_steps,
        "first_step": first,
        "count": min(s.number(1, 4), n_steps - first),
        "n_paths": n_paths,
        "first_path": s.one_of(0, 1, 2**31 - 1, 2**32 - n_paths),
        "examples": s.examples(batch),
    }


def dirichlet_points(s: Source) -> Call:
    size = s.shape()
    drawn = paths(s, size[0])
    rows = drawn["count"] * drawn["n_paths"] * size[0]
    arguments = {
        "inputs": s.floats(size),
        "baselines": s.rows(size),
        **drawn,
        "position": s.one_of(0.5, 0, 1, 0.3),
        "per": s.one_of("feature", "pixel") if len(size) > 1 else "feature",
        **s.affine(size),
        **s.written((rows, *size[1:]), torch.float32),
    }
    return Call("dirichlet_points", arguments, ("out",) if "out" in arguments else ())


def dirichlet_accumulate(s: Source) -> Call:
    size = s.shape()
    drawn = paths(s, size[0])
    rows = drawn["count"] * drawn["n_paths"] * size[0]
    arguments: dict[str, Any] = {
        "grads": s.floats((rows, *size[1:])),
        **drawn,
        "per": s.one_of("feature", "pixel") if len(size) > 1 else "feature",
    }
    kind = s.one_of("sum", "attributions", "total")
    if kind == "attributions":
        arguments |= {"inputs": s.floats(size), "baselines": s.rows(size)}
    if kind == "total":
        s.seeds += 1
        total = (drawn["n_paths"] * size[0], *size[1:])
        arguments["total"] = Drawn(total, torch.float64, "offset", s.seeds)
    return Call("dirichlet_accumulate", arguments, ("total",) if kind == "total" else ())


def ascend_max(s: Source) -> Call:
    size, steps, dtype = s.shape(), s.number(0, 4), s.one_of(*FLOATS)
    rows = steps * size[0]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    # No points at all are contiguous, whatever `best` is.
    last = len(size) == 4 and steps > 0 and s.one_of(True, False)
    layout = "channels_last" if last else s.one_of("plain", "offset")
    s.seeds += 3
    sizes: Any = s.one_of(0.1, 0, s.floats(()), s.floats((rows,)), s.floats((steps, size[0])))
    arguments: dict[str, Any] = {
        "points": Drawn((rows, *size[1:]), dtype, layout, s.seeds, odd=s.odd),
        "grads": s.floats((rows, *size[1:]), dtype),
        "step_sizes": sizes,
        "best": Drawn(size, wide, layout, s.seeds - 1),
        "absolute": s.one_of(True, False),
    }
    if len(size) > 1:
        arguments["scale"] = s.maybe(s.floats((size[1],)))
    return Call("ascend_max", arguments, ("points", "best"))


def particles(s: Source) -> tuple[tuple[int, ...], Drawn]:
    size = (s.number(0, 3), s.number(1, 6), *s.shape(0, 3))
    return size, s.floats(size)


def ensemble_contract(s: Source) -> Call:
    size, many = particles(s)
    weights = s.floats((*size[:2], *s.one_of((), (1,), (3,))))
    one = (size[0], *size[2:])
    center = s.one_of(None, 0.1, s.floats(()), s.floats((1, *one[1:])), s.floats(one))
    return Call("ensemble_contract", {"particles": many, "weights": weights, "center": center})


def ensemble_moments(s: Source) -> Call:
    size, many = particles(s)
    one = (size[0], *size[2:])
    return Call("ensemble_moments", {"particles": many, "center": s.maybe(s.floats(one))})


def ensemble_transform(s: Source) -> Call:
    size, many = particles(s)
    one = (size[0], *size[2:])
    arguments: dict[str, Any] = {
        "particles": many,
        "matrix": s.floats((size[0], size[1], size[1])),
        "center": s.maybe(s.rows(one)),
        "taper": s.maybe(s.rows(one)),
        "add_particles": s.one_of(True, False),
    }
    if s.one_of(True, False):
        s.seeds += 1
        arguments["out"] = Drawn(size, many.dtype, s.one_of("plain", "offset"), s.seeds)
    return Call("ensemble_transform", arguments, ("out",) if "out" in arguments else ())


def guided_step(s: Source) -> Call:
    size, denoised = particles(s)
    one = (size[0], *size[2:])
    arguments: dict[str, Any] = {
        "denoised": denoised,
        "noise_pred": s.floats(size, denoised.dtype),
        "guide": s.floats(size, denoised.dtype),
        "alpha_bar": 0.3,
        "alpha_bar_next": s.one_of(0.3, 0.5, 1.0),
        "eta": s.one_of(0, 0.5, 1.0),
        "step_size": s.one_of(0, 0.3),
        "step_proximity": s.one_of(0, 0.1),
        "origin": s.rows(one),
        "center": s.maybe(s.rows(one)),
        "weights": s.maybe(s.floats(size[:2])),
        "key": s.key(),
    }
    return Call("guided_step", arguments)


def linear_step(s: Source) -> Call:
    layers = s.one_of((), (1,), (3,))
    rows, outputs, features = s.number(0, 40), s.number(0, 5), s.number(0, 20)
    dtype = s.one_of(torch.float32, torch.float64)
    s.seeds += 2
    arguments: dict[str, Any] = {
        "inputs": s.floats((*layers, rows, features), dtype),
        "grads": s.floats((*layers, rows, outputs), dtype),
        "weight": Drawn((*layers, outputs, features), dtype, s.one_of("plain", "offset"), s.seeds),
        "velocity": Drawn((*layers, outputs, features), dtype, "plain", s.seeds - 1),
        "lr": s.one_of(0, 0.1, 3),
        "momentum": s.one_of(0, 0.9),
        "need_grad_inputs": s.one_of(True, False),
    }
    return Call("linear_step", arguments, ("weight", "velocity"))


MAKERS: dict[str, Callable[[Source], Call]] = {
    make.__name__: make
    for make in (
        path_points, path_accumulate, mask_segments, rank_mask, mask_blend, perturb,
        noise_contract, dirichlet_points, dirichlet_accumulate, ascend_max, ensemble_contract,
        ensemble_moments, ensemble_transform, guided_step, linear_step,
    )
}  # fmt: skip
NO_TWIN = {"enkf_update": "a matrix in float64, by torch, and ensemble_transform"}


@st.composite
def calls(draw: st.DrawFn, name: str) -> Call:
    source = Source(draw, odd=draw(st.booleans()))
    return replace(MAKERS[name](source), records=draw(st.booleans()))


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    before = ops.cpu_isa()
    ops.set_cpu_isa(name)
    try:
        yield
    finally:
        ops.set_cpu_isa(str(before))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- bits -----------------------------------------------------------------------------------------


@needs_native_cpu
@pytest.mark.parametrize("name", MAKERS)
@given(data=st.data())
@settings(max_examples=50)
def test_whatever_is_given_kernels_have_the_bits_of_the_reference(
    name: str, data: st.DataObject
) -> None:
    call = data.draw(calls(name))
    with instruction_set(data.draw(st.sampled_from(ops.available_cpu_isas()))):
        kind, native = outcome(call)
    assert kind == "returned", native
    with ops.native_kernels(False):
        assert outcome(call)[0] == "returned"
        plain = call()
    for one, other in zip(native, plain, strict=True):
        difference = differing(one, other)
        assert difference is None, f"{call}: {difference}"


def test_every_op_is_drawn_or_has_no_kernel_of_its_own() -> None:
    from pyxai_fast.ops.registry import schemas

    names = {schema.partition(".")[0] for schema in schemas()}
    assert names == set(MAKERS)
    assert not set(NO_TWIN) & names


def test_a_bit_that_differs_is_seen() -> None:
    one = torch.tensor([1.0, float("nan"), 0.0])
    assert differing(one, one.clone()) is None
    for other in (
        torch.tensor([1.0, float("nan"), -0.0]),
        torch.tensor([1.0 + 2**-23, float("nan"), 0.0]),
        torch.tensor([1.0, 2.0, 0.0]),
        one.double(),
        one[:2],
    ):
        assert differing(one, other) is not None


# --- errors ---------------------------------------------------------------------------------------


def wrong_values(value: Any) -> list[Any]:
    """What an argument is not, and nearly is."""
    others: list[Any] = [None, "x", [1.0], True, 1.5, -1, float("nan"), torch.zeros(())]
    if not isinstance(value, Drawn):
        return [*others, torch.zeros(2, 2), torch.ones(3, dtype=torch.int64)]
    size = value.size
    return [
        *others,
        replace(value, dtype=torch.int16),
        replace(value, dtype=torch.bool),
        replace(value, size=(*size, 2)),
        replace(value, size=size[1:]),
        replace(value, size=tuple(n + 1 for n in size)),
        replace(value, size=tuple(0 for _ in size)),
        value().to("meta"),
        value().to(torch.complex64),
        value().detach().float().requires_grad_(),
        np.zeros(size),
    ]


@st.composite
def wrong_calls(draw: st.DrawFn, name: str) -> Call:
    call = draw(calls(name))
    arguments = dict(call.arguments)
    for _ in range(draw(st.integers(1, 2))):
        which = draw(st.sampled_from(sorted(arguments)))
        wrong = wrong_values(call.arguments[which])
        arguments[which] = wrong[draw(st.integers(0, len(wrong) - 1))]
    return replace(call, arguments=arguments)


@needs_native_cpu
@pytest.mark.parametrize("name", MAKERS)
@given(data=st.data())
@settings(max_examples=60)
def test_whatever_is_wrong_both_say_the_same_of_it(name: str, data: st.DataObject) -> None:
    call = data.draw(wrong_calls(name))
    kind, native = outcome(call)
    with ops.native_kernels(False):
        again, plain = outcome(call)
    assert kind == again, f"{call}: {native} and {plain}"
    if kind == "returned":
        for one, other in zip(native, plain, strict=True):
            assert differing(one, other) is None, f"{call}"
        return
    assert native == plain


def numbered(name: str, first: int, antithetic: bool) -> Call:
    """A call with four samples, numbered from `first` on."""
    many = {"inputs": Drawn((2, 3), torch.float32), "n_samples": 4, "sigma": 1.0}
    one = many if name == "perturb" else {"weights": Drawn((2, 4), torch.float32), "shape": [3]}
    more = {"key": ops.random_key(0), "first_sample": first, "antithetic": antithetic}
    return Call(name, {**one, **more})


@needs_native_cpu
@pytest.mark.parametrize("name", ["perturb", "noise_contract"])
@pytest.mark.parametrize("antithetic", [False, True])
def test_the_last_samples_that_the_counter_tells_apart_are_drawn(
    name: str, antithetic: bool
) -> None:
    end = 2**33 if antithetic else 2**32
    kind, native = outcome(numbered(name, end - 4, antithetic))
    assert kind == "returned", native
    with ops.native_kernels(False):
        plain = numbered(name, end - 4, antithetic)()
    assert differing(native[0], plain[0]) is None
    for first in (end - 3, end, 2**62, 2**63 - 1):
        said = outcome(numbered(name, first, antithetic))
        assert said[0] == "raised" and said[1][0] is ValueError, said
        assert f"must add up to at most {end}, got {first} and 4" in said[1][1]
        with ops.native_kernels(False):
            assert outcome(numbered(name, first, antithetic)) == said


@pytest.mark.skipif(not numpy_route.BUILT, reason="the NumPy module was not built")
@pytest.mark.parametrize("first", [2**32 - 3, 2**62, 2**63 - 1])
def test_counters_that_would_begin_anew_are_refused_for_arrays(first: int) -> None:
    from pyxai_fast import arrays

    key = arrays.random_key(0)
    said = f"must add up to at most {2**32}, got {first} and 4"
    with pytest.raises(ValueError, match=said):
        arrays.perturb(np.zeros((2, 3), np.float32), 4, 1.0, key, first_sample=first)
    with pytest.raises(ValueError, match=said):
        arrays.noise_contract(np.zeros((2, 4), np.float32), (3,), key, first_sample=first)


# --- arrays ---------------------------------------------------------------------------------------

ONLY_TENSORS = {"guided_step"}


def backwards(array: Any) -> Any:
    """The same numbers, with a negative stride along every axis."""
    return np.asarray(np.flip(np.array(np.flip(array), order="C")))


def unaligned(array: Any) -> Any:
    """The same numbers, from an odd address on."""
    data = bytearray(array.nbytes + 1)
    moved = np.frombuffer(data, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


@needs_native_cpu
@pytest.mark.skipif(not numpy_route.BUILT, reason="the NumPy module was not built")
@pytest.mark.parametrize("name", sorted(set(MAKERS) - ONLY_TENSORS))
@given(data=st.data())
@settings(max_examples=25)
def test_arrays_of_any_stride_have_the_bits_of_tensors(name: str, data: st.DataObject) -> None:
    from pyxai_fast import arrays

    call = data.draw(calls(name))
    lay = data.draw(st.sampled_from([backwards, unaligned, np.asarray]))
    given_tensors: dict[str, Any] = {}
    for key, value in call.arguments.items():
        made = value() if isinstance(value, Drawn) else value
        if isinstance(made, Tensor) and made.dtype == torch.bfloat16:
            made = made.float()  # of which NumPy knows nothing
        given_tensors[key] = made
    for key in ("dtype", "memory_format"):
        given_tensors.pop(key, None)
    as_arrays = {
        key: (np.array(value.numpy()) if key in call.written else lay(np.array(value.numpy())))
        if isinstance(value, Tensor)
        else value
        for key, value in given_tensors.items()
    }
    written = {key: given_tensors[key] for key in call.written}
    # Tensors that are written lie in the order of theirs; arrays, plainly.
    given_tensors |= {key: value.clone().contiguous() for key, value in written.items()}
    if "out" in written and name in ("mask_blend", "ensemble_transform"):
        given_tensors["out"] = given_tensors["out"].to(given_tensors[_first(name)].dtype)
        as_arrays["out"] = given_tensors["out"].numpy().copy()
    with torch.no_grad():
        expected = getattr(ops, name)(**given_tensors)
    found = getattr(arrays, name)(**as_arrays, n_threads=data.draw(st.sampled_from([1, 2])))
    pairs = list(zip(_tuple(found), _tuple(expected), strict=True))
    pairs += [(as_arrays[key], given_tensors[key]) for key in call.written]
    for one, other in pairs:
        assert differing(torch.from_numpy(np.ascontiguousarray(one)), other.contiguous()) is None


@pytest.mark.skipif(not numpy_route.BUILT, reason="the NumPy module was not built")
def test_numbers_of_numpy_are_numbers() -> None:
    from pyxai_fast import arrays

    x, steps = np.ones((2, 3), np.float32), np.linspace(0, 1, 4)
    expected = arrays.path_points(x, 0.5, steps)
    for number in (np.float32(0.5), np.float64(0.5), np.float16(0.5)):
        assert np.array_equal(arrays.path_points(x, number, steps), expected)
    one = arrays.path_points(x, np.int64(1), steps)
    assert np.array_equal(one, arrays.path_points(x, 1.0, steps))


@pytest.mark.skipif(not numpy_route.BUILT, reason="the NumPy module was not built")
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (2, 0, 5)])
def test_empty_arrays_are_ranked_and_unpacked(shape: tuple[int, ...]) -> None:
    from pyxai_fast import arrays

    assert arrays.ranks_of(np.zeros(shape, np.float32)).shape == shape
    words = arrays.pack_coalitions(np.ones(shape, np.bool_))
    assert arrays.unpack_coalitions(words, shape[-1]).shape == shape
    with pytest.raises(ValueError, match=r"attributions must have shape \[B, \.\.\.\]"):
        arrays.ranks_of(np.zeros((), np.float32))


def _tuple(result: Any) -> tuple[Any, ...]:
    return () if result is None else result if isinstance(result, tuple) else (result,)


def _first(name: str) -> str:
    return {"mask_blend": "inputs", "ensemble_transform": "particles"}[name]

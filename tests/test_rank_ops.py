"""rank_mask and ranks_of: backends against the reference, the reference against the definition."""

from __future__ import annotations

import copy

import pytest
import torch
from assertions import assert_same_bits
from conftest import needs_native_cpu
from hypothesis import given
from mask_cases import FLOATS, SMALL, MaskCase
from select_layouts import affine_of, fitting, ids, layouts
from torch import Tensor

from pyxai_fast import ops, reference
from pyxai_fast.reference.path import memory_format_of

FORMATS = (torch.contiguous_format, torch.channels_last)


def by_loop(inputs: Tensor, base: Tensor | float, ranks: Tensor, steps: Tensor) -> Tensor:
    """The definition, one row after the other, in float64."""
    base = torch.as_tensor(base).double()
    rows = []
    for now in steps:
        for b in range(inputs.shape[0]):
            step = int(now[b] if steps.dim() == 2 else now)
            there = base if base.dim() == 0 else base[b if base.shape[0] > 1 else 0]
            below = ranks[b if ranks.shape[0] > 1 else 0] < step
            rows.append(torch.where(below, there, inputs[b].double()))
    return torch.stack(rows)


# --- the kernels give the bits of the reference --------------------------------------------------


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("out_dtype", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_every_dtype_has_the_bits_of_the_reference(
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    memory_format: torch.memory_format,
    backend: torch.device,
) -> None:
    for case in (SMALL[2], SMALL[4], SMALL[5]):
        t = case.tensors(dtype, device=backend)
        written = fitting(t["inputs"], memory_format)
        for scale, shift in ((None, None), affine_of(t["inputs"])):
            args = (t["inputs"], t["fill"], t["ranks"], t["steps"])
            masked = ops.rank_mask(
                *args, scale=scale, shift=shift, dtype=out_dtype, memory_format=written
            )
            expected = reference.rank_mask(*args, scale, shift, out_dtype, written)
            assert masked.is_contiguous(memory_format=written)
            assert_same_bits(masked, expected)


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_every_layout_has_the_bits_of_the_reference(
    case: MaskCase, memory_format: torch.memory_format, backend: torch.device
) -> None:
    t = case.tensors(memory_format=fitting(torch.empty(1, *case.features), memory_format))
    t = {name: tensor.to(backend) for name, tensor in t.items()}
    written = fitting(t["inputs"], memory_format)
    for ranks, steps, base in (
        (t["ranks"], t["steps"], t["fill"][:1]),
        (t["ranks"].long(), t["steps"], torch.tensor(0.5, device=backend)),
        (t["ranks"].expand(case.shared_shape(per_example=True)), t["steps_each"], t["fill"]),
        (t["ranks_each"], t["steps"], t["fill"][:1].expand_as(t["inputs"])),
        (t["ranks_each"][:1].int(), t["steps_each"], t["fill"]),
    ):
        args = (t["inputs"], base, ranks, steps)
        masked = ops.rank_mask(*args, memory_format=written)
        assert_same_bits(masked, reference.rank_mask(*args, memory_format=written))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=ids((torch.int32, torch.int64)))
def test_ranks_and_steps_of_any_size_have_the_bits_of_the_reference(
    dtype: torch.dtype, backend: torch.device
) -> None:
    limits = [torch.iinfo(torch.int32), torch.iinfo(torch.int64)]
    ends = [e for limit in limits for e in (limit.min, limit.min + 1, limit.max - 1, limit.max)]
    whole = torch.tensor([*ends, -1, 0, 1, 2**31, 2**31 + 1, -(2**31) - 1, 2**32, 2**32 + 1])
    kind = torch.iinfo(dtype)
    ranks = whole[(whole >= kind.min) & (whole <= kind.max)].to(dtype).to(backend)[None]
    inputs = torch.arange(1.0, 1 + ranks.shape[1], device=backend)[None]
    args = (inputs, torch.zeros((), device=backend), ranks, whole.to(backend))
    masked = ops.rank_mask(*args)
    assert_same_bits(masked, reference.rank_mask(*args))
    below = torch.tensor([[int(r) < int(s) for r in ranks[0]] for s in whole], device=backend)
    assert torch.equal(masked == 0, below)


# --- the reference is the definition -------------------------------------------------------------


@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_the_reference_is_a_loop_over_rows(case: MaskCase) -> None:
    t = case.tensors()
    with ops.native_kernels(False):
        for ranks in (t["ranks"], t["ranks_each"]):
            for steps in (t["steps"], t["steps_each"]):
                masked = ops.rank_mask(t["inputs"], t["fill"], ranks, steps)
                expected = by_loop(t["inputs"], t["fill"], ranks, steps)
                assert_same_bits(masked.double(), expected)


@pytest.mark.parametrize("descending", [True, False])
def test_ranks_are_places_in_the_sorted_order(
    descending: bool, device: torch.device, seed: None
) -> None:
    attributions = torch.randn(3, 2, 5, 7, device=device).round(decimals=1)  # with ties
    ranks = ops.ranks_of(attributions, descending)
    assert ranks.dtype == torch.int32
    assert ranks.shape == attributions.shape
    for values, places in zip(attributions.flatten(1), ranks.flatten(1).long(), strict=True):
        ordered = sorted(range(70), key=lambda i: (-values[i] if descending else values[i], i))
        assert torch.argsort(places).tolist() == ordered


def test_ranks_of_special_values_and_empty_tensors() -> None:
    values = torch.tensor([[0.0, float("nan"), float("inf"), -float("inf")]])
    assert ops.ranks_of(values).tolist() == [[2, 0, 1, 3]]
    assert ops.ranks_of(values, descending=False).tolist() == [[1, 3, 2, 0]]
    assert ops.ranks_of(torch.tensor([3.0, 1.0])).tolist() == [0, 0]
    for shape in ((0, 3), (3, 0), (2, 1, 0, 4)):
        assert ops.ranks_of(torch.zeros(shape)).shape == shape


def test_deletion_and_insertion_meet_in_the_ends(backend: torch.device) -> None:
    t = MaskCase("curves", 1, 2, (3, 5, 7), 1).tensors(device=backend)
    ranks = ops.ranks_of(t["inputs"].sum(1, keepdim=True))
    steps = torch.tensor([0, 17, 35], device=backend)
    deleted = ops.rank_mask(t["inputs"], t["fill"], ranks, steps).unflatten(0, (3, 2))
    inserted = ops.rank_mask(t["fill"], t["inputs"], ranks, steps).unflatten(0, (3, 2))
    assert_same_bits(deleted[0], t["inputs"])
    assert_same_bits(deleted[2], t["fill"])
    assert_same_bits(inserted[0], t["fill"])
    assert_same_bits(inserted[2], t["inputs"])
    assert bool(((deleted[1] != t["inputs"]).sum((1, 2, 3)) == 17 * 3).all())
    assert_same_bits(deleted[1] + inserted[1], t["inputs"] + t["fill"])


# --- values --------------------------------------------------------------------------------------


def test_nan_and_infinity_pass_through(backend: torch.device) -> None:
    inputs = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]], device=backend)
    ranks = torch.arange(4, dtype=torch.int32, device=backend)[None]
    steps = torch.tensor([0, 4], device=backend)
    zeros = torch.zeros_like(inputs)
    assert_same_bits(ops.rank_mask(inputs, 0.0, ranks, steps), torch.cat([inputs, zeros]))
    assert_same_bits(ops.rank_mask(zeros, inputs, ranks, steps), torch.cat([zeros, inputs]))


def steps_for(t: dict) -> Tensor:
    sets = (t["steps"], t["inputs"].shape[0]) if t["per_example"] else (t["steps"],)
    return torch.randint(-5, 75, sets, generator=t["generator"])


@given(layouts())
def test_any_shape_and_stride_gives_the_rows_of_the_loop(t: dict) -> None:
    inputs, options = t["inputs"], {"memory_format": t["options"]["memory_format"]}
    steps = steps_for(t)
    masked = ops.rank_mask(inputs, t["other"], t["labels"], steps, **options)
    assert masked.shape == (t["steps"] * inputs.shape[0], *inputs.shape[1:])
    assert masked.dtype == inputs.dtype
    if masked.numel() > 0:
        base = torch.as_tensor(t["other"])
        if base.dim() == 0:
            base = base.to(inputs.dtype)
        assert_same_bits(masked, by_loop(inputs, base, t["labels"], steps).to(inputs.dtype))


@needs_native_cpu
@given(layouts(special=True))
def test_native_and_reference_agree_on_any_layout_and_value(t: dict) -> None:
    args = (t["inputs"], t["other"], t["labels"], steps_for(t))
    native = ops.rank_mask(*args, **t["options"])
    with ops.native_kernels(False):
        plain = ops.rank_mask(*args, **t["options"])
    assert_same_bits(native, plain)
    assert memory_format_of(native) == memory_format_of(plain)


# --- what never changes the numbers --------------------------------------------------------------


def test_any_split_of_the_steps_gives_the_same_bits(device: torch.device) -> None:
    t = MaskCase("split", 23, 2, (3, 17, 33), 1).tensors(device=device)
    whole = ops.rank_mask(t["inputs"], t["fill"], t["ranks"], t["steps"])
    for size in (1, 2, 22):
        parts = [
            ops.rank_mask(t["inputs"], t["fill"], t["ranks"], chunk)
            for chunk in t["steps"].split(size)
        ]
        assert_same_bits(torch.cat(parts), whole)


@needs_native_cpu
def test_threads_and_instruction_sets_give_the_same_bits() -> None:
    t = MaskCase("threads", 9, 5, (3, 64, 65), 1).tensors(torch.float16)
    scale, shift = affine_of(t["inputs"])
    args = (t["inputs"], t["fill"], t["ranks"], t["steps"])
    threads, isa = torch.get_num_threads(), ops.cpu_isa()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for name in ops.available_cpu_isas():
                ops.set_cpu_isa(name)
                results.append(ops.rank_mask(*args, scale=scale, shift=shift))
    finally:
        torch.set_num_threads(threads)
        ops.set_cpu_isa(isa)
    assert len(results) >= 3
    for masked in results[1:]:
        assert_same_bits(masked, results[0])


# --- out= ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_out_is_written_in_its_own_dtype_and_format(
    dtype: torch.dtype, memory_format: torch.memory_format, device: torch.device
) -> None:
    t = MaskCase("out", 3, 2, (3, 5, 6), 1).tensors(device=device)
    buffer = torch.full((10, 3, 5, 6), 7.0, dtype=dtype, device=device)
    buffer = buffer.contiguous(memory_format=memory_format)
    args = (t["inputs"], t["fill"], t["ranks"], t["steps"])
    out = buffer[:6]
    assert ops.rank_mask(*args, out=out) is out
    assert_same_bits(out, ops.rank_mask(*args, dtype=dtype))
    # It may be the front of a larger buffer.
    assert bool((buffer[6:] == 7.0).all())


# --- derivatives, torch.library and torch.compile ------------------------------------------------


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_masked_inputs_are_differentiable_twice(check) -> None:
    t = MaskCase("derivative", 3, 2, (2, 3, 2), 1).tensors(torch.float64)
    scale, shift = (c.double() for c in affine_of(t["inputs"]))
    inputs, base = (t[k].requires_grad_() for k in ("inputs", "fill"))
    one = t["fill"].detach()[:1].clone().requires_grad_()
    for ranks, steps in ((t["ranks"], t["steps"]), (t["ranks_each"], t["steps_each"])):
        assert check(
            lambda x, b, ranks=ranks, steps=steps: ops.rank_mask(
                x, b, ranks, steps, scale=scale, shift=shift
            ),
            (inputs, base),
        )
        assert check(
            lambda x, b, ranks=ranks, steps=steps: ops.rank_mask(x, b, ranks, steps), (inputs, one)
        )


def test_a_hessian_is_right() -> None:
    t = MaskCase("derivative", 3, 2, (4,), 1).tensors(torch.float64)

    def energy(x: Tensor) -> Tensor:
        return ops.rank_mask(x, x.square(), t["ranks"], t["steps"]).sin().sum()

    def plain(x: Tensor) -> Tensor:
        return torch.where(t["ranks"] < t["steps"][:, None, None], x.square(), x).sin().sum()

    x = t["inputs"]
    torch.testing.assert_close(torch.func.hessian(energy)(x), torch.func.hessian(plain)(x))


@pytest.mark.parametrize("which", [0, 1, 2, 3, None])
def test_vmap_equals_a_loop(which: int | None, device: torch.device) -> None:
    t = MaskCase("vmap", 3, 2, (2, 3, 4), 1).tensors(device=device)
    for ranks in (t["ranks"], t["ranks_each"]):
        for steps in (t["steps"], t["steps_each"]):
            args = [t["inputs"], t["fill"], ranks, steps]
            in_dims = tuple(1 if which in (i, None) else None for i in range(4))
            args = [
                torch.stack([a, a.flip(0), a.roll(1, -1)], dim=1) if d == 1 else a
                for a, d in zip(args, in_dims, strict=True)
            ]
            actual = torch.vmap(ops.rank_mask, in_dims=in_dims)(*args)
            loop = [
                ops.rank_mask(
                    *[a.select(1, i) if d == 1 else a for a, d in zip(args, in_dims, strict=True)]
                )
                for i in range(3)
            ]
            assert_same_bits(actual, torch.stack(loop))


@pytest.mark.parametrize("native", [True, False], ids=["native", "reference"])
def test_ops_pass_opcheck(native: bool, device: torch.device) -> None:
    op = torch.ops.pyxai_fast.rank_mask
    with ops.native_kernels(native):
        for features, memory_format in (
            ((4,), torch.contiguous_format),
            ((3, 4, 5), torch.channels_last),
            ((0,), torch.contiguous_format),
        ):
            case = MaskCase("opcheck", 3, 2, features, 1)
            t = case.tensors(torch.float32, memory_format, device)
            x, base = t["inputs"], t["fill"]
            out = torch.empty(6, *features, device=device)
            calls = [
                (op.default, (x, base, t["ranks"], t["steps"]), {}),
                (op.default, (x, base[:1], t["ranks_each"], t["steps_each"]), {}),
                (op.out, (x, base, t["ranks"], t["steps"]), {"out": out}),
            ]
            if x.dim() == 4:
                options = (*affine_of(x), torch.bfloat16, torch.channels_last)
                calls.append((op.default, (x, base, t["ranks"], t["steps"], *options), {}))
            for call, args, kwargs in calls:
                torch.library.opcheck(call, copy.deepcopy(args), copy.deepcopy(kwargs))


def test_the_op_compiles_into_one_graph(device: torch.device) -> None:
    t = MaskCase("compile", 3, 2, (3, 8, 8), 1).tensors(device=device)

    def energy(x: Tensor) -> Tensor:
        return ops.rank_mask(
            x, 0.5, t["ranks"], t["steps"], memory_format=torch.channels_last
        ).sin()

    compiled = torch.compile(energy, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(t["inputs"]), energy(t["inputs"]))
    leaf = t["inputs"].clone().requires_grad_()
    compiled(leaf).sum().backward()
    (expected,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    torch.testing.assert_close(leaf.grad, expected)


# --- errors --------------------------------------------------------------------------------------

X = torch.zeros(2, 3, 4)
R = torch.zeros(1, 1, 4, dtype=torch.int32)
S = torch.zeros(5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.rank_mask(X.long(), 0.0, R, S), TypeError, "inputs must be float16"),
        (lambda: ops.rank_mask(X.sum(), 0.0, R, S), ValueError, "inputs must have shape"),
        (lambda: ops.rank_mask(X, "black", R, S), TypeError, "base must be a number"),
        (lambda: ops.rank_mask(X, X[:, :2], R, S), ValueError, r"base must .*\[2, 2, 4\]"),
        (lambda: ops.rank_mask(X, 0.0, R.float(), S), TypeError, "ranks must be int32 or int64"),
        (lambda: ops.rank_mask(X, 0.0, R[0], S), ValueError, "ranks must have shape"),
        (lambda: ops.rank_mask(X, 0.0, R, S.int()), TypeError, "steps must be int64"),
        (lambda: ops.rank_mask(X, 0.0, R, [1]), TypeError, "steps must be a tensor, got list"),
        (
            lambda: ops.rank_mask(X, 0.0, R, S[:, None].expand(5, 3)),
            ValueError,
            r"steps must have shape \[S\] or \[S, B\], B = 2, got \[5, 3\]",
        ),
        (lambda: ops.rank_mask(X, 0.0, R, S.to("meta")), ValueError, "steps must be on cpu"),
        (lambda: ops.rank_mask(X, 0.0, R, S, scale=torch.ones(3)), ValueError, "given together"),
        (lambda: ops.rank_mask(X, 0.0, R, S, dtype=torch.int8), TypeError, "dtype .*int8"),
        (lambda: ops.rank_mask(X, 0.0, R, S, out=X), ValueError, r"out must have shape \[10, 3"),
        (lambda: ops.ranks_of(R), TypeError, "attributions must be float16"),
        (lambda: ops.ranks_of(X.sum()), ValueError, r"attributions must have shape \[B, ...\]"),
        (
            lambda: ops.ranks_of(torch.zeros(1).expand(1, 2**31)),
            ValueError,
            r"attributions must have fewer than 2\*\*31 features",
        ),
    ],
)
def test_a_bad_argument_is_named_with_what_it_must_be(call, error, words: str) -> None:
    with pytest.raises(error, match=f"^(rank_mask|ranks_of): .*{words}"):
        call()


BASE = torch.tensor(0.0)
SPACE = torch.zeros(12, dtype=torch.int64)
OVER = SPACE.view(torch.float32).reshape(2, 3, 4)


@needs_native_cpu
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda o: o.rank_mask(X, X[:, :2], R, S), "base must"),
        (lambda o: o.rank_mask(X, BASE, R[..., :2], S), "ranks must have the shape"),
        (lambda o: o.rank_mask(X, BASE, R.float(), S), "ranks must be int32 or int64"),
        (lambda o: o.rank_mask(X, BASE, R, S.int()), "steps must be int64 of shape"),
        (lambda o: o.rank_mask(X, BASE, R, S[:, None]), "steps must be int64 of shape"),
        (lambda o: o.rank_mask(X, BASE, R, S[0]), "steps must be int64 of shape"),
        (lambda o: o.rank_mask(X.sum(), BASE, R, S), "inputs must have shape"),
        (lambda o: o.rank_mask.out(X, BASE, R, S, out=X), "out must have shape"),
        (lambda o: o.rank_mask.out(X, X, R, S[:1], out=X), "out must not share memory"),
        (
            lambda o: o.rank_mask.out(X, BASE, SPACE[:4].reshape(1, 1, 4), S[:1], out=OVER),
            "out must not share memory",
        ),
        (
            lambda o: o.rank_mask.out(X, BASE, R, SPACE[11:], out=OVER),
            "out must not share memory",
        ),
    ],
)
def test_a_raw_op_refuses_what_would_read_or_write_out_of_bounds(call, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        call(torch.ops.pyxai_fast)

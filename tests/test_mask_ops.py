"""mask_segments and mask_blend: backends against the reference, the reference against loops."""

from __future__ import annotations

import copy

import pytest
import torch
from assertions import assert_as_accurate_as, assert_same_bits
from conftest import needs_native_cpu
from hypothesis import given
from hypothesis import strategies as st
from mask_cases import FLOATS, SMALL, MaskCase
from select_layouts import affine_of, fitting, ids, layouts
from torch import Tensor

from pyxai_fast import ops, reference
from pyxai_fast.reference.path import memory_format_of

FORMATS = (torch.contiguous_format, torch.channels_last)


def by_loop(
    inputs: Tensor, segments: Tensor, kept: Tensor, fill: Tensor | float, **options
) -> Tensor:
    """The definition, one row after the other, from unpacked coalitions [S, n] or [S, B, n]."""
    fill = torch.as_tensor(fill)
    compute = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    wide = torch.promote_types(inputs.dtype, fill.dtype) if fill.dim() else inputs.dtype
    compute = torch.float64 if wide == torch.float64 else compute
    rows = []
    for kept_now in kept:
        for b in range(inputs.shape[0]):
            coalition = kept_now[b] if kept.dim() == 3 else kept_now
            own = segments[b if segments.shape[0] > 1 else 0]
            known = (own >= 0) & (own < len(coalition))
            mask = known & coalition[own.long().clamp(0, len(coalition) - 1)]
            there = fill if fill.dim() == 0 else fill[b if fill.shape[0] > 1 else 0]
            row = torch.where(mask, inputs[b].to(compute), there.to(compute))
            if options.get("scale") is not None:
                ones = [1] * (inputs.dim() - 2)
                row = row * options["scale"].to(compute).reshape(-1, *ones)
                row = row + options["shift"].to(compute).reshape(-1, *ones)
            rows.append(row.to(options.get("dtype") or inputs.dtype))
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
        words = ops.pack_coalitions(t["kept"])
        for scale, shift in ((None, None), affine_of(t["inputs"])):
            args = (t["inputs"], t["segments"], words, t["fill"])
            masked = ops.mask_segments(
                *args, scale=scale, shift=shift, dtype=out_dtype, memory_format=written
            )
            expected = reference.mask_segments(*args, scale, shift, out_dtype, written)
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
    for segments, kept, fill in (
        (t["segments"], t["kept"], t["fill"][:1]),
        (t["segments"], t["kept"], torch.tensor(0.5, device=backend)),
        (t["segments"].expand(case.shared_shape(per_example=True)), t["kept_each"], t["fill"]),
        (t["segments_each"], t["kept"], t["fill"][:1].expand_as(t["inputs"])),
        (t["segments_each"][:1], t["kept_each"], t["fill"]),
    ):
        args = (t["inputs"], segments, ops.pack_coalitions(kept), fill)
        masked = ops.mask_segments(*args, memory_format=written)
        assert_same_bits(masked, reference.mask_segments(*args, memory_format=written))


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_blends_have_the_bits_of_the_reference(
    case: MaskCase, dtype: torch.dtype, memory_format: torch.memory_format, backend: torch.device
) -> None:
    memory_format = fitting(torch.empty(1, *case.features), memory_format)
    t = case.tensors(dtype, memory_format, backend)
    for masks in (
        t["masks"],
        t["masks"].expand(case.shared_shape(per_example=True)).contiguous(),
        t["masks_each"],
        t["masks_each"][:1].float(),
    ):
        blended = ops.mask_blend(t["inputs"], masks)
        assert blended.shape == (2, *t["inputs"].shape)
        assert blended.flatten(0, 1).is_contiguous(memory_format=memory_format)
        expected = reference.mask_blend(t["inputs"], masks)
        assert_same_bits(blended.flatten(0, 1), expected)


def test_segments_without_a_bit_are_replaced_in_the_bits_of_the_reference(
    backend: torch.device,
) -> None:
    inputs = torch.randn(1, 40, device=backend)
    everything = torch.full((3, 1), -1, dtype=torch.int32, device=backend)
    # Far beyond the words, also in their lower 32 bits.
    unknown = torch.tensor([-1, -32, 32, 33, 2**31, 2**32, 2**40 + 1, -(2**63), 2**63 - 1])
    segments = torch.arange(40)
    segments[20 : 20 + len(unknown)] = unknown
    segments = segments.to(backend)[None]
    args = (inputs, segments, everything, torch.tensor(7.0, device=backend))
    masked = ops.mask_segments(*args)
    assert_same_bits(masked, reference.mask_segments(*args))
    kept = (segments >= 0) & (segments < 32)
    assert int(kept.sum()) == 20 + 3  # 0 to 19, and 29, 30, 31
    assert_same_bits(masked[:1], torch.where(kept, inputs, 7.0))
    no_words = everything[:, :0]
    assert_same_bits(ops.mask_segments(inputs, segments, no_words, 7.0), torch.full((3, 40), 7.0))
    lost = torch.full_like(segments, -1)
    assert_same_bits(ops.mask_segments(inputs, lost, everything, 7.0), torch.full((3, 40), 7.0))


# --- the reference is the definition -------------------------------------------------------------


@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_the_reference_is_a_loop_over_rows(case: MaskCase) -> None:
    t = case.tensors()
    options = {}
    if t["inputs"].dim() > 1:
        options["scale"], options["shift"] = affine_of(t["inputs"])
    with ops.native_kernels(False):
        for segments, kept in (
            (t["segments"], t["kept"]),
            (t["segments_each"], t["kept"]),
            (t["segments"], t["kept_each"]),
            (t["segments_each"], t["kept_each"]),
        ):
            masked = ops.mask_segments(
                t["inputs"], segments, ops.pack_coalitions(kept), t["fill"], **options
            )
            assert_same_bits(masked, by_loop(t["inputs"], segments, kept, t["fill"], **options))


@pytest.mark.parametrize("n_segments", [0, 1, 31, 32, 33, 64, 100])
def test_coalitions_are_unpacked_as_they_were_packed(
    n_segments: int, device: torch.device, seed: None
) -> None:
    kept = (torch.rand(4, 3, n_segments) < 0.5).to(device)
    words = ops.pack_coalitions(kept)
    assert words.dtype == torch.int32
    assert words.shape == (4, 3, -(-n_segments // 32))
    assert torch.equal(ops.unpack_coalitions(words, n_segments), kept)


def test_bit_i_of_a_word_is_segment_i() -> None:
    kept = torch.eye(64, dtype=torch.bool)
    words = ops.pack_coalitions(kept).tolist()
    as_signed = [1 << i if i < 31 else -(2**31) for i in range(32)]
    assert words == [[bit, 0] for bit in as_signed] + [[0, bit] for bit in as_signed]


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_a_coalition_of_all_gives_the_inputs_and_one_of_none_the_fill(
    dtype: torch.dtype, backend: torch.device
) -> None:
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    generator = torch.Generator().manual_seed(0)
    low, high = -(2 ** (8 * dtype.itemsize - 1)), 2 ** (8 * dtype.itemsize - 1) - 1
    every = torch.randint(low, high, (1, 3000), generator=generator).to(words).view(dtype)
    every = every.nan_to_num(posinf=torch.inf, neginf=-torch.inf).to(backend)
    segments = torch.arange(3000, device=backend)[None] % 50
    kept = torch.tensor([[True], [False]], device=backend).expand(2, 50)
    masked = ops.mask_segments(every, segments, ops.pack_coalitions(kept), -every)
    assert torch.equal(masked.view(words), torch.cat([every, -every]).view(words))


def test_nan_and_infinity_pass_through(backend: torch.device) -> None:
    nan, inf = float("nan"), float("inf")
    inputs = torch.tensor([[nan, inf, -inf, 1.0]], device=backend)
    segments = torch.zeros(1, 4, dtype=torch.int32, device=backend)
    words = torch.tensor([[1], [0]], dtype=torch.int32, device=backend)
    masked = ops.mask_segments(inputs, segments, words, 0.0)
    assert_same_bits(masked, torch.cat([inputs, torch.zeros_like(inputs)]))
    masked = ops.mask_segments(torch.zeros_like(inputs), segments, words, inputs)
    assert_same_bits(masked, torch.cat([torch.zeros_like(inputs), inputs]))
    blended = ops.mask_blend(inputs, torch.tensor([[1.0, 1.0, 0.25, nan]], device=backend))
    assert_same_bits(
        blended[:, 0],
        torch.tensor([[nan, inf, -inf, nan], [nan, nan, -inf, nan]], device=backend),
    )


@given(layouts())
def test_any_shape_and_stride_gives_the_rows_of_the_loop(t: dict) -> None:
    inputs = t["inputs"]
    sets = (t["steps"], inputs.shape[0], 64) if t["per_example"] else (t["steps"], 64)
    kept = torch.rand(sets, generator=t["generator"]) < 0.5
    masked = ops.mask_segments(
        inputs, t["labels"], ops.pack_coalitions(kept), t["other"], **t["options"]
    )
    assert masked.shape == (t["steps"] * inputs.shape[0], *inputs.shape[1:])
    assert masked.dtype == inputs.dtype
    assert masked.is_contiguous(
        memory_format=t["options"]["memory_format"] or torch.contiguous_format
    )
    if masked.numel() > 0:
        options = {k: v for k, v in t["options"].items() if k != "memory_format"}
        assert_same_bits(masked, by_loop(inputs, t["labels"], kept, t["other"], **options))


@needs_native_cpu
@given(layouts(special=True), st.sampled_from(FLOATS))
def test_native_and_reference_agree_on_any_layout_and_value(t: dict, mask_dtype) -> None:
    inputs = t["inputs"]
    sets = (t["steps"], inputs.shape[0], 64) if t["per_example"] else (t["steps"], 64)
    words = ops.pack_coalitions(torch.rand(sets, generator=t["generator"]) < 0.5)
    masks = (t["labels"] / 64).to(mask_dtype)

    def run() -> tuple[Tensor, Tensor]:
        return (
            ops.mask_segments(inputs, t["labels"], words, t["other"], **t["options"]),
            ops.mask_blend(inputs, masks),
        )

    native = run()
    with ops.native_kernels(False):
        plain = run()
    for a, b in zip(native, plain, strict=True):
        assert_same_bits(a, b)
        assert memory_format_of(a) == memory_format_of(b)


# --- what never changes the numbers --------------------------------------------------------------


def test_any_split_of_the_coalitions_gives_the_same_bits(device: torch.device) -> None:
    t = MaskCase("split", 70, 2, (3, 17, 33), 90).tensors(device=device)
    words = ops.pack_coalitions(t["kept"])
    whole = ops.mask_segments(t["inputs"], t["segments"], words, t["fill"])
    for size in (1, 7, 32, 33):
        parts = [
            ops.mask_segments(t["inputs"], t["segments"], chunk, t["fill"])
            for chunk in words.split(size)
        ]
        assert_same_bits(torch.cat(parts), whole)


@needs_native_cpu
def test_threads_and_instruction_sets_give_the_same_bits() -> None:
    t = MaskCase("threads", 9, 5, (3, 64, 65), 100).tensors(torch.bfloat16)
    words = ops.pack_coalitions(t["kept"])
    scale, shift = affine_of(t["inputs"])
    threads, isa = torch.get_num_threads(), ops.cpu_isa()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for name in ops.available_cpu_isas():
                ops.set_cpu_isa(name)
                masked = ops.mask_segments(
                    t["inputs"], t["segments"], words, t["fill"], scale=scale, shift=shift
                )
                results.append((masked, ops.mask_blend(t["inputs"], t["masks"])))
    finally:
        torch.set_num_threads(threads)
        ops.set_cpu_isa(isa)
    assert len(results) >= 3
    for masked, blended in results[1:]:
        assert_same_bits(masked, results[0][0])
        assert_same_bits(blended, results[0][1])


@needs_native_cpu
@pytest.mark.parametrize("isa", ops.available_cpu_isas())
def test_results_beyond_the_caches_are_the_same_bits(isa: str) -> None:
    """These are written past the caches, in whole lines of memory where they begin on one."""
    t = MaskCase("large", 70, 2, (3, 111, 113), 100).tensors()
    words = ops.pack_coalitions(t["kept"])
    args = (t["inputs"], t["segments"], words, t["fill"])
    x = t["inputs"].repeat(30, 1, 1, 1)
    m = t["masks"].half()
    before = ops.cpu_isa()
    try:
        ops.set_cpu_isa(isa)
        masked = torch.empty(140 * 3 * 111 * 113 + 1)[1:].view(140, 3, 111, 113)
        ops.mask_segments(*args, out=masked)
        blended = ops.mask_blend(x, m)
    finally:
        ops.set_cpu_isa(before)
    assert min(masked.nbytes, blended.nbytes) > 2**24
    assert_same_bits(masked, reference.mask_segments(*args))
    assert_same_bits(blended.flatten(0, 1), reference.mask_blend(x, m))


def test_float32_is_as_accurate_as_plain_pytorch(device: torch.device) -> None:
    t = MaskCase("accuracy", 1, 4, (3, 20, 20), 9).tensors(device=device)
    x, m = t["inputs"], t["masks"]
    for actual, plain, truth in zip(
        ops.mask_blend(x, m),
        (x * m, x - x * m),
        (x.double() * m.double(), x.double() * (1 - m.double())),
        strict=True,
    ):
        assert_as_accurate_as(actual, plain, truth)


# --- out= ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_out_is_written_in_its_own_dtype_and_format(
    dtype: torch.dtype, memory_format: torch.memory_format, device: torch.device
) -> None:
    t = MaskCase("out", 3, 2, (3, 5, 6), 7).tensors(device=device)
    buffer = torch.full((10, 3, 5, 6), 7.0, dtype=dtype, device=device)
    buffer = buffer.contiguous(memory_format=memory_format)
    args = (t["inputs"], t["segments"], ops.pack_coalitions(t["kept"]), t["fill"])
    out = buffer[:6]
    assert ops.mask_segments(*args, out=out) is out
    assert_same_bits(out, ops.mask_segments(*args, dtype=dtype))
    # It may be the front of a larger buffer.
    assert bool((buffer[6:] == 7.0).all())


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
def test_a_blend_is_written_into_out(
    memory_format: torch.memory_format, device: torch.device
) -> None:
    t = MaskCase("out", 1, 2, (3, 5, 6), 7).tensors(device=device)
    buffer = torch.full((6, 3, 5, 6), 7.0, device=device).contiguous(memory_format=memory_format)
    out = buffer[:4].unflatten(0, (2, 2))
    assert ops.mask_blend(t["inputs"], t["masks"], out=out) is out
    assert_same_bits(out, ops.mask_blend(t["inputs"], t["masks"]))
    assert bool((buffer[4:] == 7.0).all())


# --- derivatives ---------------------------------------------------------------------------------


def small_double() -> dict[str, Tensor]:
    t = MaskCase("derivative", 3, 2, (2, 3, 2), 5).tensors(torch.float64)
    return {k: v.requires_grad_(v.is_floating_point()) for k, v in t.items()}


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_blends_are_differentiable_twice(check) -> None:
    t = small_double()
    assert check(ops.mask_blend, (t["inputs"], t["masks"]))
    assert check(ops.mask_blend, (t["inputs"], t["masks_each"]))
    flat = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert check(ops.mask_blend, (flat, torch.rand(1, dtype=torch.float64, requires_grad=True)))


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_masked_inputs_are_differentiable_twice(check) -> None:
    t = small_double()
    scale, shift = (c.double() for c in affine_of(t["inputs"].detach()))
    one = t["fill"].detach()[:1].requires_grad_()
    for kept in (t["kept"], t["kept_each"]):
        words = ops.pack_coalitions(kept)
        assert check(
            lambda x, f, words=words: ops.mask_segments(
                x, t["segments"], words, f, scale=scale, shift=shift
            ),
            (t["inputs"], t["fill"]),
        )
        assert check(
            lambda x, f, words=words: ops.mask_segments(x, t["segments_each"], words, f),
            (t["inputs"], one),
        )


def test_tangents_go_forward_through_both_ops() -> None:
    t = {k: v.detach() for k, v in small_double().items()}
    scale, shift = (c.double() for c in affine_of(t["inputs"]))
    words = ops.pack_coalitions(t["kept"])

    def masked(x: Tensor, fill: Tensor) -> Tensor:
        return ops.mask_segments(x, t["segments"], words, fill, scale=scale, shift=shift)

    for function, args in (
        (ops.mask_blend, (t["inputs"], t["masks"])),
        (masked, (t["inputs"], t["fill"])),
    ):
        for position in range(2):
            forward = torch.func.jacfwd(function, argnums=position)(*args)
            reverse = torch.func.jacrev(function, argnums=position)(*args)
            assert bool((reverse != 0).any())
            torch.testing.assert_close(forward, reverse)


def test_torch_func_transforms_work(device: torch.device) -> None:
    t = MaskCase("func", 3, 2, (4,), 6).tensors(torch.float64, device=device)
    words = ops.pack_coalitions(t["kept"])

    def energy(x: Tensor) -> Tensor:
        masked = ops.mask_segments(x, t["segments"], words, x.square())
        return ops.mask_blend(masked.sin(), t["masks"].sin()).square().sum()

    def plain(x: Tensor) -> Tensor:
        masked = torch.where(t["kept"][:, t["segments"]], x, x.square()).flatten(0, 1).sin()
        m = t["masks"].sin()
        return (masked * m).square().sum() + (masked * (1 - m)).square().sum()

    x = t["inputs"]
    torch.testing.assert_close(torch.func.grad(energy)(x), torch.func.grad(plain)(x))
    torch.testing.assert_close(torch.func.hessian(energy)(x), torch.func.hessian(plain)(x))
    many = torch.stack([x, 2 * x, -x])
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(energy))(many),
        torch.stack([torch.func.grad(plain)(one) for one in many]),
    )


def mapped_arguments(args: list[Tensor], which: int | None) -> tuple[list[Tensor], tuple]:
    """Three of the argument, or of all, stacked along dimension 1; the others as they are."""
    chosen = [which is None or i == which for i in range(len(args))]
    stacked = [
        torch.stack([a, a.flip(0), a.roll(1, -1)], dim=1) if c else a
        for a, c in zip(args, chosen, strict=True)
    ]
    return stacked, tuple(1 if c else None for c in chosen)


@pytest.mark.parametrize("which", [0, 1, 2, 3, None])
def test_vmap_of_masked_inputs_equals_a_loop(which: int | None, device: torch.device) -> None:
    t = MaskCase("vmap", 3, 2, (2, 3, 4), 40).tensors(device=device)
    for segments in (t["segments"], t["segments_each"]):
        for kept in (t["kept"], t["kept_each"]):
            args = [t["inputs"], segments, ops.pack_coalitions(kept), t["fill"]]
            stacked, in_dims = mapped_arguments(args, which)
            actual = torch.vmap(ops.mask_segments, in_dims=in_dims)(*stacked)
            loop = [
                ops.mask_segments(
                    *[
                        a.select(1, i) if d == 1 else a
                        for a, d in zip(stacked, in_dims, strict=True)
                    ]
                )
                for i in range(3)
            ]
            assert_same_bits(actual, torch.stack(loop))


@pytest.mark.parametrize("which", [0, 1, None])
def test_vmap_of_a_blend_equals_a_loop(which: int | None, device: torch.device) -> None:
    t = MaskCase("vmap", 3, 2, (2, 3, 4), 40).tensors(device=device)
    for masks in (t["masks"], t["masks_each"]):
        stacked, in_dims = mapped_arguments([t["inputs"], masks], which)
        actual = torch.vmap(ops.mask_blend, in_dims=in_dims)(*stacked)
        loop = [
            ops.mask_blend(
                *[a.select(1, i) if d == 1 else a for a, d in zip(stacked, in_dims, strict=True)]
            )
            for i in range(3)
        ]
        assert_same_bits(actual, torch.stack(loop))


# --- torch.library and torch.compile -------------------------------------------------------------


def op_calls(device: torch.device) -> list[tuple]:
    calls = []
    library = torch.ops.pyxai_fast
    for features, memory_format in (
        ((), torch.contiguous_format),
        ((4,), torch.contiguous_format),
        ((3, 4, 5), torch.channels_last),
        ((0,), torch.contiguous_format),
        ((2, 3, 2, 2), torch.channels_last_3d),
    ):
        t = MaskCase("opcheck", 3, 2, features, 40).tensors(torch.float32, memory_format, device)
        x, f, m = t["inputs"], t["fill"], t["masks"]
        words, words_each = (ops.pack_coalitions(t[k]) for k in ("kept", "kept_each"))
        out = torch.empty(6, *features, device=device)
        calls += [
            (library.mask_segments.default, (x, t["segments"], words, f), {}),
            (
                library.mask_segments.default,
                (x, t["segments_each"], words_each, f[:1], None, None, torch.float16),
                {},
            ),
            (library.mask_segments.out, (x, t["segments"], words, f), {"out": out}),
            (library.mask_blend.default, (x, m), {}),
            (library.mask_blend.default, (x, t["masks_each"].double()), {}),
            (library.mask_blend.out, (x, m), {"out": torch.empty(4, *features, device=device)}),
        ]
        if x.dim() == 4:
            args = (x, t["segments"], words, f, *affine_of(x), torch.bfloat16, torch.channels_last)
            calls.append((library.mask_segments.default, args, {}))
    return calls


@pytest.mark.parametrize("native", [True, False], ids=["native", "reference"])
def test_ops_pass_opcheck(native: bool, device: torch.device) -> None:
    with ops.native_kernels(native):
        for op, args, kwargs in op_calls(device):
            torch.library.opcheck(op, copy.deepcopy(args), copy.deepcopy(kwargs))


def test_ops_compile_into_one_graph(device: torch.device) -> None:
    t = MaskCase("compile", 3, 2, (3, 8, 8), 40).tensors(device=device)
    words = ops.pack_coalitions(t["kept"])

    def energy(x: Tensor, m: Tensor) -> Tensor:
        kept, rest = ops.mask_blend(x, m)
        masked = ops.mask_segments(
            kept, t["segments"], words, 0.5, memory_format=torch.channels_last
        )
        return masked.square().sum() + rest.sin().sum()

    args = (t["inputs"], t["masks"])
    compiled = torch.compile(energy, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(*args), energy(*args))
    leaves = [a.clone().requires_grad_() for a in args]
    compiled(*leaves).backward()
    expected = torch.autograd.grad(energy(*leaves), leaves)
    for leaf, grad in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, grad)


# --- errors --------------------------------------------------------------------------------------

X = torch.zeros(2, 3, 4)
G = torch.zeros(1, 1, 4, dtype=torch.int32)
W = torch.zeros(5, 1, dtype=torch.int32)
M = torch.zeros(2, 1, 4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.mask_segments(X.long(), G, W, 0.0), TypeError, "inputs must be float16"),
        (lambda: ops.mask_segments([1.0], G, W, 0.0), TypeError, "inputs must be a tensor"),
        (lambda: ops.mask_segments(X.sum(), G, W, 0.0), ValueError, "inputs must have shape"),
        (lambda: ops.mask_segments(X, G.float(), W, 0.0), TypeError, "segments must be int32 or"),
        (lambda: ops.mask_segments(X, [0], W, 0.0), TypeError, "segments must be a tensor"),
        (
            lambda: ops.mask_segments(X, G[0], W, 0.0),
            ValueError,
            r"segments must have shape \[1 or 2, 1 or 3, 4\], got \[1, 4\]",
        ),
        (lambda: ops.mask_segments(X, G[..., :1], W, 0.0), ValueError, "segments must have shape"),
        (lambda: ops.mask_segments(X, G, W.long(), 0.0), TypeError, "coalitions must be int32"),
        (
            lambda: ops.mask_segments(X, G, W[0], 0.0),
            ValueError,
            r"coalitions must have shape \[S, W\] or \[S, B, W\], B = 2, got \[1\]",
        ),
        (
            lambda: ops.mask_segments(X, G, W[:, None].expand(5, 3, 1), 0.0),
            ValueError,
            r"coalitions must have shape .* got \[5, 3, 1\]",
        ),
        (lambda: ops.mask_segments(X, G, W.to("meta"), 0.0), ValueError, "coalitions must be on"),
        (lambda: ops.mask_segments(X, G, W, "black"), TypeError, "fill must be a number"),
        (lambda: ops.mask_segments(X, G, W, X[:, :2]), ValueError, r"fill must .*\[2, 2, 4\]"),
        (
            lambda: ops.mask_segments(X, G, W, 0.0, scale=torch.ones(3)),
            ValueError,
            "given together",
        ),
        (
            lambda: ops.mask_segments(X, G, W, 0.0, scale=torch.ones(4), shift=torch.ones(4)),
            ValueError,
            r"scale must have shape \[C\]",
        ),
        (lambda: ops.mask_segments(X, G, W, 0.0, dtype=torch.int8), TypeError, "dtype .*int8"),
        (
            lambda: ops.mask_segments(X, G, W, 0.0, memory_format=torch.channels_last),
            ValueError,
            "memory_format must be one of",
        ),
        (
            lambda: ops.mask_segments(X, G, W, 0.0, out=X),
            ValueError,
            r"out must have shape \[10, 3, 4\]",
        ),
        (lambda: ops.mask_blend(X.long(), M), TypeError, "inputs must be float16"),
        (lambda: ops.mask_blend(X, M.int()), TypeError, "masks must be float16"),
        (lambda: ops.mask_blend(X, 0.5), TypeError, "masks must be a tensor, got float"),
        (lambda: ops.mask_blend(X, M[..., :1]), ValueError, "masks must have shape"),
        (lambda: ops.mask_blend(X, M.to("meta")), ValueError, "masks must be on cpu"),
        (lambda: ops.mask_blend(X, M, out=X), ValueError, r"out must have shape \[2, 2, 3, 4\]"),
        (
            lambda: ops.mask_blend(X, M, out=torch.zeros(2, 2, 3, 4).double()),
            ValueError,
            "out must have .* torch.float32, got .*torch.float64",
        ),
        (
            lambda: ops.mask_blend(X, M, out=torch.zeros(4, 2, 3, 4)[::2]),
            ValueError,
            "out must have its halves side by side",
        ),
        (
            lambda: ops.mask_blend(X, M, out=torch.zeros(2, 2, 4, 3).transpose(2, 3)),
            ValueError,
            "out must be contiguous or channels_last",
        ),
        (lambda: ops.pack_coalitions(W), TypeError, "kept must be bool, got torch.int32"),
        (lambda: ops.pack_coalitions(W[0, 0] > 0), ValueError, "kept must have shape"),
        (lambda: ops.unpack_coalitions(W.long(), 3), TypeError, "words must be int32"),
        (lambda: ops.unpack_coalitions(W[0, 0], 3), ValueError, "words must have shape"),
        (lambda: ops.unpack_coalitions(W, 33), ValueError, "n_segments must be between 0 and 32"),
    ],
)
def test_a_bad_argument_is_named_with_what_it_must_be(call, error, words: str) -> None:
    with pytest.raises(error, match=f"^(mask_(segments|blend)|(un)?pack_coalitions): .*{words}"):
        call()


FILL = torch.tensor(0.0)


@needs_native_cpu
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda o: o.mask_segments(X, G, W, X[:, :2]), "fill must"),
        (lambda o: o.mask_segments(X, G[..., :2], W, FILL), "segments must have the shape"),
        (lambda o: o.mask_segments(X, G.float(), W, FILL), "segments must be int32 or int64"),
        (lambda o: o.mask_segments(X, G, W.long(), FILL), "coalitions must be int32 of shape"),
        (lambda o: o.mask_segments(X, G, W[None], FILL), "coalitions must be int32 of shape"),
        (lambda o: o.mask_segments(X, G, W[0], FILL), "coalitions must be int32 of shape"),
        (
            lambda o: o.mask_segments(X, G, W[:, :1].expand(5, 2**26 + 1), FILL),
            "coalitions must have at most",
        ),
        (lambda o: o.mask_segments(X.long(), G, W, FILL), "inputs must be float16"),
        (lambda o: o.mask_segments(X.sum(), G, W, FILL), "inputs must have shape"),
        (lambda o: o.mask_segments.out(X, G, W, FILL, out=X), "out must have shape"),
        (
            lambda o: o.mask_segments.out(X, G, W[:1], X, out=X),
            "out must not share memory with what is read",
        ),
        (
            lambda o: o.mask_segments.out(X, SPACE[8:12].reshape(1, 1, 4), W[:1], FILL, out=OVER),
            "out must not share memory with what is read",
        ),
        (
            lambda o: o.mask_segments.out(X, G, SPACE[8:12].reshape(1, 4), FILL, out=OVER),
            "out must not share memory with what is read",
        ),
        (lambda o: o.mask_blend(X, M[..., :2]), "masks must have the shape"),
        (lambda o: o.mask_blend(X.sum(), M), "inputs must have shape"),
        (lambda o: o.mask_blend.out(X, M, out=X), "out must have shape"),
        (lambda o: o.mask_blend.out(X[1:], M[1:], out=X), "out must not share memory"),
    ],
)
def test_a_raw_op_refuses_what_would_read_or_write_out_of_bounds(call, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        call(torch.ops.pyxai_fast)


SPACE = torch.zeros(24, dtype=torch.int32)
OVER = SPACE.view(torch.float32).reshape(2, 3, 4)

"""path_points and path_accumulate: every backend against the reference and the float64 truth."""

from __future__ import annotations

import copy

import pytest
import torch
from assertions import assert_as_accurate_as, assert_same_bits
from conftest import needs_native_cpu
from hypothesis import given
from hypothesis import strategies as st
from path_cases import FLOATS, SMALL, PathCase
from torch import Tensor

from pyxai_fast import ops, reference

FORMATS = (torch.contiguous_format, torch.channels_last)


def ids(values: tuple) -> list[str]:
    return [getattr(v, "name", str(v).removeprefix("torch.")) for v in values]


def affine_of(inputs: Tensor) -> tuple[Tensor, Tensor]:
    channels = inputs.shape[1]
    return (
        torch.linspace(0.5, 3.0, channels, device=inputs.device),
        torch.linspace(-1.0, 1.0, channels, device=inputs.device),
    )


# --- the kernels give the bits of the reference --------------------------------------------------


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("point_dtype", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_points_have_the_bits_of_the_reference(
    case: PathCase,
    dtype: torch.dtype,
    point_dtype: torch.dtype,
    memory_format: torch.memory_format,
    backend: torch.device,
) -> None:
    t = case.tensors(dtype, device=backend)
    if t["inputs"].dim() != 4 and memory_format is torch.channels_last:
        memory_format = torch.contiguous_format
    affines = [(None, None)]
    if t["inputs"].dim() > 1:
        affines.append(affine_of(t["inputs"]))
    for scale, shift in affines:
        args = (t["inputs"], t["baselines"], t["alphas"])
        points = ops.path_points(
            *args, scale=scale, shift=shift, dtype=point_dtype, memory_format=memory_format
        )
        expected = reference.path_points(*args, scale, shift, point_dtype, memory_format)
        assert points.is_contiguous(memory_format=memory_format)
        assert_same_bits(points, expected)


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("grad_dtype", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_attributions_have_the_bits_of_the_reference(
    case: PathCase,
    dtype: torch.dtype,
    grad_dtype: torch.dtype,
    memory_format: torch.memory_format,
    backend: torch.device,
) -> None:
    t = case.tensors(dtype, device=backend)
    grads = case.tensors(grad_dtype, memory_format, backend)["grads"]
    assert_same_bits(
        ops.path_accumulate(grads, t["weights"]), reference.path_accumulate(grads, t["weights"])
    )
    ends = (t["inputs"], t["baselines"])
    scales = [None] + ([affine_of(t["inputs"])[0]] if t["inputs"].dim() > 1 else [])
    for scale in scales:
        assert_same_bits(
            ops.path_accumulate(grads, t["weights"], *ends, scale=scale),
            reference.path_accumulate(grads, t["weights"], *ends, scale),
        )


def test_flushing_subnormals_changes_no_half(backend: torch.device) -> None:
    every = torch.arange(1, 1024, dtype=torch.int16).view(torch.float16)[None]
    expected = every.float()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        widened = ops.path_points(every, 0.0, torch.ones(1), dtype=torch.float32)
    finally:
        torch.set_flush_denormal(False)
    assert_same_bits(widened, expected)


def test_every_half_is_converted_as_torch_converts_it(backend: torch.device) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)[None]
        same = ops.path_points(every, 0.0, torch.ones(1), dtype=torch.float32)
        assert_same_bits(same + 0.0, every.float() + 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=ids(FLOATS[:2]))
def test_floats_are_rounded_to_halves_as_torch_rounds_them(
    dtype: torch.dtype, backend: torch.device
) -> None:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(-(2**31), 2**31, (200_000,), generator=generator).to(torch.int32)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    next_up = torch.nextafter(every, torch.tensor(float("inf")))
    halfway = (every + next_up.to(dtype).float()) / 2
    values = torch.cat([patterns.view(torch.float32), every, next_up, halfway])[None]
    # alpha = 1 from a baseline of zero: the value itself.
    assert_same_bits(
        ops.path_points(values, 0.0, torch.ones(1), dtype=dtype),
        (0.0 + values).to(dtype),
    )


def test_nan_and_infinity_pass_through(backend: torch.device) -> None:
    inputs = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]], device=backend)
    alphas = torch.tensor([0.5, 1.0], device=backend)
    points = ops.path_points(inputs, 0.0, alphas)
    expected = torch.tensor([float("nan"), float("inf"), -float("inf")], device=backend)
    assert_same_bits(points[:, :3], expected.expand(2, 3))
    grads = inputs.repeat(2, 1)
    assert_same_bits(ops.path_accumulate(grads, alphas)[:, :3], expected[None])


# --- shapes --------------------------------------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn, special: bool = False) -> dict:
    """Inputs of any small shape and stride, with every kind of baseline and coefficient.

    With `special`, some values are NaN, infinite, subnormal or too large for a half.
    """
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple))
    steps = draw(st.integers(1, 6))
    dtype = draw(st.sampled_from(FLOATS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-40, 6e-8, 1e5, -0.0])

    def values(size: tuple[int, ...]) -> Tensor:
        drawn = torch.randn(size, generator=generator)
        if special:
            chosen = odd[torch.randint(len(odd), size, generator=generator)]
            drawn = torch.where(torch.rand(size, generator=generator) < 0.3, chosen, drawn)
        return drawn.to(dtype)

    def tensor(size: tuple[int, ...]) -> Tensor:
        kind = draw(st.sampled_from(["plain", "strided", "transposed", "expanded"]))
        if kind == "strided":
            return values((*size, 2))[..., 0]
        if kind == "transposed" and len(size) > 1:
            return values(size[::-1]).permute(*range(len(size) - 1, -1, -1))
        if kind == "expanded":
            return values((1,) * len(size)).expand(size)
        return values(size)

    baselines: Tensor | float
    kind = draw(st.sampled_from(["number", "scalar", "one", "batch", "other_dtype"]))
    if kind == "number":
        baselines = 0.25
    elif kind == "scalar":
        baselines = torch.tensor(0.5)
    elif kind == "one":
        baselines = tensor((1, *shape[1:]))
    elif kind == "batch":
        baselines = tensor(shape)
    else:
        baselines = tensor(shape).to(draw(st.sampled_from(FLOATS)))
    per_example = draw(st.booleans())
    coefficients = (steps, shape[0]) if per_example else (steps,)
    return {
        "inputs": tensor(shape),
        "baselines": baselines,
        "alphas": torch.rand(coefficients, generator=generator, dtype=torch.float64),
        "weights": torch.rand(coefficients, generator=generator),
        "grads": tensor((steps * shape[0], *shape[1:])),
    }


@given(layouts())
def test_any_shape_and_stride_gives_the_plain_expression(t: dict) -> None:
    inputs, baselines = t["inputs"], t["baselines"]
    steps = t["alphas"].shape[0]
    points = ops.path_points(inputs, baselines, t["alphas"])
    assert points.shape == (steps * inputs.shape[0], *inputs.shape[1:])
    assert points.dtype == inputs.dtype
    start = baselines.double() if isinstance(baselines, Tensor) else baselines
    rest = [1] * (inputs.dim() - 1)
    alphas = t["alphas"].reshape(steps, -1, *rest)
    truth = (start + alphas * (inputs.double() - start)).flatten(0, 1)
    torch.testing.assert_close(
        points.double(),
        truth,
        rtol=2 * torch.finfo(inputs.dtype).eps,
        atol=1e-6 if inputs.dtype in (torch.float32, torch.float64) else 2e-2,
    )
    attributions = ops.path_accumulate(t["grads"], t["weights"], inputs, baselines)
    assert attributions.shape == inputs.shape
    weights = t["weights"].double().reshape(steps, -1, *rest)
    total = (weights * t["grads"].double().unflatten(0, (steps, -1))).sum(0)
    torch.testing.assert_close(
        attributions.double(), total * (inputs.double() - start), rtol=1e-5, atol=1e-5
    )


@needs_native_cpu
@given(layouts(special=True))
def test_native_and_reference_agree_on_any_layout_and_value(t: dict) -> None:
    def run() -> tuple[Tensor, Tensor]:
        return (
            ops.path_points(t["inputs"], t["baselines"], t["alphas"]),
            ops.path_accumulate(t["grads"], t["weights"], t["inputs"], t["baselines"]),
        )

    native = run()
    with ops.native_kernels(False):
        plain = run()
    for a, b in zip(native, plain, strict=True):
        assert_same_bits(a, b)


# --- what never changes the numbers --------------------------------------------------------------


@pytest.mark.parametrize("grad_dtype", FLOATS, ids=ids(FLOATS))
def test_any_split_of_the_steps_gives_the_same_bits(
    grad_dtype: torch.dtype, device: torch.device
) -> None:
    case = PathCase("split", 23, 3, (3, 33, 50))
    t = case.tensors(grad_dtype, device=device)
    whole = torch.zeros(3, 3, 33, 50, dtype=torch.float64, device=device)
    ops.path_accumulate(t["grads"], t["weights"], total=whole)
    for size in (1, 2, 3, 7, 22):
        total = torch.zeros_like(whole)
        for begin in range(0, 23, size):
            steps = slice(begin, begin + size)
            rows = slice(3 * begin, 3 * (begin + size))
            ops.path_accumulate(t["grads"][rows], t["weights"][steps], total=total)
        assert_same_bits(total, whole)


@needs_native_cpu
def test_threads_and_instruction_sets_give_the_same_bits() -> None:
    case = PathCase("threads", 9, 5, (3, 64, 65))
    t = case.tensors()
    threads, isa = torch.get_num_threads(), ops.cpu_isa()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for name in ops.available_cpu_isas():
                ops.set_cpu_isa(name)
                results.append(
                    (
                        ops.path_points(t["inputs"], t["baselines"], t["alphas"]),
                        ops.path_accumulate(t["grads"], t["weights"], t["inputs"], 0.5),
                    )
                )
    finally:
        torch.set_num_threads(threads)
        ops.set_cpu_isa(isa)
    assert len(results) >= 3
    for points, attributions in results[1:]:
        assert_same_bits(points, results[0][0])
        assert_same_bits(attributions, results[0][1])


@pytest.mark.parametrize("steps", [2, 50, 1000])
def test_float32_is_as_accurate_as_plain_pytorch(steps: int, device: torch.device) -> None:
    t = PathCase("accuracy", steps, 4, (500,)).tensors(device=device)
    x, b, grads = t["inputs"], t["baselines"], t["grads"].unflatten(0, (steps, 4))
    alphas, weights = t["alphas"].reshape(-1, 1, 1), t["weights"].reshape(-1, 1, 1)
    assert_as_accurate_as(
        ops.path_points(x, b, t["alphas"]),
        torch.lerp(b, x, alphas.float()).flatten(0, 1),
        (b.double() + alphas * (x.double() - b.double())).flatten(0, 1),
    )
    assert_as_accurate_as(
        ops.path_accumulate(t["grads"], t["weights"], x, b),
        (grads * weights.float()).sum(0) * (x - b),
        (grads.double() * weights).sum(0) * (x.double() - b.double()),
    )


# --- out= and total= -----------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_out_is_written_in_its_own_dtype_and_format(
    dtype: torch.dtype, memory_format: torch.memory_format, device: torch.device
) -> None:
    t = PathCase("out", 3, 2, (3, 5, 6)).tensors(device=device)
    out = torch.full((6, 3, 5, 6), 7.0, dtype=dtype, device=device)
    out = out.contiguous(memory_format=memory_format)
    args = (t["inputs"], t["baselines"], t["alphas"])
    returned = ops.path_points(*args, out=out)
    assert returned is out
    assert_same_bits(out, ops.path_points(*args, dtype=dtype))


def test_out_may_be_the_front_of_a_larger_buffer(device: torch.device) -> None:
    t = PathCase("out", 3, 2, (3, 5, 6)).tensors(device=device)
    buffer = torch.full((10, 3, 5, 6), 7.0, device=device)
    buffer = buffer.contiguous(memory_format=torch.channels_last)
    args = (t["inputs"], t["baselines"], t["alphas"])
    ops.path_points(*args, out=buffer[:6])
    assert_same_bits(buffer[:6], ops.path_points(*args))
    assert bool((buffer[6:] == 7.0).all())


# --- derivatives ---------------------------------------------------------------------------------


def small_double(requires_grad: bool = True) -> dict[str, Tensor]:
    t = PathCase("derivative", 3, 2, (2, 3, 2)).tensors(torch.float64)
    return {k: v.requires_grad_(requires_grad) for k, v in t.items()}


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_points_are_differentiable_twice(check) -> None:
    t = small_double()
    scale, shift = (c.double() for c in affine_of(t["inputs"].detach()))
    assert check(
        lambda x, b, a: ops.path_points(x, b, a, scale=scale, shift=shift),
        (t["inputs"], t["baselines"], t["alphas"]),
    )
    flat = torch.randn(3, dtype=torch.float64, requires_grad=True)
    own = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    assert check(lambda x, a: ops.path_points(x, 0.5, a), (flat, own))
    one = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert check(lambda x, b: ops.path_points(x, b, t["alphas"].detach()), (t["inputs"], one))


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_attributions_are_differentiable_twice(check) -> None:
    t = small_double()
    scale, _ = (c.double() for c in affine_of(t["inputs"].detach()))
    assert check(
        lambda g, w, x, b: ops.path_accumulate(g, w, x, b, scale=scale),
        (t["grads"], t["weights"], t["inputs"], t["baselines"]),
    )
    assert check(ops.path_accumulate, (t["grads"], t["weights"]))
    flat = torch.randn(12, dtype=torch.float64, requires_grad=True)
    own = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    assert check(ops.path_accumulate, (flat, own))


def test_tangents_go_forward_through_both_ops() -> None:
    t = small_double(requires_grad=False)
    scale, shift = (c.double() for c in affine_of(t["inputs"]))
    ends = (t["inputs"], t["baselines"])

    def points(x: Tensor, b: Tensor, a: Tensor) -> Tensor:
        return ops.path_points(x, b, a, scale=scale, shift=shift)

    def attributions(g: Tensor, w: Tensor, x: Tensor, b: Tensor) -> Tensor:
        return ops.path_accumulate(g, w, x, b, scale=scale)

    for function, args in (
        (points, (*ends, t["alphas"])),
        (attributions, (t["grads"], t["weights"], *ends)),
    ):
        for position in range(len(args)):
            forward = torch.func.jacfwd(function, argnums=position)(*args)
            reverse = torch.func.jacrev(function, argnums=position)(*args)
            assert bool((reverse != 0).any())
            torch.testing.assert_close(forward, reverse)


def test_a_gradient_through_vmap_and_a_hessian_are_right() -> None:
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    alphas = torch.linspace(0, 1, 5, dtype=torch.float64)

    def energy(one: Tensor) -> Tensor:
        return ops.path_points(one, 0.25, alphas).sin().sum()

    def plain(one: Tensor) -> Tensor:
        return (0.25 + alphas.reshape(-1, 1, 1) * (one - 0.25)).sin().sum()

    def over(function):
        return lambda many: torch.func.vmap(function)(many).sum()

    torch.testing.assert_close(torch.func.grad(over(energy))(x), torch.func.grad(over(plain))(x))
    torch.testing.assert_close(torch.func.hessian(energy)(x[0]), torch.func.hessian(plain)(x[0]))


def test_values_do_not_depend_on_whether_derivatives_are_recorded() -> None:
    t = PathCase("recorded", 5, 3, (7,)).tensors()
    plain = ops.path_accumulate(t["grads"], t["weights"], t["inputs"], t["baselines"])
    recorded = ops.path_accumulate(
        t["grads"], t["weights"], t["inputs"].requires_grad_(), t["baselines"]
    )
    with torch.no_grad():
        inside = ops.path_accumulate(t["grads"], t["weights"], t["inputs"], t["baselines"])
    assert_same_bits(recorded.detach(), plain)
    assert_same_bits(inside, plain)


def test_the_reference_op_is_differentiable_without_native_kernels() -> None:
    with ops.native_kernels(False):
        test_points_are_differentiable_twice(torch.autograd.gradcheck)
        test_attributions_are_differentiable_twice(torch.autograd.gradcheck)


def test_points_and_accumulate_are_transposes(device: torch.device) -> None:
    t = PathCase("adjoint", 4, 3, (6,)).tensors(torch.float64, device=device)
    ahead = ops.path_points(t["inputs"], 0.0, t["alphas"])
    back = ops.path_accumulate(t["grads"], t["alphas"])
    torch.testing.assert_close((ahead * t["grads"]).sum(), (t["inputs"] * back).sum())


def test_torch_func_transforms_work(device: torch.device) -> None:
    t = PathCase("func", 3, 2, (4,)).tensors(torch.float64, device=device)

    def energy(x: Tensor) -> Tensor:
        points = ops.path_points(x, t["baselines"], t["alphas"])
        return ops.path_accumulate(points.sin(), t["weights"], x, t["baselines"]).sum()

    def plain(x: Tensor) -> Tensor:
        b, a = t["baselines"], t["alphas"].reshape(-1, 1, 1)
        mean = (t["weights"].reshape(-1, 1, 1) * (b + a * (x - b)).sin()).sum(0)
        return (mean * (x - b)).sum()

    x = t["inputs"]
    torch.testing.assert_close(torch.func.grad(energy)(x), torch.func.grad(plain)(x))
    torch.testing.assert_close(torch.func.jacrev(energy)(x), torch.func.jacrev(plain)(x))
    many = torch.stack([x, 2 * x, -x])
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(energy))(many),
        torch.stack([torch.func.grad(plain)(one) for one in many]),
    )


@pytest.mark.parametrize("mapped", ["inputs", "baselines", "alphas", "all"])
def test_vmap_of_points_equals_a_loop(mapped: str, device: torch.device) -> None:
    t = PathCase("vmap", 3, 2, (2, 3)).tensors(device=device)
    names = ["inputs", "baselines", "alphas"]
    args = [
        torch.stack([t[n], t[n] * 0.5, -t[n]], dim=1) if mapped in (n, "all") else t[n]
        for n in names
    ]
    in_dims = tuple(1 if mapped in (n, "all") else None for n in names)
    actual = torch.vmap(ops.path_points, in_dims=in_dims)(*args)
    loop = [
        ops.path_points(
            *[a.select(1, i) if d == 1 else a for a, d in zip(args, in_dims, strict=True)]
        )
        for i in range(3)
    ]
    assert_same_bits(actual, torch.stack(loop))


@pytest.mark.parametrize("mapped", ["grads", "weights", "inputs", "baselines", "all"])
def test_vmap_of_accumulate_equals_a_loop(mapped: str, device: torch.device) -> None:
    t = PathCase("vmap", 3, 2, (2, 3)).tensors(device=device)
    names = ["grads", "weights", "inputs", "baselines"]
    args = [torch.stack([t[n], t[n] * 0.5, -t[n]]) if mapped in (n, "all") else t[n] for n in names]
    in_dims = tuple(0 if mapped in (n, "all") else None for n in names)
    actual = torch.vmap(ops.path_accumulate, in_dims=in_dims)(*args)
    loop = [
        ops.path_accumulate(*[a[i] if d == 0 else a for a, d in zip(args, in_dims, strict=True)])
        for i in range(3)
    ]
    assert_same_bits(actual, torch.stack(loop))


# --- torch.library and torch.compile -------------------------------------------------------------


def op_calls(device: torch.device) -> list[tuple]:
    calls = []
    library = torch.ops.pyxai_fast
    for features, memory_format in (
        ((4,), torch.contiguous_format),
        ((3, 4, 5), torch.contiguous_format),
        ((3, 4, 5), torch.channels_last),
        ((0,), torch.contiguous_format),
        ((2, 3, 2, 2), torch.channels_last_3d),
    ):
        t = PathCase("opcheck", 3, 2, features).tensors(torch.float32, memory_format, device)
        x, b, a, w, g = (t[k] for k in ("inputs", "baselines", "alphas", "weights", "grads"))
        total = torch.zeros_like(x, dtype=torch.float64)
        out = torch.empty_like(g)
        calls += [
            (library.path_points.default, (x, b, a), {}),
            (library.path_points.default, (x, b[:1], a, None, None, torch.float16), {}),
            (library.path_points.out, (x, b, a), {"out": out}),
            (library.path_accumulate.default, (g, w), {}),
            (library.path_accumulate.default, (g, w, x, b), {}),
            (library.path_accumulate.out, (g, w), {"total": total}),
        ]
        if x.dim() == 4:
            scale, shift = affine_of(x)
            permuted = g.transpose(2, 3).contiguous().transpose(2, 3)
            calls += [
                (library.path_accumulate.default, (permuted, w), {}),
                (
                    library.path_points.default,
                    (x, b, a, scale, shift, torch.bfloat16, torch.channels_last),
                    {},
                ),
                (library.path_accumulate.default, (g, w, x, b, scale), {}),
            ]
    return calls


@pytest.mark.parametrize("native", [True, False], ids=["native", "reference"])
def test_ops_pass_opcheck(native: bool, device: torch.device) -> None:
    with ops.native_kernels(native):
        for op, args, kwargs in op_calls(device):
            torch.library.opcheck(op, copy.deepcopy(args), copy.deepcopy(kwargs))


def test_ops_compile_into_one_graph(device: torch.device) -> None:
    t = PathCase("compile", 3, 2, (3, 8, 8)).tensors(device=device)

    def mean_of_squares(x: Tensor, b: Tensor, a: Tensor, w: Tensor) -> Tensor:
        points = ops.path_points(x, b, a, memory_format=torch.channels_last)
        return ops.path_accumulate(points.square(), w, x, b)

    args = (t["inputs"], t["baselines"], t["alphas"], t["weights"])
    compiled = torch.compile(mean_of_squares, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(*args), mean_of_squares(*args))
    differentiable = (t["inputs"].clone().requires_grad_(), *args[1:])
    compiled(*differentiable).sum().backward()
    (expected,) = torch.autograd.grad(mean_of_squares(*differentiable).sum(), differentiable[0])
    torch.testing.assert_close(differentiable[0].grad, expected)


# --- errors --------------------------------------------------------------------------------------

X = torch.zeros(2, 3, 4)
A = torch.zeros(5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.path_points(X.long(), 0.0, A), TypeError, "inputs must be float16"),
        (lambda: ops.path_points(torch.tensor(1.0), 0.0, A), ValueError, "inputs must have shape"),
        (lambda: ops.path_points(X, "black", A), TypeError, "baselines must be a number"),
        (lambda: ops.path_points(X, X[:, :2], A), ValueError, r"baselines must .*\[2, 2, 4\]"),
        (lambda: ops.path_points(X, torch.zeros(3, 3, 4), A), ValueError, "baselines must"),
        (lambda: ops.path_points(X, 0.0, A.long()), TypeError, "alphas must be float16"),
        (lambda: ops.path_points(X, 0.0, torch.zeros(5, 3)), ValueError, r"alphas .*\[5, 3\]"),
        (lambda: ops.path_points(X, 0.0, A, scale=torch.ones(3)), ValueError, "given together"),
        (
            lambda: ops.path_points(X, 0.0, A, scale=torch.ones(4), shift=torch.ones(4)),
            ValueError,
            r"scale must have shape \[C\]",
        ),
        (
            lambda: ops.path_points(X, 0.0, A, out=X),
            ValueError,
            r"out must have shape \[10, 3, 4\]",
        ),
        (lambda: ops.path_points(X, 0.0, A.to("meta")), ValueError, "alphas must be on cpu"),
        (lambda: ops.path_points([1.0], 0.0, A), TypeError, "inputs must be a tensor, got list"),
        (lambda: ops.path_points(X, 0.0, [0.5]), TypeError, "alphas must be a tensor, got list"),
        (lambda: ops.path_points(X, 0.0, A[0]), ValueError, r"alphas must have shape .*got \[\]"),
        (lambda: ops.path_points(X, 0.0, A, dtype=torch.int64), TypeError, "dtype .*int64"),
        (
            lambda: ops.path_points(X, 0.0, A, memory_format=torch.channels_last),
            ValueError,
            "memory_format must be one of .*channels_last",
        ),
        (
            lambda: ops.path_points(X, 0.0, A, out=torch.zeros(10, 4, 3).transpose(1, 2)),
            ValueError,
            "out must be contiguous or channels_last, got strides",
        ),
        (
            lambda: ops.path_points(X, 0.0, A, scale=1.0, shift=0.0),
            TypeError,
            "scale must be a tensor, got float",
        ),
        (
            lambda: ops.path_points(
                X, 0.0, A, scale=torch.ones(3, requires_grad=True), shift=torch.ones(3)
            ),
            ValueError,
            "scale must not require grad",
        ),
        (lambda: ops.path_accumulate(X, [0.5]), TypeError, "weights must be a tensor, got list"),
        (lambda: ops.path_accumulate(X, A[:1], 3.0, 0.0), TypeError, "inputs must be a tensor"),
        (lambda: ops.path_accumulate(X, A[:1], total=3), TypeError, "total must be a tensor"),
        (
            lambda: ops.path_accumulate(X, A[:1], total=X.double().requires_grad_()),
            ValueError,
            "total must not require grad",
        ),
        (lambda: ops.path_accumulate(X, A), ValueError, r"grads must have shape \[5 \* B"),
        (lambda: ops.path_accumulate(X, A[:0]), ValueError, "at least one step"),
        (lambda: ops.path_accumulate(X, A[:1], X), ValueError, "given together"),
        (lambda: ops.path_accumulate(X, A[:2], X, 0.0), ValueError, r"inputs must have shape \[1,"),
        (lambda: ops.path_accumulate(X, A[:1], scale=torch.ones(3)), ValueError, "scale must come"),
        (lambda: ops.path_accumulate(X, A[:1], total=X), ValueError, "total must be float64"),
    ],
)
def test_a_bad_argument_is_named_with_what_it_must_be(call, error, words: str) -> None:
    with pytest.raises(error, match=f"^path_(points|accumulate): .*{words}"):
        call()


@needs_native_cpu
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda o: o.path_points(X, X[:, :2], A), "baselines must"),
        (lambda o: o.path_points(X, X, torch.zeros(5, 7)), "alphas must have shape"),
        (lambda o: o.path_points(X.long(), X, A), "inputs must be float16"),
        (lambda o: o.path_points.out(X, X, A, out=torch.zeros(9, 3, 4)), "out must have shape"),
        (
            lambda o: o.path_points.out(X[1:], X[1:], A[:2], out=X),
            "out must not share memory with what is read",
        ),
        (lambda o: o.path_points(X, X, A[0]), "alphas must have shape .* got a scalar"),
        (lambda o: o.path_accumulate(X, A), r"grads must have shape .*got Float \[2, 3, 4\]"),
        (lambda o: o.path_accumulate(X, A[:1], X[:1], X), "inputs must have shape"),
        (lambda o: o.path_accumulate.out(X, A[:1], total=X.double()[:1]), "total must be float64"),
    ],
)
def test_a_raw_op_refuses_what_would_read_or_write_out_of_bounds(call, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        call(torch.ops.pyxai_fast)

"""ascend_max: every backend against the reference, plain PyTorch and analytic functions."""

from __future__ import annotations

import copy

import pytest
import torch
from ascend_cases import SMALL, AscendCase
from assertions import assert_as_accurate_as, assert_same_bits
from conftest import needs_native_cpu
from hypothesis import given
from hypothesis import strategies as st
from path_cases import FLOATS
from torch import Tensor

from pyxai_fast import ops, reference

FORMATS = (torch.contiguous_format, torch.channels_last)


def ids(values: tuple) -> list[str]:
    return [getattr(v, "name", str(v).removeprefix("torch.")) for v in values]


@pytest.mark.parametrize("absolute", [False, True], ids=["greatest", "magnitude"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_ascents_have_the_bits_of_the_reference(
    case: AscendCase,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    absolute: bool,
    backend: torch.device,
) -> None:
    t = case.tensors(dtype, memory_format, backend)
    number = torch.tensor(0.3, device=backend)
    for scale in [None] + ([t["scale"]] if case.features else []):
        for sizes in (number, t["step_sizes"], t["step_sizes"].flatten()):
            points, best = t["points"].clone(), t["best"].clone()
            ops.ascend_max(points, t["grads"], sizes, best, scale=scale, absolute=absolute)
            expected_points, expected_best = t["points"].clone(), t["best"].clone()
            reference.ascend_max(expected_points, t["grads"], sizes, expected_best, scale, absolute)
            assert_same_bits(points, expected_points)
            assert_same_bits(best, expected_best)


def test_it_is_the_plain_expression(backend: torch.device) -> None:
    t = AscendCase("plain", 6, 2, (3, 5, 4)).tensors(torch.float64, device=backend)
    points, best = t["points"].clone(), t["best"].clone()
    ops.ascend_max(points, t["grads"], 0.25, best)
    assert_same_bits(best, torch.maximum(t["best"], t["grads"].unflatten(0, (6, 2)).amax(0)))
    torch.testing.assert_close(points, t["points"] + 0.25 * t["grads"])


def test_a_chosen_gradient_keeps_its_sign(backend: torch.device) -> None:
    grads = torch.tensor([[1.0, 2.0], [-3.0, -2.0], [2.0, 1.0]], device=backend)
    best = torch.zeros(1, 2, device=backend)
    ops.ascend_max(torch.zeros(3, 2, device=backend), grads, 0.0, best, absolute=True)
    assert best.tolist() == [[-3.0, 2.0]]  # of 2 and -2 the first


@pytest.mark.parametrize("absolute", [False, True], ids=["greatest", "magnitude"])
def test_nan_stays_and_infinity_wins(absolute: bool, backend: torch.device) -> None:
    nan, inf = float("nan"), float("inf")
    grads = torch.tensor([[1.0, nan, 1.0, 0.0], [2.0, 5.0, inf, 1.0]], device=backend)
    best = torch.tensor([[nan, 0.0, 0.0, -inf]], device=backend)
    points = torch.zeros(2, 4, device=backend)
    ops.ascend_max(points, grads, 1.0, best, absolute=absolute)
    fourth = -inf if absolute else 1.0
    assert_same_bits(best, torch.tensor([[nan, nan, inf, fourth]], device=backend))
    assert_same_bits(points, grads)


def test_a_scale_is_the_chain_rule(backend: torch.device) -> None:
    # An ascent of f(x * scale + shift) by x, seen from the points.
    t = AscendCase("scaled", 4, 2, (3, 6)).tensors(torch.float64, device=backend)
    scale = t["scale"].double()
    x = (t["points"] / scale[:, None]).requires_grad_()
    y = x * scale[:, None]
    (by_x,) = torch.autograd.grad((y.sin() * t["grads"]).sum(), x)
    moved, best = y.detach().clone(), torch.full_like(t["best"], -float("inf"))
    grads = y.detach().cos() * t["grads"]
    ops.ascend_max(moved, grads, t["step_sizes"], best, scale=scale)
    torch.testing.assert_close(best, by_x.unflatten(0, (4, 2)).amax(0))
    sizes = t["step_sizes"].flatten()[:, None, None]
    torch.testing.assert_close(moved / scale[:, None], (x + sizes * by_x).detach())


def test_ascent_of_a_diagonal_quadratic_is_its_formula(device: torch.device) -> None:
    # f = sum a z^2 / 2: z grows by (1 + step * a) each time, so the best is a x (1 + step a)^(m-1).
    a = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64, device=device)
    inputs = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64, device=device)
    alphas = torch.linspace(0, 1, 5, device=device)
    points = ops.path_points(inputs, 0.0, alphas)
    best = torch.full_like(inputs, -float("inf"))
    for _ in range(4):
        ops.ascend_max(points, points * a, 0.1, best)
    truth = (a * inputs * (1 + 0.1 * a) ** 3).clamp(min=0)
    torch.testing.assert_close(best, truth)


def test_halves_and_floats_are_as_accurate_as_plain_pytorch(device: torch.device) -> None:
    for dtype in (torch.float16, torch.float32):
        t = AscendCase("accuracy", 9, 3, (500,)).tensors(dtype, device=device)
        points, best = t["points"].clone(), t["best"].clone()
        ops.ascend_max(points, t["grads"], 0.3, best)
        plain = t["points"].add(t["grads"], alpha=0.3)
        truth = t["points"].double() + 0.3 * t["grads"].double()
        assert_as_accurate_as(points, plain, truth)


@needs_native_cpu
def test_threads_give_the_same_bits() -> None:
    t = AscendCase("threads", 9, 5, (3, 64, 65)).tensors()
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            points, best = t["points"].clone(), t["best"].clone()
            ops.ascend_max(points, t["grads"], t["step_sizes"], best, scale=t["scale"])
            results.append((points, best))
    finally:
        torch.set_num_threads(threads)
    for points, best in results[1:]:
        assert_same_bits(points, results[0][0])
        assert_same_bits(best, results[0][1])


def test_any_chunks_of_the_points_give_the_same_bits(device: torch.device) -> None:
    t = AscendCase("chunks", 11, 2, (3, 33, 50)).tensors(device=device)
    points, best = t["points"].clone(), t["best"].clone()
    ops.ascend_max(points, t["grads"], t["step_sizes"], best)
    for size in (1, 3, 10):
        chunked, kept = t["points"].clone(), t["best"].clone()
        for begin in range(0, 11, size):
            rows = slice(2 * begin, 2 * (begin + size))
            steps = t["step_sizes"][begin : begin + size]
            ops.ascend_max(chunked[rows], t["grads"][rows], steps, kept)
        assert_same_bits(chunked, points)
        assert_same_bits(kept, best)


@st.composite
def layouts(draw: st.DrawFn) -> dict:
    steps = draw(st.integers(1, 5))
    batch, *features = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    dtype = draw(st.sampled_from(FLOATS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-40, 6e-8, 1e5, -0.0])

    def values(size: tuple[int, ...]) -> Tensor:
        drawn = torch.randn(size, generator=generator)
        chosen = odd[torch.randint(len(odd), size, generator=generator)]
        return torch.where(torch.rand(size, generator=generator) < 0.2, chosen, drawn)

    rows = steps * batch
    kind = draw(st.sampled_from(["plain", "strided", "transposed", "expanded"]))
    grads = values((rows, *features))
    if kind == "strided":
        grads = values((rows, *features, 2))[..., 0]
    elif kind == "transposed":
        grads = values((*features[::-1], rows)).permute(*range(len(features), -1, -1))
    elif kind == "expanded":
        grads = values((1,) * (1 + len(features))).expand(rows, *features)
    sizes = draw(st.sampled_from([(), (rows,), (steps, batch)]))
    return {
        "points": values((rows, *features)).to(dtype),
        "grads": grads.to(dtype),
        "step_sizes": torch.rand(sizes, generator=generator),
        "best": values((batch, *features)).to(
            torch.float64 if dtype == torch.float64 else torch.float32
        ),
        "absolute": draw(st.booleans()),
        "last": len(features) == 3 and draw(st.booleans()),
    }


@needs_native_cpu
@given(layouts())
def test_native_and_reference_agree_on_any_layout_and_value(t: dict) -> None:
    def run() -> tuple[Tensor, Tensor]:
        memory_format = torch.channels_last if t["last"] else torch.contiguous_format
        points = t["points"].clone(memory_format=memory_format)
        best = t["best"].clone(memory_format=memory_format)
        ops.ascend_max(points, t["grads"], t["step_sizes"], best, absolute=t["absolute"])
        return points, best

    native = run()
    with ops.native_kernels(False):
        plain = run()
    for a, b in zip(native, plain, strict=True):
        assert_same_bits(a, b)


# --- torch.library and torch.compile -------------------------------------------------------------


@pytest.mark.parametrize("native", [True, False], ids=["native", "reference"])
def test_op_passes_opcheck(native: bool, device: torch.device) -> None:
    op = torch.ops.pyxai_fast.ascend_max.default
    with ops.native_kernels(native):
        for features, memory_format in (
            ((4,), torch.contiguous_format),
            ((3, 4, 5), torch.channels_last),
            ((0,), torch.contiguous_format),
        ):
            t = AscendCase("opcheck", 3, 2, features).tensors(torch.float32, memory_format, device)
            args = (t["points"], t["grads"], t["step_sizes"], t["best"])
            torch.library.opcheck(op, copy.deepcopy(args))
            torch.library.opcheck(op, copy.deepcopy((*args, t["scale"][: features[0]], True)))


def test_op_compiles_into_one_graph(device: torch.device) -> None:
    t = AscendCase("compile", 3, 2, (3, 8, 8)).tensors(device=device)

    def climb(points: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(2):
            ops.ascend_max(points, points.sin(), 0.5, best, scale=t["scale"])
        return points, best

    compiled = torch.compile(climb, fullgraph=True, backend="aot_eager")
    actual = compiled(t["points"].clone(), t["best"].clone())
    expected = climb(t["points"].clone(), t["best"].clone())
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(a, b)


# --- errors --------------------------------------------------------------------------------------

P = torch.zeros(4, 3, 2)
BEST = torch.zeros(2, 3, 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.ascend_max(P.long(), P, 0.1, BEST), TypeError, "points must be float16"),
        (lambda: ops.ascend_max(P, P.double(), 0.1, BEST), ValueError, "grads must be torch.float"),
        (lambda: ops.ascend_max(P, P[:3], 0.1, BEST), ValueError, r"grads must be .*\[4, 3, 2\]"),
        (lambda: ops.ascend_max(P, P, 0.1, BEST.double()), ValueError, "best must be .*float32"),
        (lambda: ops.ascend_max(P, P, 0.1, P[:3]), ValueError, r"best must be .*\[3, 3, 2\]"),
        (lambda: ops.ascend_max(P, P, 0.1, BEST[:0]), ValueError, "best must be"),
        (lambda: ops.ascend_max(P, P, "1", BEST), TypeError, "step_sizes must be a number"),
        (
            lambda: ops.ascend_max(P, P, torch.zeros(3), BEST),
            ValueError,
            r"step_sizes must .*\[4\] or \[S, 2\] for 4 points, got \[3\]",
        ),
        (lambda: ops.ascend_max(P, P, 0.1, BEST.to("meta")), ValueError, "best must be on cpu"),
        (
            lambda: ops.ascend_max(P, P, 0.1, BEST, scale=torch.ones(2)),
            ValueError,
            r"scale must have shape \[C\]",
        ),
        (
            lambda: ops.ascend_max(P.clone().requires_grad_(), P, 0.1, BEST),
            ValueError,
            "points must not require grad",
        ),
        (
            lambda: ops.ascend_max(P, P.clone().requires_grad_(), 0.1, BEST),
            ValueError,
            "grads must not require grad",
        ),
        (
            lambda: ops.ascend_max(P.expand(4, 3, 2)[:, :, :1], P[:, :, :1], 0.1, BEST[:, :, :1]),
            ValueError,
            "points must be contiguous or channels_last",
        ),
        (
            lambda: ops.ascend_max(
                P[..., None], P[..., None], 0.1, torch.zeros(2, 2, 1, 3).permute(0, 3, 1, 2)
            ),
            ValueError,
            "best must have the memory format",
        ),
    ],
)
def test_a_bad_argument_is_named_with_what_it_must_be(call, error, words: str) -> None:
    with pytest.raises(error, match=f"^ascend_max: .*{words}"):
        call()


@needs_native_cpu
@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((P.clone(), P[:3], P[0, 0, 0], BEST), "grads must have the type and shape"),
        ((P.clone(), P, P[0, 0, 0], BEST[:, :2]), "best must be"),
        ((P.clone(), P, P[0, 0, 0], BEST.double()), "best must be"),
        ((P.clone(), P, torch.zeros(3), BEST), "step_sizes must"),
        ((P, P, torch.zeros(4), BEST), "points must not share memory"),
        ((P.clone(), P, torch.zeros(4), P[:2]), "best must not share memory"),
        ((P.clone(), P, torch.zeros(4), BEST, torch.ones(4)), "scale must have shape"),
    ],
)
def test_a_raw_op_refuses_what_would_read_or_write_out_of_bounds(args: tuple, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        torch.ops.pyxai_fast.ascend_max(*args)

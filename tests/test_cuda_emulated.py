"""The CUDA kernels, run by the emulator on the CPU: the bits of the reference, in any order.

Orders of threads that give the same result show that no thread depends on another without waiting
for it. What a GPU adds (its halves, its memory system) is left to the tests on one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
import torch
from assertions import assert_same_bits
from emulated_cuda import DTYPES, ORDERS, EmulatedCuda, build, emulated_cuda, why_not
from hypothesis import given
from hypothesis import strategies as st
from path_cases import SMALL, PathCase
from torch import Tensor

from pyxai_fast import reference

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

FORMATS = (torch.contiguous_format, torch.channels_last)


def ids(values: tuple) -> list[str]:
    return [getattr(v, "name", str(v).removeprefix("torch.")) for v in values]


def run_checked(what: str) -> subprocess.CompletedProcess[str]:
    # Leaks are not looked for: that takes a debugger's rights, which containers withhold.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(
        [build("emulated_cuda_checked"), what],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module", autouse=True)
def sanitised_first() -> None:
    """A kernel that leaves its buffers would take this process down; there it is only reported."""
    done = run_checked("path")
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=ORDERS)
def emulated(request: pytest.FixtureRequest) -> EmulatedCuda:
    """The emulator, in every order of threads and blocks."""
    cuda = emulated_cuda()
    cuda.run_as(request.param, seed=1)
    return cuda


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are small here: a thread costs more than it does, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def formats_of(inputs: Tensor) -> tuple[torch.memory_format, ...]:
    return FORMATS if inputs.dim() == 4 else FORMATS[:1]


def affines_of(inputs: Tensor) -> list[tuple[Tensor | None, Tensor | None]]:
    if inputs.dim() < 2:
        return [(None, None)]
    channels = inputs.shape[1]
    return [
        (None, None),
        (torch.linspace(0.5, 3.0, channels), torch.linspace(-1.0, 1.0, channels)),
    ]


# --- the bits of the reference -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=ids(DTYPES))
@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_points(emulated: EmulatedCuda, case: PathCase, dtype: torch.dtype) -> None:
    t = case.tensors(dtype)
    args = (t["inputs"], t["baselines"], t["alphas"])
    for point_dtype in DTYPES:
        for memory_format in formats_of(t["inputs"]):
            for affine in affines_of(t["inputs"]):
                rest = (*affine, point_dtype, memory_format)
                assert_same_bits(
                    emulated.path_points(*args, *rest), reference.path_points(*args, *rest)
                )


@pytest.mark.parametrize("grad_dtype", DTYPES, ids=ids(DTYPES))
@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_attributions(emulated: EmulatedCuda, case: PathCase, grad_dtype: torch.dtype) -> None:
    for memory_format in formats_of(case.tensors()["inputs"]):
        t = case.tensors(grad_dtype, memory_format)
        args = (t["grads"], t["weights"])
        assert_same_bits(emulated.path_accumulate(*args), reference.path_accumulate(*args))
        for dtype in DTYPES:
            ends = (t["inputs"].to(dtype), t["baselines"].to(dtype))
            for scale, _ in affines_of(t["inputs"]):
                assert_same_bits(
                    emulated.path_accumulate(*args, *ends, scale),
                    reference.path_accumulate(*args, *ends, scale),
                )


@st.composite
def layouts(draw: st.DrawFn) -> dict:
    """Sizes about the vectors' and the warps', aligned or not, with every kind of baseline."""
    steps, batch = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    features = draw(st.integers(1, 40) | st.sampled_from([64, 127, 128, 129, 264, 1031]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    dtype, other = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))

    def tensor(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    baselines = {
        "scalar": tensor(),
        "one": tensor(1, features),
        "batch": tensor(batch, features),
    }[draw(st.sampled_from(["scalar", "one", "batch"]))]
    sizes = (steps, batch) if draw(st.booleans()) else (steps,)
    return {
        "inputs": tensor(batch, features),
        "baselines": baselines,
        "coefficients": torch.rand(sizes, generator=generator, dtype=torch.float64),
        "grads": tensor(steps * batch, features, dtype=other),
        "skips": draw(st.tuples(st.integers(0, 3), st.integers(0, 3))),
        "limit": draw(st.sampled_from([1, 2, 2**31 - 1])),
        "order": draw(st.sampled_from(ORDERS)),
        "seed": draw(st.integers(0, 9)),
    }


@given(layouts())
def test_any_layout(t: dict) -> None:
    cuda = emulated_cuda()
    cuda.run_as(t["order"], t["seed"], t["limit"])
    dtype = t["grads"].dtype
    args = (t["inputs"], t["baselines"], t["coefficients"])
    points = cuda.path_points(*args, dtype=dtype, skips=t["skips"])
    assert_same_bits(points, reference.path_points(*args, dtype=dtype))
    args = (t["grads"], t["coefficients"], t["inputs"], t["baselines"])
    attributions = cuda.path_accumulate(*args, skips=t["skips"])
    assert_same_bits(attributions, reference.path_accumulate(*args))


def test_nan_and_infinity_pass_through(emulated: EmulatedCuda) -> None:
    inputs = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]])
    args = (inputs, torch.tensor(0.5), torch.tensor([0.5, 1.0]))
    for dtype in DTYPES:
        assert_same_bits(
            emulated.path_points(*args, dtype=dtype), reference.path_points(*args, dtype=dtype)
        )
    sums = (inputs.repeat(2, 1), args[2])
    assert_same_bits(emulated.path_accumulate(*sums), reference.path_accumulate(*sums))


# --- launches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=ids(DTYPES))
def test_features_go_by_vectors_where_they_can(emulated: EmulatedCuda, dtype: torch.dtype) -> None:
    t = PathCase("vectors", 1, 4, (2048,)).tensors(dtype)
    width = 16 // dtype.itemsize

    def blocks(*skips: int) -> tuple[int, int]:
        counts = [emulated.blocks()]
        args = (t["inputs"], t["baselines"], t["alphas"])
        points = emulated.path_points(*args, skips=skips)
        counts.append(emulated.blocks())
        assert_same_bits(points, reference.path_points(*args))
        args = (t["grads"], t["weights"], t["inputs"], t["baselines"])
        attributions = emulated.path_accumulate(*args, skips=skips)
        counts.append(emulated.blocks())
        assert_same_bits(attributions, reference.path_accumulate(*args))
        return counts[1] - counts[0], counts[2] - counts[1]

    assert blocks(0, 0) == (32 // width, 32 // width)
    # One pointer that is not aligned is enough.
    assert blocks(0, 1) == (32, 32)
    assert blocks(1, 0) == (32, 32)


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_a_grid_of_any_size_covers_all_features(order: str, limit: int) -> None:
    # A GPU's grid ends at 2^31 blocks; that the kernels go on from there shows with fewer.
    t = PathCase("strided", 4, 3, (3, 40, 41)).tensors()
    emulated = emulated_cuda()
    emulated.run_as(order, limit=limit)
    args = (t["inputs"], t["baselines"], t["alphas"])
    assert_same_bits(emulated.path_points(*args), reference.path_points(*args))
    args = (t["grads"], t["weights"])
    assert_same_bits(emulated.path_accumulate(*args), reference.path_accumulate(*args))
    total = torch.ones(3, 3, 40, 41, dtype=torch.float64)
    expected = total.clone()
    reference.path_accumulate_out(*args, total=expected)
    assert_same_bits(emulated.path_accumulate(*args, total=total), expected)


@pytest.mark.parametrize(
    "case",
    [PathCase("beyond_grid_y", 70_000, 1, (1,)), PathCase("groups_of_steps", 7, 1, (160_000,))],
    ids=lambda case: case.name,
)
def test_steps_are_shared_among_groups_of_blocks(case: PathCase) -> None:
    cuda = emulated_cuda()
    cuda.run_as()
    t = case.tensors()
    args = (t["inputs"], t["baselines"], t["alphas"])
    before = cuda.blocks()
    assert_same_bits(cuda.path_points(*args), reference.path_points(*args))
    width = 1 if case.features[0] == 1 else 4
    columns = -(-case.features[0] // (256 * width))
    groups, rest = divmod(cuda.blocks() - before, columns)
    assert rest == 0
    assert 1 < groups < case.steps


def test_any_split_of_the_steps_gives_the_same_bits(emulated: EmulatedCuda) -> None:
    t = PathCase("split", 11, 3, (3, 5, 7)).tensors(memory_format=torch.channels_last)
    whole = torch.zeros(3, 3, 5, 7, dtype=torch.float64)
    reference.path_accumulate_out(t["grads"], t["weights"], total=whole)
    for size in (1, 3, 11):
        total = torch.zeros_like(whole)
        for begin in range(0, 11, size):
            grads = t["grads"][3 * begin : 3 * (begin + size)]
            emulated.path_accumulate(grads, t["weights"][begin : begin + size], total=total)
        assert_same_bits(total, whole)


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["path", "samples"])
def test_sanitisers_find_nothing(what: str) -> None:
    done = run_checked(what)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "clean\n"


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("misaligned_load", "misaligned address"),
        ("off_by_one", "heap-buffer-overflow"),
        ("off_by_one_shared", "insufficient space"),
        ("off_by_one_dynamic_shared", "heap-buffer-overflow"),
    ],
)
def test_sanitisers_find_what_is_broken(what: str, found: str) -> None:
    done = run_checked(what)
    assert done.returncode != 0
    assert found in done.stderr
    assert "broken_kernels.cu" in done.stderr

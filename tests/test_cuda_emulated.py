"""How the CUDA kernels are launched, and what the sanitisers find, in the emulator.

That the kernels give the right numbers, in any order of threads, is tested with every op: see the
`backend` fixture. What a GPU adds (its halves, its memory system) is left to the tests on one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
import torch
from assertions import assert_same_bits
from emulated_cuda import ORDERS, EmulatedCuda, build, emulated_cuda, why_not
from mask_cases import MaskCase
from path_cases import FLOATS, PathCase
from torch import Tensor

from pyxai_fast import reference

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def ids(values: tuple) -> list[str]:
    return [getattr(v, "name", str(v).removeprefix("torch.")) for v in values]


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


# --- launches ------------------------------------------------------------------------------------


EMULATED = torch.ops.pyxai_fast_emulated


def unaligned(tensor: Tensor, skip: int) -> Tensor:
    """The tensor, `skip` elements behind an aligned address."""
    memory = torch.empty(tensor.numel() + skip, dtype=tensor.dtype)[skip:]
    return memory.view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_features_go_by_vectors_where_they_can(emulated: EmulatedCuda, dtype: torch.dtype) -> None:
    t = PathCase("vectors", 1, 4, (2048,)).tensors(dtype)
    width = 16 // dtype.itemsize

    def blocks(skip_inputs: int, skip_many: int) -> tuple[int, int]:
        counts = [emulated.blocks()]
        args = (unaligned(t["inputs"], skip_inputs), t["baselines"], t["alphas"])
        points = unaligned(t["grads"], skip_many)
        EMULATED.path_points.out(*args, out=points)
        counts.append(emulated.blocks())
        assert_same_bits(points, reference.path_points(*args))
        args = (unaligned(t["grads"], skip_many), t["weights"], args[0], t["baselines"])
        attributions = EMULATED.path_accumulate(*args)
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
    emulated_cuda().run_as(order, limit=limit)
    args = (t["inputs"], t["baselines"], t["alphas"])
    assert_same_bits(EMULATED.path_points(*args), reference.path_points(*args))
    args = (t["grads"], t["weights"])
    assert_same_bits(EMULATED.path_accumulate(*args), reference.path_accumulate(*args))
    total = torch.ones(3, 3, 40, 41, dtype=torch.float64)
    expected = total.clone()
    reference.path_accumulate_out(*args, total=expected)
    EMULATED.path_accumulate.out(*args, total=total)
    assert_same_bits(total, expected)


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
    assert_same_bits(EMULATED.path_points(*args), reference.path_points(*args))
    width = 1 if case.features[0] == 1 else 4
    columns = -(-case.features[0] // (256 * width))
    groups, rest = divmod(cuda.blocks() - before, columns)
    assert rest == 0
    assert 1 < groups < case.steps


def selections(t: dict[str, Tensor]) -> list[tuple[str, tuple[Tensor, ...]]]:
    """Ops that choose between two sources, and arguments."""
    words = reference.pack_coalitions(t["kept"])
    return [
        ("mask_segments", (t["inputs"], t["segments"], words, t["fill"])),
        ("rank_mask", (t["inputs"], t["fill"], t["ranks"], t["steps"])),
    ]


@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_choices_go_by_vectors_where_they_can(emulated: EmulatedCuda, dtype: torch.dtype) -> None:
    t = MaskCase("vectors", 1, 4, (2, 32, 32), 40).tensors(dtype)
    width = 16 // dtype.itemsize

    def blocks(skip_inputs: int, skip_out: int) -> list[int]:
        t["inputs"] = unaligned(t["inputs"], skip_inputs)
        counts = []
        for name, args in [*selections(t), ("mask_blend", (t["inputs"], t["masks"]))]:
            expected = getattr(reference, name)(*args)
            out = unaligned(torch.empty_like(expected), skip_out)
            before = emulated.blocks()
            getattr(EMULATED, name).out(*args, out=out)
            counts.append(emulated.blocks() - before)
            assert_same_bits(out, expected)
        return counts

    assert blocks(0, 0) == [32 // width] * 3
    # One pointer that is not aligned is enough.
    assert blocks(0, 1) == [32] * 3
    assert blocks(1, 0) == [32] * 3


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_a_grid_of_any_size_covers_all_choices(order: str, limit: int) -> None:
    t = MaskCase("strided", 4, 3, (3, 40, 41), 100).tensors()
    emulated_cuda().run_as(order, limit=limit)
    for name, args in [*selections(t), ("mask_blend", (t["inputs"], t["masks"]))]:
        assert_same_bits(getattr(EMULATED, name)(*args), getattr(reference, name)(*args))


@pytest.mark.parametrize(
    "case",
    [MaskCase("beyond_grid_y", 70_000, 1, (1,), 1), MaskCase("groups", 7, 1, (160_000,), 9)],
    ids=lambda case: case.name,
)
def test_steps_of_choices_are_shared_among_groups_of_blocks(case: MaskCase) -> None:
    emulated_cuda().run_as()
    for name, args in selections(case.tensors()):
        assert_same_bits(getattr(EMULATED, name)(*args), getattr(reference, name)(*args))


# --- memory --------------------------------------------------------------------------------------


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


def test_sanitisers_find_nothing_where_nothing_is_wrong() -> None:
    done = run_checked("samples")
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

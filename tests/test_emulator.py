"""The CUDA emulator of tests/native/emulator: it does what CUDA does, and catches what it must."""

from __future__ import annotations

import pytest
import torch
from assertions import assert_same_bits
from emulated_cuda import ORDERS, EmulatedCuda, emulated_cuda, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

LANES = torch.arange(64) % 32
THREADS = torch.arange(64)


@pytest.fixture(params=ORDERS)
def emulated(request: pytest.FixtureRequest) -> EmulatedCuda:
    """The emulator, in every order of threads and blocks."""
    cuda = emulated_cuda()
    cuda.run_as(request.param, seed=2)
    return cuda


# --- it does what CUDA does ----------------------------------------------------------------------


@pytest.mark.parametrize("threads", [32, 64, 256, 1024])
def test_a_reduction_of_blocks(emulated: EmulatedCuda, threads: int) -> None:
    values = torch.randn(2500, generator=torch.Generator().manual_seed(0)).double()
    values = (values * 64).round().float()  # whole numbers: exact in any order
    blocks = -(-values.numel() // threads)
    sums = torch.full((blocks,), float("nan"))
    emulated.call("sample_block_sums", values, sums, 2500, threads)
    padded = torch.zeros(blocks * threads)
    padded[:2500] = values
    assert_same_bits(sums, padded.view(blocks, threads).sum(1))


def test_dynamic_shared_memory(emulated: EmulatedCuda) -> None:
    values = torch.arange(3 * 100.0)
    found = torch.zeros(300)
    emulated.call("sample_reverse", values, found, 3, 100)
    assert_same_bits(found.view(3, 100), values.view(3, 100).flip(1))


def test_the_words_of_a_warp(emulated: EmulatedCuda) -> None:
    found = torch.full((13, 64), -1, dtype=torch.int32)
    emulated.call("sample_warp_words", found)
    warp, segment = THREADS - LANES, LANES - LANES % 8

    def thirds(lanes: range) -> int:
        votes = sum(1 << lane % 32 for lane in lanes if lane % 3 == 0)
        return votes - (votes >> 31 << 32)  # as a signed word

    expected = [
        warp + 5,
        warp + segment + 5,
        torch.where(LANES >= 3, THREADS - 3, THREADS),
        torch.where(LANES % 8 >= 3, THREADS - 3, THREADS),
        torch.where(LANES < 29, THREADS + 3, THREADS),
        torch.where(LANES % 8 < 5, THREADS + 3, THREADS),
        THREADS ^ 12,
        torch.where((LANES ^ 12).lt(segment + 8), THREADS ^ 12, THREADS),
        torch.tensor([thirds(range(32))] * 32 + [thirds(range(32, 64))] * 32),
        (THREADS >= 32).long(),
        (THREADS < 32).long(),
        torch.where(THREADS % 2 == 0, 0x55555555, 0xAAAAAAAA - 2**32),
        THREADS ^ 2,
    ]
    assert_same_bits(found.long(), torch.stack(expected))


def test_every_thread_of_every_block_runs_once(emulated: EmulatedCuda) -> None:
    grid, block = (2, 3, 5), (7, 2, 3)
    found = torch.zeros(30 * 42, dtype=torch.int32)
    emulated.call("sample_indices", found, torch.IntTensor(grid), torch.IntTensor(block))
    assert bool((found == 1).all())


def test_shared_memory_has_no_value_before_it_is_written(emulated: EmulatedCuda) -> None:
    for _ in range(2):
        found = torch.zeros(64)
        emulated.call("sample_unwritten_shared", found)
        assert bool(found.isnan().all())


@pytest.mark.parametrize(
    ("grid", "block"),
    [
        ((0, 1, 1), (32, 1, 1)),
        ((1, 65_536, 1), (32, 1, 1)),
        ((1, 1, 1), (1025, 1, 1)),
        ((1, 1, 1), (1, 1, 65)),
    ],
)
def test_launches_that_no_gpu_takes(grid: tuple[int, ...], block: tuple[int, ...]) -> None:
    args = (torch.zeros(1), torch.IntTensor(grid), torch.IntTensor(block))
    with pytest.raises(RuntimeError, match="indices_kernel: no GPU takes this"):
        emulated_cuda().call("sample_indices", *args)


# --- it catches what it must ---------------------------------------------------------------------


def test_a_missing_barrier_gives_other_values_in_another_order() -> None:
    values = torch.arange(64.0)
    right, found = values.flip(0), {}
    for order in ORDERS:
        emulated_cuda().run_as(order)
        found[order] = torch.zeros(64)
        emulated_cuda().call("broken_missing_barrier", values, found[order])
        wrong = found[order] != right
        assert bool(found[order][wrong].isnan().all())
    assert int((found["forward"] != right).sum()) == 32
    assert not torch.equal(found["forward"].nan_to_num(), found["reversed"].nan_to_num())


@pytest.mark.parametrize(
    ("kernel", "args", "report"),
    [
        (
            "divergent_barrier", (0,),
            r"threads 16-63 have exited; threads 0-15 wait at __syncthreads \(broken_kernels",
        ),
        (
            "divergent_barrier", (1,),
            r"threads 0-15 wait at __syncthreads \(.*\); threads 16-63 wait at __syncthreads \(",
        ),
        (
            "divergent_shuffle", (),
            r"threads 0-15 wait at __shfl_xor_sync \(.*\); threads 16-63 wait at __syncthreads \(",
        ),
        ("absent_lane", (), r"__shfl_sync \(broken_kernels.cu:\d+\): reads lane 31"),
    ],
)  # fmt: skip
def test_threads_that_miss_each_other_are_reported(
    emulated: EmulatedCuda, kernel: str, args: tuple[int, ...], report: str
) -> None:
    values = torch.zeros(64)
    with pytest.raises(RuntimeError, match=report) as raised:
        emulated.call(f"broken_{kernel}", values, *args)
    assert str(raised.value).startswith(f"{kernel}_kernel, block (0, 0, 0): ")
    # The emulator goes on with the next launch.
    test_dynamic_shared_memory(emulated)

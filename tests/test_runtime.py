"""Chunks, memory format and inference mode, apart from any method."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import conv_net, mlp
from torch import nn

from pyxai_fast.runtime import memory_format
from pyxai_fast.runtime.chunks import Chunk, ChunkPlanner, chunks, run_chunks
from pyxai_fast.runtime.cost import Cost
from pyxai_fast.runtime.memory import is_out_of_memory, measured_bytes
from pyxai_fast.runtime.memory_format import choose_memory_format
from pyxai_fast.runtime.progress import Silence, progress_bar


def grid(batch: int, steps: int) -> Chunk:
    return Chunk(slice(0, batch), slice(0, steps))


@given(
    st.integers(0, 20),
    st.integers(1, 20),
    st.lists(st.integers(1, 30), min_size=1, max_size=10),
)
def test_chunks_cover_every_step_of_every_example_once_and_in_order(
    batch: int, steps: int, limits: list[int]
) -> None:
    """Whatever rows() answers, and however it changes on the way."""
    asked = iter(limits * 500)
    done = [0] * batch
    for chunk in chunks(grid(batch, steps), lambda: next(asked)):
        for example in range(chunk.examples.start, chunk.examples.stop):
            assert done[example] == chunk.steps.start
            done[example] = chunk.steps.stop
        assert chunk.rows <= max(limits)
    assert done == [steps] * batch


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 40))
def test_when_memory_runs_out_all_work_is_done_once_in_order_after_few_failures(
    batch: int, steps: int, room: int
) -> None:
    done = [0] * batch
    failures = []

    def run(chunk: Chunk) -> None:
        if chunk.rows > room:
            failures.append(chunk.rows)
            raise torch.OutOfMemoryError
        for example in range(chunk.examples.start, chunk.examples.stop):
            assert done[example] == chunk.steps.start
            done[example] = chunk.steps.stop

    cost = Cost()
    planner = ChunkPlanner(mlp(), (torch.zeros(batch, 6),), None)
    run_chunks(grid(batch, steps), planner, run, cost, measure=False)
    assert done == [steps] * batch
    assert cost.out_of_memory == len(failures) <= 8  # one for each halving of 256 rows
    assert cost.rows_per_chunk <= room


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_every_way_of_running_out_of_memory_is_known(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_what_work_writes_is_counted_without_views_and_weights() -> None:
    model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(inplace=True), nn.Flatten())
    x = torch.randn(8, 100)
    with torch.no_grad():
        assert measured_bytes(lambda: model(x), torch.device("cpu")) == (4 * 8 * 50, 4 * 8 * 50)


def test_work_that_cannot_be_watched_is_still_done() -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("not under a dispatch mode")

    assert measured_bytes(work, torch.device("cpu")).total == 0
    assert len(calls) == 2


def test_the_planner_bounds_rows_by_what_it_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyxai_fast.runtime.chunks.CPU_CHUNK_BYTES", 10_000)
    model, inputs = mlp(), (torch.zeros(4, 6),)
    planner = ChunkPlanner(model, inputs, None)
    assert not planner.measured
    planner.learn(written=2 * 476, rows=2)
    assert planner.rows() == 10_000 // (476 + 24)
    again = ChunkPlanner(model, (torch.zeros(9, 6),), max_rows=3)
    assert again.measured and again.rows() == 3
    again.shrink(3)
    assert again.rows() == 1
    assert ChunkPlanner(model, inputs, None).rows() == 1
    assert not ChunkPlanner(model, (torch.zeros(4, 7),), None).measured


def test_rows_of_a_chunk_keep_its_largest_tensor_near_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pyxai_fast.runtime.chunks.CPU_TENSOR_BYTES", 10_000)
    planner = ChunkPlanner(mlp(), (torch.zeros(4, 6),), None)
    planner.learn(written=2 * 5_000, rows=2, largest=2 * 500)
    assert planner.rows() == 20
    planner.learn(written=2 * 5_000, rows=2, largest=2 * 9_000)
    assert planner.rows() == 4  # a deep network's chunk has some rows, whatever their size
    monkeypatch.setattr("pyxai_fast.runtime.chunks.CPU_CHUNK_BYTES", 11_000)
    assert planner.rows() == 2  # but for memory


def test_filters_that_lie_channels_last_tell_the_format() -> None:
    seen = []

    def run(inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(len(inputs[0]))

    model = conv_net().to(memory_format=torch.channels_last)
    assert choose_memory_format("auto", model, IMAGES, 10, None, run) == "channels_last"
    assert seen == [1]  # whether it takes them is tried, once
    assert choose_memory_format("auto", model, IMAGES, 10, None, run) == "channels_last"
    assert seen == [1]


def test_what_the_planner_learnt_goes_with_the_model() -> None:
    from pyxai_fast.runtime.chunks import _known_costs

    gc.collect()
    before = len(_known_costs)
    model = mlp()
    ChunkPlanner(model, (torch.zeros(4, 6),), None).learn(1, 1)
    assert len(_known_costs) == before + 1
    del model
    gc.collect()
    assert len(_known_costs) == before


IMAGES = (torch.zeros(8, 3, 96, 96),)


@pytest.mark.parametrize("faster", ["contiguous", "channels_last"])
def test_the_faster_memory_format_is_chosen_and_remembered(
    faster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(_run: object, inputs: tuple[torch.Tensor, ...]) -> float:
        last = inputs[0].is_contiguous(memory_format=torch.channels_last)
        return 1.0 if last == (faster == "channels_last") else 2.0

    monkeypatch.setattr(memory_format, "_time", seconds)
    model = conv_net()
    assert choose_memory_format("auto", model, IMAGES, 400, None, print) == faster
    monkeypatch.setattr(memory_format, "_time", None)  # not measured again
    assert choose_memory_format("auto", model, IMAGES, 400, None, print) == faster


def test_a_small_advantage_does_not_change_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(_run: object, inputs: tuple[torch.Tensor, ...]) -> float:
        return 0.95 if inputs[0].is_contiguous(memory_format=torch.channels_last) else 1.0

    monkeypatch.setattr(memory_format, "_time", seconds)
    assert choose_memory_format("auto", conv_net(), IMAGES, 400, None, print) == "contiguous"


def test_the_format_is_not_measured_where_it_could_do_harm_or_no_good() -> None:
    def fail(_rows: object) -> None:
        raise AssertionError("the model was run")

    training = conv_net().train()
    grey = (torch.zeros(8, 1, 96, 96),)
    small = (torch.zeros(8, 3, 8, 8),)
    for model, inputs, rows in (
        (training, IMAGES, 400),
        (None, IMAGES, 400),
        (conv_net(), IMAGES, 7),
        (torch.nn.Sequential(torch.nn.Flatten()).eval(), IMAGES, 10),
        (conv_net(), grey, 400),
        (conv_net(), small, 400),
    ):
        assert choose_memory_format("auto", model, inputs, rows, None, fail) == "contiguous"
    assert choose_memory_format("channels_last", None, small, 1, None, fail) == "channels_last"


def test_little_work_of_convolutions_goes_channels_last_unmeasured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> float:
        raise AssertionError("it was measured")

    monkeypatch.setattr(memory_format, "_time", never)
    seen: list[tuple[torch.Tensor, ...]] = []
    model = conv_net()
    for _ in range(2):
        found = choose_memory_format("auto", model, IMAGES, 10, None, seen.append)
        assert found == "channels_last"
    assert [len(rows[0]) for rows in seen] == [1], "it is seen once whether it runs"

    def refuse(_rows: object) -> None:
        raise RuntimeError("view size is not compatible")

    assert choose_memory_format("auto", conv_net(), IMAGES, 10, None, refuse) == "contiguous"


@pytest.mark.parametrize("max_rows", [None, 2])
def test_trials_are_real_runs_within_the_callers_rows(max_rows: int | None) -> None:
    seen = []

    def run(inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append((len(inputs[0]), inputs[0].is_contiguous(memory_format=torch.channels_last)))

    choose_memory_format("auto", conv_net(), IMAGES, 400, max_rows, run)
    assert seen == [(max_rows or 8, False), (max_rows or 8, True)] * 3


@pytest.mark.parametrize(
    "error", [RuntimeError("view size is not compatible"), torch.OutOfMemoryError()]
)
def test_a_model_that_fails_in_a_trial_gets_contiguous_inputs(error: Exception) -> None:
    def run(inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].is_contiguous(memory_format=torch.channels_last):
            raise error

    assert choose_memory_format("auto", conv_net(), IMAGES, 400, None, run) == "contiguous"


def test_progress_is_shown_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(progress_bar(False, 10, "quiet"), Silence)
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    bar = progress_bar(True, 10, "Integrating")
    bar.update(5)
    bar.close()
    assert "Integrating" in capsys.readouterr().err

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
from pyxai_fast.runtime.chunks import Chunk, ChunkPlanner, chunks, count_saved_bytes, length
from pyxai_fast.runtime.memory_format import choose_memory_format
from pyxai_fast.runtime.progress import Silence, progress_bar


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
    for chunk in chunks(batch, steps, lambda: next(asked)):
        for example in range(chunk.examples.start, chunk.examples.stop):
            assert done[example] == chunk.steps.start
            done[example] = chunk.steps.stop
        assert chunk.rows <= max(limits)
    assert done == [steps] * batch


@given(st.integers(1, 9), st.integers(1, 9))
def test_halves_make_up_the_chunk(examples: int, steps: int) -> None:
    chunk = Chunk(slice(3, 3 + examples), slice(5, 5 + steps))
    if chunk.rows == 1:
        return
    first, second = chunk.halves()
    assert first.rows + second.rows == chunk.rows
    assert abs(first.rows - second.rows) <= max(examples, steps)
    assert length(first.steps) > 0 and length(second.steps) > 0


def test_the_bytes_kept_for_backward_are_counted_without_the_weights() -> None:
    model = nn.Sequential(nn.Linear(100, 50), nn.Sigmoid(), nn.Linear(50, 1000))
    x = torch.randn(8, 100, requires_grad=True)
    with count_saved_bytes(model) as saved:
        model(x)
    # The linear layers keep their inputs, the sigmoid its output (the second layer's input).
    assert saved.total == 4 * 8 * (100 + 50)


def test_the_planner_bounds_rows_by_what_it_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyxai_fast.runtime.chunks.CPU_CHUNK_BYTES", 10_000)
    model, inputs = mlp(), (torch.zeros(4, 6),)
    planner = ChunkPlanner(model, inputs, None)
    assert not planner.measured
    planner.learn(saved_bytes=2 * 452, rows=2)
    assert planner.rows() == 10_000 // (452 + 2 * 24)
    again = ChunkPlanner(model, (torch.zeros(9, 6),), max_rows=3)
    assert again.measured and again.rows() == 3
    again.halve(2)
    assert again.rows() == 1
    assert not ChunkPlanner(model, (torch.zeros(4, 7),), None).measured


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
    assert choose_memory_format("auto", model, IMAGES, 400, lambda rows: None) == (faster, 16)
    assert choose_memory_format("auto", model, IMAGES, 400, lambda rows: None) == (faster, 0)


def test_a_small_advantage_does_not_change_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(_run: object, inputs: tuple[torch.Tensor, ...]) -> float:
        return 0.95 if inputs[0].is_contiguous(memory_format=torch.channels_last) else 1.0

    monkeypatch.setattr(memory_format, "_time", seconds)
    assert choose_memory_format("auto", conv_net(), IMAGES, 400, print)[0] == "contiguous"


def test_the_format_is_not_measured_where_it_could_do_harm_or_no_good() -> None:
    def fail(_rows: object) -> None:
        raise AssertionError("the model was run")

    training = conv_net().train()
    grey = (torch.zeros(8, 1, 96, 96),)
    small = (torch.zeros(8, 3, 8, 8),)
    for model, inputs, rows in (
        (training, IMAGES, 400),
        (None, IMAGES, 400),
        (conv_net(), IMAGES, 10),
        (conv_net(), grey, 400),
        (conv_net(), small, 400),
    ):
        assert choose_memory_format("auto", model, inputs, rows, fail) == ("contiguous", 0)
    assert choose_memory_format("channels_last", None, small, 1, fail) == ("channels_last", 0)


def test_progress_is_shown_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(progress_bar(False, 10, "quiet"), Silence)
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    bar = progress_bar(True, 10, "Integrating")
    bar.update(5)
    bar.close()
    assert "Integrating" in capsys.readouterr().err

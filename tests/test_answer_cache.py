"""An answer is asked for once, found again under its own row only, and outlives the process."""

from __future__ import annotations

import pickle
import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyxai_fast import BlackBox, QueryError
from pyxai_fast.models.answer_cache import AnswerCache


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(10, 4, generator=torch.Generator().manual_seed(0))


def counted(fn: Any = lambda x, *_: x * 2) -> tuple[Any, list[int]]:
    sent: list[int] = []

    def call(x: Any, *more: Any) -> Any:
        sent.append(len(x))
        return fn(x, *more)

    return call, sent


def in_file(path: Path, model: str = "m", **options: Any) -> AnswerCache:
    return AnswerCache(path / "answers.sqlite", model=model, **options)


@pytest.mark.parametrize("takes", ["torch", "numpy"])
@pytest.mark.parametrize("kept", ["memory", "file"])
def test_rows_that_are_known_are_not_sent(
    x: torch.Tensor, tmp_path: Path, takes: str, kept: str
) -> None:
    call, sent = counted()
    cache = True if kept == "memory" else in_file(tmp_path)
    box = BlackBox(call, takes=takes, cache=cache, budget=12)
    assert torch.equal(box(x), x * 2)
    assert torch.equal(box(x.flip(0)), x.flip(0) * 2)
    mixed = torch.cat([x[3:5], torch.ones(2, 4), x[:1], torch.ones(1, 4), torch.zeros(1, 4)])
    assert torch.equal(box(mixed), mixed * 2)
    assert sent == [10, 2] and box.queries == 12 and box.remaining == 0
    assert torch.equal(box(mixed), mixed * 2)


def test_a_row_that_comes_twice_is_sent_once(x: torch.Tensor) -> None:
    call, sent = counted()
    rows = x[[0, 1, 0, 2, 1, 0]]
    assert torch.equal(BlackBox(call, cache=True)(rows), rows * 2)
    assert sent == [3]


def test_the_key_is_what_the_model_sees() -> None:
    call, sent = counted(lambda x: x.float())
    box = BlackBox(call, dtype="uint8", cache=True)
    box(torch.tensor([[3.1, 7.0]]))
    box(torch.tensor([[2.9, 7.4]]))
    box(torch.tensor([[3.6, 7.0]]))
    assert sent == [1, 1]


def test_types_shapes_and_arguments_are_part_of_the_key(x: torch.Tensor) -> None:
    call, sent = counted(lambda x, *_: x.reshape(len(x), -1) * 2)
    box = BlackBox(call, cache=True)
    one = x[:1]
    several: list[tuple[Any, ...]] = [
        (one,),
        (one.double(),),
        (one.reshape(1, 2, 2),),
        (one, 1),
        (one, 1.5),
        (one, "1"),
        (one, None),
        (one, torch.tensor(1.5)),
        (one, torch.ones(1, 1)),
        (one, torch.ones(2, 1)),
    ]
    for _ in range(2):
        for inputs in several:
            box(*inputs)
    assert len(sent) == len(several)
    with pytest.raises(TypeError, match=r"to be kept in a cache, got dict; give cache=None"):
        box(one, {})


def test_answers_are_kept_as_they_were_given(tmp_path: Path, x: torch.Tensor) -> None:
    for fn in (lambda x: x.double() / 3, lambda x: x[:, 0], lambda x: x.reshape(-1, 2, 2)):
        expected = BlackBox(fn)(x)
        for cache in (True, in_file(tmp_path, model=str(expected.shape))):
            box = BlackBox(fn, cache=cache)
            box(x)
            again = box(x)
            assert again.dtype == expected.dtype and torch.equal(again, expected)


def test_the_same_answers_serve_logits_and_probabilities(tmp_path: Path) -> None:
    call, sent = counted(lambda x: torch.tensor([[0.25, 0.75]]))
    for answers, expected in (("logits", [0.25, 0.75]), ("probabilities", np.log([0.25, 0.75]))):
        box = BlackBox(call, answers=answers, cache=in_file(tmp_path))
        assert box(torch.zeros(1, 1))[0].tolist() == pytest.approx(list(expected))
    assert sent == [1]


def test_a_file_outlives_the_box_and_knows_whose_answers_it_keeps(
    tmp_path: Path, x: torch.Tensor
) -> None:
    call, sent = counted()
    for model in ("a", "a", "b"):
        box = BlackBox(call, cache=in_file(tmp_path, model))
        assert torch.equal(box(x), x * 2)
        box.close()
        assert torch.equal(box(x), x * 2)  # opened again
        box.close()
    assert sent == [10, 10]


def test_a_failure_loses_no_answer(tmp_path: Path, x: torch.Tensor) -> None:
    alive = [True, True, False]

    def fn(x: Any) -> Any:
        if not alive.pop(0):
            raise ConnectionError("died")
        return x * 2

    with pytest.raises(ConnectionError):
        BlackBox(fn, max_rows=3, cache=in_file(tmp_path))(x)
    alive[:] = [True] * 9
    box = BlackBox(fn, max_rows=3, cache=in_file(tmp_path))
    assert torch.equal(box(x), x * 2)
    assert box.queries == 4


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_the_oldest_answers_go_first(tmp_path: Path, x: torch.Tensor, kept: str) -> None:
    call, sent = counted()
    cache = AnswerCache(max_rows=6) if kept == "memory" else in_file(tmp_path, max_rows=6)
    box = BlackBox(call, cache=cache)
    assert torch.equal(box(x), x * 2)
    assert len(cache) == 6
    box(x[4:])
    assert sent == [10]
    box(x[:4])
    assert sent == [10, 4] and len(cache) == 6


def test_many_rows_are_found_in_one_question_each(tmp_path: Path) -> None:
    call, sent = counted()
    rows = torch.arange(1300.0)[:, None]
    box = BlackBox(call, cache=in_file(tmp_path))
    box(rows)
    assert torch.equal(box(rows), rows * 2) and sent == [1300]


def test_threads_share_a_cache(tmp_path: Path, x: torch.Tensor) -> None:
    for cache in (True, in_file(tmp_path)):
        box = BlackBox(lambda x: x * 2, cache=cache)
        wrong: list[int] = []

        def work(box: BlackBox = box, wrong: list[int] = wrong) -> None:
            for i in range(8):
                rows = x.roll(i, 0)
                if not torch.equal(box(rows), rows * 2):
                    wrong.append(i)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong and len(box.cache) == 10


def test_a_file_must_say_whose_answers_it_keeps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cache=AnswerCache\(FILE, model=NAME_AND_VERSION\)"):
        BlackBox(lambda x: x, cache=tmp_path / "answers.sqlite")


def test_models_that_share_a_cache_share_no_answers(x: torch.Tensor) -> None:
    cache = AnswerCache()
    boxes = [BlackBox(fn, cache=cache) for fn in (lambda x: x, lambda x: -x)]
    for _ in range(2):
        assert torch.equal(boxes[0](x), x) and torch.equal(boxes[1](x), -x)
    assert len(cache) == 20


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, and longer than a header of one " * 10)
    with pytest.raises(ValueError, match="must be a file of answers or a new file"):
        AnswerCache(file)
    assert file.read_text().startswith("not a database")
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE answers (something TEXT)")
    with pytest.raises(ValueError, match="must be a file of answers or a new file"):
        AnswerCache(tmp_path / "other.sqlite")
    with pytest.raises(ValueError, match="must be a file of answers"):
        AnswerCache(tmp_path / "no" / "folder.sqlite")
    with pytest.raises(ValueError, match="max_rows must be at least 1"):
        AnswerCache(max_rows=0)


def test_answers_of_another_shape_are_noticed(tmp_path: Path, x: torch.Tensor) -> None:
    BlackBox(lambda x: x, cache=in_file(tmp_path))(x[:5])
    box = BlackBox(lambda x: x[:, :3], cache=in_file(tmp_path))
    with pytest.raises((QueryError, ValueError), match="shape"):
        box(x)


def test_a_cache_can_be_copied(tmp_path: Path, x: torch.Tensor) -> None:
    for cache in (AnswerCache(model="m"), in_file(tmp_path)):
        call, sent = counted()
        BlackBox(call, cache=cache)(x)
        copy = pickle.loads(pickle.dumps(cache))
        assert torch.equal(BlackBox(call, cache=copy)(x), x * 2)
        assert sent == [10] and len(copy) == 10

"""A model that only answers is checked, counted, and never asked for a gradient."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nets import mlp

from pyxai_fast import BlackBox, QueryError
from pyxai_fast.models.black_box import TINY
from pyxai_fast.models.outputs import convert_output
from pyxai_fast.models.query_budget import QueryBudget
from pyxai_fast.models.query_error import BudgetExceeded


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(10, 4, generator=torch.Generator().manual_seed(0))


def double(x: Any) -> Any:
    return x * 2


def remembering(fn: Callable[..., Any] = double) -> tuple[Callable[..., Any], list[Any]]:
    calls: list[Any] = []

    def call(*args: Any) -> Any:
        calls.append(args)
        return fn(*args)

    return call, calls


# ---------------------------------------------------------------- what the function gets


def test_a_module_is_asked_without_a_graph(x: torch.Tensor) -> None:
    net = mlp(features=4)
    box = BlackBox(net)
    with torch.enable_grad():
        answer = box(x.requires_grad_())
    assert not answer.requires_grad and torch.is_grad_enabled()
    torch.testing.assert_close(answer, net(x).detach())


@pytest.mark.parametrize("takes", ["torch", "numpy"])
def test_the_function_gets_contiguous_rows_in_pieces(x: torch.Tensor, takes: str) -> None:
    call, calls = remembering()
    images = x.reshape(10, 1, 2, 2).contiguous(memory_format=torch.channels_last)
    box = BlackBox(call, takes=takes, max_rows=4)
    assert torch.equal(box(images), images * 2)
    assert [len(args[0]) for args in calls] == [4, 4, 2]
    for (piece,) in calls:
        if takes == "torch":
            assert isinstance(piece, torch.Tensor) and piece.is_contiguous()
        else:
            assert isinstance(piece, np.ndarray) and piece.flags.c_contiguous
    assert box.queries == 10


def test_arguments_with_rows_are_split_and_others_passed_on(x: torch.Tensor) -> None:
    call, calls = remembering(lambda x, y, scale, word: x * y * scale)
    y = torch.rand(10, 1)
    box = BlackBox(call, takes="numpy", max_rows=6)
    torch.testing.assert_close(box(x, y, torch.tensor(3.0), "word"), x * y * 3)
    assert [len(args[1]) for args in calls] == [6, 4]
    assert calls[0][2].shape == () and calls[0][3] == "word"


@pytest.mark.parametrize(
    ("given", "dtype", "takes", "wanted"),
    [
        (torch.float32, None, "numpy", "float32"),
        (torch.float64, None, "numpy", "float64"),
        (torch.bfloat16, None, "numpy", "float32"),
        (torch.bfloat16, None, "torch", "bfloat16"),
        (torch.float32, "float16", "numpy", "float16"),
        (torch.float32, torch.float64, "torch", "float64"),
        (torch.float32, np.float64, "numpy", "float64"),
        (torch.float32, np.dtype("uint8"), "torch", "uint8"),
        (torch.int64, "float32", "torch", "int64"),
    ],
)
def test_floating_inputs_have_the_type_that_was_asked_for(
    given: torch.dtype, dtype: Any, takes: str, wanted: str
) -> None:
    call, calls = remembering(lambda x: np.zeros((2, 3)))
    BlackBox(call, dtype=dtype, takes=takes)(torch.ones(2, 4, dtype=given))
    assert str(calls[0][0].dtype).removeprefix("torch.") == wanted


def test_grey_levels_are_rounded_and_saturated() -> None:
    call, calls = remembering(lambda x: x.float())
    box = BlackBox(call, dtype=torch.uint8)
    values = torch.tensor([[-3.0, 0.4, 0.5, 1.5, 2.5, 254.6, 255.4, 1e9]])
    assert box(values).tolist() == [[0, 0, 0, 2, 2, 255, 255, 255]]
    assert calls[0][0].dtype == torch.uint8
    assert box.grey_level == 1.0 and BlackBox(call).grey_level is None
    with pytest.raises(ValueError, match="must be finite to be rounded"):
        box(values * float("nan"))
    wide = BlackBox(lambda x: x.double(), dtype="int32")
    assert wide(torch.tensor([[1e12, -1e12]])).tolist() == [[2**31 - 1, -(2**31)]]


def test_pixels_for_a_uint8_model_are_warned_of_once() -> None:
    box = BlackBox(lambda x: x.float(), dtype="uint8")
    with pytest.warns(UserWarning, match=r"give preprocessing=Preprocessing\(std=\(1 / 255,\)\)"):
        box(torch.rand(2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        box(torch.rand(2, 3))
        BlackBox(lambda x: x.float(), dtype="uint8")(torch.zeros(2, 3))


# ---------------------------------------------------------------- what it answers


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x,
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        lambda x: SimpleNamespace(logits=x),
        lambda x: {"logits": x},
        lambda x: (x, "more"),
        lambda x: x.numpy().astype(np.float16),
        lambda x: x.bfloat16(),
    ],
)
def test_answers_may_be_tensors_arrays_lists_or_what_models_return(
    answer: Callable[[torch.Tensor], Any], x: torch.Tensor
) -> None:
    x = (x * 8).round() / 8
    got = BlackBox(answer)(x)
    assert torch.equal(got.float(), x)
    assert got.dtype == (torch.float64 if isinstance(answer(x), list) else torch.float32)


def test_float64_is_kept(x: torch.Tensor) -> None:
    for fn in (lambda x: x.double() / 3, lambda x: x.double().numpy() / 3):
        assert torch.equal(BlackBox(fn)(x), x.double() / 3)


def test_answers_do_not_change_with_the_function_s_buffer(x: torch.Tensor) -> None:
    buffer = np.zeros((10, 4), np.float32)

    def fn(array: Any) -> Any:
        buffer[:] = array
        return buffer

    box = BlackBox(fn, takes="numpy")
    first = box(x)
    box(x * 3)
    assert torch.equal(first, x)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: x[:3], r"10 rows were asked, and the answer has the shape \[3, 4\]"),
        (lambda x: x.sum(), r"the answer has the shape \[\]"),
        (lambda x: x[:, :3] if x[0, 0] else x, "unused"),
    ],
)
def test_wrong_shapes_are_errors(x: torch.Tensor, fn: Any, message: str) -> None:
    if message == "unused":
        x[5, 0] = 0
        with pytest.raises(QueryError, match=r"shape \[4\], and with \[3\] before"):
            BlackBox(fn, max_rows=5)(x)
        return
    with pytest.raises(QueryError, match=message) as caught:
        BlackBox(fn)(x)
    assert caught.value.spent == 10


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("cache", [None, True])
def test_the_first_bad_row_is_named(x: torch.Tensor, bad: float, cache: Any) -> None:
    def fn(rows: torch.Tensor) -> torch.Tensor:
        return torch.where(rows == x[7, 2], bad, rows)

    box = BlackBox(fn, max_rows=4, cache=cache)
    with pytest.raises(QueryError, match=f"answer to row 7 holds {bad}") as caught:
        box(x)
    assert caught.value.spent == box.queries == 8
    if cache:  # rows that were answered well are known
        with pytest.raises(QueryError, match="answer to row 7"):
            box(x)
        assert box.queries == 8 + 4


@pytest.mark.parametrize(
    "answer", [lambda x: "cat", lambda x: ["cat"] * len(x), lambda x: None, lambda x: [[1], [1, 2]]]
)
def test_what_is_no_number_is_a_type_error(x: torch.Tensor, answer: Any) -> None:
    with pytest.raises(TypeError, match="must be"):
        BlackBox(answer)(x)


def test_errors_of_the_function_are_its_own(x: torch.Tensor) -> None:
    def fn(x: Any) -> Any:
        raise KeyError("mine")

    box = BlackBox(fn, budget=30, max_rows=5)
    with pytest.raises(KeyError, match="mine"):
        box(x)
    assert box.queries == 5 and box.remaining == 25


# ---------------------------------------------------------------- probabilities


def test_probabilities_become_logits_that_give_them_back(x: torch.Tensor) -> None:
    p = x.softmax(1)
    box = BlackBox(lambda rows: rows.softmax(1), answers="probabilities")
    logits = box(x)
    torch.testing.assert_close(logits, p.log())
    torch.testing.assert_close(convert_output(logits, "prob"), p)
    torch.testing.assert_close(convert_output(logits, "logprob"), p.log())
    margin = convert_output(logits, "margin")
    best = p.sort(1, descending=True).values
    torch.testing.assert_close(margin.max(1).values, (best[:, 0] / best[:, 1]).log())


def test_probabilities_of_zero_have_a_finite_logarithm() -> None:
    p = torch.tensor([[0.0, 1.0], [1.0, -1e-5]])
    logits = BlackBox(lambda x: p, answers="probabilities")(torch.zeros(2, 1))
    assert logits[0].tolist() == pytest.approx([np.log(TINY), 0.0])
    assert logits[1, 1] == logits[0, 0]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_probability_becomes_its_log_odds(shape: tuple[int, ...]) -> None:
    p = torch.tensor([0.2, 0.5, 1.0]).reshape(shape)
    logits = BlackBox(lambda x: p, answers="probabilities")(torch.zeros(3, 1))
    assert logits.shape == shape
    assert logits.flatten().tolist() == pytest.approx([np.log(0.25), 0.0, -np.log(TINY)], rel=1e-6)


@pytest.mark.parametrize("value", [-0.5, 1.5, 40.0])
def test_what_is_no_probability_says_to_take_logits(value: float) -> None:
    box = BlackBox(lambda x: torch.tensor([[0.5, value]]), answers="probabilities")
    with pytest.raises(QueryError, match=r"is not in \[0, 1\].*answers='logits'"):
        box(torch.zeros(1, 1))


def test_probabilities_that_do_not_exclude_each_other_are_warned_of() -> None:
    box = BlackBox(lambda x: torch.tensor([[0.9, 0.8]]), answers="probabilities")
    with pytest.warns(UserWarning, match=r"add up to 1\.7"):
        box(torch.zeros(1, 1))


# ---------------------------------------------------------------- counts


def test_the_budget_is_kept_before_anything_is_sent(x: torch.Tensor) -> None:
    call, calls = remembering()
    box = BlackBox(call, budget=15, max_rows=4)
    box(x)
    assert (box.queries, box.remaining, box.budget) == (10, 5, 15)
    with pytest.raises(BudgetExceeded, match=r"10 more queries.*15 has 5 left") as caught:
        box(x)
    assert caught.value.spent == 10 and len(calls) == 3
    box(x[:5])
    assert box.remaining == 0
    assert isinstance(caught.value, QueryError)


def test_threads_never_exceed_a_budget() -> None:
    sent: list[int] = []
    box = BlackBox(lambda x: sent.append(len(x)) or x, budget=100, max_rows=3)
    refused = []

    def work() -> None:
        for _ in range(10):
            try:
                box(torch.rand(7, 2))
            except BudgetExceeded:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(sent) == box.queries == 98 and len(refused) == 40 - 14


def test_a_budget_of_reserved_rows() -> None:
    budget = QueryBudget(10)
    budget.reserve(6, "here")
    with pytest.raises(BudgetExceeded, match="has 4 left"):
        budget.reserve(5, "here")
    budget.spend(2)
    budget.release(4)
    assert (budget.spent, budget.remaining) == (2, 8)
    copy = pickle.loads(pickle.dumps(budget))
    copy.reserve(8, "here")
    assert (copy.remaining, budget.remaining) == (0, 8)


def test_errors_survive_pickling() -> None:
    error = BudgetExceeded("here", "no more", spent=1, advice="stop")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "here: no more (1 query is spent); stop"
    assert type(copy) is BudgetExceeded and (copy.reason, copy.spent) == ("no more", 1)


def test_copies_go_on_from_where_they_were_taken(x: torch.Tensor) -> None:
    box = BlackBox(double, budget=30, cache=True)
    box(x)
    copy = pickle.loads(pickle.dumps(box))
    assert torch.equal(copy(x), x * 2)
    assert (copy.queries, copy.remaining) == (10, 20)


def test_it_says_what_it_is(x: torch.Tensor) -> None:
    box = BlackBox(double, takes="numpy", dtype="float16", budget=30, cache=True)
    box(x)
    assert repr(box) == (
        "<BlackBox(double), takes=numpy, answers=logits, dtype=float16, queries=10, budget=30, "
        "cache=memory>"
    )


def test_no_rows_are_no_question() -> None:
    call, calls = remembering()
    box = BlackBox(call)
    assert box(torch.zeros(0, 3)).shape[0] == 0 and not calls
    box(torch.zeros(1, 3))
    assert box(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"takes": "jax"}, "takes must be torch or numpy"),
        ({"answers": "classes"}, "answers must be logits or probabilities"),
        ({"dtype": "complex64"}, "dtype must be one of uint8.*got 'complex64'"),
        ({"dtype": object()}, "dtype must be one of"),
        ({"dtype": "bfloat16", "takes": "numpy"}, "one that NumPy has"),
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"budget": -1}, "budget must not be negative"),
        ({"budget": True}, "budget must be a whole number"),
        ({"cache": 3}, "cache must be True, the name of a file"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        BlackBox(double, **options)


def test_what_is_no_function_or_no_input_is_refused() -> None:
    with pytest.raises(TypeError, match="fn must be a function, got int"):
        BlackBox(3)  # type: ignore[arg-type]
    for inputs in ((), (3,), (torch.tensor(1.0),)):
        with pytest.raises(TypeError, match="first input must be a tensor"):
            BlackBox(double)(*inputs)


# ---------------------------------------------------------------- scikit-learn


@pytest.fixture(scope="module")
def table() -> tuple[Any, Any]:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    random = np.random.default_rng(0)
    features = random.normal(size=(80, 4))
    return features, (features @ random.normal(size=(4, 3))).argmax(1)


def test_classifiers_answer_the_logarithm_of_their_probabilities(table: Any) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    features, classes = table
    x = torch.from_numpy(features).float()
    logistic = LogisticRegression().fit(features, classes)
    box = BlackBox.from_sklearn(logistic, max_rows=32)
    expected = logistic.predict_log_proba(x.double().numpy())
    assert box(x).dtype == torch.float64
    np.testing.assert_allclose(box(x).numpy(), expected, rtol=1e-9)
    forest = RandomForestClassifier(5, random_state=0).fit(features, classes)
    box = BlackBox.from_sklearn(forest)
    p = forest.predict_proba(x.double().numpy())
    np.testing.assert_allclose(convert_output(box(x), "prob").numpy(), p, atol=1e-12)
    assert pickle.loads(pickle.dumps(box)).queries == len(x)


def test_estimators_without_probabilities_say_what_to_do(table: Any) -> None:
    from sklearn.linear_model import LinearRegression
    from sklearn.svm import LinearSVC

    features, classes = table
    machine = LinearSVC().fit(features, classes)
    with pytest.raises(TypeError, match=r"predict_proba; to explain its decision_function, give"):
        BlackBox.from_sklearn(machine)
    box = BlackBox(machine.decision_function, takes="numpy", dtype="float64")
    assert box(torch.from_numpy(features)).shape == (80, 3)
    with pytest.raises(TypeError, match=r"BlackBox\(estimator\.predict,"):
        BlackBox.from_sklearn(LinearRegression())
    with pytest.raises(TypeError, match="object must have predict_proba; wrap"):
        BlackBox.from_sklearn(object())


def test_classifiers_take_tables_and_have_one_target(table: Any) -> None:
    from sklearn.ensemble import RandomForestClassifier

    features, classes = table
    both = np.stack([classes, classes], 1)
    forest = RandomForestClassifier(2, random_state=0).fit(features, both)
    box = BlackBox.from_sklearn(forest)
    with pytest.raises(ValueError, match="must have one target, got 2"):
        box(torch.rand(2, 4))
    with pytest.raises(ValueError, match=r"rows of features \[R, D\]"):
        box(torch.rand(2, 4, 1))


def test_a_cache_in_a_file_knows_a_classifier_by_what_it_learnt(table: Any, tmp_path: Any) -> None:
    from sklearn.linear_model import LogisticRegression

    features, classes = table
    x = torch.from_numpy(features)
    asked = []
    for strength in (1.0, 1.0, 0.01):
        model = LogisticRegression(C=strength).fit(features, classes)
        box = BlackBox.from_sklearn(model, cache=tmp_path / "answers.sqlite")
        np.testing.assert_allclose(box(x).numpy(), model.predict_log_proba(features), rtol=1e-9)
        asked.append(box.queries)
        box.close()
    assert asked == [80, 0, 80]

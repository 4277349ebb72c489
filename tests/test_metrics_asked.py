"""What metrics ask of a model: which class, in which units, in any chunks, and never too much."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial, conv_net
from torch import Tensor, nn

from pyxai_fast import Cost, Preprocessing
from pyxai_fast.metrics.asked import (
    Asked,
    check_attributions,
    classes_of,
    comes_first,
    is_target,
    of_target,
)
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.query_error import BudgetExceeded

FEATURES = 6


def rows_of(inputs: Tensor) -> Any:
    """Steps that multiply inputs by their number."""

    def rows(examples: slice, steps: slice) -> Tensor:
        factors = torch.arange(steps.start, steps.stop, device=inputs.device).to(inputs.dtype)
        some = inputs[examples]
        return (factors.view(-1, *(1 for _ in some.shape)) * some).flatten(0, 1)

    return rows


def table(batch: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(batch, FEATURES, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_scores_are_those_of_each_inputs_class(device: torch.device) -> None:
    net, x = Linear(FEATURES).double().to(device), table(dtype=torch.float64).to(device)
    target = torch.tensor([0, 2, 1, 1], device=device)
    asked = Asked("op", net, x, target, output="logit")
    found = asked.scores(3, rows_of(x), "scaled")
    expected = torch.arange(3.0, device=device).double()[:, None] * (x * net.weight[target]).sum(1)
    assert found.dtype == torch.float64 and found.device == x.device
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(asked.clean, found[1])


@pytest.mark.parametrize("output", ["prob", "logprob", "margin", "logit"])
def test_every_output_is_that_of_double_precision(output: str) -> None:
    net, x = conv_net(), torch.rand(3, 3, 8, 8)
    asked = Asked("op", net, x, 2, output=output)
    logits = net(x).detach().double()
    others = logits[:, [0, 1, 3, 4]].amax(1)
    expected = {
        "prob": logits.softmax(1)[:, 2],
        "logprob": logits.log_softmax(1)[:, 2],
        "margin": logits[:, 2] - others,
        "logit": logits[:, 2],
    }[output]
    torch.testing.assert_close(asked.clean, expected)


def test_without_a_target_it_is_what_the_model_predicts() -> None:
    net, x = Linear(FEATURES), table()
    asked = Asked("op", net, x)
    assert asked.target.tolist() == net(x).argmax(1).tolist()
    for given in (asked.target, asked.target.tolist(), asked.target.int()):
        assert Asked("op", net, x, given).target.tolist() == asked.target.tolist()
    assert Asked("op", net, x, 1).target.tolist() == [1] * 4
    assert Asked("op", net, x, torch.tensor([1])).target.tolist() == [1] * 4


@pytest.mark.parametrize("rows", [1, 3, 5, 100])
def test_chunks_change_no_bit(rows: int) -> None:
    x = table(5)
    whole = Asked("op", Polynomial(FEATURES), x).scores(7, rows_of(x), "scaled")
    parts = Asked("op", Polynomial(FEATURES), x, internal_batch_size=rows)
    assert_same_bits(parts.scores(7, rows_of(x), "scaled"), whole)


def test_several_numbers_of_a_row_are_read_at_once() -> None:
    # Nothing is like anything: the first class is the one that is predicted.
    net, x, target = Polynomial(FEATURES), table(), torch.tensor([0, 1, 2, 0])
    asked = Asked("op", net, x, target, internal_batch_size=3)
    both = asked.scores(
        5, rows_of(x), "scaled", lambda o, r: torch.stack((of_target(o, r), is_target(o, r)), 1)
    )
    assert both.shape == (5, 4, 2)
    assert_same_bits(both[..., 0], asked.scores(5, rows_of(x), "scaled"))
    assert_same_bits(both[..., 1], asked.scores(5, rows_of(x), "scaled", is_target))
    assert set(both[..., 1].unique().tolist()) == {0.0, 1.0}


def test_no_class_comes_first_where_the_model_answers_nan() -> None:
    nan, inf = math.nan, math.inf
    outputs = torch.tensor([[nan, 1], [1, nan], [inf, 0], [-inf, -inf], [-inf, 2], [2, -inf]])
    found = comes_first(outputs, torch.zeros(6, dtype=torch.int64))
    assert found.isnan().tolist() == [True] * 4 + [False] * 2
    assert found[4:].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_are_normalised_in_their_own_type(dtype: torch.dtype) -> None:
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x)
        return x.flatten(1)[:, :3]

    preprocessing = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    x = torch.rand(2, 3, 4, 4, dtype=dtype)
    asked = Asked("op", model, x, preprocessing=preprocessing)
    assert asked.clean.shape == (2,)
    assert seen[0].dtype == dtype
    torch.testing.assert_close(seen[0], preprocessing.normalise(x))


def test_the_model_is_asked_when_something_is_wanted_and_rows_are_counted() -> None:
    cost = Cost()
    x = table()
    asked = Asked("op", Linear(FEATURES), x, cost=cost)
    assert cost.queries == 0
    asked.scores(3, rows_of(x), "scaled")
    assert cost.queries == 4 + 12 and cost.gradients == 0
    assert asked.clean.shape == (4,) and cost.queries == 16


def test_a_budget_that_is_too_small_is_not_touched() -> None:
    x = table()
    enough = BlackBox(Linear(FEATURES), budget=16)
    Asked("op", enough, x).scores(3, rows_of(x), "scaled")
    assert enough.queries == 16
    short = BlackBox(Linear(FEATURES), budget=15)
    with pytest.raises(BudgetExceeded, match="op: 3 steps of 4 inputs, and themselves"):
        Asked("op", short, x).scores(3, rows_of(x), "scaled")
    assert short.queries == 0


def test_no_graph_is_recorded_and_inputs_stay() -> None:
    net, x = conv_net(), torch.rand(2, 3, 8, 8, requires_grad=True)
    before = x.detach().clone()
    asked = Asked("op", net, x)
    assert not asked.clean.requires_grad and x.grad is None
    assert torch.equal(x.detach(), before)


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 3}, TypeError, "op: model must be callable, got int"),
        ({"model": Flat()}, ValueError, r"op: model must return \[B, n\], .* got \[4\]"),
        ({"inputs": [1.0]}, TypeError, "op: inputs must be a tensor, got list"),
        ({"inputs": torch.rand(3)}, ValueError, r"op: inputs must be floating-point \[B, ...\]"),
        ({"inputs": torch.ones(2, 3).long()}, ValueError, "op: inputs .* got torch.int64"),
        ({"inputs": torch.rand(0, 3)}, ValueError, r"op: inputs .* got torch.float32 \[0, 3\]"),
        ({"output": "odds"}, ValueError, "op: output must be one of logit, prob, .* got 'odds'"),
        ({"internal_batch_size": 0}, ValueError, "op: internal_batch_size must be an integer >= 1"),
        ({"target": 3}, ValueError, r"op: target must be from 0 to 2, got \[3, 3, 3, 3\]"),
        ({"target": [0, 1, 2, -1]}, ValueError, "op: target must be from 0 to 2"),
        ({"target": [0, 1]}, ValueError, r"op: target must be a class, or \[4\] classes"),
        ({"target": 0.5}, ValueError, "op: target must be a class, .* got torch.float32"),
        ({"target": True}, ValueError, "op: target must be a class, .* got torch.bool"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"model": Linear(FEATURES), "inputs": table(), **change}
    with pytest.raises(error, match=message):
        Asked("op", arguments.pop("model"), arguments.pop("inputs"), **arguments).clean  # noqa: B018


@pytest.mark.parametrize(
    ("attributions", "error", "message"),
    [
        ("red", TypeError, "op: attributions must be a tensor, got str"),
        (torch.rand(2, 3, 4, 5), ValueError, r"\[2, 3, 4, 4\], or \[2, 1, 4, 4\], got"),
        (torch.ones(2, 3, 4, 4).long(), TypeError, "must be floating-point, got torch.int64"),
        (torch.full((2, 1, 4, 4), float("nan")), ValueError, "must be finite, got NaN or infinity"),
    ],
)
def test_attributions_that_make_no_sense_are_named(
    attributions: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_attributions("op", attributions, torch.rand(2, 3, 4, 4))


def test_columns_of_a_table_have_one_attribution_each() -> None:
    x = table()
    assert check_attributions("op", torch.rand(4, FEATURES), x).shape == x.shape
    with pytest.raises(ValueError, match=r"shaped as the inputs, \[4, 6\], got \[4, 1\]"):
        check_attributions("op", torch.rand(4, 1), x)


def test_predicted_classes_are_the_first_of_equal_ones() -> None:
    assert classes_of("op", None, torch.tensor([[1.0, 1.0], [0.0, 2.0]])).tolist() == [0, 1]

"""What counterfactuals are worth: classes that change, and how far they are away."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nets import Linear, Polynomial, conv_net
from torch import Tensor

from pyxai_fast import Cost, Counterfactual, Preprocessing
from pyxai_fast.metrics import counterfactual_quality
from pyxai_fast.priors import GaussianPrior

FEATURES = 12


def rows(n: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, FEATURES, generator=generator, dtype=torch.float64)


def test_differences_have_known_sizes(device: torch.device) -> None:
    net, x = Linear(FEATURES).double().to(device), rows().to(device)
    others = x.clone()
    others[0, :3] += 0.5
    others[1, 4] -= 2.0
    others[2] += 0.01
    found = counterfactual_quality(net, x, others, 1)
    expected = {
        "l1": [1.5 / 12, 2 / 12, 0.01, 0],
        "l2": [(0.75 / 12) ** 0.5, (4 / 12) ** 0.5, 0.01, 0],
        "changed": [3 / 12, 1 / 12, 1, 0],
    }
    for name, values in expected.items():
        values = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(getattr(found, name).cpu(), values)
    assert found.l1.device.type == device.type
    more = counterfactual_quality(net, x, others, 1, changed_by=0.02)
    assert more.changed.tolist() == [3 / 12, 1 / 12, 0, 0]


def test_classes_and_probabilities_are_the_models() -> None:
    net, x = Polynomial(FEATURES).double(), rows()
    others = 1.5 - 2 * x
    target = torch.tensor([0, 1, 2, 1])
    found = counterfactual_quality(net, x, others, target)
    at = (torch.arange(4), target)
    assert found.flipped.tolist() == (net(others).argmax(1) == target).tolist()
    assert found.flip_rate == float((net(others).argmax(1) == target).double().mean())
    torch.testing.assert_close(found.confidence, net(others).softmax(1)[at])
    torch.testing.assert_close(found.confidence_before, net(x).softmax(1)[at])
    same = counterfactual_quality(net, x, x, net(x).argmax(1))
    assert same.flip_rate == 1 and same.l2.tolist() == [0] * 4


def test_an_answer_that_is_nan_is_no_flip() -> None:
    net, x = Linear(FEATURES).double(), rows()

    def breaks(rows: Tensor) -> Tensor:
        return net(rows).masked_fill((rows[:, :1] > 1), torch.nan)

    others = x.clone()
    others[:2, 0] = 2
    target = net(others).argmax(1)
    target[:2] = 0
    found = counterfactual_quality(breaks, x, others, target)
    assert found.flipped.tolist() == [False, False, True, True] and found.flip_rate == 0.5
    assert found.confidence.isnan().tolist() == [True, True, False, False]


def test_what_counterfactual_generates_is_judged_as_it_says() -> None:
    net, x = Polynomial(FEATURES), rows(2).float()
    prior = GaussianPrior(torch.zeros(FEATURES), torch.eye(FEATURES))
    made = Counterfactual(net, prior, n_particles=20, n_steps=6).generate(x, 1)
    found = counterfactual_quality(net, made.inputs, made.best, made.target)
    assert found.flipped.tolist() == made.flipped.tolist()
    confidence = made.probability(made.best_outputs).double()
    torch.testing.assert_close(found.confidence, confidence, rtol=1e-5, atol=1e-7)
    distance = made.distance(made.best).double()
    torch.testing.assert_close(found.l1, distance, rtol=1e-5, atol=0)


def test_chunks_change_nothing_and_each_row_is_asked_once() -> None:
    net, x = conv_net(), torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    cost = Cost()
    whole = counterfactual_quality(
        net, x, x.flip(3), 2, preprocessing=preprocessing, internal_batch_size=2, cost=cost
    )
    assert cost.queries == 10
    for b in range(5):
        one = counterfactual_quality(
            net, x[b : b + 1], x[b : b + 1].flip(3), 2, preprocessing=preprocessing
        )
        for name in ("confidence", "confidence_before", "l1", "l2", "changed"):
            values = getattr(whole, name)[b : b + 1]
            torch.testing.assert_close(getattr(one, name), values, rtol=1e-5, atol=1e-7)
    expected = net(preprocessing.normalise(x.flip(3))).double().softmax(1)[:, 2]
    torch.testing.assert_close(whole.confidence, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": None}, ValueError, "target must be the class that was asked for, got None"),
        ({"target": 3}, ValueError, "target must be from 0 to 2"),
        ({"counterfactuals": 3}, TypeError, "counterfactuals must be a tensor, got int"),
        ({"counterfactuals": torch.rand(4, 3)}, ValueError, r"shaped as the inputs, \[4, 12\]"),
        ({"counterfactuals": rows().int()}, ValueError, "must be floating-point .* torch.int32"),
        ({"changed_by": -1.0}, ValueError, "changed_by must be a finite number >= 0"),
        ({"inputs": torch.rand(12)}, ValueError, "inputs must be floating-point"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "model": Linear(FEATURES).double(), "inputs": rows(), "counterfactuals": rows(),
        "target": 0, **change,
    }  # fmt: skip
    with pytest.raises(error, match=f"^counterfactual_quality: .*{message}"):
        counterfactual_quality(**arguments)

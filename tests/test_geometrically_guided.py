"""GGIG: closed forms of the greatest gradient that climbs meet, and what does not change it."""

from __future__ import annotations

import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial, conv_net, mlp
from torch import Tensor

from pyxai_fast import (
    BlackBox,
    Cost,
    GeometricallyGuidedIG,
    LikelihoodRatio,
    Preprocessing,
    QueryError,
    Saliency,
    Targets,
    explain,
)

FEATURES = 6


class Bowl(torch.nn.Module):
    """s = 1/2 sum a_i z_i^2."""

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.a = a

    def forward(self, z: Tensor) -> Tensor:
        return 0.5 * (self.a * z.flatten(1) ** 2).sum(1)


def slow(model, x: Tensor, target: int, n: int, m: int, size: float, *, absolute=False) -> Tensor:
    """One point and one step at a time, as the definition reads."""
    best = torch.full_like(x, 0.0 if absolute else -torch.inf)
    for k in range(n + 1):
        z = k / n * x
        for _ in range(m):
            z = z.detach().requires_grad_()
            (grad,) = torch.autograd.grad(model(z)[:, target].sum(), z)
            greater = grad.abs() > best.abs() if absolute else grad > best
            best = torch.where(greater, grad, best)
            z = z + size * grad
    return best


@pytest.mark.parametrize("select", ["max", "absmax"])
def test_it_is_the_definition_batched(select: str) -> None:
    model, x = mlp(FEATURES).double(), torch.randn(3, FEATURES).double()
    expected = slow(model, x, 1, 7, 5, 0.1, absolute=select == "absmax")
    found = GeometricallyGuidedIG(model).attribute(
        x, target=1, n_steps=7, n_ascent=5, step_size=0.1, select=select
    )
    torch.testing.assert_close(found, expected)


def test_a_linear_score_has_one_slope() -> None:
    model, x = Linear(FEATURES), torch.randn(2, FEATURES)
    for steps, ascent, size in ((1, 1, 0.0), (5, 3, 0.5), (50, 20, 1e-4)):
        found = GeometricallyGuidedIG(model).attribute(
            x, target=2, n_steps=steps, n_ascent=ascent, step_size=size
        )
        torch.testing.assert_close(found, model.weight[2].detach().expand(2, FEATURES))


def test_climbs_in_a_bowl_have_a_closed_form() -> None:
    a = torch.rand(FEATURES).double() + 0.5
    x, size, m = torch.randn(3, FEATURES).double(), 0.1, 6
    found = GeometricallyGuidedIG(Bowl(a)).attribute(x, n_steps=10, n_ascent=m, step_size=size)
    expected = (a * x * (1 + size * a) ** (m - 1)).clamp(min=0)
    torch.testing.assert_close(found, expected)


def test_without_climbing_it_is_the_greatest_gradient_of_the_path() -> None:
    model, x = mlp(FEATURES).double(), torch.randn(2, FEATURES).double()
    found = GeometricallyGuidedIG(model).attribute(x, target=0, n_steps=8, n_ascent=1)
    saliency = Saliency(model)
    at_points = [saliency.attribute(k / 8 * x, target=0, abs=False) for k in range(9)]
    torch.testing.assert_close(found, torch.stack(at_points).amax(0))
    assert bool((found >= torch.stack(at_points).mean(0)).all())


def test_more_points_and_longer_climbs_never_find_less() -> None:
    model, x = mlp(FEATURES).double(), torch.randn(2, FEATURES).double()
    method = GeometricallyGuidedIG(model)

    def found(n: int, m: int) -> Tensor:
        return method.attribute(x, target=0, n_steps=n, n_ascent=m, step_size=0.1)

    assert bool((found(5, 4) >= found(5, 3)).all())
    assert bool((found(10, 3) >= found(5, 3) - 1e-12).all())


def test_chunks_and_batches_change_no_bit() -> None:
    x, method = torch.randn(3, FEATURES), GeometricallyGuidedIG(Polynomial(FEATURES))
    options = {"n_steps": 9, "n_ascent": 4, "step_size": 0.01}
    whole = method.attribute(x, target=[0, 1, 2], **options)
    for rows in (1, 7):
        cost = Cost()
        part = method.attribute(x, target=[0, 1, 2], internal_batch_size=rows, cost=cost, **options)
        assert_same_bits(part, whole)
        assert cost.rows_per_chunk == rows and cost.gradients == 3 * 10 * 4
    assert_same_bits(method.attribute(x[1:2], target=1, **options), whole[1:2])


def test_normalised_moves_do_not_depend_on_the_batch() -> None:
    """Lengths are sums of many features, whose order must not change with the rows beside them."""
    features = 3000
    weights = torch.randn(features, generator=torch.Generator().manual_seed(0))

    def score(x: Tensor) -> Tensor:  # whose gradients do not depend on the batch
        return (weights * x * x * x).sum(1)

    x = torch.randn(3, features, generator=torch.Generator().manual_seed(1))
    options = {"n_steps": 9, "n_ascent": 3, "step_size": 0.5, "normalised": True}
    whole = GeometricallyGuidedIG(score).attribute(x, **options)
    for rows in (1, 7):
        part = GeometricallyGuidedIG(score).attribute(x, internal_batch_size=rows, **options)
        assert_same_bits(part, whole)
    assert_same_bits(GeometricallyGuidedIG(score).attribute(x[1:2], **options), whole[1:2])


def test_normalised_moves_do_not_depend_on_the_scores_scale() -> None:
    model, x = mlp(FEATURES).double(), torch.randn(2, FEATURES).double()
    options = {"target": 1, "n_steps": 5, "n_ascent": 6, "step_size": 0.2, "normalised": True}
    one = GeometricallyGuidedIG(model).attribute(x, **options)
    ten = GeometricallyGuidedIG(lambda x: 10 * model(x)).attribute(x, **options)
    torch.testing.assert_close(ten, 10 * one)


def test_everything_is_in_the_callers_units() -> None:
    preprocessing = Preprocessing(mean=(0.5,), std=(0.25,), channels=1)
    model, x = conv_net(channels=1).double(), torch.rand(2, 1, 8, 8).double()
    options = {"target": 3, "n_steps": 4, "n_ascent": 3, "step_size": 0.02, "normalised": True}
    found = GeometricallyGuidedIG(model, preprocessing=preprocessing).attribute(x, **options)
    expected = GeometricallyGuidedIG(lambda x: model((x - 0.5) / 0.25)).attribute(x, **options)
    torch.testing.assert_close(found, expected)
    times = GeometricallyGuidedIG(model, True, preprocessing=preprocessing).attribute(
        x, 0.25, **options
    )
    plain = GeometricallyGuidedIG(model, preprocessing=preprocessing).attribute(x, 0.25, **options)
    torch.testing.assert_close(times, plain * (x - 0.25))


def test_the_first_point_may_be_left_out() -> None:
    a = -torch.ones(FEATURES).double()
    x = torch.rand(1, FEATURES).double() + 1
    found = GeometricallyGuidedIG(Bowl(a)).attribute(
        x, n_steps=4, n_ascent=1, first_point=1, step_size=0.1
    )
    torch.testing.assert_close(found, -x / 4)  # at the baseline it would be 0


def test_black_boxes_are_climbed_by_their_estimated_slope() -> None:
    x = torch.rand(1, FEATURES)
    linear = Linear(FEATURES)
    box = BlackBox(lambda x: linear(x).detach())
    gradient = LikelihoodRatio(16, 0.1, "orthogonal")
    found = explain(
        box, x, method="geometrically_guided_ig", gradient=gradient, target=1, n_steps=2,
        n_ascent=2, step_size=0.1,
    )  # fmt: skip
    torch.testing.assert_close(
        found.attributions, linear.weight[1:2].detach(), rtol=1e-3, atol=1e-3
    )
    assert found.standard_error is None and found.delta is None


class Plateau(torch.nn.Module):
    """s = sum of min(z^2 / 2, 1/2): slopes grow to 1, and are 0 from there on."""

    def forward(self, z: Tensor) -> Tensor:
        return (0.5 * z**2).clamp(max=0.5).flatten(1).sum(1)


def test_a_climb_stops_where_slopes_no_longer_change() -> None:
    model, x = Linear(FEATURES), torch.randn(2, FEATURES)
    options = {"target": 2, "n_steps": 9, "n_ascent": 20, "step_size": 0.5}
    cost = Cost()
    found = GeometricallyGuidedIG(model).attribute(x, early_stop=1e-6, cost=cost, **options)
    assert cost.gradients == 2 * 10 * 2  # the second gradient says that nothing changes
    assert_same_bits(found, GeometricallyGuidedIG(model).attribute(x, **options))


@pytest.mark.parametrize("select", ["max", "absmax"])
def test_a_climb_stops_at_a_plateau(select: str) -> None:
    x = torch.tensor([[0.5]]).double()
    cost = Cost()
    found = GeometricallyGuidedIG(Plateau()).attribute(
        x, n_steps=1, first_point=1, n_ascent=50, step_size=0.5, early_stop=0.01, select=select,
        cost=cost,
    )  # fmt: skip
    # 0.5, 0.75, and 1.125, where the slope is 0 and the greatest stays 0.75.
    assert found.item() == 0.75 and cost.gradients == 3


def test_points_stop_one_by_one() -> None:
    # From 1 up the slope is 0; from 0.01 it grows by half a step, too slowly to reach 1.
    x = torch.tensor([[2.0], [0.01]]).double()
    cost = Cost()
    found = GeometricallyGuidedIG(Plateau()).attribute(
        x, n_steps=1, first_point=1, n_ascent=6, step_size=0.5, early_stop=0.01, cost=cost
    )
    torch.testing.assert_close(found, torch.tensor([[0.0], [0.01 * 1.5**5]]).double())
    assert cost.gradients == 2 + 6


def test_a_climb_that_stops_early_may_miss_what_comes_later() -> None:
    a = torch.ones(FEATURES).double()
    x = torch.rand(1, FEATURES).double() + 1
    options = {"n_steps": 4, "n_ascent": 8, "step_size": 0.01}
    method = GeometricallyGuidedIG(Bowl(a))
    early, late = method.attribute(x, early_stop=0.5, **options), method.attribute(x, **options)
    torch.testing.assert_close(early, x * 1.01)
    torch.testing.assert_close(late, x * 1.01**7)
    # Each step raises what was found by 1 %, so that at less nothing stops.
    assert_same_bits(method.attribute(x, early_stop=0.005, **options), late)


@pytest.mark.parametrize("select", ["max", "absmax"])
def test_where_climbs_stop_does_not_depend_on_chunks(select: str) -> None:
    x, method = torch.randn(3, FEATURES), GeometricallyGuidedIG(Polynomial(FEATURES))
    options = {"n_steps": 9, "n_ascent": 6, "step_size": 0.01, "early_stop": 0.05, "select": select}
    first = Cost()
    whole = method.attribute(x, target=[0, 1, 2], cost=first, **options)
    assert 3 * 10 * 2 < first.gradients < 3 * 10 * 6
    for rows in (1, 7):
        cost = Cost()
        part = method.attribute(x, target=[0, 1, 2], internal_batch_size=rows, cost=cost, **options)
        assert_same_bits(part, whole)
        assert cost.gradients == first.gradients
    assert_same_bits(method.attribute(x[1:2], target=1, **options), whole[1:2])


def test_never_stopping_is_as_if_the_option_were_not_there() -> None:
    x, method = torch.randn(3, 3, 8, 8), GeometricallyGuidedIG(conv_net())
    options = {"target": 1, "n_steps": 5, "n_ascent": 4, "step_size": 0.1}
    assert_same_bits(method.attribute(x, early_stop=0.0, **options), method.attribute(x, **options))


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_pixels_are_climbed_until_nothing_changes_too(memory_format: str) -> None:
    preprocessing = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)
    model, x = conv_net().double(), torch.rand(2, 3, 8, 8).double()
    method = GeometricallyGuidedIG(model, memory_format=memory_format, preprocessing=preprocessing)
    options = {"target": 3, "n_steps": 4, "n_ascent": 5, "step_size": 0.1}
    found = method.attribute(x, early_stop=1e-12, **options)
    torch.testing.assert_close(found, method.attribute(x, **options))


def test_slopes_that_are_no_numbers_end_a_climb() -> None:
    x, cost = torch.tensor([[-1.0, 2.0]]), Cost()
    found = GeometricallyGuidedIG(lambda z: z.sqrt().sum(1)).attribute(
        x, n_steps=2, first_point=1, n_ascent=9, step_size=0.1, early_stop=0.01, cost=cost
    )
    assert bool(found.isnan()[0, 0]) and bool(found.isfinite()[0, 1])
    assert cost.gradients == 2 * 2


def test_a_budget_is_refused_only_where_stopping_early_cannot_keep_it() -> None:
    x, linear = torch.rand(1, FEATURES), Linear(FEATURES)
    options = {
        "method": "geometrically_guided_ig", "gradient": LikelihoodRatio(16, 0.1, "orthogonal"),
        "target": 1, "n_steps": 2, "n_ascent": 20, "step_size": 0.1, "early_stop": 0.05,
    }  # fmt: skip
    box = BlackBox(lambda x: linear(x).detach(), budget=1 + 3 * 2 * 16)
    explain(box, x, **options)
    assert box.remaining == 0
    with pytest.raises(QueryError, match="budget"):
        explain(BlackBox(lambda x: linear(x).detach(), budget=50), x, **options)


def test_the_memory_format_is_chosen_for_all_gradients_of_a_climb() -> None:
    x, cost = torch.rand(1, 3, 80, 80), Cost()
    GeometricallyGuidedIG(conv_net()).attribute(x, target=0, n_steps=1, n_ascent=16, cost=cost)
    assert cost.probes > 1  # 32 gradients are worth measuring, though there are 2 points
    cost = Cost()
    GeometricallyGuidedIG(conv_net()).attribute(x, target=0, n_steps=1, n_ascent=15, cost=cost)
    assert cost.probes == 1  # a row, to see whether the network takes channels last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps must be an integer >= 1, got 0"),
        ({"n_ascent": 0}, "n_ascent must be an integer >= 1, got 0"),
        ({"n_ascent": 1.5}, "n_ascent must be an integer >= 1, got 1.5"),
        ({"step_size": -1}, "step_size must be a number >= 0, got -1"),
        ({"early_stop": -0.1}, "early_stop must be a number >= 0, got -0.1"),
        ({"early_stop": True}, "early_stop must be a number >= 0, got True"),
        ({"select": "mean"}, "select must be one of max, absmax, got 'mean'"),
        ({"first_point": 51}, "first_point must be an integer from 0 to n_steps, got 51"),
        ({"return_standard_error": True}, "return_standard_error must be False for a maximum"),
        ({"target": Targets(0, 1)}, "target must be one class for each input, got Targets"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict, message: str) -> None:
    method = GeometricallyGuidedIG(Linear(FEATURES))
    with pytest.raises(ValueError, match=message):
        method.attribute(torch.rand(1, FEATURES), **{"target": 0, **options})

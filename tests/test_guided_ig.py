"""Guided IG: the algorithm one image at a time, axioms, and what does not change the path."""

from __future__ import annotations

import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial, conv_net, mlp
from torch import Tensor, nn

from pyxai_fast import (
    BlackBox,
    Cost,
    GuidedIG,
    IntegratedGradients,
    LikelihoodRatio,
    Preprocessing,
    Targets,
    explain,
)
from pyxai_fast.paths.guided import SORTED_ALONE, GuidedWalk, ascending

FEATURES = 6


def slow(
    slope, x: Tensor, start: Tensor, n: int, fraction: float, max_dist: float
) -> tuple[Tensor, list[Tensor]]:
    """One image, feature by feature, in float64: attributions, and the progress after each step.

    `slope` takes and returns [D]. As the paper has it, with positions as shares of each way.
    """
    way = (x - start).double()
    size = float(way.abs().sum())
    come = [1.0 if float(w) == 0 else 0.0 for w in way]
    features = range(len(come))
    attribution, history = torch.zeros_like(way), []
    rank = int(fraction * (len(come) - 1))
    for step in range(n):
        grad = slope((start + way * torch.tensor(come, dtype=way.dtype)).to(x.dtype)).double()
        alpha = (step + 1) / n
        least, most = max(alpha - max_dist, 0.0), min(alpha + max_dist, 1.0)
        before = list(come)
        come = [max(c, least) for c in come]
        waiting = [i for i in features if most - come[i] > 1e-12]
        while waiting:
            distance = sum(float(way[i].abs()) * (1 - come[i]) for i in features)
            excess = distance - size * (1 - alpha)
            if excess <= 1e-9 * size:
                break
            magnitudes = sorted(float(grad[i].abs()) for i in waiting)
            threshold = magnitudes[min(rank, len(magnitudes) - 1)]
            chosen = [i for i in waiting if float(grad[i].abs()) <= threshold]
            room = sum(float(way[i].abs()) * (most - come[i]) for i in chosen)
            share = min(1.0, excess / room)
            for i in chosen:
                come[i] += share * (most - come[i])
            waiting = [i for i in waiting if i not in chosen]
        moved = torch.tensor(come, dtype=way.dtype) - torch.tensor(before, dtype=way.dtype)
        attribution += grad * moved * way
        history.append(torch.tensor(come))
    return attribution, history


def relu_net(features: int = 24) -> nn.Module:
    """Slopes of many features are zero, or equal."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(features, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    with torch.no_grad():
        net[0].weight[:, ::3] = 0
        net[0].weight[:, 1::6] = net[0].weight[:, 4:5]
    return net


def slope_of(model, target: int):
    def slope(point: Tensor) -> Tensor:
        point = point[None].clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(point)[0, target], point)
        return grad[0]

    return slope


@pytest.mark.parametrize(
    ("n", "fraction", "max_dist"),
    [
        (10, 0.25, 0.02),
        (20, 0.25, 0.1),
        (7, 0.1, 1.0),
        (5, 0.0, 0.3),
        (6, 1.0, 0.05),
        (1, 0.5, 0.1),
    ],
)
def test_it_is_the_algorithm_batched(n: int, fraction: float, max_dist: float) -> None:
    model = relu_net().double()
    x, start = torch.randn(4, 24).double(), torch.randn(4, 24).double()
    start[:, 5] = x[:, 5]
    options = {"n_steps": n, "fraction": fraction, "max_dist": max_dist}
    targets = [0, 1, 2, 1]
    found = GuidedIG(model).attribute(x, start, targets, **options)
    for i, target in enumerate(targets):
        expected, _ = slow(slope_of(model, target), x[i], start[i], n, fraction, max_dist)
        torch.testing.assert_close(found[i], expected)


def test_single_precision_is_close() -> None:
    model, x = mlp(40), torch.randn(2, 40)
    found = GuidedIG(model).attribute(x, target=1, n_steps=50)
    expected, _ = slow(slope_of(model, 1), x[1], torch.zeros(40), 50, 0.25, 0.02)
    torch.testing.assert_close(found[1], expected.float(), rtol=1e-3, atol=1e-5)


def test_the_path_keeps_its_distances() -> None:
    torch.manual_seed(0)
    ways, n, max_dist = torch.randn(3, 3000).double(), 12, 0.15
    ways[0, :100] = 0
    weights = ways.abs() / ways.abs().sum(1, keepdim=True)
    walk = GuidedWalk(ways, n, 0.2, max_dist)
    before = walk.progress.clone()
    for step in range(n):
        moved = walk.step(step, torch.randn(3, 3000).double()).clone()
        torch.testing.assert_close(before + moved, walk.progress)
        before, alpha = walk.progress.clone(), (step + 1) / n
        torch.testing.assert_close((weights * before).sum(1), torch.full((3,), alpha).double())
        real = before[ways != 0]
        assert float(real.min()) >= alpha - max_dist - 1e-9
        assert float(real.max()) <= min(1.0, alpha + max_dist) + 1e-9
    assert bool((before == 1).all())


def test_rows_are_sorted_by_several_threads_too() -> None:
    values, threads = torch.randn(3, SORTED_ALONE), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = ascending(values)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found, values.sort(1).values)
    assert not torch.equal(found, values)


def test_features_with_small_gradients_go_first() -> None:
    walk = GuidedWalk(torch.ones(1, 8), 4, 0.25, 1.0)
    grads = torch.tensor([[5.0, -1, 7, 2, -6, 3, 8, -4]])
    walk.step(0, grads)
    assert walk.progress.tolist() == [[0, 1, 0, 1, 0, 0, 0, 0]]
    walk.step(1, grads)
    assert walk.progress.tolist() == [[0, 1, 0, 1, 0, 1, 0, 1]]


def test_without_freedom_it_is_integrated_gradients() -> None:
    model, x = mlp(FEATURES).double(), torch.randn(3, FEATURES).double()
    found = GuidedIG(model).attribute(x, 0.3, 1, n_steps=20, max_dist=0.0)
    expected = IntegratedGradients(model).attribute(x, 0.3, 1, n_steps=20, method="riemann_left")
    torch.testing.assert_close(found, expected)


def test_the_gap_shrinks_as_steps_grow() -> None:
    model, x = mlp(FEATURES).double(), torch.randn(4, FEATURES).double()
    gaps = [
        GuidedIG(model).attribute(
            x, target=1, n_steps=n, max_dist=0.1, return_convergence_delta=True
        )[1].abs().max()
        for n in (25, 400)
    ]  # fmt: skip
    assert 0 < float(gaps[1]) < float(gaps[0]) / 4


def test_a_linear_score_is_complete_on_every_path() -> None:
    model, x = Linear(FEATURES), torch.randn(3, FEATURES)
    found, delta = GuidedIG(model).attribute(
        x, 0.5, 1, n_steps=7, max_dist=0.3, return_convergence_delta=True
    )
    torch.testing.assert_close(found, model.weight[1].detach() * (x - 0.5))
    torch.testing.assert_close(delta, torch.zeros(3), rtol=0, atol=1e-5)


def test_only_what_the_model_computes_counts() -> None:
    """Implementation invariance, a dummy, and features that the score treats alike."""
    x = torch.randn(2, FEATURES).double()
    x[:, 1] = x[:, 0]
    options = {"n_steps": 9, "max_dist": 0.2}
    one = GuidedIG(lambda x: (x[:, 0] * x[:, 1]).sin() + x[:, 2] ** 2).attribute(x, **options)
    other = GuidedIG(
        lambda x: -(-x[:, 1] * x[:, 0]).sin() + 2 * x[:, 2] * x[:, 2] - x[:, 2] ** 2
    ).attribute(x, **options)
    torch.testing.assert_close(one, other)
    assert bool((one[:, 3:] == 0).all())
    torch.testing.assert_close(one[:, 0], one[:, 1])


def test_an_input_that_is_its_baseline_gets_nothing() -> None:
    x = torch.randn(2, FEATURES)
    found = GuidedIG(mlp(FEATURES)).attribute(x, torch.cat([x[:1], x[1:] - 1]), 1, n_steps=5)
    assert bool((found[0] == 0).all()) and bool((found[1] != 0).any())


@pytest.mark.parametrize("features", [FEATURES, 2500])
def test_chunks_and_batches_change_no_bit(features: int) -> None:
    x, method = torch.randn(3, features), GuidedIG(Polynomial(features))
    options = {"n_steps": 9, "max_dist": 0.15}
    whole = method.attribute(x, target=[0, 1, 2], **options)
    for rows in (1, 2):
        cost = Cost()
        part = method.attribute(x, target=[0, 1, 2], internal_batch_size=rows, cost=cost, **options)
        assert_same_bits(part, whole)
        assert cost.rows_per_chunk == rows and cost.gradients == 3 * 9
    assert_same_bits(method.attribute(x[1:2], target=1, **options), whole[1:2])


def test_memory_formats_agree() -> None:
    model, x = conv_net().double(), torch.rand(2, 3, 10, 8).double()
    found = [
        GuidedIG(model, memory_format=name).attribute(x, target=1, n_steps=10)
        for name in ("contiguous", "channels_last")
    ]
    torch.testing.assert_close(found[0], found[1])


def test_everything_is_in_the_callers_units() -> None:
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.1, 0.4))
    model, x = conv_net().double(), torch.rand(2, 3, 8, 8).double()
    options = {"target": 3, "n_steps": 8, "max_dist": 0.2, "return_convergence_delta": True}
    for multiply in (True, False):
        inside = GuidedIG(model, multiply, preprocessing=preprocessing)
        outside = GuidedIG(lambda x: model(preprocessing.normalise(x)), multiply)
        torch.testing.assert_close(
            inside.attribute(x, 0.25, **options)[0], outside.attribute(x, 0.25, **options)[0]
        )
    whole = GuidedIG(model).attribute(x, 0.25, **options)[0]
    slopes = GuidedIG(model, False).attribute(x, 0.25, **options)[0]
    torch.testing.assert_close(whole, slopes * (x - 0.25))


def test_features_of_a_tuple_are_ranked_together() -> None:
    model, x = mlp(FEATURES).double(), torch.randn(2, FEATURES).double()
    options = {"target": 1, "n_steps": 8, "max_dist": 0.2}
    whole = GuidedIG(model).attribute(x, **options)
    first, second = GuidedIG(lambda a, b: model(torch.cat([a, b], 1))).attribute(
        (x[:, :2], x[:, 2:]), **options
    )
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_gradients_may_be_one_number_for_all_features() -> None:
    x = torch.randn(2, FEATURES)
    found = GuidedIG(lambda x: x.sum(1)).attribute(x, n_steps=5)  # of stride 0
    torch.testing.assert_close(found, x)


def test_inputs_may_be_numbers() -> None:
    found = GuidedIG(lambda x: x**2).attribute(torch.tensor([1.0, 2.0]), n_steps=1000)
    torch.testing.assert_close(found, torch.tensor([1.0, 4.0]), rtol=2e-3, atol=0)


def test_half_inputs_take_their_path_in_single_precision() -> None:
    model, x = mlp(FEATURES).bfloat16(), torch.randn(2, FEATURES).bfloat16()
    found = GuidedIG(model).attribute(x, target=1, n_steps=20)
    wide = GuidedIG(mlp(FEATURES)).attribute(x.float(), target=1, n_steps=20)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wide, rtol=0.1, atol=0.05)


def test_explain_gives_the_gap_with_black_boxes_too() -> None:
    x, model = torch.rand(2, FEATURES), Linear(FEATURES)
    plain = explain(model, x, method="guided_ig", target=1, n_steps=6, max_dist=0.2)
    assert plain.delta is not None and plain.standard_error is None
    box = BlackBox(lambda x: model(x).detach())
    asked = explain(
        box, x, method="guided_ig", target=1, n_steps=6, max_dist=0.2,
        gradient=LikelihoodRatio(16, 0.1, "orthogonal"),
    )  # fmt: skip
    torch.testing.assert_close(asked.attributions, plain.attributions, rtol=1e-3, atol=1e-3)
    assert box.queries == 2 * 6 * 16 + 2 + 1  # the inputs, and the one baseline


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps must be an integer >= 1, got 0"),
        ({"fraction": 1.5}, "fraction must be a number from 0 to 1, got 1.5"),
        ({"max_dist": -0.1}, "max_dist must be a number from 0 to 1, got -0.1"),
        ({"max_dist": True}, "max_dist must be a number from 0 to 1, got True"),
        ({"return_standard_error": True}, "return_standard_error must be False for a path"),
        ({"target": Targets(0, 1)}, "target must be one class for each input, got Targets"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidedIG(Linear(FEATURES)).attribute(torch.rand(1, FEATURES), **{"target": 0, **options})

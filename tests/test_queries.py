"""Queries with segments hidden: coalitions, what is asked, and the maps that are read from them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from assertions import assert_same_bits
from nets import conv_net, mlp
from torch import Tensor

import pyxai_fast
from pyxai_fast import BlackBox, Cost, Preprocessing, Targets, ops
from pyxai_fast.errors import ArgumentError
from pyxai_fast.methods import KernelShap, Lime, Rise
from pyxai_fast.queries import (
    bernoulli_coalitions,
    hidden_values,
    shapley_coalitions,
)

METHODS = (Lime, KernelShap, Rise)


def images(batch: int = 2, size: int = 8) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def halves() -> Tensor:
    """Four segments of an 8x8 image: its quarters."""
    rows, columns = torch.arange(8)[:, None] // 4, torch.arange(8) // 4
    return (2 * rows + columns).int()[None, None]


# --- coalitions ----------------------------------------------------------------------------------


def test_bernoulli_coalitions_are_fair_coins() -> None:
    drawn = bernoulli_coalitions(4000, [70], seed=3)
    kept = ops.unpack_coalitions(drawn.words[:, 0], 70)
    assert bool(kept[0].all()) and not bool(kept[1].any())
    coins = kept[2:].double()
    assert float((coins.mean(0) - 0.5).abs().max()) < 5 / (2 * math.sqrt(4000))
    apart = torch.corrcoef(coins.T) - torch.eye(70)
    assert float(apart.abs().max()) < 5 / math.sqrt(4000)


def test_a_bernoulli_coalition_depends_on_seed_query_and_segment_alone() -> None:
    few, many = (bernoulli_coalitions(n, [s], 7) for n, s in ((50, 40), (300, 90)))
    kept = ops.unpack_coalitions(many.words[:50, 0], 90)[:, :40]
    assert torch.equal(ops.unpack_coalitions(few.words[:, 0], 40), kept)
    assert not torch.equal(few.words, bernoulli_coalitions(50, [40], 8).words)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_all_coalitions_are_asked_where_queries_suffice(count: int) -> None:
    drawn = shapley_coalitions(1000, [count], 0)
    kept = ops.unpack_coalitions(drawn.words[:, 0], count)
    assert len(kept) == 2**count == len(kept.unique(dim=0))
    for row, weight in zip(kept[2:], drawn.weights[2:, 0], strict=True):
        size = int(row.sum())
        kernel = (count - 1) / (math.comb(count, size) * size * (count - size))
        total = sum((count - 1) / (k * (count - k)) for k in range(1, count))
        assert float(weight) == pytest.approx(kernel / total)


def test_coalitions_that_are_drawn_follow_the_shapley_kernel() -> None:
    count, queries = 40, 20_000
    drawn = shapley_coalitions(queries, [count], 1)
    kept = ops.unpack_coalitions(drawn.words[:, 0], count)
    assert len(kept) == queries and float(drawn.weights.sum()) == pytest.approx(1)
    sizes, total = kept.sum(1), sum(1 / (k * (count - k)) for k in range(1, count))
    for size in (1, 2, 5, 20, 38, 39):
        share = float(drawn.weights[sizes == size].sum())
        assert share == pytest.approx(1 / (size * (count - size)) / total, rel=0.15)
    # All of the smallest and the largest, each once; the others with their complements.
    assert int((sizes == 1).sum()) == int((sizes == 39).sum()) == count
    middle = kept[(sizes > 2) & (sizes < 38)]
    assert torch.equal(middle[0::2], ~middle[1::2])


def test_inputs_with_fewer_segments_have_coalitions_of_their_own() -> None:
    both, alone = shapley_coalitions(64, [3, 9], 5), shapley_coalitions(64, [9], 5)
    assert_same_bits(both.words[:, 1], alone.words[:, 0])
    assert both.weights[:, 0].count_nonzero() == 2**3 - 2
    kept = ops.unpack_coalitions(both.words[:, 0], 9)
    assert not bool(kept[:, 3:].any()) and len(kept[:, :3].unique(dim=0)) == 8


# --- what stands for a segment -------------------------------------------------------------------


def test_segments_are_hidden_by_their_mean() -> None:
    x = images()
    mean, grey = (hidden_values(kind, x, halves()) for kind in ("segment_mean", "segment_grey"))
    quarter = x[1, :, :4, 4:]
    torch.testing.assert_close(mean[1, :, 0, 7], quarter.mean((1, 2)))
    torch.testing.assert_close(grey[1, :, 0, 7], quarter.mean().expand(3))
    assert len(mean[0, 0].unique()) == 4 and len(grey[0].unique()) == 4
    with pytest.raises(ArgumentError, match="did you mean segment_mean"):
        hidden_values("segment_means", x, halves())
    with pytest.raises(ArgumentError, match="baselines must be numbers for inputs"):
        hidden_values("segment_mean", torch.rand(2, 5), torch.arange(5)[None])


# --- asking --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_what_is_asked_are_the_inputs_with_segments_replaced(method: type) -> None:
    x, seen = images(), []

    def model(rows: Tensor) -> Tensor:
        seen.append(rows.clone())
        return rows.flatten(1)[:, :4]

    queries = method(model, halves()).queries(x, 0.25, target=1, n_queries=30)
    asked = torch.cat(seen).unflatten(0, (len(queries), 2))
    assert_same_bits(asked[0], x)
    assert bool((asked[1] == 0.25).all())
    kept = queries.kept().transpose(0, 1)  # [Q, B, S]
    wanted = kept[:, :, halves()[0].long()].bool()
    assert_same_bits(asked, torch.where(wanted, x, 0.25))
    assert_same_bits(queries.masked(slice(0, None)), asked.flatten(0, 1))


@pytest.mark.parametrize("method", METHODS)
def test_chunks_and_batches_change_no_bit(method: type) -> None:
    def model(rows: Tensor) -> Tensor:  # whose answers do not depend on the batch
        return rows[:, :, ::3, ::3].square().sum((1, 2, 3))

    x, explainer = images(3), method(model, "tiles:3", output="logit")
    whole = explainer.attribute(x, 0.0, n_queries=64, seed=2)
    for rows in (1, 7, 50):
        cost = Cost()
        part = explainer.attribute(
            x, 0.0, n_queries=64, seed=2, internal_batch_size=rows, cost=cost
        )
        assert_same_bits(part, whole)
        assert cost.queries == 3 * 64 and cost.rows_per_chunk <= rows
    for i in range(3):
        alone = explainer.attribute(x[i : i + 1], 0.0, n_queries=64, seed=2)
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=1e-5, atol=1e-7)


def test_pixels_are_normalised_on_the_way() -> None:
    x, net = images(), conv_net()
    grey = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    in_pixels = Lime(net, halves(), preprocessing=grey).attribute(x, 0.1, 1, n_queries=40)
    by_hand = Lime(lambda z: net(grey.normalise(z)), halves()).attribute(x, 0.1, 1, n_queries=40)
    torch.testing.assert_close(in_pixels, by_hand, rtol=1e-4, atol=1e-6)


# --- the maps ------------------------------------------------------------------------------------


def shapley_values(score: list[float], count: int) -> list[float]:
    """As they are defined; score[z] is that of the coalition whose bits are z."""
    values = []
    for i in range(count):
        total = 0.0
        rest = [j for j in range(count) if j != i]
        for size in range(count):
            for chosen in itertools.combinations(rest, size):
                z = sum(1 << j for j in chosen)
                weight = 1 / (count * math.comb(count - 1, size))
                total += weight * (score[z | 1 << i] - score[z])
        values.append(total)
    return values


def test_kernel_shap_with_all_coalitions_gives_shapley_values() -> None:
    model, x = mlp(6), torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    base = torch.full((1, 6), 0.2)
    found = KernelShap(model, output="logit").attribute(x, base, target=1, n_queries=64)
    for b in range(3):
        rows = torch.stack(
            [torch.where((z >> torch.arange(6) & 1).bool(), x[b], base[0]) for z in range(64)]
        )
        expected = shapley_values(model(rows)[:, 1].double().tolist(), 6)
        torch.testing.assert_close(found[b], torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [KernelShap, Lime])
def test_a_linear_score_is_explained_by_its_weights(method: type) -> None:
    weights = torch.linspace(-2, 3, 12)
    x = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    found = method(lambda z: z @ weights, output="logit").attribute(x, 0.5, n_queries=3000)
    expected = weights * (x - 0.5)
    # LIME's penalty shrinks a little.
    rtol, atol = (1e-4, 1e-5) if method is KernelShap else (0.05, 0.02)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def test_drawn_coalitions_come_near_shapley_values_and_add_up() -> None:
    model, x = mlp(14), torch.randn(2, 14, generator=torch.Generator().manual_seed(1))
    explainer = KernelShap(model, output="logit")
    exact = explainer.attribute(x, 0.0, target=1, n_queries=2**14)
    few = explainer.attribute(x, 0.0, target=1, n_queries=600)
    assert float((few - exact).norm() / exact.norm()) < 0.05
    with torch.no_grad():
        way = model(x)[:, 1] - model(torch.zeros(1, 14))[:, 1]
    torch.testing.assert_close(few.sum(1), way, rtol=1e-4, atol=1e-5)


def test_lime_is_a_weighted_ridge_regression() -> None:
    ridge = pytest.importorskip(
        "sklearn.linear_model", reason="scikit-learn is what it is compared with"
    ).Ridge
    x, model = images(1), conv_net()
    explainer = Lime(model, "tiles:2")
    queries = explainer.queries(x, target=2, n_queries=200)
    kept = queries.kept()[0]
    # The weights of the authors' code: an exponential kernel of the cosine distance to all ones.
    cosine = kept.sum(1) / (kept.norm(dim=1).clamp(min=1e-300) * math.sqrt(16))
    weights = (-((1 - cosine) ** 2) / 0.25**2).exp().sqrt()
    torch.testing.assert_close(queries.proximity()[0], weights)
    fitted = ridge(alpha=1.0, fit_intercept=True)
    fitted.fit(kept.numpy(), queries.scores[:, 0].numpy(), sample_weight=weights.numpy())
    found = explainer.read(queries, return_input_shape=False)[0]
    torch.testing.assert_close(found, torch.tensor(fitted.coef_).float(), rtol=1e-4, atol=1e-6)


def test_rise_is_the_mean_score_of_what_keeps_a_segment() -> None:
    explainer = Rise(conv_net(), "tiles:2")
    queries = explainer.queries(images(), target=0, n_queries=100)
    found = explainer.read(queries, return_input_shape=False)
    for b, s in itertools.product(range(2), range(16)):
        with_it = queries.scores[2:, b][queries.kept()[b, 2:, s].bool()]
        higher = float(with_it.mean() - queries.scores[2:, b].mean())
        assert float(found[b, s]) == pytest.approx(higher, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_what_one_segment_decides_is_that_segments(method: type) -> None:
    """A score that depends on one of the quarters, painted on all of its pixels."""

    def model(rows: Tensor) -> Tensor:
        return rows[:, :, :4, 4:].mean((1, 2, 3))

    maps = method(model, halves(), output="logit").attribute(images() + 1, 0.0, n_queries=200)
    assert maps.shape == (2, 3, 8, 8)
    quarters = maps[:, 0, ::4, ::4].flatten(1)
    assert quarters.argmax(1).tolist() == [1, 1]
    assert bool((maps[:, :, :4, 4:] == maps[:, :1, :1, 4:5]).all())


def test_queries_of_one_method_are_read_by_others() -> None:
    x, lime = images(), Lime(conv_net(), "tiles:2")
    queries = lime.queries(x, target=1, n_queries=500)
    for method in (Rise, KernelShap):
        found = method(conv_net()).read(queries)
        asked = method(conv_net(), "tiles:2").attribute(x, target=1, n_queries=500)
        assert (
            float(torch.corrcoef(torch.stack([found[0, 0].flatten(), asked[0, 0].flatten()]))[0, 1])
            > 0.5
        )
    drawn = KernelShap(conv_net(), "tiles:2").queries(x, target=1, n_queries=50)
    with pytest.raises(ArgumentError, match="Lime: queries must be of coalitions drawn as bern"):
        lime.read(drawn)
    assert_same_bits(lime.read(queries.of_example(1)), lime.read(queries)[1:])


@pytest.mark.parametrize("method", METHODS)
def test_several_targets_share_the_queries(method: type) -> None:
    x, cost, explainer = images(), Cost(), method(conv_net(), "tiles:4")
    both = explainer.attribute(x, target=Targets(2, 0), n_queries=60, cost=cost)
    assert both.shape == (2, 2, 3, 8, 8) and cost.queries == 2 * len(
        explainer.queries(x, target=0, n_queries=60)
    )
    for place, target in enumerate((2, 0)):
        one = explainer.attribute(x, target=target, n_queries=60)
        torch.testing.assert_close(both[:, place], one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["lime", "kernel_shap", "rise"])
def test_explain_knows_them_by_name(name: str) -> None:
    box = BlackBox(conv_net(), budget=200)
    explanation = pyxai_fast.explain(box, images(), method=name, n_queries=40, segments="tiles:4")
    assert explanation.attributions.shape == (2, 3, 8, 8)
    assert explanation.settings["output"] == "prob" and explanation.delta is None
    assert float(explanation.outputs.sum(1)[0]) == pytest.approx(1, abs=1e-5)
    with pytest.raises(pyxai_fast.QueryError, match="budget"):
        pyxai_fast.explain(box, images(), method=name, n_queries=400, segments="tiles:4")
    with pytest.raises(ArgumentError, match=f"gradient must not be given for {name}"):
        pyxai_fast.explain(box, images(), method=name, gradient="autograd")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_queries": 2}, "n_queries must be an integer >= 3, got 2"),
        ({"n_queries": 40.0}, "n_queries must be an integer >= 3, got 40.0"),
        ({"return_standard_error": True}, "return_standard_error must be False"),
        ({"baselines": "grey"}, "baselines must be a number, a tensor, or one of segment_mean"),
        ({"inputs": (images(), images())}, "inputs must be one tensor, got a tuple of 2"),
    ],
)
def test_calls_that_make_no_sense_are_named(options: dict, said: str) -> None:
    inputs = options.pop("inputs", images())
    with pytest.raises(ValueError, match=said):
        Lime(conv_net(), "tiles:4").attribute(inputs, target=0, **options)

"""Stick-breaking paths: what holds on every path, and the maps that are made of many."""

from __future__ import annotations

import math

import pytest
import torch
from assertions import assert_same_bits
from largest_tensor import LargestTensor
from nets import Linear, Polynomial, conv_net, mlp
from torch import Tensor, nn

from pyxai_fast import (
    IntegratedGradients,
    LikelihoodRatio,
    Preprocessing,
    StickBreaking,
    Targets,
    explain,
    ops,
)
from pyxai_fast.paths.aggregation import VarianceWeighted
from pyxai_fast.paths.stick_breaking import FIRST_STREAM, RULES

FEATURES = 6


def spi(model: nn.Module, **options) -> IntegratedGradients:
    return IntegratedGradients(model, path=StickBreaking(**options))


def progress(law: StickBreaking, shape: torch.Size, n_steps: int, place: float) -> Tensor:
    """F at a place of each step, [n_steps, n_paths, B, ...], float64."""
    unit = torch.ones(shape, dtype=torch.float64)
    return ops.dirichlet_points(
        unit, 0.0, ops.random_key(law.seed, FIRST_STREAM), concentration=law.alpha,
        n_steps=n_steps, n_paths=law.n_paths, position=place, per=law.per,
    ).unflatten(0, (n_steps, law.n_paths, -1))  # fmt: skip


def maps_of_paths(
    model: nn.Module, x: Tensor, start: Tensor, target: int, law: StickBreaking, n_steps: int
) -> Tensor:
    """Equation 3 as it reads, [n_paths, B, ...]: everything is held."""
    place = progress(law, x.shape, n_steps, RULES[law.rule])
    way = x - start
    z = (start + place * way).flatten(0, 2).requires_grad_()
    (grad,) = torch.autograd.grad(model(z)[:, target].sum(), z)
    increments = progress(law, x.shape, n_steps, 1.0) - progress(law, x.shape, n_steps, 0.0)
    return (grad.unflatten(0, place.shape[:3]) * increments).sum(0) * way


class Quadratic(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        a = torch.randn(features, features, generator=generator, dtype=torch.float64)
        self.register_buffer("a", (a + a.T) / 2)
        self.register_buffer("b", torch.randn(features, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (0.5 * torch.einsum("ri,ij,rj->r", x, self.a, x) + x @ self.b)[:, None]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(0)).double()


# --- what holds on every path -------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.01, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("n_steps", [1, 7, 16])
def test_a_quadratic_score_is_complete_to_rounding(x: Tensor, alpha: float, n_steps: int) -> None:
    model = Quadratic(FEATURES)
    method = spi(model, alpha=alpha, n_paths=4)
    _, delta = method.attribute(x, target=0, n_steps=n_steps, return_convergence_delta=True)
    assert float(delta.abs().max()) < 1e-12 * float(model(x).abs().max())


def test_the_left_rule_is_off_by_half_the_curvature_along_each_jump(x: Tensor) -> None:
    model, law = Quadratic(FEATURES), StickBreaking(alpha=1.0, n_paths=4, rule="left")
    method = IntegratedGradients(model, path=law)
    _, delta = method.attribute(x, target=0, n_steps=8, return_convergence_delta=True)
    jumps = (progress(law, x.shape, 8, 1.0) - progress(law, x.shape, 8, 0.0)) * x
    missed = -0.5 * torch.einsum("spbi,ij,spbj->pb", jumps, model.a, jumps).mean(0)
    assert float(missed.abs().min()) > 1e-3
    torch.testing.assert_close(delta, missed)


@pytest.mark.parametrize("aggregate", ["mean", "median", "variance"])
def test_a_linear_score_has_the_same_map_on_every_path(x: Tensor, aggregate: str) -> None:
    model = Linear(FEATURES).double()
    found = spi(model, alpha=0.5, n_paths=5, aggregate=aggregate).attribute(x, 0.25, target=1)
    torch.testing.assert_close(found, model.weight[1].detach() * (x - 0.25))


def test_a_large_concentration_gives_the_straight_line(x: Tensor) -> None:
    model = mlp(FEATURES).double()
    straight = IntegratedGradients(model).attribute(x, target=1, n_steps=64)
    near, far = (
        float((spi(model, alpha=alpha, n_paths=2).attribute(x, target=1, n_steps=64) - straight)
              .norm() / straight.norm())
        for alpha in (1e9, 1.0)
    )  # fmt: skip
    assert near < 1e-4 < 1e-2 < far


def test_features_that_do_not_move_get_exactly_nothing(x: Tensor) -> None:
    baselines = torch.zeros_like(x)
    baselines[:, [1, 4]] = x[:, [1, 4]]
    found = spi(mlp(FEATURES).double(), n_paths=3).attribute(x, baselines, target=0)
    assert torch.count_nonzero(found[:, [1, 4]]) == 0
    assert torch.count_nonzero(found) == 3 * (FEATURES - 2)


def test_a_feature_that_is_not_read_gets_exactly_nothing(x: Tensor) -> None:
    model = mlp(FEATURES).double()
    with torch.no_grad():
        model[0].weight[:, 2] = 0
    found = spi(model, n_paths=3, aggregate="median").attribute(x, target=0)
    assert torch.count_nonzero(found[:, 2]) == 0


def test_two_implementations_of_a_function_have_one_map(x: Tensor) -> None:
    model = mlp(FEATURES).double()
    other = mlp(FEATURES).double()
    with torch.no_grad():  # every hidden unit twice, each with half the say
        first, last = other[0], other[2]
        first.weight = nn.Parameter(first.weight.repeat(2, 1))
        first.bias = nn.Parameter(first.bias.repeat(2))
        last.weight = nn.Parameter(last.weight.repeat(1, 2) / 2)
    torch.testing.assert_close(
        spi(other, n_paths=3).attribute(x, target=0), spi(model, n_paths=3).attribute(x, target=0)
    )


def test_features_that_play_the_same_part_get_the_same_in_the_mean(x: Tensor) -> None:
    """Symmetry holds in law: of many paths, to their standard error."""

    def model(z: Tensor) -> Tensor:
        return (z[:, 0] * z[:, 1] * z[:, 2])[:, None]

    x = torch.full((4000, 3), 2.0, dtype=torch.float64)
    maps = spi(model, alpha=1.0, n_paths=1).attribute(x, target=0, n_steps=32)
    assert float((maps.mean(0) - 8 / 3).abs().max()) < 0.1
    assert float((maps[0] - 8 / 3).abs().max()) > 0.1


# --- maps of many paths -------------------------------------------------------------------------


@pytest.mark.parametrize("n_paths", [5, 8])
def test_aggregates_are_their_definitions(x: Tensor, n_paths: int) -> None:
    model, start = mlp(40).double(), torch.full((1, 40), 0.3, dtype=torch.float64)
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).double()
    law = StickBreaking(alpha=2.0, n_paths=n_paths, seed=5)
    maps = maps_of_paths(model, x, start, 1, law, 12)

    def found(aggregate: str) -> Tensor:
        method = spi(model, alpha=2.0, n_paths=n_paths, seed=5, aggregate=aggregate)
        return method.attribute(x, start, target=1, n_steps=12)

    torch.testing.assert_close(found("mean"), maps.mean(0))
    torch.testing.assert_close(
        found("median"), maps.quantile(0.5, dim=0), rtol=1e-6, atol=1e-7
    )  # held in float32
    weights = 1 / maps.var(2, correction=0, keepdim=True)
    torch.testing.assert_close(found("variance"), (weights * maps).sum(0) / weights.sum(0))
    # Two of 40 features, 5 %, lie above the third.
    theta = maps.mean(0).sort(1, descending=True).values[:, 2:3]
    normal = torch.distributions.Normal(maps.mean(0), maps.std(0))
    torch.testing.assert_close(found("probability"), 1 - normal.cdf(theta))


def test_maps_without_variance_are_weighted_alike(x: Tensor) -> None:
    """Weights are without bound where a map is the same everywhere: one feature, for instance."""

    def score(z: Tensor) -> Tensor:
        return (z[:, 0] ** 3)[:, None]

    one = torch.tensor([[0.02], [3.0]], dtype=torch.float64)
    options = {"n_paths": 6, "alpha": 2.0}
    found = spi(score, aggregate="variance", **options).attribute(one, target=0, n_steps=16)
    mean = spi(score, **options).attribute(one, target=0, n_steps=16)
    torch.testing.assert_close(found, mean)
    ones = torch.ones(2, FEATURES, dtype=torch.float64)
    flat = spi(lambda z: z.sum(1, keepdim=True), aggregate="variance", n_paths=50)
    torch.testing.assert_close(flat.attribute(ones, target=0), ones)


def test_a_map_without_variance_counts_alone() -> None:
    statistic = VarianceWeighted(1, 3)
    for maps in ([[1.0, 5.0]], [[2.0, 2.0]], [[7.0, 3.0]]):
        statistic.take(slice(0, 1), torch.tensor(maps, dtype=torch.float64))
    assert statistic.result().tolist() == [[2.0, 2.0]]


def test_inputs_with_numbers_have_their_paths_in_every_batch(x: Tensor) -> None:
    model = mlp(FEATURES).double()
    together = spi(model, n_paths=3, numbers=[7, 0, 7]).attribute(x, target=1)
    for i, number in enumerate((7, 0, 7)):
        alone = spi(model, n_paths=3, numbers=[number]).attribute(x[i : i + 1], target=1)
        torch.testing.assert_close(alone, together[i : i + 1])
    plain = spi(model, n_paths=3).attribute(x, target=1)
    torch.testing.assert_close(
        plain, spi(model, n_paths=3, numbers=range(3)).attribute(x, target=1)
    )
    assert not torch.allclose(plain[0], together[0])
    with pytest.raises(ValueError, match="numbers must be one for each of the 3 inputs, got 2"):
        spi(model, numbers=[1, 2]).attribute(x, target=1)


def test_a_probability_without_spread_is_one_or_none() -> None:
    model = Linear(40).double()
    x = torch.rand(2, 40, generator=torch.Generator().manual_seed(0)).double()
    found = spi(model, n_paths=1, aggregate="probability").attribute(x, target=0)
    assert sorted(found.unique().tolist()) == [0.0, 1.0]
    assert found.sum(1).tolist() == [2.0, 2.0]  # 5 % of 40


@pytest.mark.parametrize("aggregate", ["mean", "median", "variance", "probability"])
def test_chunks_do_not_change_a_bit(aggregate: str) -> None:
    model, x = Polynomial(12), torch.randn(5, 3, 2, 2)
    method = spi(model, n_paths=4, aggregate=aggregate)
    whole = method.attribute(x, target=1, n_steps=6)
    for rows in (1, 2, 7, 13, 50):
        part = method.attribute(x, target=1, n_steps=6, internal_batch_size=rows)
        assert_same_bits(part, whole)


@pytest.mark.parametrize("aggregate", ["mean", "median", "variance", "probability"])
def test_several_targets_are_each_target(aggregate: str) -> None:
    model, x = Polynomial(12), torch.randn(2, 3, 2, 2)
    method = spi(model, n_paths=3, aggregate=aggregate)
    both = method.attribute(x, target=Targets(2, 0), n_steps=5)
    for place, target in enumerate((2, 0)):
        one = method.attribute(x, target=target, n_steps=5)
        torch.testing.assert_close(both[:, place], one, rtol=1e-6, atol=1e-6)


def test_channels_of_a_pixel_go_together() -> None:
    """Where channels differ by a factor only, so do attributions, of a score of their mean."""

    def model(z: Tensor) -> Tensor:
        return z.mean(1).flatten(1).pow(3).sum(1)

    x = torch.rand(2, 1, 4, 4).expand(-1, 3, -1, -1)
    together = spi(model, alpha=1.0, n_paths=2, per="pixel").attribute(x)
    torch.testing.assert_close(together, together[:, :1].expand_as(together))
    apart = spi(model, alpha=1.0, n_paths=2).attribute(x)
    assert not torch.allclose(apart, apart[:, :1].expand_as(apart))


def test_pixels_and_normalised_inputs_agree() -> None:
    model, x = conv_net(), torch.rand(2, 3, 16, 16)
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    options = {"n_paths": 3, "alpha": 5.0, "seed": 2}
    pixels = IntegratedGradients(
        model, path=StickBreaking(**options), preprocessing=preprocessing
    ).attribute(x, target=1, n_steps=8)
    start = preprocessing.normalise(torch.zeros_like(x))
    normalised = spi(model, **options).attribute(
        preprocessing.normalise(x), start, target=1, n_steps=8
    )
    torch.testing.assert_close(pixels, normalised, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("aggregate", ["mean", "variance", "probability"])
def test_nothing_grows_with_the_paths(aggregate: str) -> None:
    model, x = Linear(3 * 16 * 16), torch.rand(1, 3, 16, 16)

    def largest(n_paths: int) -> int:
        method = spi(model, n_paths=n_paths, aggregate=aggregate)
        with LargestTensor() as watched:
            method.attribute(x, target=0, n_steps=16, internal_batch_size=64)
        return watched.bytes

    largest(4)  # what a first call measures
    assert largest(64) == largest(8) < 64 * x.numel() * 16


def test_estimated_slopes_give_a_standard_error(x: Tensor) -> None:
    model, law = Linear(FEATURES).double(), StickBreaking(alpha=2.0, n_paths=2)
    gradient = LikelihoodRatio(16, 0.1)
    rows = x[:1].expand(400, -1)
    method = IntegratedGradients(model, path=law, gradient=gradient)
    maps, errors = method.attribute(rows, target=0, n_steps=2, return_standard_error=True)
    spread = maps.std(0)
    typical = errors.square().mean(0).sqrt()
    torch.testing.assert_close(typical, spread, rtol=0.25, atol=0)


# --- calls --------------------------------------------------------------------------------------


def test_explain_knows_the_method_by_name(x: Tensor) -> None:
    model = mlp(FEATURES).double()
    explanation = explain(
        model, x, method="stick_breaking_ig", alpha=3.0, n_paths=4, n_steps=9, seed=7
    )
    same = spi(model, alpha=3.0, n_paths=4, seed=7).attribute(
        x, target=explanation.target, n_steps=9
    )
    # A network's own products may be rounded otherwise in a chunk of other length.
    torch.testing.assert_close(explanation.attributions, same, rtol=1e-12, atol=1e-12)
    assert explanation.cost.gradients == 3 * 4 * 9
    assert "StickBreaking(alpha=3, n_paths=4" in explanation.settings["path"]
    median = explain(model, x, method="stick_breaking_ig", n_paths=3, aggregate="median")
    assert median.delta is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 0}, "alpha must be a number > 0, got 0"),
        ({"alpha": math.inf}, "alpha must be a number > 0, got inf"),
        ({"n_paths": 0}, "n_paths must be an integer >= 1, got 0"),
        ({"per": "channel"}, "per must be 'feature' or 'pixel', got 'channel'"),
        ({"aggregate": "means"}, "aggregate must be one of .* did you mean mean"),
        ({"rule": "gauss"}, "rule must be one of middle, left, right, got 'gauss'"),
    ],
)
def test_bad_options_say_what_they_must_be(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=f"StickBreaking: {said}"):
        StickBreaking(**options)


def test_what_does_not_go_together_is_refused(x: Tensor) -> None:
    model = mlp(FEATURES).double()
    with pytest.raises(ValueError, match="method must be left alone with StickBreaking"):
        spi(model).attribute(x, target=0, method="trapezoid")
    with pytest.raises(ValueError, match="rule must be 'middle' with a tolerance"):
        spi(model, rule="left").attribute(x, target=0, tolerance=0.1)
    with pytest.raises(ValueError, match="create_graph must be False"):
        spi(model).attribute(x, target=0, create_graph=True)
    with pytest.raises(ValueError, match="multiply_by_inputs must be True"):
        IntegratedGradients(model, False, path=StickBreaking(aggregate="median"))
    with pytest.raises(ValueError, match="return_convergence_delta must be False"):
        spi(model, aggregate="median").attribute(x, target=0, return_convergence_delta=True)
    with pytest.raises(ValueError, match="return_standard_error must be False"):
        IntegratedGradients(
            model, path=StickBreaking(aggregate="median"), gradient=LikelihoodRatio(8, 0.1)
        ).attribute(x, target=0, return_standard_error=True)
    with pytest.raises(ValueError, match="path must not be given for stick_breaking_ig"):
        explain(model, x, method="stick_breaking_ig", path=StickBreaking())

"""The likelihood-ratio gradient: closed forms, standard errors, and that chunks change nothing."""

from __future__ import annotations

import math

import pytest
import torch
from assertions import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor
from nets import Linear, Polynomial, conv_net
from torch import Tensor

from pyxai_fast import (
    Autograd,
    Cost,
    InputXGradient,
    IntegratedGradients,
    LikelihoodRatio,
    Preprocessing,
    QueryError,
    Saliency,
    SmoothGrad,
    Targets,
    explain,
    ops,
)
from pyxai_fast.gradients.likelihood_ratio import FIRST_STREAM
from pyxai_fast.gradients.turns import interleaved, shares

WEIGHT = torch.tensor([3.0, -1.0, 0.5, 0.0, 2.0, -4.0], dtype=torch.float64)
OFFSET = 5.0
ROWS = 20_000


def linear(x: Tensor) -> Tensor:
    return x.flatten(1).double() @ WEIGHT + OFFSET


def estimates(
    gradient: LikelihoodRatio, model=linear, inputs: Tensor | None = None, rows: int = ROWS
) -> tuple[Tensor, Tensor]:
    """Independent estimates at the same input, [rows, D], and their standard errors."""
    inputs = torch.full((1, 6), 0.3, dtype=torch.float64) if inputs is None else inputs
    return Saliency(model, gradient=gradient).attribute(
        inputs.expand(rows, *inputs.shape[1:]), abs=False, return_standard_error=True
    )


def assert_mean(values: Tensor, expected: Tensor, errors: float = 4.5) -> None:
    """The mean over rows is what is expected, up to so many standard errors of the mean."""
    error = values.std(0) / math.sqrt(len(values))
    deviation = (values.mean(0) - expected).abs()
    assert bool((deviation <= errors * error + 1e-9).all()), (deviation / error).max()


# --- linear scores: expectation and variance -----------------------------------------------------

SQUARES = float(WEIGHT @ WEIGHT)
VARIANCES = {
    "no baseline": (
        {"baseline": "none", "antithetic": False},
        # The score itself is noise without a baseline.
        lambda sigma: (float(WEIGHT.sum() * 0.3) + OFFSET) ** 2 / sigma**2 + SQUARES + WEIGHT**2,
    ),
    "clean": ({"baseline": "clean", "antithetic": False}, lambda sigma: SQUARES + WEIGHT**2),
    "antithetic": ({}, lambda sigma: SQUARES + WEIGHT**2),
    "rademacher, clean": (
        {"baseline": "clean", "antithetic": False, "distribution": "rademacher"},
        lambda sigma: SQUARES - WEIGHT**2,
    ),
    "rademacher, antithetic": ({"distribution": "rademacher"}, lambda sigma: SQUARES - WEIGHT**2),
}


@pytest.mark.parametrize("case", VARIANCES)
def test_a_linear_score_has_the_expectation_and_variance_of_theory(case: str) -> None:
    options, variance = VARIANCES[case]
    units = 4
    gradient = LikelihoodRatio(units * (1 if "antithetic" in options else 2), 0.1, **options)
    slopes, _ = estimates(gradient)
    assert_mean(slopes, WEIGHT)
    ratio = slopes.var(0) * units / variance(0.1)
    assert float((ratio - 1).abs().max()) < 0.05


def test_leaving_one_out_is_unbiased_and_the_mean_is_short_by_a_share() -> None:
    one_out = estimates(LikelihoodRatio(5, 0.1, antithetic=False))[0]
    mean = estimates(LikelihoodRatio(5, 0.1, antithetic=False, baseline="mean"))[0]
    assert_mean(one_out, WEIGHT)
    torch.testing.assert_close(mean, one_out * (4 / 5))


@pytest.mark.parametrize("antithetic", [True, False])
def test_orthogonal_directions_give_a_linear_score_exactly(antithetic: bool) -> None:
    features = 16
    model = Linear(features).double()
    inputs = torch.randn(3, features, dtype=torch.float64)
    gradient = LikelihoodRatio(
        2 * features if antithetic else features,
        0.1,
        "orthogonal",
        antithetic,
        baseline="clean",
    )
    slopes = Saliency(model, gradient=gradient).attribute(inputs, target=1, abs=False)
    torch.testing.assert_close(slopes, model.weight[1].detach().expand(3, -1))


@pytest.mark.parametrize("antithetic", [True, False])
def test_the_cosine_to_the_gradient_is_that_of_theory(antithetic: bool) -> None:
    features, units = 400, 200
    weight = torch.randn(features, generator=torch.Generator().manual_seed(0)).double()
    slopes, _ = estimates(
        LikelihoodRatio(units * (2 if antithetic else 1), 0.1, antithetic=antithetic),
        lambda x: x @ weight,
        torch.zeros(1, features, dtype=torch.float64),
        rows=300,
    )
    cosine = torch.nn.functional.cosine_similarity(slopes, weight[None]).mean()
    assert float(cosine) == pytest.approx(1 / math.sqrt(1 + (features + 1) / units), rel=0.02)


# --- other scores --------------------------------------------------------------------------------


def test_a_quadratic_score_has_its_own_gradient_as_expectation() -> None:
    matrix = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double()
    matrix = matrix + matrix.T
    x = torch.linspace(-1, 1, 6).double()[None]

    def quadratic(x: Tensor) -> Tensor:
        return ((x @ matrix) * x).sum(1) / 2 + x @ WEIGHT

    for antithetic in (True, False):
        slopes, _ = estimates(LikelihoodRatio(4, 0.5, antithetic=antithetic), quadratic, x)
        assert_mean(slopes, x[0] @ matrix + WEIGHT)


def test_antithetic_pairs_of_an_even_score_are_exactly_nothing() -> None:
    slopes, errors = estimates(
        LikelihoodRatio(64, 0.3),
        lambda x: x.abs().sum(1) + x.cos().sum(1),
        torch.zeros(1, 5),
        rows=3,
    )
    assert torch.count_nonzero(slopes) == 0
    assert torch.count_nonzero(errors) == 0


def test_it_converges_to_smooth_grad_of_the_same_sigma_not_to_the_gradient() -> None:
    def kink(x: Tensor) -> Tensor:
        return (3 * x).relu().sum(1)

    x = torch.tensor([[0.1, -0.1, 0.0, 1.0]], dtype=torch.float64)
    slopes, _ = estimates(LikelihoodRatio(16, 0.2), kink, x)
    smooth = SmoothGrad(kink).attribute(x.expand(ROWS, 4), n_samples=16, sigma=0.2)
    assert_mean(slopes - smooth, torch.zeros(4, dtype=torch.float64))
    assert abs(float(slopes[:, 0].mean()) - 3) > 0.5


def test_the_same_copies_as_an_isotropic_ensemble_give_its_covariance() -> None:
    model, x = conv_net(), torch.rand(1, 3, 9, 9)
    copies, sigma = 64, 0.1
    gradient = LikelihoodRatio(copies, sigma, antithetic=False, baseline="mean", seed=3)
    slopes = Saliency(model, gradient=gradient).attribute(x, target=2, abs=False)
    particles = ops.perturb(x, copies, sigma, ops.random_key(3, FIRST_STREAM))
    with torch.no_grad():
        answers = model(particles)[:, 2]
    weights = (answers - answers.mean())[None].double() / copies
    covariance, _ = ops.ensemble_contract(particles[None], weights, x)
    torch.testing.assert_close(slopes, covariance / sigma**2, rtol=1e-4, atol=1e-6)


# --- standard errors -----------------------------------------------------------------------------

BLOCKS = torch.tensor([[0, 0, 1, 1, 2, 2]])
ESTIMATORS = {
    "pairs": {},
    "singles": {"antithetic": False},
    "mean": {"antithetic": False, "baseline": "mean"},
    "clean": {"antithetic": False, "baseline": "clean"},
    "none": {"antithetic": False, "baseline": "none"},
    "signs": {"distribution": "rademacher"},
    "blocks in turn": {"blocks": 2},
    "blocks in turn, singles": {"blocks": 2, "antithetic": False},
    "neyman": {"blocks": BLOCKS, "allocation": "neyman"},
    "random features": {"mode": "random", "keep": 0.5},
    "random features, singles": {"mode": "random", "keep": 0.5, "antithetic": False},
    "random blocks, signs": {
        "mode": "random",
        "keep": 0.5,
        "blocks": 2,
        "distribution": "rademacher",
    },
    "shared": {"mode": "shared", "blocks": 2},
    "shared, singles": {"mode": "shared", "blocks": 2, "antithetic": False},
}


@pytest.mark.parametrize("case", ESTIMATORS)
def test_the_standard_error_is_the_spread_of_the_estimates(case: str) -> None:
    slopes, errors = estimates(LikelihoodRatio(96, 0.1, **ESTIMATORS[case]), rows=4000)
    expected = WEIGHT
    if "shared" in case:
        expected = WEIGHT.reshape(3, 2).mean(1).repeat_interleave(2)
    if case == "mean":
        expected = WEIGHT * (95 / 96)
    assert_mean(slopes, expected)
    # Root mean square: the variances are unbiased, their roots are not.
    ratio = errors.square().mean(0).sqrt() / slopes.std(0)
    assert float((ratio - 1).abs().max()) < 0.06


def test_an_attribution_has_the_standard_error_of_its_slopes() -> None:
    x = torch.full((4000, 6), 0.5, dtype=torch.float64)
    maps, errors = IntegratedGradients(linear, gradient=LikelihoodRatio(32, 0.1)).attribute(
        x, n_steps=5, return_standard_error=True
    )
    assert_mean(maps, WEIGHT * 0.5)
    ratio = errors.square().mean(0).sqrt() / maps.std(0)
    assert float((ratio - 1).abs().max()) < 0.06


def test_the_products_with_zero_inputs_are_known_exactly() -> None:
    x = torch.zeros(1, 6)
    maps, errors = InputXGradient(linear, gradient=LikelihoodRatio(4)).attribute(
        x, return_standard_error=True
    )
    assert torch.count_nonzero(maps) == torch.count_nonzero(errors) == 0


def test_an_error_that_is_not_a_number_is_not_hidden() -> None:
    _, errors = Saliency(lambda x: x.sum(1) * torch.nan, gradient=LikelihoodRatio(4)).attribute(
        torch.rand(1, 3), return_standard_error=True
    )
    assert errors.isnan().all()


def test_the_exact_gradient_has_no_standard_error_to_give() -> None:
    with pytest.raises(ValueError, match="standard error must be asked of a gradient that is an"):
        Saliency(Linear(6)).attribute(torch.rand(1, 6), target=0, return_standard_error=True)


# --- the same for any chunks, rows and companions ------------------------------------------------

CHUNKED = {
    **{name: options for name, options in ESTIMATORS.items() if name != "mean"},
    "stops early": {"n_samples": 300, "tolerance": 0.5},
    "neyman, stops early": {
        "n_samples": 300,
        "tolerance": 0.5,
        "blocks": 2,
        "allocation": "neyman",
    },
    "clipped": {"clip": (0.0, 1.0)},
}


@pytest.mark.parametrize("case", CHUNKED)
def test_chunks_do_not_change_a_bit(case: str) -> None:
    model, x = Polynomial(6), torch.rand(3, 6)
    gradient = LikelihoodRatio(**{"n_samples": 64, "sigma": 0.1, **CHUNKED[case]})
    method = IntegratedGradients(model, gradient=gradient)

    def run(rows: int | None) -> tuple[Tensor, Tensor, int]:
        cost = Cost()
        maps, errors = method.attribute(
            x, target=1, n_steps=3, internal_batch_size=rows, return_standard_error=True, cost=cost
        )
        assert rows is None or cost.rows_per_chunk <= rows
        return maps, errors, cost.queries

    expected = run(None)
    for rows in (1, 7, 64):
        maps, errors, queries = run(rows)
        assert_same_bits(maps, expected[0])
        assert_same_bits(errors, expected[1])
        assert queries == expected[2]


BLOCKS_OF_EXAMPLES = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 3, 3]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"allocation": "neyman"},
        {"mode": "shared", "distribution": "orthogonal"},
        {"mode": "random", "keep": 0.5, "antithetic": False},
    ],
)
def test_blocks_of_their_own_for_each_example_do_not_change_with_the_chunks(options: dict) -> None:
    model, x = Polynomial(6), torch.rand(3, 6)
    gradient = LikelihoodRatio(96, 0.1, blocks=BLOCKS_OF_EXAMPLES, **options)
    method = Saliency(model, gradient=gradient)
    expected = method.attribute(x, target=1, abs=False, return_standard_error=True)
    for rows in (1, 2, 50):
        result = method.attribute(
            x, target=1, abs=False, return_standard_error=True, internal_batch_size=rows
        )
        assert_same_bits(result[0], expected[0])
        assert_same_bits(result[1], expected[1])


def test_an_example_does_not_depend_on_those_after_it() -> None:
    model, x = Polynomial(6), torch.rand(5, 6)
    method = IntegratedGradients(model, gradient=LikelihoodRatio(20, 0.1))
    together = method.attribute(x, target=1, n_steps=3)
    assert_same_bits(method.attribute(x[:2], target=1, n_steps=3), together[:2])


def test_every_step_and_every_seed_has_noise_of_its_own() -> None:
    x = torch.full((1, 6), 0.5)

    def maps(**options) -> Tensor:
        gradient = LikelihoodRatio(8, 0.1, **options)
        return IntegratedGradients(linear, gradient=gradient, multiply_by_inputs=False).attribute(
            x, n_steps=2, method="riemann_left"
        )

    first = Saliency(linear, gradient=LikelihoodRatio(8, 0.1)).attribute(x, abs=False)
    # Were both steps to share their noise, the mean over them would be that of one.
    assert not torch.allclose(maps(), first.to(maps().dtype))
    assert not torch.equal(maps(), maps(seed=1))
    assert_same_bits(maps(), maps())


def test_the_noise_is_not_that_of_the_paths_points() -> None:
    x, seen = torch.zeros(1, 6), []

    def model(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x.sum(1)

    SmoothGrad(model, gradient=LikelihoodRatio(2, 1.0, antithetic=False)).attribute(
        x, n_samples=2, sigma=1.0
    )
    noise = ops.perturb(x, 2, 1.0, ops.random_key(0, 0)).repeat(2, 1)
    queries = torch.cat(seen)
    # A query is point + noise: were the two the same, it would be twice the point.
    assert not any(torch.allclose(q, 2 * n) for q in queries for n in noise)


def test_random_masks_that_keep_everything_are_no_masks() -> None:
    x = torch.rand(2, 6)
    plain = Saliency(linear, gradient=LikelihoodRatio(50)).attribute(x)
    kept = Saliency(linear, gradient=LikelihoodRatio(50, mode="random", keep=1.0)).attribute(x)
    assert_same_bits(kept, plain)


def test_the_memory_format_does_not_change_what_is_drawn() -> None:
    model, x = conv_net(), torch.rand(2, 3, 9, 9)
    maps = [
        Saliency(model, gradient=LikelihoodRatio(64), memory_format=name).attribute(x, target=0)
        for name in ("contiguous", "channels_last")
    ]
    torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-4)


# --- blocks --------------------------------------------------------------------------------------


def test_blocks_that_take_turns_are_perturbed_alone() -> None:
    x, seen = torch.full((1, 3, 4, 4), 0.5), []

    def model(x: Tensor) -> Tensor:
        seen.append((x != 0.5).flatten(1))
        return x.flatten(1).sum(1)

    Saliency(model, gradient=LikelihoodRatio(16, blocks=2)).attribute(x)
    changed = torch.cat(seen).reshape(-1, 3, 4, 4)
    assert changed.shape[0] == 16
    assert changed.flatten(1).sum(1).eq(12).all()
    assert changed.any(0).all()


def test_features_outside_every_block_are_zero_unknown_and_pointed_out() -> None:
    blocks = torch.tensor([[0, 0, 1, 1, -1, -1]])
    for mode in ("partition", "shared", "random"):
        with pytest.warns(UserWarning, match="features outside every block are never perturbed"):
            slopes, errors = estimates(
                LikelihoodRatio(40, blocks=blocks, mode=mode, keep=0.5), rows=2
            )
        assert torch.count_nonzero(slopes[:, 4:]) == 0
        assert errors[:, 4:].isinf().all()
        assert errors[:, :4].isfinite().all()
        assert torch.count_nonzero(slopes[:, :4]) == 8


def test_neyman_asks_where_the_slope_is() -> None:
    weight = torch.zeros(64, dtype=torch.float64)
    weight[8:12] = 5.0

    def error(allocation: str) -> float:
        gradient = LikelihoodRatio(640, 0.1, blocks=4, allocation=allocation)
        inputs = torch.zeros(1, 64, dtype=torch.float64)
        slopes, _ = estimates(gradient, lambda x: x @ weight, inputs, rows=50)
        return float((slopes - weight).square().sum(1).mean())

    # 20 pairs for the one block that matters become about 224.
    assert error("neyman") < 0.15 * error("uniform")


@given(
    wish=st.lists(st.floats(0, 1e6), min_size=1, max_size=12).filter(lambda w: sum(w) > 0),
    left=st.integers(0, 200),
)
@settings(deadline=None, max_examples=100)
def test_allocated_turns_are_all_of_the_turns(wish: list[float], left: int) -> None:
    total = 2 * len(wish) + left
    counts = shares(torch.tensor(wish, dtype=torch.float64), total, 2)
    assert int(counts.sum()) == total
    assert int(counts.min()) >= 2
    turns = interleaved(counts)
    assert torch.equal(torch.bincount(turns, minlength=len(wish)), counts)


def test_turns_go_as_the_wish_and_are_spread_over_the_units() -> None:
    counts = shares(torch.tensor([1.0, 3.0, 0.0, 4.0]).double(), 82, 2)
    assert counts.tolist() == [10, 30, 2, 40]
    turns = interleaved(counts)
    for begin in range(0, 80, 20):
        part = torch.bincount(turns[begin : begin + 20], minlength=4)
        assert bool((part - counts * 20 / 82).abs().max() < 1.5)


def test_shared_noise_of_blocks_finds_their_slopes_with_few_copies() -> None:
    model = Linear(3 * 16 * 16)
    x = torch.rand(1, 3, 16, 16)
    gradient = LikelihoodRatio(400, blocks=4, mode="shared", distribution="rademacher")
    slopes = Saliency(model, gradient=gradient).attribute(x, target=0, abs=False)
    true = model.weight[0].detach().reshape(1, 3, 16, 16)
    blocks = true.reshape(3, 4, 4, 4, 4).mean((0, 2, 4))
    expected = blocks.repeat_interleave(4, 0).repeat_interleave(4, 1).expand_as(slopes)
    cosine = torch.nn.functional.cosine_similarity(slopes.flatten(), expected.flatten(), 0)
    assert float(cosine) > 0.9


# --- units, ranges and several inputs ------------------------------------------------------------


def test_clipping_is_corrected_for() -> None:
    x = torch.tensor([[0.0, 0.05, 0.5, 0.95, 1.0, 0.3]], dtype=torch.float64)
    for distribution in ("gaussian", "rademacher"):
        seen = []

        def model(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(torch.stack((x.min(), x.max())))
            return linear(x)

        gradient = LikelihoodRatio(8, 0.1, distribution, clip=(0.0, 1.0))
        slopes, _ = estimates(gradient, model, x)
        assert_mean(slopes, WEIGHT)
        assert float(torch.stack(seen).min()) == 0.0
        assert float(torch.stack(seen).max()) == 1.0


def test_a_feature_far_outside_the_range_has_no_slope_left_to_estimate() -> None:
    x = torch.tensor([[0.5, 9.0, 0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    slopes, errors = estimates(LikelihoodRatio(8, 0.1, clip=(0.0, 1.0)), linear, x, rows=2)
    assert torch.count_nonzero(slopes[:, 1]) == 0
    assert errors[:, 1].isinf().all()


def test_reflection_keeps_slopes_inside_and_is_flat_at_the_ends() -> None:
    x = torch.tensor([[0.0, 0.4, 0.5, 0.6, 1.0, 0.5]], dtype=torch.float64)
    gradient = LikelihoodRatio(8, 0.05, clip=(0.0, 1.0), reflect=True)
    expected = WEIGHT.clone()
    expected[[0, 4]] = 0
    slopes, _ = estimates(gradient, linear, x)
    assert_mean(slopes, expected)


def test_sigma_can_be_given_feature_by_feature() -> None:
    sigma = torch.tensor([[0.1, 1.0, 10.0, 0.1, 0.1, 0.5]], dtype=torch.float64)
    slopes, _ = estimates(LikelihoodRatio(8, sigma))
    assert_mean(slopes, WEIGHT)
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(x)
        return linear(x)

    estimates(LikelihoodRatio(2, sigma, antithetic=False), model, torch.zeros(1, 6).double())
    torch.testing.assert_close(torch.cat(seen).std(0), sigma[0], rtol=0.05, atol=0)


def test_sigma_is_in_pixels_and_slopes_too() -> None:
    preprocessing = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.1, 0.5))
    model = Linear(3 * 4 * 4)
    x = torch.rand(1, 3, 4, 4)
    arguments = {"preprocessing": preprocessing}
    exact = Saliency(model, **arguments).attribute(x, target=0, abs=False)
    batch = x.expand(2000, 3, 4, 4)
    seen = []
    model.register_forward_hook(lambda module, inputs, outputs: seen.append(inputs[0].clone()))
    slopes = Saliency(model, gradient=LikelihoodRatio(2, 0.05), **arguments).attribute(
        batch, target=0, abs=False
    )
    assert_mean(slopes.double(), exact[0].double())
    deviation = (torch.cat(seen) - preprocessing.normalise(x)).std((0, 2, 3))
    torch.testing.assert_close(deviation, 0.05 / torch.tensor([0.2, 0.1, 0.5]), rtol=0.02, atol=0)


def test_a_tuple_of_inputs_shares_its_queries() -> None:
    def model(a: Tensor, b: Tensor, gain: Tensor) -> Tensor:
        return gain * (a @ WEIGHT[:2] + (b @ WEIGHT[2:]) * 2)

    rows = 4000
    inputs = (torch.zeros(rows, 2).double(), torch.zeros(rows, 4).double())
    gain = torch.arange(rows) % 2 + 1.0
    cost = Cost()
    for options in ({}, {"blocks": 2}, {"blocks": (None, 2)}, {"sigma": (0.1, 0.3)}):
        cost = Cost()
        gradient = LikelihoodRatio(**{"n_samples": 12, "sigma": 0.1, **options})
        a, b = Saliency(model, gradient=gradient).attribute(
            inputs, abs=False, additional_forward_args=(gain,), cost=cost
        )
        assert cost.queries == rows * 12
        assert_mean(a / gain[:, None], WEIGHT[:2])
        assert_mean(b / gain[:, None], 2 * WEIGHT[2:])


def test_half_precision_queries_are_in_the_inputs_type() -> None:
    def model(x: Tensor) -> Tensor:
        assert x.dtype == torch.bfloat16
        return x.float().sum(1)

    slopes = Saliency(model, gradient=LikelihoodRatio(100, 0.5)).attribute(
        torch.zeros(2, 4).bfloat16()
    )
    assert slopes.dtype == torch.bfloat16


# --- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "queries"),
    [
        ({}, 20),
        ({"antithetic": False}, 20),
        ({"antithetic": False, "baseline": "clean"}, 21),
        ({"baseline": "clean"}, 20),
        ({"blocks": 3, "allocation": "neyman"}, 20),
    ],
)
def test_exactly_the_promised_queries_are_asked_and_no_graph_is_recorded(
    options: dict, queries: int
) -> None:
    asked = 0

    def model(x: Tensor) -> Tensor:
        nonlocal asked
        assert not torch.is_grad_enabled()
        asked += len(x)
        return linear(x)

    gradient = LikelihoodRatio(20, **options)
    cost = Cost()
    IntegratedGradients(model, gradient=gradient).attribute(torch.rand(2, 6), n_steps=3, cost=cost)
    assert gradient.evaluations == queries
    assert asked == cost.queries == 2 * 3 * queries
    assert cost.gradients == 0


@pytest.mark.parametrize("options", [{}, {"antithetic": False}, {"mode": "shared", "blocks": 8}])
def test_nothing_grows_with_the_number_of_copies(options: dict) -> None:
    model, x = Linear(3 * 16 * 16), torch.rand(1, 3, 16, 16)

    def largest(n_samples: int) -> int:
        method = Saliency(model, gradient=LikelihoodRatio(n_samples, **options))
        with LargestTensor() as watched:
            method.attribute(x, target=0, return_standard_error=True, internal_batch_size=256)
        return watched.bytes

    largest(512)  # what a first call measures
    assert largest(16_384) == largest(1024) < 16_384 * x.numel() * 4


def test_inputs_that_are_known_well_enough_are_asked_no_more() -> None:
    def model(x: Tensor, bend: Tensor) -> Tensor:
        return x @ WEIGHT + bend * x.square().sum(1)

    x = torch.zeros(3, 6).double()
    bend = torch.tensor([0.0, 100.0, 0.0]).double()
    asked = torch.zeros(3)

    def counted(x: Tensor, bend: Tensor) -> Tensor:
        asked[1] += int((bend > 0).sum())
        asked[0] += int((bend == 0).sum()) / 2
        return model(x, bend)

    gradient = LikelihoodRatio(50_000, 0.1, antithetic=False, tolerance=0.2)
    slopes = Saliency(counted, gradient=gradient).attribute(
        x, abs=False, additional_forward_args=bend
    )
    assert asked[0] == 256
    assert asked[1] in (4096, 8192, 16384)
    relative = (slopes - WEIGHT).norm(dim=1) / WEIGHT.norm()
    assert float(relative.max()) < 0.35


@pytest.mark.parametrize(
    ("mode", "blocks"),
    [("random", [0, 1, 2, 3] + [-1] * 60), ("shared", [0, 0, 500, 500] + [-1] * 60)],
)
@pytest.mark.filterwarnings("ignore:LikelihoodRatio. features outside")
def test_what_is_never_perturbed_does_not_keep_an_input_waiting(
    mode: str, blocks: list[int]
) -> None:
    weight = torch.ones(64).double()
    cost = Cost()
    gradient = LikelihoodRatio(
        8192, 0.1, blocks=torch.tensor([blocks]), mode=mode, keep=0.5, tolerance=0.3
    )
    Saliency(lambda x: x @ weight, gradient=gradient).attribute(
        torch.zeros(1, 64).double(), cost=cost
    )
    assert cost.queries <= 512


def test_several_targets_share_the_queries_and_are_each_as_if_alone() -> None:
    model, x = Polynomial(6), torch.rand(2, 6)
    targets = Targets(0, [2, 1])
    for gradient in (LikelihoodRatio(20), LikelihoodRatio(20, antithetic=False), Autograd()):
        method = IntegratedGradients(model, gradient=gradient)
        cost, alone = Cost(), Cost()
        maps, gaps = method.attribute(
            x, target=targets, n_steps=3, return_convergence_delta=True, cost=cost
        )
        assert maps.shape == (2, 2, 6)
        assert gaps.shape == (2, 2)
        for position, target in enumerate(targets):
            one, gap = method.attribute(
                x, target=target, n_steps=3, return_convergence_delta=True, cost=alone
            )
            torch.testing.assert_close(maps[:, position], one)
            torch.testing.assert_close(gaps[:, position], gap)
        assert cost.queries + cost.gradients == (alone.queries + alone.gradients) / 2


def test_a_constant_added_to_the_score_changes_nothing_but_rounding() -> None:
    x = torch.rand(2, 6).double()
    for options in ({}, {"antithetic": False}, {"antithetic": False, "baseline": "clean"}):
        method = Saliency(linear, gradient=LikelihoodRatio(30, **options))
        shifted = Saliency(lambda x: linear(x) + 1000, gradient=LikelihoodRatio(30, **options))
        torch.testing.assert_close(shifted.attribute(x), method.attribute(x), rtol=1e-8, atol=1e-8)


# --- the front door ------------------------------------------------------------------------------


def test_explain_gives_estimates_with_their_standard_errors(tmp_path) -> None:
    model, x = conv_net(), torch.rand(2, 3, 9, 9)
    explanation = explain(model, x, method="saliency", gradient="likelihood_ratio", abs=False)
    assert explanation.standard_error.shape == x.shape
    assert explanation.cost.queries == 2 * 1000 + 2
    assert "LikelihoodRatio(n_samples=1000" in explanation.settings["gradient"]
    exact = explain(model, x, method="saliency", abs=False)
    assert exact.standard_error is None
    z = (explanation.attributions - exact.attributions) / explanation.standard_error
    assert 0.8 < float(z.square().mean().sqrt()) < 1.25
    path = explanation.save(tmp_path / "one.npz")
    import numpy as np

    with np.load(path) as saved:
        assert saved["standard_error"].shape == tuple(x.shape)


def test_explain_can_explain_several_targets_at_once() -> None:
    model, x = conv_net(), torch.rand(2, 3, 9, 9)
    both = explain(model, x, target=Targets(0, 3), n_steps=4)
    assert both.attributions.shape == (2, 2, 3, 9, 9)
    assert both.target.tolist() == [[0, 3], [0, 3]]
    one = explain(model, x, target=3, n_steps=4)
    second = both.for_target(1)
    torch.testing.assert_close(second.attributions, one.attributions)
    torch.testing.assert_close(second.delta, one.delta)
    assert second.target.tolist() == [3, 3]
    with pytest.raises(ValueError, match=r"for_target\(0\)"):
        both.plot()
    with pytest.raises(ValueError, match="position must be among the Targets"):
        both.for_target(2)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "n_samples must be an integer >= 1, got 0"),
        ({"n_samples": 5}, "n_samples must be even with antithetic=True, got 5"),
        ({"n_samples": 2.0}, r"n_samples must be an integer >= 1, got 2\.0"),
        ({"sigma": 0.0}, r"sigma must be a number > 0, or a tensor of such, got 0\.0"),
        ({"sigma": torch.tensor([1.0, 0.0])}, r"sigma must be .*, got a tensor \[2\]"),
        ({"distribution": "cauchy"}, "distribution must be one of gaussian, .*, got 'cauchy'"),
        ({"baseline": None}, "baseline must be one of none, clean, mean, leave_one_out, got None"),
        ({"mode": "shared"}, "blocks must be given for mode='shared', got None"),
        ({"mode": "random", "keep": 0.0}, r"keep must be in \(0, 1\], got 0\.0"),
        ({"allocation": "best"}, "allocation must be one of uniform, neyman, got 'best'"),
        ({"tolerance": 0.0}, r"tolerance must be None or a number > 0, got 0\.0"),
        ({"reflect": True}, "clip must be given for reflect=True, got None"),
        ({"sigma": math.inf}, "sigma must be a number > 0, or a tensor of such, got inf"),
        ({"allocation": "neyman"}, "allocation must be 'uniform' unless blocks take turns"),
        ({"n_samples": 1, "antithetic": False}, "n_samples must be > 1 for this baseline, got 1"),
        (
            {"distribution": "orthogonal", "blocks": 2},
            "distribution must be random where blocks take turns, got 'orthogonal'",
        ),
        (
            {"distribution": "orthogonal", "antithetic": False},
            "baseline must be 'clean' or 'none' for orthogonal .*, got 'leave_one_out'",
        ),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"LikelihoodRatio: {message}"):
        LikelihoodRatio(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": torch.zeros(1, 5, dtype=torch.long)}, "blocks must be an int, or an integer"),
        ({"blocks": torch.zeros(1, 6)}, "blocks must be an int, or an integer tensor"),
        ({"blocks": torch.full((1, 6), -1)}, "blocks must hold a feature"),
        ({"blocks": 1, "n_samples": 10}, "n_samples must give each of 6 blocks 1 turn .*, got 5"),
        (
            {"blocks": 2, "n_samples": 22, "allocation": "neyman"},
            "n_samples must give each of 3 blocks 4 turns .*, got 11",
        ),
        ({"sigma": torch.ones(1, 5)}, r"sigma must be a number or have shape \[1 or 2, ...\]"),
        (
            {"blocks": 2, "n_samples": 5, "antithetic": False},
            "n_samples must give each of 3 blocks 2 turns .*, got 5",
        ),
        ({"sigma": (0.1, 0.2)}, "sigma must be given once or for each of 1 inputs, got 2"),
    ],
)
def test_options_that_do_not_fit_the_inputs_are_named(options: dict, message: str) -> None:
    asked = []
    method = Saliency(lambda x: asked.append(x) or linear(x), gradient=LikelihoodRatio(**options))
    with pytest.raises(ValueError, match=f"LikelihoodRatio: {message}"):
        method.attribute(torch.rand(2, 6))
    assert asked == []


def test_an_estimate_has_no_graph_to_keep() -> None:
    method = Saliency(linear, gradient=LikelihoodRatio(4))
    with pytest.raises(ValueError, match="create_graph must be False"):
        method.attribute(torch.rand(2, 6), create_graph=True)


def test_noise_below_a_grey_level_is_warned_about() -> None:
    class EightBits:
        grey_level = 1.0

        def __call__(self, x: Tensor) -> Tensor:
            return linear(x.round().clamp(0, 255))

    pixels = Preprocessing(std=(1 / 255,), channels=1)
    x = torch.rand(1, 1, 2, 3)
    method = Saliency(EightBits(), gradient=LikelihoodRatio(4, 0.003), preprocessing=pixels)
    with pytest.warns(UserWarning, match=r"0\.77 grey levels"):
        method.attribute(x)


def test_a_budget_that_does_not_cover_the_call_is_said_before_any_query() -> None:
    class Limited:
        remaining = 122

        def __call__(self, x: Tensor) -> Tensor:
            raise AssertionError("asked")

    gradient = LikelihoodRatio(22)
    method = IntegratedGradients(Limited(), gradient=gradient)
    needed = r"132 queries are needed \(6 points, 22 each\), and the budget has 122 left"
    with pytest.raises(QueryError, match=needed):
        method.attribute(torch.rand(2, 6), n_steps=3)
    # With the query that names the class and those of the completeness gap.
    with pytest.raises(QueryError, match=r"124 queries are needed \(6 points.*and 4 besides"):
        explain(Limited(), torch.rand(2, 6), n_steps=3, gradient=LikelihoodRatio(20))

"""FreeMCG: closed forms of the covariance gradient, on manifolds that are known."""

from __future__ import annotations

import math

import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial, mlp
from torch import Tensor

from pyxai_fast import (
    BlackBox,
    Cost,
    IntegratedGradients,
    LikelihoodRatio,
    Preprocessing,
    QueryError,
    Saliency,
    Targets,
    explain,
)
from pyxai_fast.gradients import FreeMCG
from pyxai_fast.models.score import Score
from pyxai_fast.priors import GaussianPrior, NearestNeighbourPrior, linear_schedule

FEATURES = 6


def isotropic(features: int = FEATURES) -> GaussianPrior:
    return GaussianPrior(torch.zeros(features), torch.eye(features))


def particles_of(gradient: FreeMCG, x: Tensor, level: int) -> Tensor:
    """[K, R, ...], as the gradient makes them for the inputs of a call."""
    rows = Score(lambda x: x, len(x), x.device).rows(slice(None))
    found = gradient.particles(rows, x, level, gradient.n_particles)
    return found.unflatten(0, (gradient.n_particles, len(x)))


def covariance(particles: Tensor) -> Tensor:
    """[R, D, D], of particles [K, R, D]."""
    centred = (particles - particles.mean(0)).double()
    return torch.einsum("krd,kre->rde", centred, centred) / len(particles)


def signed(model, gradient: FreeMCG, x: Tensor, target=1, **options) -> Tensor:
    return Saliency(model, gradient=gradient, **options).attribute(x, target=target, abs=False)


# --- the covariance gradient ---------------------------------------------------------------------


@pytest.mark.parametrize("target", ["logprob", "logit", "logit_diff"])
def test_an_affine_model_gives_the_particles_covariance_times_its_gradient(target: str) -> None:
    model, x = Linear(FEATURES).double(), torch.randn(3, FEATURES).double()
    gradient = FreeMCG(isotropic(), 40, levels=(200,), target=target)
    outputs = model(x).detach()
    one_hot = torch.eye(3).double()[1]
    others = outputs.clone()
    others[:, 1] = -torch.inf
    direction = {
        "logprob": one_hot - outputs.softmax(1),
        "logit": one_hot.expand(3, 3),
        "logit_diff": one_hot - torch.eye(3).double()[others.argmax(1)],
    }[target]
    spread = covariance(particles_of(gradient, x, 200))
    exact = direction @ model.weight.detach()
    expected = (spread @ exact[:, :, None])[:, :, 0]
    expected = expected / spread.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
    torch.testing.assert_close(signed(model, gradient, x), expected)


def test_particles_of_a_flat_manifold_stay_on_it_and_so_does_the_map() -> None:
    basis = torch.linalg.qr(torch.randn(FEATURES, 2, dtype=torch.float64)).Q
    prior = GaussianPrior(torch.zeros(FEATURES).double(), basis @ basis.T)
    x = (torch.randn(2, 2).double() @ basis.T).float().double()
    gradient = FreeMCG(prior, 50)
    slopes = signed(mlp(FEATURES).double(), gradient, x)
    across = slopes - slopes @ basis @ basis.T
    assert float(slopes.norm()) > 1e-3
    assert float(across.norm()) < 1e-5 * float(slopes.norm())


def test_isotropic_particles_give_the_likelihood_ratio_with_mean_baseline() -> None:
    """C_xf / sigma^2 from the same particles, up to the particles' own mean variance."""
    model, x = Polynomial(FEATURES), torch.rand(1, FEATURES)
    gradient = FreeMCG(isotropic(), 64, levels=(50,), target="logit")
    particles = particles_of(gradient, x, 50)[:, 0].double()
    answers = model(particles)[:, 1].double()
    product = ((answers - answers.mean())[:, None] * (particles - x.double())).mean(0)
    sigma2 = particles.var(0, unbiased=False).mean()
    torch.testing.assert_close(
        signed(model, gradient, x)[0].double(), product / sigma2, rtol=1e-4, atol=1e-5
    )


def test_many_isotropic_particles_and_the_likelihood_ratio_agree() -> None:
    model, x = mlp(FEATURES).double(), torch.rand(1, FEATURES).double()
    level = 30
    share = float(linear_schedule()[level])
    # The posterior mean shrinks noise and point: particles are N(share x, share (1 - share)).
    sigma = math.sqrt(share * (1 - share))
    free = signed(model, FreeMCG(isotropic(), 40_000, levels=(level,), target="logit"), x)
    ratio = Saliency(model, gradient=LikelihoodRatio(40_000, sigma)).attribute(
        share * x, target=1, abs=False
    )
    torch.testing.assert_close(free, ratio, rtol=0.05, atol=0.01)


def test_a_constant_model_has_no_slope_at_all() -> None:
    slopes = signed(
        lambda x: torch.ones(len(x), 3), FreeMCG(isotropic(), 20), torch.rand(2, FEATURES)
    )
    assert torch.count_nonzero(slopes) == 0


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    model, x = Polynomial(FEATURES), torch.rand(2, FEATURES).double()
    gradient = FreeMCG(isotropic(), 20)
    torch.testing.assert_close(
        signed(lambda x: model(x) + 7, gradient, x), signed(model, gradient, x)
    )


def test_the_error_of_the_linearisation_is_of_third_order_in_the_spread() -> None:
    """Theorem 2, on a cubic model: C_xf = C_xx grad f + O(delta^3), from symmetric particles."""

    class Cubic(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = (x + x**2 + 2 * x**3).sum(1)
            return torch.stack((score, score * 0), 1)

    x = torch.full((1, FEATURES), 0.3).double()
    errors, spreads = [], []
    for level in (2, 8, 32):
        gradient = FreeMCG(isotropic(), 4000, levels=(level,), target="logit")
        particles = particles_of(gradient, x, level)
        spread = covariance(particles)[0]
        centre = particles.mean(0)[0].double()
        exact = 1 + 2 * centre + 6 * centre**2
        mean_variance = spread.diagonal().mean()
        found = signed(Cubic(), gradient, x, target=0)[0].double() * mean_variance
        errors.append(float((found - spread @ exact).norm()))
        spreads.append(float(mean_variance.sqrt()))
    for i in range(2):
        order = math.log(errors[i + 1] / errors[i]) / math.log(spreads[i + 1] / spreads[i])
        assert order > 2.7


def test_particles_of_different_examples_are_never_pooled() -> None:
    model, x = Polynomial(FEATURES), torch.rand(3, FEATURES)
    gradient = FreeMCG(isotropic(), 20)
    torch.testing.assert_close(signed(model, gradient, x[:2]), signed(model, gradient, x)[:2])


# --- as a gradient among others ------------------------------------------------------------------


def test_standard_errors_are_the_spread_over_seeds() -> None:
    model, x = mlp(FEATURES).double(), torch.rand(1, FEATURES).double()
    # As many rows as seeds: rows have noise of their own.
    maps, errors = Saliency(model, gradient=FreeMCG(isotropic(), 60)).attribute(
        x.expand(500, FEATURES), target=1, abs=False, return_standard_error=True
    )
    ratio = errors.square().mean(0).sqrt() / maps.std(0)
    assert float((ratio - 1).abs().max()) < 0.2


def test_chunks_change_no_bit_and_queries_are_counted() -> None:
    model, x = Polynomial(FEATURES), torch.rand(3, FEATURES)
    method = IntegratedGradients(model, gradient=FreeMCG(isotropic(), 20, levels=(50, 100)))
    expected = method.attribute(x, target=1, n_steps=3)
    for rows in (1, 7):
        cost = Cost()
        result = method.attribute(x, target=1, n_steps=3, internal_batch_size=rows, cost=cost)
        assert_same_bits(result, expected)
        assert cost.queries == 3 * 3 * (20 * 2 + 1)
        assert cost.rows_per_chunk <= rows


def test_several_targets_share_the_particles() -> None:
    model, x = Polynomial(FEATURES), torch.rand(2, FEATURES)
    gradient, cost = FreeMCG(isotropic(), 20), Cost()
    both = Saliency(model, gradient=gradient).attribute(
        x, target=Targets(0, 2), abs=False, cost=cost
    )
    assert cost.queries == 2 * 61
    for position, target in enumerate((0, 2)):
        torch.testing.assert_close(both[:, position], signed(model, gradient, x, target=target))


def test_particles_are_in_the_callers_units() -> None:
    preprocessing = Preprocessing(mean=(0.5,), std=(0.25,), channels=1)
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.stack((x.flatten(1).sum(1), x.flatten(1).sum(1) * 0), 1)

    prior = GaussianPrior(torch.full((1, 2, 2), 0.5), torch.eye(4) * 0.01)
    x = torch.full((1, 1, 2, 2), 0.5)
    gradient = FreeMCG(prior, 400, levels=(100,), target="logit")
    slopes = signed(model, gradient, x, target=0, preprocessing=preprocessing)
    torch.testing.assert_close(slopes, torch.full_like(slopes, 4.0), rtol=0.5, atol=0)
    queries = torch.cat(seen)[1:]
    # The posterior mean of a Gaussian shrinks the noise; the model's units are four to a pixel's.
    share = float(linear_schedule()[100])
    shrink = share**0.5 * 0.01 / (share * 0.01 + 1 - share)
    expected = 4 * shrink * (1 - share) ** 0.5
    assert float(queries.std()) == pytest.approx(expected, rel=0.1)


def test_neighbours_are_the_manifold_of_a_table() -> None:
    angle = torch.rand(600, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    circle = torch.stack((angle.cos(), angle.sin()), 1)
    x = torch.tensor([[1.0, 0.0]])
    prior = NearestNeighbourPrior(circle)
    gradient = FreeMCG(prior, 200, levels=(20, 40), target="logit")
    particles = particles_of(gradient, x, 40)[:, 0]
    assert float((particles.norm(dim=1) - 1).abs().max()) < 0.05
    # The model rises outwards most of all: what is left is its slope along the circle.
    slopes = signed(lambda x: torch.stack((10 * x[:, 0] + x[:, 1], x[:, 0] * 0), 1), gradient, x, 0)
    assert abs(float(slopes[0, 0])) < 0.6 * abs(float(slopes[0, 1]))


@pytest.mark.parametrize("kind", ["gaussian", "neighbours"])
def test_a_priors_noise_is_the_mean_noise_given_what_is_seen(kind: str) -> None:
    """E[noise | noisy] is a projection: regressing the true noise on it has a slope of one."""
    generator = torch.Generator().manual_seed(1)
    prior = isotropic()
    if kind == "neighbours":
        prior = NearestNeighbourPrior(torch.randn(50, FEATURES, generator=generator))
    level, share = 400, float(linear_schedule()[400])
    if isinstance(prior, NearestNeighbourPrior):
        clean = prior.rows[torch.randint(50, (20_000,), generator=generator)]
    else:
        clean = torch.randn(20_000, FEATURES, generator=generator).double()
    noise = torch.randn(20_000, FEATURES, generator=generator).double()
    predicted = prior.predict_noise(share**0.5 * clean + (1 - share) ** 0.5 * noise, level)
    slope = float((noise * predicted).sum() / predicted.square().sum())
    assert slope == pytest.approx(1, abs=0.02)


def test_a_priors_space_and_the_callers_are_inverses() -> None:
    table = torch.randn(30, 4) * torch.tensor([1.0, 100.0, 0.01, 0.0]) + 3
    prior = NearestNeighbourPrior(table)
    torch.testing.assert_close(prior.decode(prior.encode(table)), table)
    fitted = GaussianPrior.fit(table)
    torch.testing.assert_close(fitted.mean.float(), table.mean(0))


def test_permuted_features_permute_the_map() -> None:
    """With a model and particles permuted alike."""
    order = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(0))
    model, x = mlp(FEATURES).double(), torch.randn(1, FEATURES).double()
    particles = torch.randn(30, FEATURES).double()

    class Given(GaussianPrior):
        """Denoises anything into particles that are given."""

        def __init__(self, given: Tensor) -> None:
            super().__init__(torch.zeros(FEATURES), torch.eye(FEATURES))
            self.given = given

        def predict_noise(self, noisy: Tensor, level: int) -> Tensor:
            share = float(self.shares[level])
            return (noisy - share**0.5 * self.given) / (1 - share) ** 0.5

    plain = signed(model, FreeMCG(Given(particles), 30, levels=(100,)), x)
    back = order.argsort()
    permuted = signed(
        lambda x: model(x[:, back]), FreeMCG(Given(particles[:, order]), 30, levels=(100,)),
        x[:, order],
    )  # fmt: skip
    torch.testing.assert_close(permuted, plain[:, order])
    # And the order of the particles is nothing.
    mixed = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    shuffled = signed(model, FreeMCG(Given(particles[mixed]), 30, levels=(100,)), x)
    torch.testing.assert_close(shuffled, plain)
    # Affine maps of all inputs M x: the covariance gradient becomes M times it, which is then
    # divided by the mean variance of its own particles.
    m = torch.randn(FEATURES, FEATURES).double()
    moved = FreeMCG(Given(particles @ m.T), 30, levels=(100,))
    mapped = signed(lambda x: model(x @ torch.linalg.inv(m).T), moved, x @ m.T)

    def mean_variance(p: Tensor) -> Tensor:
        return p.var(0, unbiased=False).mean()

    expected = plain @ m.T * mean_variance(particles) / mean_variance(particles @ m.T)
    torch.testing.assert_close(mapped, expected)


def test_a_path_integral_promises_completeness_for_the_score_alone() -> None:
    model, x = Polynomial(FEATURES).double(), torch.rand(2, FEATURES).double()
    for target, gaps in (("logit", True), ("logprob", False)):
        gradient = FreeMCG(isotropic(), 20, levels=(50,), target=target)
        found = explain(model, x, gradient=gradient, n_steps=3)
        assert (found.delta is not None) == gaps
    with pytest.raises(ValueError, match="return_convergence_delta must be False with FreeMCG"):
        IntegratedGradients(model, gradient=gradient).attribute(
            x, target=1, n_steps=3, return_convergence_delta=True
        )


def test_models_of_every_kind_are_asked() -> None:
    x = torch.rand(2, FEATURES)
    model = Polynomial(FEATURES)
    gradient = FreeMCG(isotropic(), 20, levels=(50,))
    expected = signed(model, gradient, x)
    assert_same_bits(signed(lambda x: {"logits": model(x)}, gradient, x), expected)
    with torch.inference_mode():
        assert_same_bits(signed(model, gradient, x), expected)
    scaled = Saliency(lambda x, s: model(x) * s[:, None], gradient=gradient).attribute(
        x, target=1, abs=False, additional_forward_args=torch.ones(2)
    )
    assert_same_bits(scaled, expected)


def test_a_function_that_fails_is_asked_once() -> None:
    def breaks(x: Tensor) -> Tensor:
        raise RuntimeError("out of order")

    box = BlackBox(breaks)
    with pytest.raises(QueryError, match="out of order"):
        signed(box, FreeMCG(isotropic(), 10), torch.rand(1, FEATURES))
    assert box.queries == 1


def test_pictures_reach_the_model_in_the_memory_format_that_is_asked_for() -> None:
    seen = set()

    def model(x: Tensor) -> Tensor:
        seen.add(x.is_contiguous(memory_format=torch.channels_last))
        return x.flatten(1)[:, :3]

    prior = GaussianPrior(torch.full((3, 4, 4), 0.5), torch.eye(48) * 0.01)
    x, gradient = torch.rand(2, 3, 4, 4), FreeMCG(prior, 10, levels=(50,))
    plain = signed(model, gradient, x, memory_format="contiguous")
    assert seen == {False}
    seen.clear()
    assert_same_bits(signed(model, gradient, x, memory_format="channels_last"), plain)
    assert seen == {True}


# --- faults --------------------------------------------------------------------------------------


class Broken(GaussianPrior):
    def __init__(self, fault: str) -> None:
        super().__init__(torch.zeros(FEATURES), torch.eye(FEATURES))
        self.fault = fault

    def predict_noise(self, noisy: Tensor, level: int) -> Tensor:
        noise = super().predict_noise(noisy, level)
        return noise * torch.nan if self.fault == "nan" else noise[:, :-1]


def test_faults_of_a_prior_are_named() -> None:
    model, x = Linear(FEATURES), torch.rand(1, FEATURES)
    with pytest.raises(ValueError, match="must predict finite noise, got nan or inf at level 100"):
        signed(model, FreeMCG(Broken("nan"), 10), x)
    with pytest.raises(ValueError, match=r"noise of the shape of its input, \[10, 6\], got"):
        signed(model, FreeMCG(Broken("shape"), 10), x)
    with pytest.raises(ValueError, match="FreeMCG: the model must answer with finite numbers"):
        signed(lambda x: x * torch.inf, FreeMCG(isotropic(), 10), x)
    with pytest.raises(ValueError, match=r"prior must be one of pyxai_fast\.priors, .* got str"):
        FreeMCG("google/ddpm-cifar10-32")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="inputs must be one tensor"):
        Saliency(lambda a, b: a.sum(1) + b.sum(1), gradient=FreeMCG(isotropic(), 10)).attribute(
            (x, x)
        )
    with pytest.raises(ValueError, match="covariance must be positive semi-definite"):
        GaussianPrior(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match=r"covariance must have shape \[2, 2\]"):
        GaussianPrior(torch.zeros(2), torch.eye(3))
    with pytest.raises(ValueError, match=r"data must be floating-point rows \[N, ...\], N > 1"):
        NearestNeighbourPrior(torch.rand(1, 3))


def test_what_cannot_give_a_map_is_warned_about() -> None:
    x = torch.rand(1, FEATURES)
    sure = Linear(FEATURES)
    with torch.no_grad():
        sure.weight[1] += 100
    with pytest.warns(UserWarning, match="target_score='logit', explains its logit"):
        signed(sure, FreeMCG(isotropic(), 10), x)
    with pytest.warns(UserWarning, match="3 particles span 2 directions"):
        FreeMCG(isotropic(), 3)
    point = GaussianPrior(x[0], torch.zeros(FEATURES, FEATURES))
    with pytest.warns(UserWarning, match="the particles of level 100 coincide"):
        signed(Linear(FEATURES), FreeMCG(point, 10, levels=(100,)), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_particles": 1}, "n_particles must be an integer >= 2, got 1"),
        ({"levels": ()}, "levels must be different integers from 0 to 999, at least one"),
        ({"levels": (1000,)}, r"levels must be .* from 0 to 999, .* got \(1000,\)"),
        ({"levels": (100, 100)}, r"levels must be different integers .* got \(100, 100\)"),
        ({"levels": 200}, "levels must be different integers from 0 to 999, .* got 200"),
        ({"target": "prob"}, "target must be one of logprob, logit, logit_diff, got 'prob'"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"FreeMCG: {message}"):
        FreeMCG(isotropic(), **options)

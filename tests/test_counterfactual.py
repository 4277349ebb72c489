"""Counterfactuals: the steps written out, closed forms under known priors, and what is returned."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial, mlp
from torch import Tensor

from pyxai_fast import BlackBox, Cost, Counterfactual, Preprocessing, QueryError, Targets, ops
from pyxai_fast.methods.counterfactual import START_STREAM
from pyxai_fast.priors import GaussianPrior, NearestNeighbourPrior, linear_schedule
from pyxai_fast.priors.particles import noised

FEATURES = 6
COUPLINGS = ("ensemble", "diagonal")


def isotropic(features: int = FEATURES, size: float = 1.0) -> GaussianPrior:
    return GaussianPrior(torch.zeros(features), torch.eye(features) * size)


def tempered() -> torch.nn.Module:
    """A model whose three classes are all within reach of inputs near zero."""
    return mlp(FEATURES, classes=3, seed=3).double()


def denoise(prior: GaussianPrior, noisy: Tensor, level: int) -> tuple[Tensor, Tensor]:
    share = float(prior.shares[level])
    noise = prior.predict_noise(noisy, level)
    return (noisy - (1 - share) ** 0.5 * noise) / share**0.5, noise


# --- the step ------------------------------------------------------------------------------------


def test_without_guidance_and_noise_it_is_plain_ddim() -> None:
    prior, x = isotropic(size=0.3), torch.randn(2, FEATURES).double()
    method = Counterfactual(
        tempered(), prior, n_particles=8, n_steps=5, step_size=0, step_proximity=0, eta=0
    )
    found = method.generate(x, target=1).particles
    levels = [round(400 * i / 5) - 1 for i in range(5, 0, -1)]
    key = ops.random_key(0, START_STREAM)
    noisy = noised(x, float(prior.shares[levels[0]]), 8, key)
    for level, after in zip(levels, [*levels[1:], None], strict=True):
        clean, noise = denoise(prior, noisy, level)
        share = 1.0 if after is None else float(prior.shares[after])
        noisy = share**0.5 * clean + (1 - share) ** 0.5 * noise
    expected = noisy.unflatten(0, (8, 2)).transpose(0, 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("target_score", ["logprob", "logit", "logit_diff"])
def test_a_step_is_the_equation_particle_by_particle(coupling: str, target_score: str) -> None:
    prior, x, model, c = isotropic(), torch.randn(1, FEATURES).double(), tempered(), 2
    count, strength, prox = 10, 0.3, 0.05
    method = Counterfactual(
        model, prior, n_particles=count, n_steps=2, strength=0.2, eta=0, coupling=coupling,
        step_size=strength, step_proximity=prox, target_score=target_score,
    )  # fmt: skip
    found = method.generate(x, target=c).particles[0]
    # Levels 199 and 99. The release: noise of level 200, 100 to 0 unguided, then a guided end.
    level, after = (199, 99) if coupling == "ensemble" else (100, 0)
    start = float(prior.shares[199 if coupling == "ensemble" else 200])
    noisy = noised(x, start, count, ops.random_key(0, START_STREAM))

    def guided(noisy: Tensor, level: int, share_after: float) -> Tensor:
        clean, noise = denoise(prior, noisy, level)
        logits = model(clean).detach()
        p, one_hot = logits.softmax(1), torch.eye(3).double()[c]
        share, rows = float(prior.shares[level]), []
        for j in range(count):
            direction = one_hot
            if target_score == "logprob":
                direction = one_hot - p[j]
            elif target_score == "logit_diff":
                rest = logits[j].clone()
                rest[c] = -torch.inf
                direction = one_hot - torch.eye(3).double()[rest.argmax()]
            total = torch.zeros(FEATURES).double()
            for k in range(count) if coupling == "ensemble" else (j,):
                weight = (logits[k] - logits.mean(0)) @ direction
                total += weight * (clean[k] - clean.mean(0))
            sign = (clean[j] - x[0]).sign()
            size = noise[j].norm()
            push = strength * size * total / total.norm() - prox * size * sign / sign.norm()
            rows.append(
                share_after**0.5 * clean[j]
                + (1 - share_after) ** 0.5 * noise[j]
                + (share * share_after) ** 0.5 * push
            )
        return torch.stack(rows)

    if coupling == "ensemble":
        expected, _ = denoise(prior, guided(noisy, level, float(prior.shares[after])), after)
    else:
        clean, _ = denoise(prior, noisy, level)
        expected = guided(clean, after, 1.0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_the_released_schedule_has_its_special_cases() -> None:
    schedule = Counterfactual(tempered(), isotropic(), n_steps=100, coupling="diagonal").schedule
    shares = linear_schedule()
    assert [step.level for step in schedule.steps] == list(range(396, -1, -4))
    assert schedule.start_share == float(shares[400])
    assert [step.guided for step in schedule.steps] == [True] * 98 + [False, True]
    assert schedule.steps[-1].share_next == 1.0


def test_the_default_schedule_starts_where_the_noise_is() -> None:
    schedule = Counterfactual(tempered(), isotropic(), n_steps=50).schedule
    assert schedule.start_share == schedule.steps[0].share
    for step, following in zip(schedule.steps[:-1], schedule.steps[1:], strict=True):
        assert step.share_next == following.share > step.share
    assert schedule.steps[0].level == 399
    assert schedule.steps[-1].share_next == 1.0 and not schedule.steps[-1].guided


# --- what it does --------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_guidance_makes_the_model_say_the_target(coupling: str) -> None:
    x = torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(2)).double()
    model = tempered()
    wanted = model(x).argmin(1)
    options = {"n_particles": 60, "n_steps": 20, "coupling": coupling}
    guided = Counterfactual(model, isotropic(), step_size=0.2, **options).generate(x, wanted)
    free = Counterfactual(model, isotropic(), step_size=0, **options).generate(x, wanted)
    assert bool(guided.flipped.all())
    gained = guided.probability(guided.mean_outputs) - free.probability(free.mean_outputs)
    assert float(gained.min()) > (0.1 if coupling == "ensemble" else 0.03)
    assert bool((guided.confidence[:, -1] > guided.confidence[:, 0]).all())


def test_particles_stay_on_a_flat_manifold() -> None:
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(FEATURES, 2, dtype=torch.float64, generator=generator)).Q
    prior = GaussianPrior(torch.zeros(FEATURES).double(), basis @ basis.T)
    x = torch.randn(2, 2, generator=generator).double() @ basis.T
    found = Counterfactual(tempered(), prior, n_particles=20, n_steps=10).generate(x, 1)
    assert found.particles is not None
    across = found.particles - found.particles @ basis @ basis.T
    assert float((found.particles - x[:, None]).norm()) > 1e-2
    assert float(across.norm()) < 1e-6 * float(found.particles.norm())


def test_proximity_keeps_near_the_input() -> None:
    x, model = torch.randn(2, FEATURES).double(), tempered()
    far, near = (
        Counterfactual(
            model, isotropic(), n_particles=40, n_steps=20, step_proximity=size
        ).generate(x, 1)
        for size in (0.0, 0.2)
    )
    assert bool((near.distance(near.mean) < far.distance(far.mean)).all())


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    x, model = torch.randn(2, FEATURES).double(), tempered()
    plain, shifted = (
        Counterfactual(f, isotropic(), n_particles=10, n_steps=4).generate(x, 1).particles
        for f in (model, lambda x: model(x) + 5)
    )
    torch.testing.assert_close(shifted, plain, rtol=1e-4, atol=1e-6)


def test_a_model_that_says_nothing_leaves_plain_sampling() -> None:
    x = torch.randn(1, FEATURES).double()
    said, free = (
        Counterfactual(
            lambda x: torch.zeros(len(x), 3).double(), isotropic(), n_particles=10, n_steps=4,
            step_size=size,
        ).generate(x, 1).particles
        for size in (0.2, 0.0)
    )  # fmt: skip
    assert said is not None and free is not None
    assert_same_bits(said, free)


def test_an_input_is_changed_alike_in_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, FEATURES)
    method = Counterfactual(Polynomial(FEATURES), isotropic(), n_particles=10, n_steps=4)
    together = method.generate(x, [1, 0, 2])
    for i, target in enumerate((1, 0, 2)):
        alone = method.generate(x[i : i + 1], target, numbers=[i])
        for name in ("mean", "best", "confidence", "trajectory", "particles"):
            assert_same_bits(getattr(alone, name)[0], getattr(together, name)[i])
    moved = method.generate(x.flip(0), [2, 0, 1], numbers=[2, 1, 0])
    assert_same_bits(moved.particles.flip(0), together.particles)
    # Where not all fit, they come in groups.
    monkeypatch.setattr("pyxai_fast.methods.counterfactual.GROUP_BYTES", 2 * 10 * FEATURES * 4)
    groups = method.generate(x, [1, 0, 2])
    assert_same_bits(groups.particles, together.particles)
    assert_same_bits(groups.spread, together.spread)
    assert bool((together.particles[0] != together.particles[1]).any())


def test_chunks_of_the_model_change_no_bit() -> None:
    x, method = (
        torch.randn(2, FEATURES),
        Counterfactual(Polynomial(FEATURES), isotropic(), n_particles=10, n_steps=4),
    )
    cost = Cost()
    whole = method.generate(x, 1)
    parts = method.generate(x, 1, internal_batch_size=3, cost=cost)
    assert cost.rows_per_chunk == 3
    assert_same_bits(parts.mean, whole.mean)
    assert_same_bits(parts.confidence, whole.confidence)


def test_it_runs_where_the_inputs_are(device: torch.device) -> None:
    x = torch.randn(2, FEATURES)
    expected, found = (
        Counterfactual(
            Polynomial(FEATURES).to(where), isotropic(), n_particles=10, n_steps=4
        ).generate(x.to(where), [1, 2])
        for where in ("cpu", device)
    )
    assert found.best.device.type == found.confidence.device.type == torch.device(device).type
    torch.testing.assert_close(found.mean.cpu(), expected.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.confidence.cpu(), expected.confidence, rtol=1e-3, atol=1e-4)


def test_seeds_repeat() -> None:
    x = torch.randn(2, FEATURES)
    first, again, other = (
        Counterfactual(
            Polynomial(FEATURES), isotropic(), n_particles=10, n_steps=4, seed=seed
        ).generate(x, 1).mean
        for seed in (1, 1, 2)
    )  # fmt: skip
    assert_same_bits(first, again)
    assert not torch.equal(first, other)


def test_inflation_spreads_the_clean_estimates_and_not_the_noise() -> None:
    x, model, seen = torch.randn(1, FEATURES).double(), tempered(), []

    class Watching(GaussianPrior):
        def predict_noise(self, noisy: Tensor, level: int) -> Tensor:
            seen.append(noisy.clone())
            return super().predict_noise(noisy, level)

    prior = Watching(torch.zeros(FEATURES), torch.eye(FEATURES))
    for r in (1.0, 1.5):
        method = Counterfactual(
            model, prior, n_particles=10, n_steps=2, inflation=r, step_size=0, step_proximity=0
        )
        method.generate(x, 1)
    first, plain, again, inflated = seen
    assert_same_bits(again, first)
    step = method.schedule.steps[0]
    clean, _ = denoise(prior, first, step.level)
    torch.testing.assert_close(
        inflated - plain, step.share_next**0.5 * 0.5 * (clean - clean.mean(0))
    )


def test_inflation_keeps_particles_apart() -> None:
    x, model = torch.randn(1, FEATURES).double(), tempered()
    tight, spread = (
        Counterfactual(
            model, isotropic(), n_particles=40, n_steps=20, inflation=r, eta=0
        ).generate(x, 1).spread[0, -1]
        for r in (1.0, 1.05)
    )  # fmt: skip
    assert float(spread) > 1.2 * float(tight)


# --- what is returned ----------------------------------------------------------------------------


def test_everything_is_in_the_callers_units_and_counted() -> None:
    preprocessing = Preprocessing(mean=(0.5,), std=(0.25,), channels=1)
    seen = []

    def model(inputs: Tensor) -> Tensor:
        seen.append(inputs)
        score = inputs.flatten(1).mean(1)
        return torch.stack((score, -score), 1)

    prior = GaussianPrior(torch.full((1, 2, 2), 0.5), torch.eye(4) * 0.04)
    x = torch.full((2, 1, 2, 2), 0.4)
    cost = Cost()
    method = Counterfactual(model, prior, n_particles=20, n_steps=6, preprocessing=preprocessing)
    found = method.generate(x, 0, cost=cost)
    assert cost.queries == sum(map(len, seen)) == 2 * method.evaluations == 2 * (20 * 6 + 2)
    assert cost.denoised == 2 * 20 * 6
    assert set(cost.parts) == {"model", "prior"}
    assert sum(cost.parts.values()) < cost.seconds
    torch.testing.assert_close(seen[0], (x - 0.5) / 0.25)
    torch.testing.assert_close(found.mean_outputs, model((found.mean - 0.5) / 0.25).double())
    assert float(found.mean.mean()) > 0.4
    assert found.particles is not None and found.particles.shape == (2, 20, 1, 2, 2)
    assert found.trajectory is not None and found.trajectory.shape == (2, 6, 1, 2, 2)
    assert found.confidence.shape == found.spread.shape == (2, 6)
    torch.testing.assert_close(found.mean, found.particles.mean(1))
    few = method.generate(x, 0, keep_particles=False, keep_trajectory=False)
    assert few.particles is None and few.trajectory is None
    assert_same_bits(few.best, found.best)


def test_the_best_particle_is_the_nearest_that_flips() -> None:
    x, model = torch.randn(2, FEATURES).double(), tempered()
    wanted = model(x).argmin(1)
    found = Counterfactual(model, isotropic(), n_particles=30, n_steps=20).generate(x, wanted)
    assert found.particles is not None
    for i in range(2):
        hit = model(found.particles[i]).argmax(1) == wanted[i]
        away = (found.particles[i] - x[i]).abs().mean(1)
        expected = found.particles[i][hit][away[hit].argmin()]
        assert_same_bits(found.best[i], expected)
    # Where none does, it is the likeliest.

    def stubborn(x: Tensor) -> Tensor:
        return model(x).detach() + torch.tensor([100.0, 0.0, 0.0])

    found = Counterfactual(stubborn, isotropic(), n_particles=30, n_steps=4).generate(x, 1)
    assert found.particles is not None and not bool(found.flipped.any())
    p = stubborn(found.particles[0]).log_softmax(1)[:, 1]
    assert_same_bits(found.best[0], found.particles[0][p.argmax()])


def test_tables_are_changed_along_their_rows() -> None:
    angle = torch.rand(400, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    circle = torch.stack((angle.cos(), angle.sin()), 1)
    sides = BlackBox(lambda x: torch.stack((4 * x[:, 1], -4 * x[:, 1]), 1))
    method = Counterfactual(
        sides, NearestNeighbourPrior(circle), n_particles=60, n_steps=30, strength=0.5
    )
    found = method.generate(torch.tensor([[0.8, 0.6]]), 1)
    assert bool(found.flipped.all())
    assert float(found.best[0, 1]) < 0
    assert float(found.best.norm()) == pytest.approx(1, abs=0.05)


def test_what_is_saved_is_what_was_found(tmp_path: Path) -> None:
    x = torch.randn(2, FEATURES)
    found = Counterfactual(Polynomial(FEATURES), isotropic(), n_particles=10, n_steps=4).generate(
        x, 1
    )
    file = np.load(found.save(tmp_path / "changed.npz"))
    assert set(file) == {*found.tensors(), "about"}
    assert np.array_equal(file["mean"], found.mean.numpy())
    with pytest.raises(ValueError, match="path must end in"):
        found.save(tmp_path / "changed.txt")


# --- faults --------------------------------------------------------------------------------------


class Broken(GaussianPrior):
    def __init__(self, fault: str) -> None:
        super().__init__(torch.zeros(FEATURES), torch.eye(FEATURES))
        self.fault = fault

    def predict_noise(self, noisy: Tensor, level: int) -> Tensor:
        noise = super().predict_noise(noisy, level)
        return noise * torch.nan if self.fault == "nan" else noise[:, :-1]


def test_faults_are_named() -> None:
    model, x = Linear(FEATURES), torch.rand(2, FEATURES)

    def generate(prior=None, x=x, target=1, model=model, **options):
        method = Counterfactual(
            model, prior or isotropic(), n_particles=10, n_steps=4, strength=0.1
        )
        return method.generate(x, target, **options)

    for prior, message in (
        (Broken("nan"), "must predict finite noise, got nan or inf at level 99"),
        (
            Broken("shape"),
            r"must predict noise of the shape of .*, \[20, 6\], got \[20, 5\]",
        ),
    ):
        with pytest.raises(ValueError, match=f"Counterfactual: the prior {message}"):
            generate(prior)
    for options, message in (
        ({"target": None}, "target must be the class that is wanted"),
        ({"target": Targets(0, 1)}, "target must be the class that is wanted"),
        ({"target": 3}, r"target must be in \[0, 3\)"),
        ({"target": [1, 2, 0]}, "one entry for each of the 2 examples, got 3"),
        ({"x": (x,)}, "inputs must be one tensor"),
        ({"x": x[:0]}, "inputs must hold at least one"),
        ({"internal_batch_size": 0}, "internal_batch_size must be None or an integer >= 1, got 0"),
        ({"numbers": [1]}, r"numbers must be one for each of the 2 inputs, got 1"),
        ({"model": lambda x: x @ x.T * torch.nan}, "the model must answer with finite numbers"),
        ({"model": lambda x: x.sum(1)}, r"must return logits \[B, n\] of n > 1 classes, got \[2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(**options)


def test_a_budget_that_is_too_small_is_refused_before_anything_is_asked() -> None:
    box = BlackBox(Linear(FEATURES), budget=100)
    method = Counterfactual(box, isotropic(), n_particles=10, n_steps=10)
    with pytest.raises(QueryError, match=r"102 queries are needed \(1 inputs, 102 each\)"):
        method.generate(torch.rand(1, FEATURES), 1)
    assert box.queries == 0


def test_a_budget_may_be_smaller_where_answers_are_remembered() -> None:
    method = {"n_particles": 10, "n_steps": 4}
    x = torch.rand(1, FEATURES)
    box = BlackBox(Linear(FEATURES), budget=60, cache=True)
    first = Counterfactual(box, isotropic(), **method).generate(x, 1)
    again = Counterfactual(box, isotropic(), **method).generate(x, 1)
    assert_same_bits(again.mean, first.mean)
    assert box.queries == 42


def test_a_function_that_fails_says_what_was_spent() -> None:
    def breaks(x: Tensor) -> Tensor:
        if len(calls := [*asked, len(x)]) > 2:
            raise RuntimeError("out of order")
        asked[:] = calls
        return x[:, :3]

    asked: list[int] = []
    box = BlackBox(breaks)
    method = Counterfactual(box, isotropic(), n_particles=10, n_steps=4)
    with pytest.raises(QueryError, match="out of order"):
        method.generate(torch.rand(1, FEATURES), 1)
    assert box.queries == 1 + 10 + 10


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_model_that_is_sure_is_guided_all_the_same(coupling: str) -> None:
    """Of e_c - p nothing is left that float32 could hold, and its direction is as good."""
    x, model = torch.randn(2, FEATURES), tempered().float()
    free, sure = (
        Counterfactual(
            lambda x: model(x) * 3e3, isotropic(), n_particles=20, n_steps=8, coupling=coupling,
            step_size=size,
        ).generate(x, model(x).argmax(1))
        for size in (0.0, 0.2)
    )  # fmt: skip
    assert bool(sure.mean.isfinite().all())
    assert bool((sure.mean_outputs - free.mean_outputs).abs().amax(1).gt(10).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_low_precision_is_close_to_float32(dtype: torch.dtype, coupling: str) -> None:
    x = torch.randn(1, FEATURES)
    model = Polynomial(FEATURES)
    short, wide = (
        Counterfactual(
            model, isotropic(), n_particles=40, n_steps=10, coupling=coupling, eta=0
        ).generate(x.to(kind), 1)
        for kind in (dtype, torch.float32)
    )
    assert short.mean.dtype == dtype
    torch.testing.assert_close(short.mean.float(), wide.mean, rtol=0.1, atol=0.1)


def test_particles_that_coincide_are_warned_about() -> None:
    x = torch.rand(1, FEATURES)
    point = GaussianPrior(x[0], torch.zeros(FEATURES, FEATURES))
    with pytest.warns(UserWarning, match=r"particles of inputs \[0\] coincide from step 0 on"):
        Counterfactual(Linear(FEATURES), point, n_particles=10, n_steps=3).generate(x, 1)
    with pytest.warns(UserWarning, match="3 particles span 2 directions"):
        Counterfactual(Linear(FEATURES), point, n_particles=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_particles": 1}, "n_particles must be an integer >= 2, got 1"),
        ({"n_particles": True}, "n_particles must be an integer >= 2, got True"),
        ({"n_steps": 1}, "n_steps must be an integer from 2 to 8192, got 1"),
        ({"strength": 0.0}, r"strength must be in \(0, 1\], got 0.0"),
        ({"strength": 0.01}, r"n_steps must be at most strength \* levels = 10 for this prior"),
        ({"step_size": -1.0}, "step_size must be at least 0, got -1.0"),
        ({"step_proximity": math.nan}, "step_proximity must be at least 0, got nan"),
        ({"eta": 2.0}, r"eta must be in \[0, 1\], got 2.0"),
        ({"inflation": 0.0}, "inflation must be greater than 0, got 0.0"),
        ({"coupling": "all"}, "coupling must be one of ensemble, diagonal, got 'all'"),
        ({"coupling": "diagonal", "n_steps": 70}, r"n_steps must divide strength \* levels = 400"),
        ({"inflation": "much"}, "inflation must be greater than 0, got 'much'"),
        ({"seed": 0.5}, "seed must be an integer, got 0.5"),
        ({"target_score": "prob"}, "target_score must be one of logprob, logit, logit_diff"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"Counterfactual: {message}"):
        Counterfactual(Linear(FEATURES), isotropic(), **options)


# --- pictures ------------------------------------------------------------------------------------


def test_pictures_show_the_way_and_what_changed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    prior = GaussianPrior(torch.full((1, 8, 8), 0.5), torch.eye(64) * 0.04)

    def halves(x: Tensor) -> Tensor:
        score = x[:, 0, :4].mean((1, 2)) - x[:, 0, 4:].mean((1, 2))
        return 20 * torch.stack((score, -score), 1)

    found = Counterfactual(halves, prior, n_particles=20, n_steps=6).generate(
        torch.rand(2, 1, 8, 8), 0, class_names=["above", "below"]
    )
    figure = found.plot(tmp_path / "changed.png")
    assert (tmp_path / "changed.png").stat().st_size > 10_000
    assert len(figure.axes) == 2 * 6 + 1
    written = " ".join(text.get_text() for text in figure.texts)
    assert "above" in written and "step 2" in written and "what changed" in written
    with pytest.raises(ValueError, match=r"inputs must be pictures \[B, 1 or 3, H, W\]"):
        Counterfactual(Linear(FEATURES), isotropic(), n_particles=10, n_steps=4).generate(
            torch.rand(1, FEATURES), 1
        ).plot()

"""The quality benchmark of FreeMCG: its measures in closed form, its baselines, and its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyxai_fast import Counterfactual, Preprocessing, Saliency
from pyxai_fast.models.spec import LoadedModel
from pyxai_fast.priors import GaussianPrior

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks" / "quality"), str(ROOT / "benchmarks")]

pytest.importorskip("matplotlib", reason="plots need matplotlib")
# A package is tested without them too.
gallery, freemcg, maps_of, changes, off_manifold, white_box, page = (
    pytest.importorskip(name, reason="the benchmarks are not here")
    for name in (
        "counterfactual_gallery", "freemcg", "freemcg_maps", "freemcg_counterfactuals",
        "off_manifold", "white_box_counterfactuals", "freemcg_page",
    )
)  # fmt: skip

SIDE, FEATURES = 4, 16


class Linear(nn.Module):
    """Scores of pictures of 16 pixels, three classes that are about as frequent."""

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        weight = torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5).to(self.weight.dtype) @ self.weight.T


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def flat_prior(rank: int, seed: int = 1) -> tuple[GaussianPrior, Tensor]:
    """Pictures in a flat manifold, and an orthonormal basis of it, [16, rank]."""
    axes = torch.randn(FEATURES, rank, generator=torch.Generator().manual_seed(seed)).double()
    axes = torch.linalg.qr(axes).Q
    return GaussianPrior(torch.full((1, SIDE, SIDE), 0.5), axes @ axes.T), axes


# --- off the manifold ----------------------------------------------------------------------------


def test_principal_directions_are_those_the_rows_vary_in() -> None:
    axes = flat_prior(3)[1]
    weights = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0)).double()
    rows = 0.3 + weights @ axes.T
    basis = off_manifold.principal_directions(rows, 3)
    torch.testing.assert_close(basis[0] @ basis[0].T, axes @ axes.T)
    torch.testing.assert_close(basis[1] @ basis[1].T, axes @ axes.T)


def test_shares_outside_are_zero_one_and_those_of_pythagoras() -> None:
    basis = torch.eye(FEATURES).double()[:, :4].expand(3, -1, -1)
    directions = torch.zeros(3, FEATURES)
    directions[0, 2], directions[1, 9] = 5.0, -2.0
    directions[2, 0], directions[2, 10] = 3.0, 4.0
    found = off_manifold.share_outside(directions, basis)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 16 / 25]).double())


def test_neighbours_are_the_nearest_first() -> None:
    pool = torch.arange(5.0)[:, None]
    assert off_manifold.nearest(torch.tensor([[3.2]]), pool, 3).tolist() == [[3, 4, 2]]


# --- maps ----------------------------------------------------------------------------------------


def test_maps_of_a_linear_model_under_a_flat_prior() -> None:
    prior, axes = flat_prior(5)
    loaded, images = LoadedModel(Linear(), None, None, "linear"), pictures(3)
    plan = maps_of.MapPlan(particles=30, levels=(100, 300))
    target = loaded.module(images).argmax(1)
    kinds = maps_of.kinds_of(loaded, maps_of.Remembering(prior), plan, maps_of.Cost())
    maps = {name: kind.attribute(images, target, range(3)).double() for name, kind in kinds.items()}
    outside = {
        name: off_manifold.share_outside(found, axes.expand(3, -1, -1))
        for name, found in maps.items()
    }
    for name in ("FreeMCG, logit", "FreeMCG, log p", "random answers at FreeMCG's particles"):
        assert float(outside[name].max()) < 1e-6
    assert float(outside["gradient"].min()) > 0.1
    # A linear model is its own linear model.
    torch.testing.assert_close(
        maps["FreeMCG, logit"], maps["gradient, through FreeMCG's particles"],
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    torch.testing.assert_close(maps["SmoothGrad"], maps["gradient"], rtol=1e-4, atol=1e-5)
    assert [kind.queries for kind in kinds.values()] == [0, 2, 2, 60, 60, 61, 61, 2, 0]


def test_what_is_drawn_is_each_pictures_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture, explained three times, each time in another batch: if nothing is drawn, its map
    is the same."""
    monkeypatch.setattr(maps_of, "GROUP", 1)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )
    images = pictures(1).repeat(3, 1, 1, 1)
    prior = GaussianPrior(torch.full((1, SIDE, SIDE), 0.5), 0.2 * torch.eye(FEATURES))
    plan = maps_of.MapPlan(
        particles=8, levels=(100, 200), neighbours=10, directions=5, steps=4, fractions=(0.5,)
    )
    found = maps_of.measured_maps(
        LoadedModel(net.eval(), None, None, "net"), prior, images, pictures(60, seed=5), plan
    )
    for row in found["maps"]:
        share = row["off_manifold"]["mean"]
        draws = row["map"] not in ("gradient", "gradient of log p")
        assert (share["high"] - share["low"] > 1e-6) == draws, row["map"]


def test_a_remembering_prior_is_asked_once() -> None:
    class Counting:
        asked = 0

        def predict_noise(self, noisy: Tensor, level: int) -> Tensor:
            self.asked += 1
            return noisy * level

        extra = "its own"

    prior = Counting()
    remembering, noisy = maps_of.Remembering(prior), pictures(2)
    first = remembering.predict_noise(noisy, 2)
    assert torch.equal(remembering.predict_noise(noisy.clone(), 2), first)
    assert prior.asked == 1 and remembering.extra == "its own"
    assert torch.equal(remembering.predict_noise(noisy, 3), noisy * 3)
    assert torch.equal(remembering.predict_noise(noisy + 1, 2), (noisy + 1) * 2)
    assert prior.asked == 3


# --- counterfactuals -----------------------------------------------------------------------------


def test_gradient_guidance_of_a_linear_logit_is_the_step_of_the_equation() -> None:
    """Two classes z and -z: the gradient of log p has the direction of the slope everywhere."""

    class Two(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = x.flatten(1).sum(1) / 10
            return torch.stack((z, -z), 1)

    prior = GaussianPrior(torch.zeros(1, SIDE, SIDE), torch.eye(FEATURES))
    x, size = pictures(2).double(), 0.3
    # Level 199, guided, then level 99, whose clean estimate is the result.
    method = white_box.GradientGuided(
        Two(), prior, n_particles=8, n_steps=2, strength=0.2, step_size=size, step_proximity=0,
        eta=0,
    )  # fmt: skip
    free = Counterfactual(
        Two(), prior, n_particles=8, n_steps=2, strength=0.2, step_size=0, step_proximity=0, eta=0
    )
    guided, plain = (m.generate(x, 0).particles for m in (method, free))
    a, b = (float(prior.shares[level]) for level in (199, 99))
    # The clean estimate is sqrt(share) times the noisy input under this prior.
    moved = (guided - plain) / (a * b) ** 0.5 / b**0.5
    unit = torch.full((FEATURES,), FEATURES**-0.5).double()
    along = moved.flatten(2) @ unit
    torch.testing.assert_close(moved.flatten(2), along[..., None] * unit, rtol=1e-5, atol=1e-7)
    assert float(along.min()) > 0
    # Lengths are shares of the norm of the noise, sqrt(1 - a) times the noisy input.
    noisy = _noisy_of(plain, a, b)
    torch.testing.assert_close(
        along, size * (1 - a) ** 0.5 * noisy.flatten(2).norm(dim=2), rtol=1e-4, atol=1e-6
    )


def _noisy_of(last: Tensor, a: float, b: float) -> Tensor:
    """The noisy particles at the share a that plain DDIM brings to `last`, by way of b."""
    between = (b * a) ** 0.5 + ((1 - b) * (1 - a)) ** 0.5
    return last / b**0.5 / between


class Bent(Linear):
    """Scores whose gradients differ from place to place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sin() * 3


def test_through_a_prior_that_scales_gradients_keep_their_direction() -> None:
    prior = GaussianPrior(torch.full((1, SIDE, SIDE), 0.5), 0.3 * torch.eye(FEATURES))
    x, target = pictures(3).double(), torch.tensor([0, 1, 2])
    found = [
        kind(Bent(), prior, n_particles=8, n_steps=4, strength=0.3).generate(x, target).particles
        for kind in (white_box.GradientGuided, white_box.PriorGradientGuided)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_through_a_flat_prior_gradients_stay_on_the_manifold() -> None:
    prior, axes = flat_prior(5)
    x = (0.5 + 0.3 * torch.randn(2, 5).double() @ axes.T).reshape(2, 1, SIDE, SIDE)
    for kind, stays in ((white_box.GradientGuided, False), (white_box.PriorGradientGuided, True)):
        method = kind(Bent(), prior, n_particles=8, n_steps=3, strength=0.3, step_proximity=0)
        noisy = method.generate(x, 1).particles
        classes = torch.ones(16, dtype=torch.long)
        slopes = method._directions(method.schedule.steps[1], noisy, noisy, classes)
        outside = off_manifold.share_outside(slopes, axes.expand(16, -1, -1))
        assert (float(outside.max()) < 1e-6) == stays


def test_descent_finds_the_nearest_picture_of_the_class() -> None:
    model, images = Linear(), 0.4 + 0.2 * pictures(5)
    target = model(images).argmin(1)
    radii = tuple(0.02 * 1.15**i for i in range(40))
    method = white_box.ProjectedGradientDescent(model, radii, 10)
    best, particles = method.generate(images, target)
    assert particles.shape == (5, 40, 1, SIDE, SIDE)
    length = (particles - images[:, None]).flatten(2).norm(dim=2)
    assert bool((length <= torch.tensor(radii) * (1 + 1e-5)).all())
    assert float(particles.min()) >= 0 and float(particles.max()) <= 1
    taken = model(particles.flatten(0, 1)).argmax(1).reshape(5, 40) == target[:, None]
    assert torch.equal(model(best).argmax(1), target)
    assert bool((taken[:, 0] == 0).all()) and bool(taken[:, -1].all())
    nearest = (particles - images[:, None]).abs().flatten(2).mean(2).masked_fill(~taken, torch.inf)
    torch.testing.assert_close((best - images).abs().flatten(1).mean(1), nearest.amin(1))
    assert method.evaluations == 40 * 21


def test_descent_without_success_returns_the_likeliest() -> None:
    model, images = Linear(), pictures(2)
    target = model(images).argmin(1)
    best, particles = white_box.ProjectedGradientDescent(model, (1e-3, 2e-3), 4).generate(
        images, target
    )
    assert torch.equal(best, particles[:, 1])


def bench_of(judge: LoadedModel | None, plan: Any) -> Any:
    prior = GaussianPrior(torch.full((1, SIDE, SIDE), 0.5), 0.2 * torch.eye(FEATURES))
    pool = pictures(60, seed=5)
    model = Linear()
    labels = model(pool).argmax(1)
    real = changes.real_nearness(
        pictures(60, seed=6), model(pictures(60, seed=6)).argmax(1), pool, labels
    )
    return changes.Bench(
        LoadedModel(model, None, None, "linear"), prior, judge, pool, labels, real, plan
    )


TINY = {
    "particles": 10, "steps": 4, "strengths": (0.2,), "step_sizes": (0.3,), "radii": (1.0, 3.0),
    "search_pictures": 3,
}  # fmt: skip


def test_counterfactuals_are_judged_by_what_they_are() -> None:
    judge = LoadedModel(Linear(seed=3), None, None, "the same")
    bench = bench_of(judge, changes.CounterfactualPlan(**TINY))
    images = pictures(4)
    own = bench.loaded.module(images).argmax(1)
    found = bench.judged(changes.Task(images, own), images)
    assert found["flipped"].tolist() == found["both"].tolist() == [1.0] * 4
    assert found["change"].tolist() == [0.0] * 4
    # A picture of the pool itself is at distance 0; real ones are at 1 on the average.
    of_pool = bench.judged(changes.Task(bench.pool[:4], bench.pool_labels[:4]), bench.pool[:4])
    assert float(of_pool["nearness"].max()) < 1e-6
    moved = bench.judged(changes.Task(images, (own + 1) % 3), (images + 0.25))
    torch.testing.assert_close(moved["change"], torch.full((4,), 0.25).double())
    assert float(moved["nearness"].min()) > 0


def test_every_method_keeps_to_the_same_evaluations() -> None:
    plan = changes.CounterfactualPlan(**TINY)
    bench = bench_of(None, plan)
    images = pictures(4)
    labels = bench.loaded.module(images).argmax(1)
    found = changes.measured_counterfactuals(bench, images, labels, pictures(3, 9), labels[:3])
    rows = found["counterfactuals"]
    assert {row["method"] for row in rows} == {
        "ensemble", "diagonal", "gradient", "gradient through the prior", "pixels, one radius",
        "ensemble, strength 0.4", "unguided", "pixels, nearest",
    }  # fmt: skip
    for row in rows:
        assert 0.7 * plan.evaluations <= row["evaluations"] <= plan.evaluations, row["method"]
        assert "judge" not in row["measures"]
        if row["method"] == "ensemble":
            assert row["minus_ensemble"]["change"]["mean"] == 0
    assert sum(row["chosen"] for row in found["search"]) == 5
    assert found["settings"]["chosen"]["ensemble"] == {"strength": 0.2, "step_size": 0.3}
    by_name = {row["method"]: row for row in rows if row["picture"] == "best"}
    assert by_name["gradient"]["measures"]["flipped"]["mean"] == 1
    assert by_name["pixels, nearest"]["measures"]["flipped"]["mean"] == 1
    nearest, farther = (
        by_name[name]["measures"]["change"]["mean"]
        for name in ("pixels, nearest", "pixels, one radius")
    )
    assert nearest < farther


def test_random_other_classes_are_never_the_own() -> None:
    bench = bench_of(None, changes.CounterfactualPlan(**TINY))
    labels = torch.arange(3).repeat(50)
    other = changes.random_other(bench, pictures(150), labels, 0)
    assert bool((other != labels).all()) and set(other.tolist()) == {0, 1, 2}


# --- the script and its page ---------------------------------------------------------------------


def test_the_script_runs_on_the_demo(tmp_path: Path) -> None:
    for package in ("safetensors", "sklearn"):
        pytest.importorskip(package, reason="the demo needs it")
    image_module = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
    (tmp_path / "own_prior.py").write_text(
        "from pyxai_fast.demo.data import load_digits\n"
        "from pyxai_fast.priors import GaussianPrior\n"
        "def prior():\n"
        "    return GaussianPrior.fit(load_digits('train')[0][:200])\n"
    )
    out, plot = tmp_path / "mcg-demo.json", tmp_path / "mcg-demo.png"
    freemcg.main(
        [
            "--prior", f"python:{tmp_path}/own_prior.py:prior", "--judge", "demo", "--quick",
            "--limit", "3", "--counterfactuals", "2", "--name", "Demo", "--json", str(out),
            "--plot", str(plot),
        ]
    )  # fmt: skip
    text = out.read_text()
    result = json.loads(text)
    assert str(tmp_path) not in text
    assert result["settings"]["accuracy"] > 0.95
    assert result["maps"]["settings"]["pictures"] == 3
    assert result["counterfactuals"]["settings"]["pictures"] == 2
    # The judge is the model itself here.
    for row in result["counterfactuals"]["counterfactuals"]:
        assert row["measures"]["judge"] == row["measures"]["flipped"]
    assert image_module.open(plot).size[0] > 800
    written = page.rendered([out])
    assert "## Demo" in written and "![Maps and counterfactuals](results/mcg-demo.png)" in written
    assert "| FreeMCG, logit | 17 |" in written
    assert "- Ensemble against diagonal, best. Both: " in written


def test_a_gallery_has_every_class_of_every_picture_and_marks_what_was_missed(
    tmp_path: Path,
) -> None:
    prior = GaussianPrior(torch.full((1, SIDE, SIDE), 0.5), 0.2 * torch.eye(FEATURES))
    loaded, images = LoadedModel(Linear(), None, None, "linear"), pictures(2)
    options = gallery._parser().parse_args(
        ["--particles", "8", "--steps", "2", "--strength", "0.1", "--out", str(tmp_path / "x.png")]
    )
    found = gallery.led_everywhere(loaded, prior, images, options)
    assert [one.target.tolist() for one in found] == [[0, 0], [1, 1], [2, 2]]
    figure = gallery.gallery(found, loaded.module(images).argmax(1))
    assert len(figure.axes) == 2 * (1 + 2 * 3)
    thick = [axes.spines["top"].get_linewidth() > 1 for axes in figure.axes]
    assert sum(thick) == sum(int((~one.flipped).sum()) for one in found)


def test_one_of_each_class_is_the_first_that_is_read_right() -> None:
    labels = torch.tensor([1, 0, 1, 2, 0])
    assert gallery.one_of_each(torch.tensor([2, 3, 4]), labels) == [4, 2, 3]


def test_sentences_about_others_turn_the_signs_round() -> None:
    found = page.negated({"mean": 0.2, "low": 0.1, "high": 0.4})
    assert found == {"mean": -0.2, "low": -0.4, "high": -0.1}
    rows = [
        {
            "method": "gradient", "picture": "best", "measures": {"both": {}, "change": {}},
            "minus_ensemble": {
                "both": {"mean": -0.5, "low": -0.6, "high": -0.4},
                "change": {"mean": -0.1, "low": -0.2, "high": -0.05},
            },
        }
    ]  # fmt: skip
    (sentence,) = page.counterfactual_findings(rows, 40)
    assert sentence == (
        "Ensemble against gradient, best. Both: better by 0.500; change: worse by 0.100."
    )


def test_the_stored_page_is_the_rendered_one() -> None:
    folder = ROOT / "benchmarks" / "quality"
    files = sorted((folder / "results").glob("mcg-*.json"))
    assert (folder / "freemcg.md").read_text() == page.rendered(files)


def test_the_gradient_of_the_benchmark_is_that_of_saliency() -> None:
    loaded, images = LoadedModel(Linear(), Preprocessing(channels=1), None, "l"), pictures(2)
    target = loaded.module(images).argmax(1)
    kinds = maps_of.kinds_of(
        loaded, maps_of.Remembering(flat_prior(5)[0]), maps_of.MapPlan(), maps_of.Cost()
    )
    torch.testing.assert_close(
        kinds["gradient"].attribute(images, target, range(2)),
        Saliency(loaded.module).attribute(images, target, abs=False),
    )

"""DiffIG: paths that a diffusion model draws are complete, pinned, and led by their guides."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from path_model_cases import classifier, images, path_model
from torch import Tensor, nn

import pyxai_fast
from pyxai_fast.errors import ArgumentError
from pyxai_fast.gradients import LikelihoodRatio
from pyxai_fast.methods import IntegratedGradients
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.path_models.codec import Features
from pyxai_fast.path_models.guide_labels import entropy
from pyxai_fast.path_models.pace import progress_of
from pyxai_fast.path_models.path_model import PathModel
from pyxai_fast.paths import DiffusionPaths
from pyxai_fast.paths.many_paths import pieces
from pyxai_fast.paths.paced import PacedTrace

GUIDES = {"faithful": 2.0, "sparse": 1.0}


def explained(path: DiffusionPaths, pixels: Tensor, model: Any = None, **options: Any) -> Any:
    method = IntegratedGradients(classifier() if model is None else model, path=path)
    options = {"target": 1, "n_steps": 12, **options}
    return method.attribute(pixels, **options)


def trace_of(path: DiffusionPaths, pixels: Tensor, n_steps: int = 12) -> PacedTrace:
    return path.trace(pixels, torch.zeros(()), n_steps, "gausslegendre")


def blurred() -> Features:
    """Codes that lose much: means over 2 by 2 pixels."""
    return Features(
        lambda x: nn.functional.avg_pool2d(x, 2),
        lambda z: nn.functional.interpolate(z, scale_factor=2, mode="nearest"),
    )


def blurred_model() -> PathModel:
    return path_model(codec=blurred(), shape=(1, 4, 4), grid=2)


# --- what the method promises --------------------------------------------------------------------


@pytest.mark.parametrize("make", [path_model, blurred_model])
def test_attributions_add_up_to_the_difference_of_the_scores(make: Any) -> None:
    path = DiffusionPaths(make(), 3, GUIDES)
    maps, few = explained(path, images(), n_steps=12, return_convergence_delta=True)
    assert maps.shape == (3, 1, 8, 8) and maps.dtype == torch.float32
    many = explained(path, images(), n_steps=96, return_convergence_delta=True)[1]
    assert float(many.abs().max()) < 2e-3
    assert float(many.abs().max()) < float(few.abs().max())


@pytest.mark.parametrize("make", [path_model, blurred_model])
def test_a_tolerance_refines_the_paths_that_were_drawn(make: Any) -> None:
    path, pixels = DiffusionPaths(make(), 2, GUIDES), images().double()
    few = explained(path, pixels, classifier().double(), return_convergence_delta=True)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none is left above the tolerance
        maps, gaps = explained(
            path, pixels, classifier().double(), tolerance=1e-6, return_convergence_delta=True
        )
    way = maps.flatten(1).sum(1) - gaps
    assert bool((gaps.abs() <= 1e-6 * way.abs()).all())
    assert not bool((few.abs() <= 1e-6 * way.abs()).all())


@pytest.mark.parametrize("make", [path_model, blurred_model])
def test_midpoints_are_exact_for_quadratic_scores(make: Any) -> None:
    def quadratic(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.stack([(flat[:, :-1] * flat[:, 1:]).sum(1), flat.square().sum(1)], 1)

    path = DiffusionPaths(make(), 2, GUIDES)
    pixels = images().double()
    _, gaps = explained(path, pixels, quadratic, n_steps=5, return_convergence_delta=True)
    assert float(gaps.abs().max()) < 1e-12


@pytest.mark.parametrize("make", [path_model, blurred_model])
def test_a_linear_score_is_explained_by_its_weights(make: Any) -> None:
    weights = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pixels = images().double()
    maps = explained(
        DiffusionPaths(make(), 2, GUIDES), pixels, lambda x: x.flatten(1) @ weights, target=None
    )
    torch.testing.assert_close(maps, weights.reshape(1, 1, 8, 8) * pixels)


@pytest.mark.parametrize("make", [path_model, blurred_model])
def test_ends_are_the_baseline_and_the_input_themselves(make: Any) -> None:
    pixels = images()
    trace = trace_of(DiffusionPaths(make(), 2, GUIDES), pixels)
    for path in range(2):
        knots = trace.knots(path, slice(0, 3), 0, 4)
        assert knots.shape == (5, 3, 1, 8, 8)
        assert torch.equal(knots[-1], pixels) and bool((knots[0] == 0).all())
        whole = next(pieces(slice(path * 12, path * 12 + 12), 12))
        ends = trace.path_points(whole, slice(0, 3))
        assert torch.equal(ends[-1], pixels) and bool((ends[0] == 0).all())


def test_paths_of_pixels_stay_between_the_ends_and_never_turn_back() -> None:
    pixels = images()
    trace = trace_of(DiffusionPaths(path_model(), 2, {"faithful": 1000.0}), pixels)
    knots = trace.knots(1, slice(0, 3), 0, 4)
    assert bool((knots.diff(dim=0) >= 0).all()) and bool((knots <= pixels).all())


def test_features_that_do_not_change_get_nothing() -> None:
    pixels = images()
    pixels[:, :, 2:5] = 0
    maps = explained(DiffusionPaths(path_model(), 2, GUIDES), pixels)
    assert bool((maps[:, :, 2:5] == 0).all()) and bool((maps[:, :, 5:] != 0).all())


def test_features_that_the_model_ignores_get_nothing() -> None:
    def half(x: Tensor) -> Tensor:
        return x[..., :4].sin().flatten(1).sum(1)

    maps = explained(DiffusionPaths(path_model(), 2, GUIDES), images(), half, target=None)
    assert bool((maps[..., 4:] == 0).all()) and bool((maps[..., :4] != 0).any())


def test_two_implementations_of_a_function_have_one_map() -> None:
    """Though the guides know another one: they are told of paths and ends alone."""

    def one(x: Tensor) -> Tensor:
        return (x.flatten(1).square().sum(1) + 1).log()

    def other(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.log1p((flat.pow(2) / 2).sum(1) + torch.einsum("ri,ri->r", flat, flat) / 2)

    path, pixels = DiffusionPaths(path_model(), 2, GUIDES), images()
    found = [explained(path, pixels, model, target=None) for model in (one, other)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("make", [path_model, blurred_model])
def test_chunks_do_not_change_a_bit(make: Any) -> None:
    """Of a model whose gradients do not depend on the batch."""

    def smooth(x: Tensor) -> Tensor:
        return (x * x * x).flatten(1).sum(1)

    path, pixels = DiffusionPaths(make(), 3, GUIDES), images()
    whole = explained(path, pixels, smooth, target=None, n_steps=13)
    for rows in (1, 4, 7):
        part = explained(path, pixels, smooth, target=None, n_steps=13, internal_batch_size=rows)
        assert torch.equal(part, whole)


def test_a_batch_has_the_maps_of_its_inputs() -> None:
    model, pixels = path_model(), images()
    together = explained(DiffusionPaths(model, 3, GUIDES, numbers=[4, 9, 2]), pixels)
    for i, number in enumerate((4, 9, 2)):
        alone = explained(DiffusionPaths(model, 3, GUIDES, numbers=[number]), pixels[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-6)
    with pytest.raises(ArgumentError, match="numbers must be one for each of the 3 inputs, got 1"):
        explained(DiffusionPaths(model, 3, numbers=[4]), pixels)


def test_a_seed_is_a_set_of_paths() -> None:
    model, pixels = path_model(), images()
    first = explained(DiffusionPaths(model, 2, GUIDES, seed=1), pixels)
    assert torch.equal(explained(DiffusionPaths(model, 2, GUIDES, seed=1), pixels), first)
    assert not torch.equal(explained(DiffusionPaths(model, 2, GUIDES, seed=2), pixels), first)


def test_no_guidance_is_the_diffusion_model_alone() -> None:
    model, pixels = path_model(), images()
    none = explained(DiffusionPaths(model, 2, {}), pixels)
    assert torch.equal(explained(DiffusionPaths(model, 2, {"faithful": 0.0}), pixels), none)
    assert not torch.equal(explained(DiffusionPaths(model, 2, GUIDES), pixels), none)


class _Entropy(nn.Module):
    """Of the attributions of x0 * x1, from (0, 0) to (1, 1), along the path: known exactly."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = spread

    def forward(self, noisy: Tensor, level: Tensor, ends: Tensor) -> Tensor:
        first, second = progress_of(noisy, self.spread).unbind(2)
        share = ((second[:, 1:] + second[:, :-1]) / 2 * first.diff(dim=1)).sum(1)
        share = share.clamp(1e-6, 1 - 1e-6)
        return -(share * share.log() + (1 - share) * (1 - share).log())


def test_guidance_to_sparse_maps_lowers_the_entropy_and_away_raises_it() -> None:
    model = path_model(shape=(2,), grid=None, points=8, spread=0.8, levels=20)
    model = PathModel(model.config)
    model.networks["sparse"] = _Entropy(0.8)
    entropies = {}
    for weight in (-20.0, 0.0, 20.0):
        path = DiffusionPaths(model, 1, {"sparse": weight})
        maps = explained(path, torch.ones(200, 2), lambda x: x[:, 0] * x[:, 1], target=None)
        torch.testing.assert_close(maps.sum(1), torch.ones(200))
        entropies[weight] = float(entropy(maps).mean())
    assert entropies[20.0] < entropies[0.0] - 0.02 < entropies[0.0] < entropies[-20.0]


# --- with the rest of the house ------------------------------------------------------------------


@pytest.mark.parametrize("aggregate", ["median", "variance", "probability"])
def test_paths_are_aggregated(aggregate: str) -> None:
    path = DiffusionPaths(path_model(), 5, GUIDES, aggregate)
    maps = explained(path, images())
    assert maps.shape == (3, 1, 8, 8) and bool(maps.isfinite().all())
    with pytest.raises(ArgumentError, match="return_convergence_delta must be False"):
        explained(path, images(), return_convergence_delta=True)


def test_a_median_is_of_the_maps_of_single_paths() -> None:
    model, pixels = path_model(), images(2)
    trace = trace_of(DiffusionPaths(model, 3, GUIDES), pixels)
    singles = []
    for k in range(3):
        one = DiffusionPaths(model, 3, GUIDES, "mean")
        one.draw = lambda *codes, k=k: trace.tokens[k : k + 1]  # type: ignore[method-assign]
        one.n_paths = 1
        singles.append(explained(one, pixels))
    median = explained(DiffusionPaths(model, 3, GUIDES, "median"), pixels)
    torch.testing.assert_close(median, torch.stack(singles).median(0).values)


def test_pixels_go_through_the_preprocessing() -> None:
    preprocessing = Preprocessing(mean=(0.4,), std=(0.3,), channels=1)
    model, pixels = classifier(), images().double()
    model = model.double()
    path = DiffusionPaths(path_model(), 2, GUIDES)
    inside = IntegratedGradients(model, path=path, preprocessing=preprocessing)
    outside = IntegratedGradients(lambda x: model(preprocessing.normalise(x)), path=path)
    first, gaps = inside.attribute(pixels, target=0, n_steps=40, return_convergence_delta=True)
    torch.testing.assert_close(first, outside.attribute(pixels, target=0, n_steps=40))
    assert float(gaps.abs().max()) < 1e-2


def test_baselines_of_every_form() -> None:
    path, pixels = DiffusionPaths(path_model(), 2, GUIDES), images()
    for baseline in (0.5, torch.full((1, 1, 8, 8), 0.5), torch.full((3, 1, 8, 8), 0.5)):
        maps, gaps = explained(
            path, pixels, baselines=baseline, n_steps=60, return_convergence_delta=True
        )
        assert float(gaps.abs().max()) < 5e-3
    expected = explained(path, pixels, baselines=0.5, n_steps=60)
    torch.testing.assert_close(maps, expected)


def test_several_targets_are_explained_along_the_same_paths() -> None:
    path, pixels = DiffusionPaths(path_model(), 2, GUIDES), images()
    both = explained(path, pixels, target=pyxai_fast.Targets(0, 2))
    for i, target in enumerate((0, 2)):
        torch.testing.assert_close(both[:, i], explained(path, pixels, target=target))


def test_a_model_that_only_answers_is_explained_with_standard_errors() -> None:
    method = IntegratedGradients(
        classifier(),
        path=DiffusionPaths(path_model(), 2, GUIDES),
        gradient=LikelihoodRatio(n_samples=64),
    )
    maps, errors = method.attribute(images(), target=0, n_steps=4, return_standard_error=True)
    assert maps.shape == errors.shape and float(errors.min()) > 0


def test_half_precision_inputs_are_computed_in_single() -> None:
    maps = explained(
        DiffusionPaths(path_model(), 1, GUIDES),
        images().to(torch.bfloat16),
        lambda x: x.float().flatten(1).sum(1),
        target=None,
    )
    torch.testing.assert_close(maps, images().to(torch.bfloat16).float(), rtol=1e-3, atol=1e-4)


def test_the_front_door_knows_it_by_name() -> None:
    model, pixels, paths = classifier(), images(), path_model()
    explanation = pyxai_fast.explain(
        model, pixels, method="diffusion_ig", path_model=paths, n_paths=2, guides=GUIDES, n_steps=8
    )
    path = DiffusionPaths(paths, 2, GUIDES)
    expected = explained(path, pixels, model, target=explanation.target, n_steps=8)
    assert torch.equal(explanation.attributions, expected)
    assert explanation.delta is not None
    with pytest.raises(ArgumentError, match="path_model must be given for diffusion_ig"):
        pyxai_fast.explain(model, pixels, method="diffusion_ig")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_paths": 0}, "n_paths must be an integer >= 1, got 0"),
        ({"max_rows": True}, "max_rows must be an integer >= 1, got True"),
        ({"omega": float("nan")}, "omega must be a number, got nan"),
        ({"aggregate": "max"}, "aggregate must be one of mean"),
        ({"guides": {"spars": 1.0}}, "did you mean sparse"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        DiffusionPaths(path_model(), **options)


def test_calls_that_do_not_fit_say_so() -> None:
    path, pixels = DiffusionPaths(path_model(), 1, {}), images()
    with pytest.raises(ArgumentError, match="n_steps must be at least the path model's 4"):
        explained(path, pixels, n_steps=3)
    with pytest.raises(ArgumentError, match="method must be left alone with DiffusionPaths"):
        explained(path, pixels, method="riemann_left")
    with pytest.raises(ArgumentError, match=r"codes of the path model's shape, \[1, 8, 8\], got"):
        explained(path, images(2, 16), classifier(16))
    with pytest.raises(ArgumentError, match="create_graph must be False"):
        explained(path, pixels, create_graph=True)
    with pytest.raises(ArgumentError, match="inputs must be one tensor, got a tuple"):
        IntegratedGradients(lambda a, b: (a + b).flatten(1), path=path).attribute(
            (pixels, pixels), target=0, n_steps=8
        )
    with pytest.raises(ArgumentError, match="multiply_by_inputs must be True"):
        IntegratedGradients(classifier(), False, path=path)


def test_paths_in_the_latents_of_an_autoencoder(tmp_path: Any) -> None:
    diffusers = pytest.importorskip("diffusers", reason="the autoencoder is one of diffusers")
    pytest.importorskip("safetensors", reason="a path model is saved as safetensors")
    from pyxai_fast.path_models.codec import Latents

    torch.manual_seed(0)
    autoencoder = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(4, 4),
        latent_channels=2,
        norm_num_groups=2,
        scaling_factor=0.5,
    )
    model = path_model(codec=Latents(autoencoder), shape=(2, 4, 4), grid=None)
    path = DiffusionPaths(model, 2, GUIDES)
    maps, gaps = explained(path, images(), n_steps=120, return_convergence_delta=True)
    # The decoder's points lie far off the line: the first and the last stretch are long.
    assert float(gaps.abs().max()) < 5e-2
    trace = trace_of(path, images())
    assert torch.equal(trace.knots(0, slice(0, 3), 2, 4)[-1], images())
    model.save_pretrained(tmp_path)
    again = PathModel.from_pretrained(tmp_path)
    torch.testing.assert_close(
        explained(DiffusionPaths(again, 2, GUIDES), images(), n_steps=120), maps
    )

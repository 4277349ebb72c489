"""Path models: paces, the data they learn from, their guides' labels, and how paths are drawn."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from path_model_cases import classifier, images, path_model
from torch import Tensor, nn

from pyxai_fast import ops
from pyxai_fast.errors import ArgumentError
from pyxai_fast.methods import IntegratedGradients
from pyxai_fast.models.errors import ModelNotFound, ModelSpecError
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.path_models.codec import Features, Pixels
from pyxai_fast.path_models.config import PathModelConfig
from pyxai_fast.path_models.guide_labels import SHARES, entropy, faithfulness, label_paths
from pyxai_fast.path_models.pace import progress_of, tokens_of
from pyxai_fast.path_models.path_data import (
    draw_concentrations,
    spread_of,
    stick_breaking_tokens,
)
from pyxai_fast.path_models.path_model import PathModel
from pyxai_fast.path_models.path_transformer import PathDenoiser
from pyxai_fast.path_models.recipe import PathRecipe
from pyxai_fast.path_models.sampling import check_guides, sample_paths
from pyxai_fast.paths.paced import GivenPaths

ENDS = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(2))

# --- paces ---------------------------------------------------------------------------------------


def test_tokens_are_increments_and_back() -> None:
    progress = torch.tensor([[0.0, 0.0], [0.5, 0.1], [0.75, 0.2], [1.0, 1.0]])
    tokens = tokens_of(progress, spread=2.0)
    expected = torch.tensor([[0.25, -0.35], [-0.125, -0.35], [-0.125, 0.7]])
    torch.testing.assert_close(tokens, expected)
    torch.testing.assert_close(progress_of(tokens, 2.0), progress)


@pytest.mark.parametrize("size", [0.1, 1.0, 100.0])
def test_any_tokens_are_a_path_that_rises_from_0_to_1(size: float) -> None:
    torch.manual_seed(0)
    progress = progress_of(size * torch.randn(50, 7, 3), 1.5)
    assert progress.shape == (50, 8, 3)
    assert bool((progress[:, 0] == 0).all()) and bool((progress[:, -1] == 1).all())
    assert bool((progress.diff(dim=1) >= 0).all())


def test_tokens_without_a_way_forward_are_the_straight_line() -> None:
    progress = progress_of(torch.full((1, 4, 1), -10.0), 1.0)
    assert progress.flatten().tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_paces_of_a_grid_are_spread_over_the_code() -> None:
    config = PathModelConfig((3, 8, 8), grid=4, points=2, width=4, heads=1)
    assert config.pace_shape == (1, 4, 4) and config.features == 16
    ends = torch.stack([torch.zeros(16), torch.ones(16)])
    fine = config.over_code(ends)
    assert fine.shape == (2, 3, 8, 8) and fine.unique().tolist() == [0, 1]
    some = config.over_code(torch.rand(1, 16))
    assert torch.equal(some[:, 0], some[:, 2])  # channels go together
    own = PathModelConfig((3, 8, 8), grid=None, points=2, width=4, heads=1)
    rows = torch.rand(2, own.features)
    assert torch.equal(own.over_code(rows).flatten(1), rows)
    row = PathModelConfig((5,), grid=None, points=2, width=4, heads=1)
    assert row.features == 5 and row.over_code(torch.rand(2, 5)).shape == (2, 5)


def test_the_guides_see_means_over_cells() -> None:
    config = PathModelConfig((1, 4, 4), grid=2, points=2, width=4, heads=1, ends=(0.5, 2.0))
    code = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert config.seen(code).tolist() == [[1.0, 2.0, 5.0, 6.0]]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"points": 0}, "points must be a whole number of at least 1, got 0"),
        ({"heads": 3}, r"width must be a multiple of heads \(3\), got 4"),
        ({"levels": 1001}, "levels must be at most 1000"),
        ({"shape": (2, 3)}, r"shape must be \(C, H, W\) or \(D,\)"),
        ({"shape": (6,), "grid": 2}, "grid must be None"),
    ],
)
def test_a_config_says_what_is_wrong(wrong: dict[str, object], said: str) -> None:
    given = {"shape": (1, 4, 4), "grid": 2, "points": 2, "width": 4, "heads": 1}
    with pytest.raises(ArgumentError, match=said):
        PathModelConfig(**(given | wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"alphas": (3.0, 1.0)}, "alphas must be two positive numbers, the smaller first"),
        ({"output": "class"}, "output must be one of logit"),
        ({"heads": 7}, r"width must be a multiple of heads \(7\)"),
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"points": 10}, "points must be a power of 2, got 10"),
        ({"held_out": 1.0}, "held_out must be between 0 and 1"),
    ],
)
def test_a_recipe_says_what_is_wrong(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ArgumentError, match=f"PathRecipe: {said}"):
        PathRecipe(**wrong)  # type: ignore[arg-type]


# --- data ----------------------------------------------------------------------------------------


def test_path_data_have_the_moments_of_stick_breaking() -> None:
    """F(t) ~ Beta(alpha t, alpha (1 - t)): variance t (1 - t) / (alpha + 1)."""
    config = PathModelConfig((1, 16, 16), grid=None, points=8, width=4, heads=1)
    for alpha in (1.0, 20.0):
        tokens = stick_breaking_tokens(config, torch.full((16,), alpha), seed=0)
        progress = progress_of(tokens, config.spread)
        middle = progress[:, 2].flatten()  # t = 1 / 4 of 4096 features
        variance = 3 / 16 / (alpha + 1)
        assert float(middle.mean()) == pytest.approx(1 / 4, abs=4 * math.sqrt(variance / 4096))
        assert float(middle.var()) == pytest.approx(variance, rel=0.12)


def test_the_spread_makes_tokens_of_unit_variance() -> None:
    alphas = (1.0, 20.0)
    spread = spread_of(alphas, 8)
    config = PathModelConfig((1, 8, 8), None, points=8, width=4, heads=1, spread=spread)
    drawn = draw_concentrations(256, alphas, torch.Generator().manual_seed(0))
    assert alphas[0] <= float(drawn.min()) < float(drawn.max()) <= alphas[1]
    tokens = stick_breaking_tokens(config, drawn, seed=1)
    assert float(tokens.var()) == pytest.approx(1, rel=0.1)
    assert spread_of((3.0, 3.0), 9) == pytest.approx(math.sqrt(8 / 4))


def test_steps_of_path_data_are_alike() -> None:
    """All equally long, and exchangeable: the mean and the variance of a token are those of any."""
    spread = spread_of((3.0, 3.0), 8)
    config = PathModelConfig((1, 16, 16), None, points=8, width=4, heads=1, spread=spread)
    tokens = stick_breaking_tokens(config, torch.full((64,), 3.0), seed=0)
    of_a_step = tokens.transpose(0, 1).flatten(1)  # 16384 numbers each
    assert float(of_a_step.mean(1).abs().max()) < 5 / 128
    assert float((of_a_step.var(1) - 1).abs().max()) < 0.15


def test_path_data_depend_on_number_and_concentration_alone() -> None:
    config = PathModelConfig((4,), None, points=4, width=4, heads=1)
    alphas = torch.tensor([1.0, 5.0, 1.0, 2.0])
    all_at_once = stick_breaking_tokens(config, alphas, seed=3)
    parts = [
        stick_breaking_tokens(config, alphas[i : i + 1], 3, numbers=torch.tensor([i]))
        for i in range(4)
    ]
    assert torch.equal(all_at_once, torch.cat(parts))
    assert not torch.equal(all_at_once, stick_breaking_tokens(config, alphas, seed=3, part=1))


# --- labels --------------------------------------------------------------------------------------


def test_entropy_of_known_attributions() -> None:
    maps = torch.tensor([[1.0, 0, 0, 0], [1, -1, 1, -1], [3, -1, 0, 0], [0, 0, 0, 0]])
    known = [0, math.log(4), -0.75 * math.log(0.75) - 0.25 * math.log(0.25), 0]
    assert entropy(maps).tolist() == pytest.approx(known, abs=1e-9)


def test_faithfulness_is_what_its_equation_says() -> None:
    model, pixels = classifier(), images()
    maps = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 2, 1])
    found = faithfulness(model, pixels, 0.25, maps, target)
    for i in range(3):
        order = maps[i].flatten().argsort(descending=True)
        gains = []
        for share in SHARES:
            kept = torch.zeros(64)
            kept[order[: round(share * 64)]] = 1
            kept = kept.reshape(1, 1, 8, 8)
            inserted = torch.where(kept == 1, pixels[i], torch.tensor(0.25))
            deleted = torch.where(kept == 1, torch.tensor(0.25), pixels[i])
            with torch.no_grad():
                p, q = (model(x).double().softmax(1)[0, target[i]] for x in (inserted, deleted))
            gains.append(float(p - q))
        assert float(found[i]) == pytest.approx(sum(gains) / len(gains), abs=1e-6)


def test_faithfulness_sees_pixels_through_the_preprocessing() -> None:
    model, pixels, target = classifier(), images(), torch.tensor([0, 1, 2])
    preprocessing = Preprocessing(mean=(0.4,), std=(0.3,), channels=1)
    maps = images(3).flip(0)
    found = faithfulness(model, pixels, 0.0, maps, target, preprocessing)
    normalised = preprocessing.normalise(pixels)
    black = preprocessing.normalise(torch.zeros(1, 1, 8, 8))
    expected = faithfulness(model, normalised, black, maps, target)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_labels_are_of_the_attributions_along_the_path() -> None:
    model, pixels, target = classifier(), images(), torch.tensor([0, 1, 2])
    config = path_model().config
    tokens = stick_breaking_tokens(config, torch.full((3,), 2.0), 0)
    labels = label_paths(model, pixels, 0.0, tokens, config, Pixels(), target=target)
    path = GivenPaths(tokens[None], config, Pixels())
    maps = IntegratedGradients(model, path=path).attribute(pixels, 0, target, n_steps=4)
    assert torch.equal(labels[:, 1], entropy(maps).float())
    assert torch.equal(labels[:, 0], faithfulness(model, pixels, 0.0, maps, target).float())


# --- networks ------------------------------------------------------------------------------------


def test_an_untrained_denoiser_is_that_of_white_noise() -> None:
    model = PathModel(path_model().config)
    noisy = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    share = float(model.shares[3])
    torch.testing.assert_close(model.noise(noisy, 3), math.sqrt(1 - share) * noisy)


def test_networks_know_the_level_the_order_and_the_ends() -> None:
    model = path_model()
    noisy = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    ends = torch.randn(2, 2, 16, generator=torch.Generator().manual_seed(1))
    assert model.noise(noisy, 1).shape == noisy.shape
    assert not torch.allclose(model.noise(noisy, 1), model.noise(noisy, 4))
    turned = model.noise(noisy.flip(1), 1).flip(1)
    assert not torch.allclose(model.noise(noisy, 1), turned)
    for name in ("faithful", "sparse"):
        score = model.score(name, noisy, 1, ends)
        assert score.shape == (2,)
        assert not torch.allclose(score, model.score(name, noisy, 1, ends.flip(1)))
        assert not torch.allclose(score, model.score(name, noisy.flip(1), 1, ends))


def test_rows_do_not_hear_each_other() -> None:
    model = path_model()
    noisy = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))
    together = model.noise(noisy, 2)
    for i in range(3):
        torch.testing.assert_close(model.noise(noisy[i : i + 1], 2), together[i : i + 1])


def test_networks_are_compiled_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile(network: nn.Module, mode: str) -> nn.Module:
        compiled.append(mode)
        return network

    monkeypatch.setattr(torch, "compile", compile)
    model = PathModel(path_model().config, compile=True)
    sample_paths(model, ENDS, 1, {"sparse": 1.0})
    assert compiled == ["default", "default"]  # those that were asked, once
    PathModel(path_model().config).noise(torch.zeros(1, 4, 16), 0)
    assert len(compiled) == 2


# --- save and load -------------------------------------------------------------------------------


def test_a_path_model_comes_back_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="a path model is saved as safetensors")
    model = path_model()
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"path_model.json", "path_model.safetensors"}
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    again = PathModel.from_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.config == model.config and repr(again) == repr(model)
    state, found = model.networks.state_dict(), again.networks.state_dict()
    assert state.keys() == found.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    ends = torch.zeros(2, 2, 16)
    guides = {"faithful": 3.0}
    assert torch.equal(sample_paths(again, ends, 2, guides), sample_paths(model, ends, 2, guides))


def test_paths_between_features_need_their_codec_again(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="a path model is saved as safetensors")
    codec = Features(lambda x: x.flatten(1), lambda z: z.reshape(-1, 1, 8, 8))
    path_model(codec=codec, shape=(64,), grid=None).save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match=r"codec must be given with paths between features"):
        PathModel.from_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match=r"codec must be of the kind .* features, got Pixels"):
        PathModel.from_pretrained(tmp_path, codec=Pixels())
    assert PathModel.from_pretrained(tmp_path, codec=codec).config.codec == "features"


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="a path model is saved as safetensors")
    with pytest.raises(ModelNotFound, match="train-paths makes one"):
        PathModel.from_pretrained(tmp_path)
    path_model().save_pretrained(tmp_path)
    (tmp_path / "path_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelSpecError, match="the path model cannot be read"):
        PathModel.from_pretrained(tmp_path)


# --- sampling ------------------------------------------------------------------------------------


def test_no_guidance_has_the_bits_of_the_diffusion_model_alone() -> None:
    model = path_model()
    alone = sample_paths(model, ENDS, 2)
    assert alone.shape == (2, 3, 4, 16)
    zero = {"faithful": 0.0, "sparse": 0}
    assert torch.equal(sample_paths(model, ENDS, 2, zero), alone)
    assert torch.equal(sample_paths(model, ENDS, 2, {"sparse": 5.0}, omega=0.0), alone)
    assert not torch.equal(sample_paths(model, ENDS, 2, {"sparse": 5.0}), alone)
    # It knows nothing of the input.
    assert torch.equal(sample_paths(model, torch.zeros_like(ENDS), 2), alone)


def test_an_input_has_its_paths_in_every_batch() -> None:
    model, guides = path_model(), {"faithful": 2.0, "sparse": 1.0}
    together = sample_paths(model, ENDS, 3, guides, seed=4)
    for i in range(3):
        alone = sample_paths(model, ENDS[i : i + 1], 2, guides, seed=4, numbers=torch.tensor([i]))
        torch.testing.assert_close(alone, together[:2, i : i + 1], rtol=1e-4, atol=1e-5)
    parts = sample_paths(model, ENDS, 3, guides, seed=4, max_rows=3)
    torch.testing.assert_close(parts, together, rtol=1e-4, atol=1e-5)
    same = sample_paths(model, ENDS, 3, guides, seed=4, numbers=torch.tensor([7, 7, 8]))
    assert not torch.allclose(same, together)
    assert not torch.equal(sample_paths(model, ENDS, 3, guides, seed=5), together)


def test_a_sampler_of_white_noise_draws_white_noise() -> None:
    """An untrained model's paths: normal tokens, but for those clipped to what tokens can be."""
    config = PathModelConfig((1, 8, 8), None, points=400, width=4, heads=1, levels=50, spread=0.1)
    model = PathModel(config)
    tokens = sample_paths(model, torch.zeros(1, 2, 64), 1)
    assert float(tokens.mean()) == pytest.approx(0, abs=0.03)
    # 50 steps of DDPM give up some of the variance.
    assert 0.8 < float(tokens.std()) < 1.05


class _Sum(nn.Module):
    """A guide whose score is known: the first token's sum."""

    def forward(self, noisy: Tensor, level: Tensor, ends: Tensor) -> Tensor:
        return noisy[:, 0].sum(1)


def test_guidance_is_the_slope_times_the_posterior_variance() -> None:
    """With one guided level the shift of the mean is what the equation says, to the bits' end."""
    model = PathModel(path_model(levels=2).config)
    model.networks["faithful"] = _Sum()
    base = sample_paths(model, ENDS, 1)
    led = sample_paths(model, ENDS, 1, {"faithful": 0.5})
    first, second = model.shares.tolist()
    variance = (1 - second / first) * (1 - first) / (1 - second)
    # What the last level makes of a shift: the denoiser of white noise keeps this share of it.
    kept = math.sqrt(first)
    shift = torch.zeros_like(base)
    shift[:, :, 0] = 0.5 * variance * kept
    torch.testing.assert_close(led - base, shift, rtol=1e-4, atol=1e-6)
    sparse = model.networks
    sparse["sparse"] = _Sum()
    away = sample_paths(model, ENDS, 1, {"sparse": 0.5})
    torch.testing.assert_close(away - base, -shift, rtol=1e-4, atol=1e-6)


def test_guides_are_checked() -> None:
    assert check_guides("x", {"faithful": 1, "sparse": 0}) == {"faithful": 1.0}
    with pytest.raises(ArgumentError, match=r"guides must be among .* did you mean faithful\?"):
        check_guides("x", {"faithfull": 1.0})
    with pytest.raises(ArgumentError, match="the weight of sparse must be a number, got 'a'"):
        check_guides("x", {"sparse": "a"})  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match="guides must be weights by name"):
        check_guides("x", ["sparse"])  # type: ignore[arg-type]


def test_noise_is_that_of_the_counter() -> None:
    """The start of an unguided path at the only level there is: nothing but this noise."""
    model = PathModel(path_model(levels=1).config)
    (share,) = model.shares.tolist()
    still = torch.zeros(3, 4, 16)
    noise = ops.perturb(still, 2, 1.0, ops.random_key(6, 2**14)).unflatten(0, (2, 3))
    # Of white noise the denoiser keeps sqrt(share), which is (1 - (1 - share)) / sqrt(share).
    clean = (math.sqrt(share) * noise).clamp(*model.bounds)
    torch.testing.assert_close(sample_paths(model, ENDS, 2, seed=6), clean)


def test_the_denoiser_keeps_its_shares_out_of_the_file() -> None:
    model = path_model()
    network = model.networks["paths"]
    assert isinstance(network, PathDenoiser)
    assert not any("shares" in name for name in model.networks.state_dict())

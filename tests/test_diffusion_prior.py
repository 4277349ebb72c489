"""DiffusionPrior: what networks of diffusers know, whatever pipeline they come in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from assertions import assert_same_bits
from diffusion_nets import Flat, conditional_unet, kl_autoencoder, tiny_autoencoder, unet, vq_model
from nets import conv_net
from torch import Tensor

import pyxai_fast
from pyxai_fast import Saliency
from pyxai_fast.gradients import FreeMCG
from pyxai_fast.models.errors import MissingDependency, ModelNotFound, ModelSpecError
from pyxai_fast.priors import DiffusionPrior, linear_schedule, sample

LEVEL = 200


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return pytest.importorskip("diffusers", reason="diffusion models are those of diffusers")


@pytest.fixture
def ddpm(diffusers: Any) -> DiffusionPrior:
    return DiffusionPrior(unet(), diffusers.DDPMScheduler())


def noisy_of(prior: DiffusionPrior, rows: int = 3) -> Tensor:
    assert prior.shape is not None
    return torch.randn(rows, *prior.shape, generator=torch.Generator().manual_seed(0))


def answer_of(network: Any, noisy: Tensor, **conditions: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = network(noisy, torch.tensor([LEVEL] * len(noisy)), **conditions).sample
    return found


# --- pipelines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_pipelines_of_pixels_load(kind: str, diffusers: Any, tmp_path: Path) -> None:
    network = unet(channels=3)
    scheduler = getattr(diffusers, f"{kind}Scheduler")()
    getattr(diffusers, f"{kind}Pipeline")(network, scheduler).save_pretrained(tmp_path)
    before = torch.random.get_rng_state()
    prior = DiffusionPrior.from_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    noisy = noisy_of(prior)
    assert_same_bits(prior.predict_noise(noisy, LEVEL), answer_of(network, noisy))
    assert prior.bounds == (-1, 1) and prior.shape == (3, 8, 8)
    assert repr(prior) == "DiffusionPrior(UNet2DModel, 3 channels of pixels, 8x8, predicts epsilon)"


def test_repositories_with_everything_at_the_top_load(diffusers: Any, tmp_path: Path) -> None:
    network = unet()
    network.save_pretrained(tmp_path)
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    prior = DiffusionPrior.from_pretrained(str(tmp_path))
    noisy = noisy_of(prior)
    assert_same_bits(prior.predict_noise(noisy, LEVEL), answer_of(network, noisy))


def test_a_unet_alone_loads_with_a_scheduler(diffusers: Any, tmp_path: Path) -> None:
    network = unet()
    network.save_pretrained(tmp_path)
    with pytest.raises(ModelSpecError, match=r"has no scheduler .* give the one"):
        DiffusionPrior.from_pretrained(tmp_path)
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    prior = DiffusionPrior.from_pretrained(tmp_path, scheduler=scheduler)
    noisy = noisy_of(prior)
    assert_same_bits(prior.predict_noise(noisy, LEVEL), answer_of(network, noisy))
    torch.testing.assert_close(prior.shares.float(), scheduler.alphas_cumprod)


def test_latent_diffusion_loads(diffusers: Any, tmp_path: Path) -> None:
    autoencoder, network = vq_model(), unet(channels=3)
    diffusers.LDMPipeline(autoencoder, network, diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    prior = DiffusionPrior.from_pretrained(tmp_path)
    noisy = noisy_of(prior)
    assert_same_bits(prior.predict_noise(noisy, LEVEL), answer_of(network, noisy))
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = autoencoder.encode(pixels * 2 - 1).latents * 0.5
        decoded = autoencoder.decode(expected / 0.5).sample / 2 + 0.5
    latents = prior.encode(pixels)
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(prior.decode(latents), decoded.clamp(0, 1))
    assert prior.bounds is None and prior.shape == (3, 8, 8)


def tokenizer_and_encoder(tmp_path: Path) -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers", reason="prompts are read by transformers")
    letters = [chr(i) for i in range(97, 123)]
    tokens = [*letters, *(f"{x}</w>" for x in letters), "ab", "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    tokenizer = transformers.CLIPTokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=7
    )
    torch.manual_seed(4)
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=7,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return tokenizer, transformers.CLIPTextModel(config).eval()


def test_stable_diffusion_is_asked_with_the_empty_prompt(diffusers: Any, tmp_path: Path) -> None:
    tokenizer, encoder = tokenizer_and_encoder(tmp_path)
    autoencoder, network = kl_autoencoder(), conditional_unet()
    scheduler = diffusers.PNDMScheduler(
        beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    diffusers.StableDiffusionPipeline(
        autoencoder, encoder, tokenizer, network, scheduler, None, None, None, False
    ).save_pretrained(tmp_path / "sd")
    prior = DiffusionPrior.from_pretrained(tmp_path / "sd", max_rows=2)
    ids = tokenizer("", padding="max_length", max_length=7, return_tensors="pt").input_ids
    with torch.no_grad():
        embedding = encoder(ids)[0]
    noisy = noisy_of(prior)
    expected = answer_of(network, noisy, encoder_hidden_states=embedding.expand(3, -1, -1))
    torch.testing.assert_close(prior.predict_noise(noisy, LEVEL), expected, rtol=1e-4, atol=1e-5)
    pixels = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        code = autoencoder.encode(pixels * 2 - 1).latent_dist.mode() * 0.18215
    torch.testing.assert_close(prior.encode(pixels), code, rtol=1e-4, atol=1e-5)
    assert prior.decode(code).shape == pixels.shape and prior.bounds is None
    half = DiffusionPrior.from_pretrained(tmp_path / "sd", dtype=torch.float16)
    assert half.unet.dtype == torch.float16
    assert half.latents is not None and half.latents.autoencoder.dtype == torch.float32
    torch.testing.assert_close(half.predict_noise(noisy, LEVEL), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(half.encode(pixels), prior.encode(pixels))


# --- what a network answers ----------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ways_of_answering_say_the_same(prediction: str, diffusers: Any) -> None:
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction)
    prior = DiffusionPrior(Flat(linear_schedule(), prediction), scheduler)
    noisy = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    for level in (0, 300, 999):
        a = float(linear_schedule()[level])
        expected = (1 - a) ** 0.5 / (a * 0.3 + 1 - a) * noisy
        found = prior.predict_noise(noisy, level)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_shares_are_multiplied_in_float64(diffusers: Any) -> None:
    scheduler = diffusers.DDPMScheduler()
    prior = DiffusionPrior(unet(), scheduler)
    assert prior.shares.dtype == torch.float64
    torch.testing.assert_close(prior.shares, scheduler.betas.double().neg().add(1).cumprod(0))
    torch.testing.assert_close(prior.shares, linear_schedule(), rtol=1e-5, atol=0)
    ends = diffusers.DDPMScheduler(rescale_betas_zero_snr=True)
    assert float(DiffusionPrior(unet(), ends).shares[-1]) == 2.0**-24


def test_shares_may_be_given(ddpm: DiffusionPrior) -> None:
    prior = DiffusionPrior(ddpm.unet, linear_schedule())
    noisy = noisy_of(prior)
    assert_same_bits(prior.predict_noise(noisy, LEVEL), ddpm.predict_noise(noisy, LEVEL))


def test_variances_are_left_out(diffusers: Any) -> None:
    network = unet(channels=3, out=6)
    prior = DiffusionPrior(network, diffusers.DDPMScheduler(variance_type="learned_range"))
    noisy = noisy_of(prior)
    assert_same_bits(prior.predict_noise(noisy, LEVEL), answer_of(network, noisy)[:, :3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_low_precision_answer_in_the_callers(
    dtype: torch.dtype, diffusers: Any, tmp_path: Path
) -> None:
    diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    exact = DiffusionPrior.from_pretrained(tmp_path)
    prior = DiffusionPrior.from_pretrained(tmp_path, dtype=dtype)
    assert next(prior.unet.parameters()).dtype == dtype
    for wide in (torch.float32, torch.float64):
        noisy = noisy_of(prior).to(wide)
        found = prior.predict_noise(noisy, LEVEL)
        assert found.dtype == wide
        expected = exact.predict_noise(noisy.float(), LEVEL)
        error = (found.float() - expected).norm() / expected.norm()
        assert 0 < float(error) < 0.05


def test_batches_and_layouts_change_nothing_but_rounding(diffusers: Any) -> None:
    network = unet(channels=3)
    plain = DiffusionPrior(network, diffusers.DDPMScheduler())
    noisy = noisy_of(plain, rows=7)
    expected = plain.predict_noise(noisy, LEVEL)
    for options in ({"max_rows": 1}, {"max_rows": 3}, {"channels_last": True}):
        prior = DiffusionPrior(unet(channels=3), diffusers.DDPMScheduler(), **options)
        found = prior.predict_noise(noisy, LEVEL)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert plain.predict_noise(noisy[:0], LEVEL).shape == (0, 3, 8, 8)


def test_a_network_is_compiled_once_when_it_is_first_asked(
    diffusers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def compile(network: Any) -> Any:
        compiled.append(network)
        return network

    monkeypatch.setattr(torch, "compile", compile)
    prior = DiffusionPrior(unet(), diffusers.DDPMScheduler(), compile=True)
    assert compiled == []
    for level in (100, 200):
        prior.predict_noise(noisy_of(prior), level)
    assert compiled == [prior.unet]


def test_networks_are_frozen(diffusers: Any) -> None:
    network = unet(dropout=0.5).train()
    prior = DiffusionPrior(network, diffusers.DDPMScheduler())
    noisy = noisy_of(prior).requires_grad_()
    found = prior.predict_noise(noisy, LEVEL)
    assert not found.requires_grad
    assert_same_bits(found, prior.predict_noise(noisy, LEVEL))
    assert not any(p.requires_grad for p in network.parameters())


def test_a_class_that_stands_for_none(diffusers: Any) -> None:
    network = unet(num_class_embeds=4)
    prior = DiffusionPrior(network, diffusers.DDPMScheduler(), class_label=3)
    noisy = noisy_of(prior)
    expected = answer_of(network, noisy, class_labels=torch.tensor([3] * 3))
    torch.testing.assert_close(prior.predict_noise(noisy, LEVEL), expected)


# --- the two spaces ------------------------------------------------------------------------------


def test_pixels_and_the_priors_space_are_inverses(ddpm: DiffusionPrior) -> None:
    for dtype in (torch.float32, torch.float64):
        pixels = torch.rand(2, 1, 8, 8, dtype=dtype)
        inside = ddpm.encode(pixels)
        assert inside.dtype == dtype
        torch.testing.assert_close(inside, pixels * 2 - 1)
        torch.testing.assert_close(ddpm.decode(inside), pixels)


@pytest.mark.parametrize("size", [(20, 12), 6])
def test_pictures_of_another_size_are_resized_there_and_back(size: Any, diffusers: Any) -> None:
    prior = DiffusionPrior(unet(), diffusers.DDPMScheduler(), image_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    rows = torch.linspace(0, 1, height)[:, None].expand(height, width)
    pixels = rows.expand(2, 1, height, width)
    inside = prior.encode(pixels)
    assert inside.shape == (2, 1, 8, 8)
    back = prior.decode(inside)
    assert back.shape == pixels.shape
    # A ramp is what bilinear filters keep, but for the edges.
    torch.testing.assert_close(back, pixels, rtol=0, atol=0.12)
    assert float(inside.min()) >= -1 and float(inside.max()) <= 1
    torch.testing.assert_close(prior.encode(pixels * 0 + 0.25), torch.full((2, 1, 8, 8), -0.5))
    half = prior.encode(pixels.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("autoencoder", [vq_model, tiny_autoencoder])
def test_latents_of_pictures_of_another_size(autoencoder: Any, diffusers: Any) -> None:
    prior = DiffusionPrior(
        unet(channels=3), diffusers.DDPMScheduler(), autoencoder(), image_size=20, max_rows=1
    )
    pixels = torch.rand(2, 3, 20, 20)
    latents = prior.encode(pixels)
    assert latents.shape == (2, 3, 8, 8)
    found = prior.decode(latents)
    assert found.shape == pixels.shape
    assert float(found.min()) >= 0 and float(found.max()) <= 1


def test_networks_without_a_size_take_what_they_can_halve(diffusers: Any) -> None:
    prior = DiffusionPrior(unet(size=None), diffusers.DDPMScheduler())
    assert prior.shape is None and "any size" in repr(prior)
    assert prior.encode(torch.rand(1, 1, 12, 10)).shape == (1, 1, 12, 10)
    with pytest.raises(ValueError, match=r"sides that are multiples of 2, got \[1, 1, 12, 9\]"):
        prior.encode(torch.rand(1, 1, 12, 9))
    given = DiffusionPrior(unet(size=None), diffusers.DDPMScheduler(), image_size=(12, 10))
    pixels = torch.rand(1, 1, 12, 10)
    torch.testing.assert_close(given.decode(given.encode(pixels)), pixels)


# --- with the gradient ---------------------------------------------------------------------------


def test_freemcg_explains_on_it(ddpm: DiffusionPrior) -> None:
    model, images = conv_net(channels=1), torch.rand(2, 1, 8, 8)
    gradient = FreeMCG(ddpm, 20, levels=(50, 100))
    explanation = pyxai_fast.explain(model, images, method="saliency", abs=False, gradient=gradient)
    maps = explanation.attributions
    assert maps.shape == images.shape
    assert bool(maps.isfinite().all()) and float(maps.abs().max()) > 0
    again = Saliency(model, gradient=gradient).attribute(
        images, target=explanation.target, abs=False, internal_batch_size=3
    )
    torch.testing.assert_close(again, maps, rtol=1e-3, atol=1e-5)


def test_freemcg_explains_on_latents_of_another_size(diffusers: Any) -> None:
    prior = DiffusionPrior(
        unet(channels=3), diffusers.DDIMScheduler(), vq_model(), image_size=12, max_rows=8
    )
    images = torch.rand(2, 3, 12, 12)
    gradient = FreeMCG(prior, 10, levels=(100,))
    maps = Saliency(conv_net(), gradient=gradient).attribute(images, target=1, abs=False)
    assert maps.shape == images.shape
    assert bool(maps.isfinite().all()) and float(maps.abs().max()) > 0


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_of_a_known_distribution_have_its_spread(eta: float, diffusers: Any) -> None:
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    prior = DiffusionPrior(Flat(linear_schedule(), "epsilon"), scheduler)
    assert prior.bounds is None
    drawn = sample(prior, (400, 1, 4, 4), n_steps=250, eta=eta) * 2 - 1
    # Fewer levels than all draw a little too little noise anew.
    assert float(drawn.var()) == pytest.approx(0.3, rel=0.1)
    assert_same_bits(sample(prior, (2, 1, 4, 4), seed=3), sample(prior, (2, 1, 4, 4), seed=3))
    with pytest.raises(ValueError, match="n_steps must be from 1 to 1000, got 0"):
        sample(prior, (1, 1, 4, 4), n_steps=0)
    with pytest.raises(ValueError, match="eta must be from 0 to 1, got 2"):
        sample(prior, (1, 1, 4, 4), eta=2)


def test_clipped_samples_are_pixels(ddpm: DiffusionPrior) -> None:
    drawn = sample(ddpm, (3, 1, 8, 8), n_steps=5)
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1


# --- faults --------------------------------------------------------------------------------------


def test_inputs_that_do_not_fit_are_named(ddpm: DiffusionPrior, diffusers: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"must be \[R, 1, 8, 8\] pixels in \[0, 1\], got \[2, 1, 6, 4\]; image_size=\(6, 4\)",
    ):
        ddpm.encode(torch.rand(2, 1, 6, 4))
    with pytest.raises(ValueError, match="a prior of 1 channels knows no inputs of 3"):
        ddpm.encode(torch.rand(2, 3, 8, 8))
    colour = DiffusionPrior(unet(channels=3), diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match=r"must be \[R, 3, 8, 8\] .* a prior of 3 channels knows"):
        colour.encode(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"got \[2, 8\]$"):
        ddpm.encode(torch.rand(2, 8))
    with pytest.raises(ValueError, match=r"floating-point pixels in .* got torch.uint8"):
        ddpm.encode(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="level must be from 0 to 999, got 1000"):
        ddpm.predict_noise(torch.rand(1, 1, 8, 8), 1000)
    resizing = DiffusionPrior(unet(), diffusers.DDPMScheduler(), image_size=6)
    with pytest.raises(ValueError, match=r"must be \[R, 1, 6, 6\] .* got \[2, 1, 8, 8\]$"):
        resizing.encode(torch.rand(2, 1, 8, 8))


def test_preprocessed_inputs_are_warned_about(ddpm: DiffusionPrior) -> None:
    with pytest.warns(UserWarning, match="got -2 to 3: give preprocessing="):
        ddpm.encode(torch.linspace(-2, 3, 64).reshape(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rows": 0}, "max_rows must be an integer >= 1, got 0"),
        ({"image_size": (1, 2, 3)}, r"image_size must be \(height, width\) or one side, got"),
        ({"image_size": -1}, "image_size must be .* got -1"),
        ({"class_label": 1}, "class_label must be left out for an unconditional unet, got 1"),
        ({"condition": torch.rand(1, 2, 8)}, "condition must be left out for this unet, got one"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict, message: str, diffusers: Any) -> None:
    with pytest.raises(ValueError, match=f"DiffusionPrior: {message}"):
        DiffusionPrior(unet(), diffusers.DDPMScheduler(), **options)


def test_networks_that_do_not_denoise_are_refused(diffusers: Any) -> None:
    scheduler = diffusers.DDPMScheduler()
    with pytest.raises(ValueError, match=r"as many channels as it sees, 3, or .* got 4"):
        DiffusionPrior(unet(channels=3, out=4), scheduler)
    with pytest.raises(ValueError, match="must see the autoencoder's 3 channels, got 1"):
        DiffusionPrior(unet(), scheduler, vq_model())
    with pytest.raises(ValueError, match=r"must be the embedding .* of the empty prompt .* none"):
        DiffusionPrior(conditional_unet(), scheduler, kl_autoencoder())
    with pytest.raises(ValueError, match=r"condition must be \[1, L, D\], got \[2, 3, 8\]"):
        DiffusionPrior(conditional_unet(), scheduler, condition=torch.rand(2, 3, 8))
    with pytest.raises(ValueError, match=r"must be the class, from 0 to 3, .* got None"):
        DiffusionPrior(unet(num_class_embeds=4), scheduler)
    with pytest.raises(ValueError, match="by their number, got class_embed_type='timestep'"):
        DiffusionPrior(unet(class_embed_type="timestep"), scheduler)
    flow = diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction")
    with pytest.raises(ValueError, match=r"must predict one of epsilon, .* got 'flow_prediction'"):
        DiffusionPrior(unet(), flow)
    with pytest.raises(ValueError, match=r"betas and alphas_cumprod, .* got EDMEulerScheduler"):
        DiffusionPrior(unet(), diffusers.EDMEulerScheduler())
    with pytest.raises(ValueError, match=r"shares must be \[T\], in \(0, 1\] and falling"):
        DiffusionPrior(unet(), torch.tensor([0.1, 0.9]))


def test_names_that_lead_nowhere_are_one_line(diffusers: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=f"there is no directory {tmp_path}/none"):
        DiffusionPrior.from_pretrained(tmp_path / "none")
    with pytest.raises(ModelNotFound, match=r"has no model_index.json and no config.json"):
        DiffusionPrior.from_pretrained(tmp_path)


def test_repositories_come_from_the_hubs_cache(diffusers: Any, tmp_path: Path) -> None:
    """Offline, with one repository in the cache: nothing else can be found."""
    commit = "0" * 40
    cache = tmp_path / "hub" / "models--some--prior"
    network, there = unet(), cache / "snapshots" / commit
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(there)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    code = (
        "import torch; from pyxai_fast.priors import DiffusionPrior\n"
        "prior = DiffusionPrior.from_pretrained('some/prior')\n"
        "noisy = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))\n"
        f"print(prior.predict_noise(noisy, {LEVEL}).double().sum().item())\n"
        "try: DiffusionPrior.from_pretrained('some/other')\n"
        "except ValueError as error: print(type(error).__name__, error)\n"
    )
    settings = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    settings.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=settings)
    total, other = done.stdout.strip().splitlines()
    prior = DiffusionPrior(network, diffusers.DDPMScheduler())
    expected = prior.predict_noise(noisy_of(prior), LEVEL).double().sum()
    assert float(total) == pytest.approx(float(expected), rel=1e-4)
    assert other.startswith("ModelNotFound some/other: looked for a directory")
    assert "https://huggingface.co/some/other" in other


def test_broken_and_other_models_are_refused(diffusers: Any, tmp_path: Path) -> None:
    diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(ModelSpecError, match="the unet could not be loaded"):
        DiffusionPrior.from_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    weights.write_bytes(whole)
    tensors = load_file(weights)
    del tensors["conv_in.weight"]
    save_file(tensors, weights)
    with pytest.raises(ModelSpecError, match=r"must be trained, but .* unet lack conv_in.weight"):
        DiffusionPrior.from_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"_class_name": "FluxPipeline", "transformer": ["a", "b"]}))
    with pytest.raises(ModelSpecError, match=r"must have a unet of class .* got FluxPipeline"):
        DiffusionPrior.from_pretrained(tmp_path)
    entry = ["diffusers", "UNet2DConditionModel"]
    conditional_unet().save_pretrained(tmp_path / "unet")
    index.write_text(json.dumps({"_class_name": "Mine", "unet": entry}))
    with pytest.raises(ModelSpecError, match="must have a tokenizer and a text_encoder"):
        DiffusionPrior.from_pretrained(tmp_path)


def test_without_diffusers_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingDependency, match=r"pip install pyxai-fast\[diffusion\]"):
        DiffusionPrior.from_pretrained(tmp_path)


def test_importing_priors_does_not_import_diffusers() -> None:
    code = "import sys, pyxai_fast.priors; print('diffusers' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False"

"""Audio classifiers of Hugging Face: what transformers answers, with derivatives to the samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyxai_fast import BlackBox, IntegratedGradients, explain
from pyxai_fast.audio import Spectrum, WaveformModel, time_frequency_tiles, write_audio
from pyxai_fast.cli import main
from pyxai_fast.models.from_hf_audio import AudioClassifier, load_hf_audio
from pyxai_fast.models.spec import (
    MissingDependency,
    ModelNotFound,
    ModelSpecError,
    load_model,
)

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

RATE, SAMPLES = 16000, 8000
LABELS = {0: "dog", 1: "bell", 2: "rain"}


def waves(batch: int = 2, samples: int = SAMPLES, seed: int = 0) -> Tensor:
    """A tone in noise, louder and higher from row to row."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / RATE
    rows = torch.arange(1, batch + 1)[:, None]
    return 0.1 * rows * (2 * torch.pi * 300 * rows * time).sin() + 0.02 * torch.randn(
        batch, samples, generator=generator
    )


def ast(**options: Any) -> tuple[Any, Any]:
    config = transformers.ASTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
        max_length=40,
        num_mel_bins=24,
        id2label=LABELS,
        initializer_range=0.3,
    )
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=24, max_length=40, **options)
    return transformers.ASTForAudioClassification(config), extractor


def wav2vec2(**options: Any) -> tuple[Any, Any]:
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        id2label=LABELS,
        initializer_range=0.3,
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(**options)
    return transformers.Wav2Vec2ForSequenceClassification(config), extractor


def whisper(**options: Any) -> tuple[Any, Any]:
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        num_mel_bins=24,
        max_source_positions=50,
        classifier_proj_size=8,
        id2label=LABELS,
        init_std=0.3,
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=24, chunk_length=1, **options)
    return transformers.WhisperForAudioClassification(config), extractor


def wav2vec2_bert(**options: Any) -> tuple[Any, Any]:
    """Its extractor is none of those that have derivatives."""
    config = transformers.Wav2Vec2BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        feature_projection_input_dim=32,
        conv_depthwise_kernel_size=3,
        classifier_proj_size=8,
        id2label=LABELS,
        initializer_range=0.3,
    )
    extractor = transformers.SeamlessM4TFeatureExtractor(
        feature_size=16, num_mel_bins=16, **options
    )
    return transformers.Wav2Vec2BertForSequenceClassification(config), extractor


MAKERS = {"ast": ast, "wav2vec2": wav2vec2, "whisper": whisper}


def saved(folder: Path, maker: Any, **options: Any) -> str:
    torch.manual_seed(0)
    model, extractor = maker(**options)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    makers = {**MAKERS, "wav2vec2_bert": wav2vec2_bert}
    return {name: saved(tmp_path_factory.mktemp(name), make) for name, make in makers.items()}


def loaded(folder: str) -> AudioClassifier:
    module = load_model(f"hf-audio:{folder}").module
    assert isinstance(module, AudioClassifier)
    return module


def expected_logits(folder: str, waveforms: Tensor) -> Tensor:
    """What transformers itself answers, one waveform after the other."""
    model = transformers.AutoModelForAudioClassification.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    rows = []
    for wave in waveforms:
        inputs = extractor(wave.numpy(), sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**inputs).logits)
    return torch.cat(rows)


# ---------------------------------------------------------------- the answers of transformers


@pytest.mark.parametrize("name", [*MAKERS, "wav2vec2_bert"])
@pytest.mark.parametrize("samples", [4000, 8000, 20000])
def test_logits_are_those_of_the_extractor_and_the_model(
    folders: dict[str, str], name: str, samples: int
) -> None:
    module = loaded(folders[name])
    x = waves(3, samples)
    expected = expected_logits(folders[name], x)
    torch.testing.assert_close(module(x).detach(), expected, rtol=1e-3, atol=1e-4)
    assert float((expected[0] - expected[2]).abs().max()) > 1e-2  # they tell sounds apart


OPTIONS = {
    "ast": [{}, {"do_normalize": False}, {"mean": 1.0, "std": 3.0}],
    "wav2vec2": [{}, {"do_normalize": False}, {"return_attention_mask": True}],
    "whisper": [{}, {"padding_value": 0.1}, {"hop_length": 80, "n_fft": 200}],
}


@pytest.mark.parametrize(
    ("name", "options"), [(name, one) for name, each in OPTIONS.items() for one in each]
)
def test_features_are_those_of_the_extractor(name: str, options: dict[str, Any]) -> None:
    model, extractor = MAKERS[name](**options)
    module, x = AudioClassifier(model, extractor), waves(2, 9000)
    rows = list(x.numpy())
    theirs = extractor(rows, sampling_rate=RATE, return_tensors="pt")[
        extractor.model_input_names[0]
    ]
    ours = module.front_end.arguments_of(x)[extractor.model_input_names[0]]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert float(ours.std()) > 0


@pytest.mark.parametrize("name", list(MAKERS))
def test_loud_quiet_and_silent_sounds_have_the_extractors_features(name: str) -> None:
    module = AudioClassifier(*MAKERS[name]())
    name_of_input = module.front_end.input_name
    for x in (torch.zeros(1, SAMPLES), 1e-4 * waves(1), waves(1).clamp(-1, 1) * 30):
        rows = list(x.numpy())
        theirs = module.front_end.extractor(rows, sampling_rate=RATE, return_tensors="pt")
        ours = module.front_end.arguments_of(x)[name_of_input]
        torch.testing.assert_close(ours, theirs[name_of_input], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", list(MAKERS))
def test_features_then_the_network_is_the_model(folders: dict[str, str], name: str) -> None:
    module, x = loaded(folders[name]), waves()
    features = module.features(x)
    shapes = {"ast": (2, 1, 24, 40), "wav2vec2": (2, SAMPLES), "whisper": (2, 1, 24, 100)}
    assert features.shape == shapes[name]
    torch.testing.assert_close(module.classify(features), module(x))


def test_low_frequencies_come_first(folders: dict[str, str]) -> None:
    time = torch.arange(SAMPLES) / RATE
    x = torch.stack([(2 * torch.pi * hertz * time).sin() for hertz in (200, 2000, 7000)])
    for name in ("ast", "whisper"):
        loudest = loaded(folders[name]).features(x)[:, 0, :, 5:20].mean(2).argmax(1).tolist()
        assert loudest == sorted(loudest) and len(set(loudest)) == 3


# ---------------------------------------------------------------- derivatives


@pytest.mark.parametrize("name", list(MAKERS))
def test_slopes_reach_the_samples(name: str) -> None:
    """Against finite differences, in float64."""
    torch.manual_seed(0)
    model, extractor = MAKERS[name]()
    module = AudioClassifier(model.double().eval(), extractor)
    x = waves(1).double().requires_grad_()
    (slope,) = torch.autograd.grad(module(x)[0, 1], x)
    assert float(slope.abs().max()) > 0
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        step = 1e-6 * torch.randn(1, SAMPLES, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            change = module(x + step)[0, 1] - module(x - step)[0, 1]
        torch.testing.assert_close(change, 2 * (slope * step).sum(), rtol=1e-3, atol=1e-10)


@pytest.mark.parametrize("name", list(MAKERS))
def test_samples_features_and_spectra_are_explained(folders: dict[str, str], name: str) -> None:
    module, x = loaded(folders[name]), waves()
    made = explain(module, x, method="saliency", target=1)
    assert made.attributions.shape == x.shape and float(made.attributions.abs().max()) > 0
    assert bool(made.attributions.isfinite().all())
    features = module.features(x)
    made = explain(module.classify, features, n_steps=30, baselines=0.5 * features)
    assert made.attributions.shape == features.shape
    assert float(made.delta.abs().max()) < 0.01
    spectrum = Spectrum(RATE)
    parts = spectrum.of(x)
    of_parts = WaveformModel(module, spectrum, SAMPLES)
    maps = IntegratedGradients(of_parts).attribute(parts, 0.1 * parts, target=0, n_steps=5)
    assert maps.shape == parts.shape and bool(maps.isfinite().all())


def test_other_extractors_are_asked_and_say_that_they_have_no_slopes(
    folders: dict[str, str],
) -> None:
    module, x = loaded(folders["wav2vec2_bert"]), waves(1)
    with pytest.raises(ValueError, match="SeamlessM4TFeatureExtractor has no derivatives"):
        explain(module, x, method="saliency")
    made = explain(module.classify, module.features(x), method="input_x_gradient", target=1)
    assert float(made.attributions.abs().max()) > 0
    spectrum = Spectrum(RATE)
    parts = spectrum.of(x)
    made = explain(
        WaveformModel(module, spectrum, SAMPLES),
        parts,
        method="kernel_shap",
        baselines=0.01 * parts,
        n_queries=20,
        segments=time_frequency_tiles(spectrum, parts.shape, hertz=4000, seconds=0.25),
    )
    assert float(made.attributions.abs().max()) > 0
    assert explain(BlackBox(module), x, method="rise", n_queries=8, segments="tiles:2000")


def test_sounds_of_another_rate_keep_the_extractor_as_it_is() -> None:
    """The two implementations of transformers frame those differently."""
    model, extractor = ast(sampling_rate=8000)
    module = AudioClassifier(model, extractor)
    assert module.sample_rate == 8000
    with pytest.raises(ValueError, match="ASTFeatureExtractor has no derivatives"):
        explain(module, waves(1), method="saliency")


# ---------------------------------------------------------------- loading


def test_a_folder_has_names_rate_and_frozen_weights(folders: dict[str, str]) -> None:
    found = load_model(f"hf-audio:{folders['ast']}")
    assert found.class_names == ["dog", "bell", "rain"]
    assert found.spec == f"hf-audio:{folders['ast']}"
    module = found.module
    assert isinstance(module, AudioClassifier)
    assert module.sample_rate == RATE and module.class_names == found.class_names
    assert not module.training and not any(w.requires_grad for w in module.parameters())


def test_a_checkpoint_whose_head_would_be_random_is_refused(tmp_path: Path) -> None:
    model, extractor = wav2vec2()
    model.wav2vec2.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    with pytest.raises(ModelSpecError, match=r"must be a trained classifier.*lacks classifier"):
        load_hf_audio(str(tmp_path))


def test_a_checkpoint_without_its_extractor_says_how_to_write_one(tmp_path: Path) -> None:
    ast()[0].save_pretrained(tmp_path)
    with pytest.raises(ModelNotFound, match=r"no preprocessor_config\.json.*save_pretrained"):
        load_hf_audio(str(tmp_path))


def test_what_is_no_audio_classifier_is_one_line(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ModelSpecError, match="must be an audio classifier") as caught:
        load_hf_audio(str(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelNotFound, match="there is no directory"):
        load_hf_audio("./nowhere")


def test_transformers_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingDependency, match="pip install transformers"):
        load_model("hf-audio:anything")


@pytest.mark.parametrize("bad", [torch.zeros(8000), torch.zeros(1, 8000, dtype=torch.int16)])
def test_what_is_no_batch_of_waveforms_is_refused(bad: Tensor) -> None:
    module = AudioClassifier(*wav2vec2())
    with pytest.raises(ValueError, match=r"waveforms: must be floating point \[R, samples\], got"):
        module(bad)
    with pytest.raises(ValueError, match="must have at least 400 samples, got 399"):
        AudioClassifier(*ast())(torch.zeros(1, 399))


# ---------------------------------------------------------------- the command line


@pytest.fixture
def sound(tmp_path: Path) -> str:
    for package in ("soundfile", "matplotlib", "safetensors"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    path = tmp_path / "one.wav"
    write_audio(path, waves(1)[0], RATE)
    return str(path)


@pytest.mark.parametrize("name", list(MAKERS))
def test_the_command_line_explains_a_sound(
    folders: dict[str, str], sound: str, tmp_path: Path, name: str
) -> None:
    from safetensors.torch import load_file

    out = tmp_path / "out"
    arguments = ["--model", f"hf:{folders[name]}", "--steps", "3", "--target", "1"]
    assert main(["explain", sound, *arguments, "--baseline", "quiet", "--out", str(out)]) == 0
    said = json.loads((out / "run.json").read_text())
    assert said["results"][0]["class_name"] == "bell" and said["spectrum"]["rate"] == RATE
    maps = load_file(out / "one.safetensors")["attributions"]
    assert maps.shape == Spectrum(RATE).shape(SAMPLES) and float(maps.abs().max()) > 0
    assert {"one.png", "one.heard.wav"} <= {path.name for path in out.iterdir()}


def test_the_command_line_hides_tiles_from_a_model_without_slopes(
    folders: dict[str, str], sound: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--model", f"hf-audio:{folders['wav2vec2_bert']}", "--baseline", "quiet"]
    arguments = ["explain", sound, *named, "--method", "lime", "--samples", "12"]
    assert main([*arguments, "--out", str(tmp_path / "lime")]) == 0
    assert main(["explain", sound, *named, "--steps", "2", "--out", str(tmp_path / "ig")]) == 2
    error = capsys.readouterr().err
    assert "has no derivatives" in error and error.count("\n") == 1


# ---------------------------------------------------------------- as they are


def test_models_of_transformers_are_explained_as_they_are(folders: dict[str, str]) -> None:
    """Their answers are understood without a wrapper."""
    model = transformers.AutoModelForAudioClassification.from_pretrained(folders["ast"]).eval()
    features = loaded(folders["ast"]).features(waves())[:, 0].mT.contiguous()
    made = explain(model, features, n_steps=4, target=2, output="prob")
    wrapped = explain(
        lambda x: model(input_values=x).logits, features, n_steps=4, target=2, output="prob"
    )
    torch.testing.assert_close(made.attributions, wrapped.attributions)
    np.testing.assert_allclose(made.outputs.sum(1), np.ones(2), rtol=1e-5)

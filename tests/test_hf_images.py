"""Image classifiers of Hugging Face are explained: as they are, and in pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyxai_fast import PictureExplainer, explain
from pyxai_fast.models.spec import load_model

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def resnet() -> Any:
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], id2label={0: "cat", 1: "dog"}
        )
    )


def vit() -> Any:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
            id2label={0: "cat", 1: "dog"},
            initializer_range=0.3,
        )
    )


PROCESSORS = {"resnet": "ConvNextImageProcessor", "vit": "ViTImageProcessor"}


@pytest.fixture(params=[resnet, vit], ids=["resnet", "vit"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    torch.manual_seed(0)
    request.param().save_pretrained(tmp_path)
    processor = {
        "image_processor_type": PROCESSORS[request.param.__name__],
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "resample": 2,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(tmp_path)


def test_a_model_of_transformers_is_explained_without_a_wrapper(folder: str) -> None:
    """What it returns is an object with logits, not a tensor."""
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    inputs = torch.randn(2, 3, 32, 32)
    made = explain(model, inputs, n_steps=4, output="logprob")
    plain = explain(lambda x: model(pixel_values=x).logits, inputs, n_steps=4, output="logprob")
    torch.testing.assert_close(made.attributions, plain.attributions)
    torch.testing.assert_close(made.outputs, model(inputs).logits.log_softmax(1).detach())


def test_pixels_are_explained_by_the_chain_rule_of_the_processor(folder: str) -> None:
    loaded = load_model(f"hf:{folder}")
    pixels = torch.rand(2, 3, 32, 32)
    scale = torch.tensor(STD)[:, None, None]
    normalised = (pixels - torch.tensor(MEAN)[:, None, None]) / scale
    options: dict[str, Any] = {"method": "saliency", "abs": False, "target": 1}
    in_pixels = explain(loaded.module, pixels, preprocessing=loaded.preprocessing, **options)
    in_inputs = explain(loaded.module, normalised, **options)
    torch.testing.assert_close(
        in_pixels.attributions, in_inputs.attributions / scale, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(in_pixels.outputs, in_inputs.outputs, rtol=1e-4, atol=1e-5)


def test_black_is_black_pixels(folder: str) -> None:
    loaded = load_model(f"hf:{folder}")
    pixels = torch.rand(1, 3, 32, 32)
    made = explain(
        loaded.module,
        pixels,
        preprocessing=loaded.preprocessing,
        baselines=0.0,
        target=0,
        n_steps=60,
    )
    black = loaded.module(loaded.preprocessing.normalise(torch.zeros(1, 3, 32, 32)))[0, 0]
    difference = float(made.outputs[0, 0] - black)
    assert float(made.attributions.sum()) == pytest.approx(difference, rel=2e-2, abs=2e-3)


def test_a_loaded_model_explains_files(folder: str, tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image_module.fromarray(array).save(tmp_path / "a.png")
    from pyxai_fast.images import read_image

    explainer = PictureExplainer(load_model(f"hf:{folder}"), method="saliency", target=1)
    pixels = read_image(tmp_path / "a.png", explainer.model.preprocessing)
    made = explainer(pixels[None])
    assert made.attributions.shape == (1, 3, 32, 32) and made.class_names == ["cat", "dog"]
    assert float(made.attributions.abs().max()) > 0

"""A short text becomes a model with the right preprocessing, or one line that says why not."""

from __future__ import annotations

import json
import sys
import types
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyxai_fast.images import read_image
from pyxai_fast.models import spec as specs
from pyxai_fast.models.from_hf import preprocessing_from_settings
from pyxai_fast.models.from_timm import preprocessing_from_data_config
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.models.spec import (
    LoadedModel,
    MissingDependency,
    ModelNotFound,
    ModelSpecError,
    UnknownModelSpec,
    load_model,
)

# ---------------------------------------------------------------- the text itself


@pytest.mark.parametrize(
    "text", ["resnet50", "ftp://host/model", "a.onnx", "", "hf:", "onnx:", "demo:x"]
)
def test_unknown_specs_list_what_is_supported_in_one_line(text: str) -> None:
    with pytest.raises(UnknownModelSpec) as caught:
        load_model(text)
    assert "\n" not in str(caught.value)
    if not text.startswith(("hf", "onnx", "demo")):
        for kind in ("hf:", "torchvision:", "timm:", "python:", "onnx:", "http://", "demo"):
            assert kind in str(caught.value)


def test_a_new_kind_of_spec_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    made = LoadedModel(nn.Linear(2, 2).train(), Preprocessing(), None, "")
    monkeypatch.setitem(specs.SPEC_KINDS, "mine", specs.SpecKind("mine:X", lambda name: made))
    loaded = load_model("mine:anything")
    assert loaded.spec == "mine:anything"
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())


def test_demo_is_a_digit_classifier_of_grey_pixels() -> None:
    loaded = load_model("demo")
    assert loaded.preprocessing.channels == 1 and loaded.preprocessing.size == (32, 32)
    assert loaded.class_names == [str(i) for i in range(10)]
    assert loaded.module(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


# ---------------------------------------------------------------- hf


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def resnet_folder(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("resnet"))
    config = transformers.ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
        id2label={0: "cat", 1: "dog", 2: "owl"},
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    # As the hub's ResNets: written by hand, so that no processor class is needed to write it.
    processor = {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 32},
        "crop_pct": 0.8,
        "resample": 3,
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.25, 0.3],
    }
    Path(folder, "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def test_hf_loads_a_local_folder_with_its_names_and_preprocessing(resnet_folder: str) -> None:
    loaded = load_model(f"hf:{resnet_folder}")
    assert loaded.class_names == ["cat", "dog", "owl"]
    assert loaded.preprocessing == Preprocessing(
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        size=(32, 32),
        resize=40,
        interpolation="bicubic",
    )
    x = torch.rand(2, 3, 32, 32)
    logits = loaded.module(x)
    assert isinstance(logits, torch.Tensor) and logits.shape == (2, 3)
    assert torch.equal(logits, loaded.module.model(pixel_values=x).logits)
    assert not loaded.module.training


def test_hf_reads_the_file_when_no_processor_works_without_torchvision(
    resnet_folder: str, transformers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_model(f"hf:{resnet_folder}").preprocessing

    def needs_torchvision(*_: Any, **__: Any) -> None:
        raise ImportError("ConvNextImageProcessor requires the Torchvision library")

    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", needs_torchvision)
    assert load_model(f"hf:{resnet_folder}").preprocessing == expected


def test_hf_preprocessing_gives_the_numbers_of_the_processor(
    transformers: Any, tmp_path: Path
) -> None:
    image_module = pytest.importorskip("PIL.Image")
    array = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image = image_module.fromarray(array)
    image.save(tmp_path / "a.png")
    compared = 0
    for name, options in [
        ("ViTImageProcessor", {"size": {"height": 32, "width": 24}}),
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "do_rescale": False}),
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "do_normalize": False}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
        ("DeiTImageProcessor", {"size": {"height": 40, "width": 40}, "crop_size": 32}),
        ("EfficientNetImageProcessor", {"size": {"height": 32, "width": 32}}),
        ("MobileNetV2ImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": 32}),
    ]:
        # Version 5 keeps the classes that need no torchvision under another name.
        kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
        processor = kind(**options)
        expected = torch.as_tensor(np.asarray(processor(image)["pixel_values"]))[0]
        settings = {**processor.to_dict(), "image_processor_type": name}
        preprocessing = preprocessing_from_settings(settings, "hf:test")
        x = preprocessing.normalise(read_image(tmp_path / "a.png", preprocessing))
        assert x.shape == expected.shape, name
        assert torch.allclose(x, expected, atol=1e-4 * float(expected.abs().max())), name
        compared += 1
    assert compared == 7


def test_hf_folds_rescaling_to_minus_one_to_one_into_mean_and_std() -> None:
    settings = {
        "size": {"height": 8, "width": 8},
        "do_rescale": True,
        "rescale_factor": 1 / 127.5,
        "rescale_offset": True,
        "do_normalize": False,
    }
    x = preprocessing_from_settings(settings, "hf:x").normalise(
        torch.tensor([0.0, 0.5, 1.0]).expand(3, 1, 3)
    )
    assert torch.allclose(x[0, 0], torch.tensor([-1.0, 0.0, 1.0]), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"height": 8, "width": 6}, ((8, 6), None)),
        (8, ((8, 8), None)),
        ([8, 6], ((8, 6), None)),
    ],
)
def test_hf_understands_every_way_to_write_a_size(size: Any, expected: Any) -> None:
    preprocessing = preprocessing_from_settings({"size": size}, "hf:x")
    assert (preprocessing.size, preprocessing.resize) == expected


def test_hf_crops_with_a_warning_where_the_processor_would_keep_the_aspect_ratio() -> None:
    with pytest.warns(UserWarning, match="centre cropped to 8x8"):
        preprocessing = preprocessing_from_settings({"size": {"shortest_edge": 8}}, "hf:x")
    assert (preprocessing.size, preprocessing.resize) == ((8, 8), 8)


def test_hf_refuses_a_size_it_does_not_understand() -> None:
    with pytest.raises(ModelSpecError, match="height and width, or shortest_edge"):
        preprocessing_from_settings({"size": {"longest_edge": 8}}, "hf:x")


def test_hf_flips_channels_for_models_of_bgr_pixels(transformers: Any, tmp_path: Path) -> None:
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=2)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    settings = {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True}
    settings["size"] = {"shortest_edge": 32}  # type: ignore[assignment]
    settings["crop_size"] = {"height": 28, "width": 28}  # type: ignore[assignment]
    settings["do_center_crop"] = True
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    loaded = load_model(f"hf:{tmp_path}")
    x = torch.rand(1, 3, 28, 28)
    assert torch.equal(loaded.module(x), loaded.module.model(pixel_values=x.flip(1)).logits)
    assert loaded.preprocessing.size == (28, 28)


def test_hf_refuses_a_checkpoint_whose_head_would_be_random(
    transformers: Any, resnet_folder: str, tmp_path: Path
) -> None:
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelSpecError, match="lacks classifier"):
        load_model(f"hf:{tmp_path}")


def test_hf_without_a_preprocessor_config_says_how_to_write_one(
    transformers: Any, resnet_folder: str, tmp_path: Path
) -> None:
    for file in Path(resnet_folder).iterdir():
        if file.name != "preprocessor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelNotFound, match=r"no preprocessor_config\.json.*save_pretrained"):
        load_model(f"hf:{tmp_path}")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_hf_paths_that_do_not_exist_never_reach_the_hub(transformers: Any, name: str) -> None:
    with pytest.raises(ModelNotFound, match="there is no directory"):
        load_model(f"hf:{name}")


def test_hf_says_where_it_looked_when_the_hub_cannot_be_reached(
    transformers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'.\nCheck your connection.")

    monkeypatch.setattr(
        transformers.AutoModelForImageClassification, "from_pretrained", unreachable
    )
    with pytest.raises(ModelNotFound) as caught:
        load_model("hf:owner/name")
    text = str(caught.value)
    assert "\n" not in text
    assert "https://huggingface.co/owner/name" in text and "hf download owner/name" in text


# ---------------------------------------------------------------- torchvision


class FakePreset:
    """The attributes of torchvision.transforms._presets.ImageClassification."""

    def __init__(self) -> None:
        self.crop_size, self.resize_size = [224], [232]
        self.mean, self.std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        self.interpolation = Enum("InterpolationMode", {"BILINEAR": "bilinear"}).BILINEAR


def fake_torchvision(preset: Any) -> types.ModuleType:
    weights = types.SimpleNamespace(
        transforms=lambda: preset, meta={"categories": ["cat", "dog"]}, url="https://host/w.pth"
    )

    def get_model_weights(name: str) -> Any:
        if name != "resnet50":
            raise ValueError(f"Unknown model {name}")
        return types.SimpleNamespace(DEFAULT=weights)

    def get_model(name: str, *, weights: Any) -> nn.Module:
        assert weights.url == "https://host/w.pth"
        return nn.Conv2d(3, 2, 1)

    package = types.ModuleType("torchvision")
    package.models = types.SimpleNamespace(  # type: ignore[attr-defined]
        get_model=get_model,
        get_model_weights=get_model_weights,
        list_models=lambda: ["resnet18", "resnet50"],
    )
    return package


def test_torchvision_takes_everything_from_the_default_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", fake_torchvision(FakePreset()))
    loaded = load_model("torchvision:resnet50")
    assert loaded.class_names == ["cat", "dog"]
    assert loaded.preprocessing == Preprocessing(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=(224, 224), resize=232
    )


def test_torchvision_suggests_the_name_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", fake_torchvision(FakePreset()))
    with pytest.raises(ModelNotFound, match="did you mean resnet50"):
        load_model("torchvision:resnet5O")


def test_torchvision_refuses_models_that_are_not_image_classifiers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", fake_torchvision(object()))
    with pytest.raises(ModelSpecError, match="must be an image classifier"):
        load_model("torchvision:resnet50")


@pytest.mark.parametrize("package", ["torchvision", "timm", "transformers"])
def test_a_missing_package_is_named_with_how_to_install_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    kind = "hf" if package == "transformers" else package
    with pytest.raises(MissingDependency, match=f"pip install {package}") as caught:
        load_model(f"{kind}:anything")
    assert isinstance(caught.value, ImportError) and isinstance(caught.value, ValueError)


# ---------------------------------------------------------------- timm


def fake_timm(config: dict[str, Any], **data: Any) -> types.ModuleType:
    def create_model(name: str, pretrained: bool) -> nn.Module:
        if name != "convnext_tiny":
            raise RuntimeError(f"Unknown model ({name})")
        assert pretrained
        return nn.Conv2d(3, 2, 1)

    package = types.ModuleType("timm")
    package.create_model = create_model  # type: ignore[attr-defined]
    package.data = types.SimpleNamespace(  # type: ignore[attr-defined]
        resolve_model_data_config=lambda model: config, **data
    )
    return package


TIMM_CONFIG = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.25, 0.25, 0.25),
    "crop_pct": 0.875,
    "crop_mode": "center",
}


def test_timm_takes_preprocessing_and_names_from_the_data_config(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    info = types.SimpleNamespace(
        num_classes=lambda: 2, index_to_description=lambda i: ("cat", "dog")[i]
    )
    package = fake_timm(
        TIMM_CONFIG, infer_imagenet_subset=lambda model: "imagenet-1k", ImageNetInfo=lambda s: info
    )
    monkeypatch.setitem(sys.modules, "timm", package)
    loaded = load_model("timm:convnext_tiny")
    assert loaded.class_names == ["cat", "dog"]
    assert loaded.preprocessing == Preprocessing(
        mean=(0.5, 0.4, 0.3), std=(0.25,), size=(224, 224), resize=256, interpolation="bicubic"
    )


def test_timm_squash_scales_both_sides() -> None:
    config = {**TIMM_CONFIG, "crop_mode": "squash", "crop_pct": 1.0, "input_size": (3, 64, 48)}
    preprocessing = preprocessing_from_data_config(config, "timm:x")
    assert (preprocessing.size, preprocessing.resize) == ((64, 48), (64, 48))


def test_timm_models_that_cannot_be_made_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", fake_timm(TIMM_CONFIG))
    with pytest.raises(ModelNotFound, match=r"Unknown model \(nothing\).*list_models"):
        load_model("timm:nothing")


# ---------------------------------------------------------------- python

FACTORIES = """
from torch import nn
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.models.spec import LoadedModel

def plain():
    return nn.Conv2d(1, 2, 3)

def pair():
    return nn.Conv2d(3, 2, 3), Preprocessing(size=(8, 8))

def loaded():
    return LoadedModel(nn.Conv2d(3, 2, 3), Preprocessing(), ["a", "b"], "mine")

def wrong():
    return "a model"

def broken():
    raise RuntimeError("no weights\\nhere")

instance = nn.Linear(2, 2)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my_factories.py"
    path.write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_factories", raising=False)
    return path


def test_python_accepts_the_three_things_a_factory_may_return(factories: Path) -> None:
    assert load_model("python:my_factories:plain").preprocessing.channels == 1
    assert load_model("python:my_factories:pair").preprocessing.size == (8, 8)
    loaded = load_model(f"python:{factories}:loaded")
    assert loaded.class_names == ["a", "b"] and loaded.spec == f"python:{factories}:loaded"


def test_python_leaves_the_import_path_as_it_was(factories: Path) -> None:
    before = list(sys.path)
    load_model("python:my_factories.py:plain")
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("python:no_such_module:f", ModelNotFound, "no module 'no_such_module'"),
        ("python:no_such_file.py:f", ModelNotFound, "there is no file"),
        ("python:my_factories:nothing", ModelNotFound, "there is no 'nothing'"),
        ("python:my_factories:instance", ModelSpecError, "must be a function"),
        (
            "python:my_factories:wrong",
            ModelSpecError,
            "must return an nn.Module, a BlackBox.*got str",
        ),
        (
            "python:my_factories:broken",
            ModelSpecError,
            r"broken\(\) failed: RuntimeError: no weights$",
        ),
        ("python:my_factories", ModelSpecError, "must be python:MODULE:FACTORY"),
    ],
)
def test_python_says_what_is_wrong_with_a_factory(
    factories: Path, text: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        load_model(text)


def test_python_tells_a_missing_module_from_a_module_that_misses_one(factories: Path) -> None:
    factories.write_text("import something_not_installed")
    with pytest.raises(MissingDependency, match="something_not_installed"):
        load_model("python:my_factories:plain")

"""`torchvision:NAME` and `timm:NAME` beside the packages themselves: `make test-vision`."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pyxai_fast.images import read_image
from pyxai_fast.models.from_torchvision import preprocessing_from_preset
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.models.spec import ModelNotFound, ModelSpecError, load_model

# Held for as long as the process: with it its operators go.
_stand_ins = torch.library.Library("torchvision", "FRAGMENT")


@pytest.fixture(scope="module")
def torchvision() -> Any:
    """The package. Beside a CPU's torch, operators of a build for CUDA do not load, and without
    them it is not imported: names stand in for those, which no classifier calls."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: make test-vision")
    while True:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            _stand_ins.define(f"{missing[1]}(Tensor inputs) -> Tensor")
            for name in [name for name in sys.modules if name.startswith("torchvision")]:
                del sys.modules[name]


@pytest.fixture(scope="module")
def timm(torchvision: Any) -> Any:
    return pytest.importorskip("timm", reason="timm is not installed: make test-vision")


@pytest.fixture(scope="module", params=[(300, 200), (90, 256)], ids=["tall", "wide and small"])
def picture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    height, width = request.param
    rows, columns = np.mgrid[0:height, 0:width] / 40.0
    pixels = np.stack([np.sin(rows), np.cos(columns), np.sin(rows * columns / 9)], -1)
    path = tmp_path_factory.mktemp("pictures") / "waves.png"
    Image.fromarray((127.5 * (pixels + 1)).astype(np.uint8)).save(path)
    return path


def model_inputs(picture: Path, preprocessing: Preprocessing) -> torch.Tensor:
    return preprocessing.normalise(read_image(picture, preprocessing))


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "efficientnet_b3", "mobilenet_v3_large"])
def test_pictures_are_prepared_as_torchvision_does(
    torchvision: Any, name: str, picture: Path
) -> None:
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    found = model_inputs(picture, preprocessing_from_preset(preset, f"torchvision:{name}"))
    torch.testing.assert_close(found, preset(Image.open(picture)), rtol=0, atol=1e-5)


def test_a_model_of_torchvision_is_loaded_with_its_weights_and_classes(
    torchvision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    trained = torchvision.models.resnet18().eval()
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: trained.state_dict()
    )
    loaded = load_model("torchvision:resnet18")
    rows = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded.module(rows), trained(rows))
    assert loaded.class_names is not None and len(loaded.class_names) == 1000
    assert loaded.class_names[:2] == ["tench", "goldfish"]
    assert loaded.preprocessing.size == (224, 224)


def test_what_torchvision_has_not_is_said(torchvision: Any) -> None:
    with pytest.raises(ModelNotFound, match=r"did you mean .*resnet50"):
        load_model("torchvision:resnet5")
    with pytest.raises(ModelSpecError, match="must be an image classifier"):
        load_model("torchvision:fasterrcnn_resnet50_fpn")


@pytest.fixture
def without_download(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of timm keep the weights that they are made with."""
    builder = importlib.import_module("timm.models._builder")
    monkeypatch.setattr(builder, "load_pretrained", lambda *_, **__: None)


@pytest.mark.parametrize("name", ["resnet18", "deit_tiny_patch16_224", "efficientnet_b0"])
def test_pictures_are_prepared_as_timm_does(
    timm: Any, without_download: None, name: str, picture: Path
) -> None:
    loaded = load_model(f"timm:{name}")
    config = timm.data.resolve_model_data_config(loaded.module)
    transform = timm.data.create_transform(**config, is_training=False)
    found = model_inputs(picture, loaded.preprocessing)
    torch.testing.assert_close(found, transform(Image.open(picture)), rtol=0, atol=1e-5)


def test_a_model_of_timm_has_the_names_of_its_classes(timm: Any, without_download: None) -> None:
    loaded = load_model("timm:resnet18")
    assert isinstance(loaded.module, nn.Module) and not loaded.module.training
    assert loaded.class_names is not None and len(loaded.class_names) == 1000
    assert "tench" in loaded.class_names[0] and "goldfish" in loaded.class_names[1]


def test_what_timm_has_not_is_said(timm: Any) -> None:
    with pytest.raises(ModelNotFound, match="timm could not create it"):
        load_model("timm:resnet5")

"""An ONNX file answers as the module it was made of, whatever its types and sizes."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import conv_net
from onnx_files import write_conv_net, write_sum

from pyxai_fast import BlackBox, Preprocessing
from pyxai_fast.models.errors import MissingDependency, ModelNotFound, ModelSpecError
from pyxai_fast.models.from_onnx import OnnxModel
from pyxai_fast.models.spec import load_model

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")


@pytest.fixture(scope="module")
def net() -> Any:
    return conv_net()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def agree(box: BlackBox, net: Any, x: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(box(x), net(x).detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batch", ["batch", None, 1, 3, 7, 16])
@pytest.mark.parametrize("max_rows", [None, 2])
def test_a_file_answers_as_its_module(
    net: Any, x: Any, tmp_path: Path, batch: Any, max_rows: int | None
) -> None:
    path = write_conv_net(net, tmp_path / "m.onnx", batch=batch)
    box = BlackBox.from_onnx(path, max_rows=max_rows, threads=1, budget=20)
    agree(box, net, x)
    assert box.queries == 7 and box.grey_level is None
    answer = box(x.requires_grad_())
    assert answer.dtype == torch.float32 and not answer.requires_grad


def test_float16_models_take_and_give_float16(net: Any, x: Any, tmp_path: Path) -> None:
    box = BlackBox.from_onnx(write_conv_net(net, tmp_path / "m.onnx", kind="float16"), threads=1)
    assert box.dtype == torch.float16
    agree(box, net, x, 5e-3)


def test_uint8_models_get_rounded_grey_levels(net: Any, x: Any, tmp_path: Path) -> None:
    path = write_conv_net(net, tmp_path / "m.onnx", kind="uint8")
    box = BlackBox.from_onnx(path, threads=1)
    assert box.grey_level == 1.0
    pixels = x * 300 - 20
    torch.testing.assert_close(
        box(pixels), net(pixels.round().clamp(0, 255)).detach(), rtol=1e-4, atol=1e-4
    )
    loaded = load_model(f"onnx:{path}", preprocessing=Preprocessing(std=(1 / 255,)))
    torch.testing.assert_close(
        loaded.module(loaded.preprocessing.normalise(x)),
        net((x * 255).round()).detach(),
        rtol=1e-4,
        atol=1e-4,
    )


def test_several_inputs_are_given_in_the_order_of_the_file(tmp_path: Path) -> None:
    box = BlackBox.from_onnx(write_sum(tmp_path / "m.onnx"), threads=1)
    a, b = torch.rand(4, 3), torch.rand(4, 3)
    assert torch.equal(box(a, b), a + b)
    with pytest.raises(ValueError, match="inputs must be a, b, got 1"):
        box(a)


def test_another_output_is_explained_by_its_name(net: Any, x: Any, tmp_path: Path) -> None:
    path = write_conv_net(net, tmp_path / "m.onnx")
    with pytest.raises(ModelSpecError, match=r"select_output must be one of Gemm\d+, Flatten\d+"):
        BlackBox.from_onnx(path, select_output="y")
    name = onnxruntime.InferenceSession(path).get_outputs()[1].name
    box = BlackBox.from_onnx(path, select_output=name, threads=1)
    torch.testing.assert_close(box(x), net[:-1](x).detach(), rtol=1e-5, atol=1e-5)


def test_the_session_is_made_once_and_again_in_a_copy(
    net: Any, x: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = BlackBox.from_onnx(write_conv_net(net, tmp_path / "m.onnx"), threads=1)
    data = pickle.dumps(box)
    made = []
    session = onnxruntime.InferenceSession

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append(args)
        return session(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    agree(box, net, x)
    agree(box, net, x)
    assert not made
    agree(pickle.loads(data), net, x)
    assert len(made) == 1


def test_cuda_is_used_where_it_is_offered(
    net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_conv_net(net, tmp_path / "m.onnx")
    asked: list[Any] = []
    session = onnxruntime.InferenceSession
    offered = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def remembered(path: str, options: Any, providers: Any) -> Any:
        asked.append(providers)
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    monkeypatch.setattr(onnxruntime, "InferenceSession", remembered)
    BlackBox.from_onnx(path)
    BlackBox.from_onnx(path, providers=["CPUExecutionProvider"])
    for device in ("cuda", "cpu"):
        with pytest.warns(UserWarning, match="assumed"):
            load_model(f"onnx:{path}", device)
    assert asked == [offered[1:], offered[2:], offered[1:], offered[2:]]


def test_an_answer_in_the_cache_belongs_to_the_bytes_of_the_file(
    net: Any, x: Any, tmp_path: Path
) -> None:
    cache = tmp_path / "answers.sqlite"
    path = write_conv_net(net, tmp_path / "m.onnx")
    box = BlackBox.from_onnx(path, cache=cache, threads=1)
    agree(box, net, x)
    box.close()
    again = BlackBox.from_onnx(path, cache=cache, threads=1)
    agree(again, net, x)
    assert again.queries == 0
    other = conv_net(seed=1)
    write_conv_net(other, tmp_path / "m.onnx")
    changed = BlackBox.from_onnx(path, cache=cache, threads=1)
    agree(changed, other, x)
    assert changed.queries == 7


def test_weights_in_a_file_of_their_own_are_part_of_the_identity(net: Any, tmp_path: Path) -> None:
    import onnx

    path = write_conv_net(net, tmp_path / "m.onnx")
    model = onnx.load(path)
    save = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(model, path, **save)
    before = OnnxModel(path).identity
    assert OnnxModel(path).identity == before
    weights = tmp_path / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[5] ^= 1
    weights.write_bytes(data)
    assert OnnxModel(path).identity != before


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 1, 8, 8), r"\[batch, 3, 8, 8\], got \[2, 1, 8, 8\]"), ((2, 3, 8), r"got \[2, 3, 8\]")],
)
def test_wrong_shapes_are_named(net: Any, tmp_path: Path, shape: Any, message: str) -> None:
    box = BlackBox.from_onnx(write_conv_net(net, tmp_path / "m.onnx"), threads=1)
    with pytest.raises(ValueError, match=message):
        box(torch.rand(shape))


def test_what_is_no_model_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFound, match="there is no file"):
        BlackBox.from_onnx(tmp_path / "nothing.onnx")
    file = tmp_path / "m.onnx"
    file.write_bytes(b"no model")
    with pytest.raises(ModelSpecError, match="cannot be run") as caught:
        BlackBox.from_onnx(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        BlackBox.from_onnx(file, threads=0)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"pip install pyxai-fast\[onnx\]"):
        BlackBox.from_onnx(file)


# ---------------------------------------------------------------- as a spec


def test_the_size_of_pictures_is_the_graph_s_and_what_is_assumed_is_said(
    net: Any, x: Any, tmp_path: Path
) -> None:
    path = write_conv_net(net, tmp_path / "m.onnx", size=8)
    with pytest.warns(UserWarning, match=r"assumed are RGB pixels in \[0, 1\], 8x8; --prep"):
        loaded = load_model(f"onnx:{path}")
    assert loaded.preprocessing == Preprocessing(size=(8, 8))
    assert loaded.class_names is None and loaded.spec == f"onnx:{path}"
    agree(loaded.module, net, x)

    grey = write_conv_net(conv_net(channels=1), tmp_path / "g.onnx", size="size", kind="uint8")
    with pytest.warns(UserWarning, match=r"grey pixels in 0\.\.255, in the size of the pictures"):
        loaded = load_model(f"onnx:{grey}")
    assert loaded.preprocessing == Preprocessing(std=(1 / 255,), channels=1)


@pytest.mark.parametrize("folder", [".", "onnx"])
def test_files_of_hugging_face_beside_it_are_found(net: Any, tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    settings = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    names = {"id2label": {str(i): f"class {i}" for i in range(5)}}
    (tmp_path / "config.json").write_text(json.dumps(names))
    path = write_conv_net(net, tmp_path / folder / "m.onnx", size="size")
    loaded = load_model(f"onnx:{path}")
    assert loaded.preprocessing == Preprocessing(mean=(0.5,), std=(0.25,), size=(8, 8))
    assert loaded.class_names == [f"class {i}" for i in range(5)]


def test_options_of_the_loader_reach_the_model(net: Any, x: Any, tmp_path: Path) -> None:
    path = write_conv_net(net, tmp_path / "m.onnx")
    options = {"budget": 7, "cache": True, "max_rows": 2, "providers": "CPUExecutionProvider"}
    loaded = load_model(f"onnx:{path}", options=options, preprocessing=Preprocessing())
    assert isinstance(loaded.module, BlackBox)
    agree(loaded.module, net, torch.cat([x, x]))
    assert loaded.module.remaining == 0


def test_tables_are_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(ModelSpecError, match=r"must take pictures .* got inputs \[-1, 3\]"):
        load_model(f"onnx:{write_sum(tmp_path / 'm.onnx')}")

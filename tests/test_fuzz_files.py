"""Files that are cut off, damaged or something else: a clear error, or what they held before.

Formats with checksums must never give other numbers than were written. Those without (WAV, CSV,
the weights of models) may: a bit that turns in a sample is another sample.
"""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import warnings
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from damage import damages, png
from hypothesis import given, settings
from hypothesis import strategies as st
from path_model_cases import path_model

from pyxai_fast.cli import main
from pyxai_fast.errors import ArgumentError
from pyxai_fast.images import ImageError, read_image
from pyxai_fast.models.answer_cache import AnswerCache
from pyxai_fast.models.errors import ModelSpecError
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.models.preprocessing_file import read_preprocessing
from pyxai_fast.path_models.path_model import PathModel
from pyxai_fast.priors.training_data import DataError, load_pictures
from pyxai_fast.runtime.training import TrainingRun, claim
from pyxai_fast.segments.label_cache import LabelCache
from pyxai_fast.table_file import TableFile, read_table

image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def quietly(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def one_line(error: Exception, name: object) -> None:
    """An error that a user can do something with: in one line, naming the file."""
    said = str(error)
    assert str(name) in said and "\n" not in said.strip(), said


# --- pictures -------------------------------------------------------------------------------------


def picture(kind: str, size: tuple[int, int] = (24, 18)) -> bytes:
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([x * 9, y * 13, (x + y) * 5], 2).astype(np.uint8)
    file = io.BytesIO()
    image_module.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", PICTURES)
@given(data=st.data())
@settings(max_examples=60)
def test_damaged_pictures_are_pixels_or_one_line(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    path = tmp_path / f"picture.{kind.lower()}"
    path.write_bytes(data.draw(damages(picture(kind))))
    channels = data.draw(st.sampled_from([1, 3]))
    resize, size = data.draw(st.sampled_from([(None, None), (16, (12, 12)), (None, (9, 7))]))
    wanted = Preprocessing(size=size, resize=resize, channels=channels)
    try:
        pixels = quietly(lambda: read_image(path, wanted))
    except ImageError as error:
        one_line(error, path)
        return
    assert pixels.dtype == torch.float32 and pixels.shape[0] == channels
    assert size is None or tuple(pixels.shape[1:]) == size
    assert bool(((pixels >= 0) & (pixels <= 1)).all())


BOMBS = {
    "thin": png(100_000, 1),
    "tall": png(1, 100_000),
    "promises": png(60_000, 60_000, b""),
    "unpacks": png(4, 4, b"\0" * 2**24),
    "text": png(4, 4, None, (b"zTXt", b"a\0\0" + b"x\x9c" + b"\0" * 2**16)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_with_large_pictures_are_refused_or_small(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(BOMBS[name])
    try:
        pixels = read_image(path, Preprocessing(size=(224, 224), resize=256))
    except ImageError as error:
        one_line(error, path)
    else:
        assert pixels.shape == (3, 224, 224)
    if name in ("thin", "tall"):
        with pytest.raises(ImageError, match=r"too large once resized: .* more than 67,108,864"):
            read_image(path, Preprocessing(size=(224, 224), resize=800))


# --- sounds ---------------------------------------------------------------------------------------


def sound(rate: int = 8000, kind: str = "WAV") -> bytes:
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
    file = io.BytesIO()
    samples = 0.3 * np.sin(np.arange(1000) / 7)
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF"])
@given(data=st.data())
@settings(max_examples=50)
def test_damaged_sounds_are_samples_or_one_line(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    from pyxai_fast.audio import read_audio
    from pyxai_fast.audio.files import AudioError

    path = tmp_path / f"sound.{kind.lower()}"
    path.write_bytes(data.draw(damages(sound(kind=kind))))
    try:
        waveform, rate = read_audio(path, data.draw(st.sampled_from([None, 16000])))
    except AudioError as error:
        one_line(error, path)
        return
    assert waveform.dtype == torch.float32 and waveform.dim() == 1 and len(waveform) > 0
    assert rate >= 1 and bool(waveform.isfinite().all())


@pytest.mark.parametrize("rate", [1, 7, 8001, 44_101, 1_000_003, 16_821_316, 2**31 - 1])
def test_rates_that_nothing_has_do_not_take_all_memory(rate: int, tmp_path: Path) -> None:
    """A single bit of a WAV's head makes 44,100 samples a second 16,821,316."""
    pytest.importorskip("soundfile", reason="soundfile is not installed")
    from pyxai_fast.audio import read_audio
    from pyxai_fast.audio.files import AudioError

    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\1\2" * 400)
    try:
        waveform, _ = read_audio(path, 16_000)
    except AudioError as error:
        one_line(error, path)
        assert rate > 100_000
    else:
        assert len(waveform) == -(-400 * 16_000 // rate)


# --- jobs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Any]]:
    """Pictures, the folder of a job that explained them, and its results."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    from job_cases import draw, explain

    from pyxai_fast import jobs

    folder = tmp_path_factory.mktemp("job")
    draw(folder / "in", 7)[2].write_bytes(b"nonsense")
    explain(folder / "in", folder / "out")
    return folder / "in", folder / "out", list(jobs.results(folder / "out"))


def same(result: Any, other: Any) -> bool:
    fields = [
        name
        for name in other.__dataclass_fields__
        if name not in ("attributions", "standard_error")
    ]
    told = all(getattr(result, name) == getattr(other, name) for name in fields)
    return told and torch.equal(result.attributions, other.attributions)


OF_A_JOB = (
    "job.json", "items.arrow", "index/00000.parquet", "index/00001.parquet",
    "shards/00000.safetensors", "log",
)  # fmt: skip


@pytest.mark.parametrize("name", OF_A_JOB)
@given(data=st.data())
@settings(max_examples=25)
def test_a_damaged_job_gives_its_results_or_says_what_is_damaged(
    name: str, data: st.DataObject, finished: Any, tmp_path: Path
) -> None:
    from job_cases import explain

    from pyxai_fast import jobs
    from pyxai_fast.jobs.items import Items

    pictures, whole, expected = finished
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(whole, out)
    damaged = next(out.glob("log/*.jsonl")) if name == "log" else out / name
    damaged.write_bytes(data.draw(damages(damaged.read_bytes())))
    known = {result.number: result for result in expected}
    try:
        opened = jobs.results(out)
        for number in known:
            assert same(opened[number], known[number])
        for result in opened:
            assert same(result, known[result.number])
    except (ArgumentError, KeyError, IndexError) as error:
        # job.json has no checksum: another number of items is another job.
        fewer = name == "job.json" and isinstance(error, IndexError)
        assert fewer or damaged.name in str(error) or "not explained yet" in str(error), error
    try:
        summary = explain(pictures, out, resume=True)
    except (ArgumentError, jobs.JobStopped) as error:
        assert damaged.name in str(error) or "resume must be asked" in str(error), error
        return
    assert (summary.ok, summary.bad, summary.items) == (6, 1, 7)
    assert all(map(same, jobs.results(out), expected))
    if name == "items.arrow":  # which can be made again
        assert list(Items(out)) == list(Items(whole))


def test_a_shard_that_is_damaged_can_be_explained_again(finished: Any, tmp_path: Path) -> None:
    from job_cases import explain, files_of

    from pyxai_fast import jobs

    pictures, whole, expected = finished
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    shard = out / "shards/00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1  # of a number: the file is as good as before to who does not look closely
    shard.write_bytes(data)
    with pytest.raises(ArgumentError, match=r"item 3 must be in .*00000.safetensors, which is dam"):
        list(jobs.results(out))
    shard.unlink()
    (out / "index/00000.parquet").unlink()
    explain(pictures, out, resume=True)
    assert all(map(same, jobs.results(out), expected))
    assert files_of(out) == files_of(whole)


def tar_of(files: dict[str, bytes], path: Path) -> bytes:
    from job_cases import pack

    return pack(path, files).read_bytes()


@pytest.mark.parametrize("kind", ["tar", "parquet", "txt"])
@given(data=st.data())
@settings(max_examples=40)
def test_damaged_sources_are_items_or_one_line(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    from pyxai_fast import jobs

    path = tmp_path / f"source.{kind}"
    if kind == "tar":
        whole = tar_of({f"{i}.png": picture("PNG") for i in range(3)}, path)
    elif kind == "parquet":
        table = pyarrow.table({"path": ["a.png", "b.png"], "target": [1, 2]})
        parquet.write_table(table, str(path))
        whole = path.read_bytes()
    else:
        whole = b"a.png\nb/c.png\n\nd.png\n"
    path.write_bytes(data.draw(damages(whole)))
    try:
        items = jobs.find_items(path)
    except ArgumentError as error:
        assert str(path) in str(error), error
        return
    assert items and all(isinstance(item.path, str) for item in items)


# --- tables ---------------------------------------------------------------------------------------

TABLE = b"age,dose,pulse\n" + b"".join(b"%d.5,%d,-%d.25e1\n" % (i, i * i, i) for i in range(12))


@given(data=st.data())
@settings(max_examples=150)
def test_damaged_tables_are_numbers_or_one_line(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(data.draw(damages(TABLE)))
    try:
        table = read_table(str(path))
        numbers = table.numbers(table.names)
    except ArgumentError as error:
        assert str(error).startswith(f"{path}: "), error
        return
    assert isinstance(table, TableFile)
    assert numbers.shape == (len(table), len(table.names)) and numbers.dtype == torch.float64


@pytest.mark.parametrize("text", ["1_000", "1_0.5", "0x10", "1,5", "--1", "1e", "½", "1 2"])
def test_what_only_looks_like_a_number_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f'a;b\n"{text}";1\n', encoding="utf-8")
    with pytest.raises(ArgumentError, match=r"line 2, column 'a': must be a number"):
        read_table(str(path)).numbers(["a"])


# --- settings -------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
FIELDS = (
    "mean", "std", "size", "resize", "interpolation", "channels", "preprocessing", "image_mean",
    "image_std", "do_resize", "do_center_crop", "crop_size", "crop_pct", "resample",
    "rescale_factor", "data_config",
)  # fmt: skip


@given(data=st.data())
@settings(max_examples=150)
def test_any_settings_are_a_preprocessing_or_one_line(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "preprocessing.json"
    held = data.draw(st.one_of(JSON, st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6)))
    text = json.dumps(held).encode()
    if data.draw(st.booleans()):
        text = data.draw(damages(text))
    path.write_bytes(text)
    try:
        found = quietly(lambda: read_preprocessing(path))
    except ModelSpecError as error:
        assert str(path) in str(error), error
    else:
        assert isinstance(found, Preprocessing)


def test_settings_that_are_nested_without_end_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ModelSpecError, match="is not JSON"):
        read_preprocessing(path)


# --- models, priors and what trainings leave ------------------------------------------------------


@pytest.fixture(scope="module")
def paths_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("safetensors", reason="a path model is saved as safetensors")
    folder = tmp_path_factory.mktemp("paths")
    path_model().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["path_model.json", "path_model.safetensors"])
@given(data=st.data())
@settings(max_examples=40)
def test_damaged_path_models_are_told(
    name: str, data: st.DataObject, paths_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(paths_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(data.draw(damages((paths_folder / name).read_bytes())))
    try:
        found = quietly(lambda: PathModel.from_pretrained(tmp_path))
    except (ArgumentError, ModelSpecError) as error:
        assert "\n" not in str(error), error
    else:
        assert isinstance(found, PathModel)


@given(data=st.data())
@settings(max_examples=20)
def test_damaged_priors_are_told(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusion models are those of diffusers")
    from diffusion_nets import unet

    from pyxai_fast.models.errors import ModelNotFound
    from pyxai_fast.priors import DiffusionPrior

    folder = tmp_path_factory.mktemp("prior")
    diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()).save_pretrained(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    damaged = data.draw(st.sampled_from(files))
    damaged.write_bytes(data.draw(damages(damaged.read_bytes())))
    try:
        found = quietly(lambda: DiffusionPrior.from_pretrained(folder))
    except (ModelSpecError, ModelNotFound, ArgumentError) as error:
        assert "\n" not in str(error), error
    else:
        assert isinstance(found, DiffusionPrior)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from nets import conv_net
    from onnx_files import write_conv_net

    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    write_conv_net(conv_net(), path)
    return path.read_bytes()


@given(data=st.data())
@settings(max_examples=60)
def test_damaged_onnx_files_are_told(data: st.DataObject, onnx_file: bytes, tmp_path: Path) -> None:
    from pyxai_fast.models.from_onnx import OnnxModel

    path = tmp_path / "net.onnx"
    path.write_bytes(data.draw(damages(onnx_file)))
    try:
        model = OnnxModel(path, providers=["CPUExecutionProvider"], threads=1)
        model(np.zeros((2, 3, 8, 8), np.float32))
    except (ArgumentError, ModelSpecError, RuntimeError) as error:
        one_line(error, path)


@dataclass
class Recipe:
    steps: int = 3


@given(data=st.data())
@settings(max_examples=40)
def test_damaged_checkpoints_and_reports_are_told(data: st.DataObject, tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"recipe": {"steps": 3}, "fingerprint": "f", "step": 1}, file)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(data.draw(damages(file.getvalue())))
    run = SimpleNamespace(what="train", device="cpu", recipe=Recipe(), fingerprint="f", data="x")
    with pytest.raises(ArgumentError, match=r"the checkpoint .*checkpoint.pt cannot be read"):
        TrainingRun.load(run, path)  # type: ignore[arg-type]
    report = json.dumps({"data": {"fingerprint": "f"}, "recipe": {"steps": 3}}).encode()
    (tmp_path / "recipe.json").write_bytes(data.draw(damages(report)))
    try:
        claim("train", "model", tmp_path, ("recipe.json",), Recipe(), "f", True, False)
    except ArgumentError as error:
        assert "recipe.json cannot be read" in str(error) or "finished model of" in str(error)


@given(data=st.data(), kind=st.sampled_from(["npy", "npz"]))
@settings(max_examples=60)
def test_damaged_arrays_are_told(data: st.DataObject, kind: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    pixels = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)
    np.save(file, pixels) if kind == "npy" else np.savez(file, pixels=pixels)
    path = tmp_path / f"pictures.{kind}"
    path.write_bytes(data.draw(damages(file.getvalue())))
    try:
        found = quietly(lambda: load_pictures(path, size=4))
    except DataError as error:
        assert str(path) in str(error), error
    else:
        assert found.pixels.shape[2:] == (4, 4)


# --- caches ---------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=30)
def test_damaged_answers_are_told(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("answers") / "answers.sqlite"
    cache = AnswerCache(path)
    keys = [bytes([i]) * 24 for i in range(20)]
    cache.keep({key: np.full(3, i, np.float32) for i, key in enumerate(keys)})
    cache.close()
    path.write_bytes(data.draw(damages(path.read_bytes())))
    try:
        again = AnswerCache(path)
        found = again.find(keys)
        again.close()
    except ArgumentError as error:
        assert str(path) in str(error) and "must be a file of answers" in str(error), error
    else:
        assert set(found) <= set(keys)


def test_a_file_of_answers_that_turns_bad_while_it_is_open_is_told(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    cache = AnswerCache(path)
    cache.keep({b"k" * 24: np.zeros(3, np.float32)})
    with sqlite3.connect(path) as file:
        file.execute("UPDATE answers SET dtype = 'nothing'")
    with pytest.raises(ArgumentError, match="must be a file of answers that can be read"):
        cache.find([b"k" * 24])


@given(data=st.data())
@settings(max_examples=40)
def test_damaged_label_maps_are_made_again(data: st.DataObject, tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    from pyxai_fast.segments.superpixels import superpixels

    shutil.rmtree(tmp_path / "labels", ignore_errors=True)
    pixels = torch.linspace(0, 1, 3 * 16 * 20).reshape(3, 16, 20)
    options = {"n_segments": 6}
    expected = superpixels(pixels, "slic", cache=LabelCache(tmp_path / "labels"), **options)
    (path,) = (tmp_path / "labels").glob("*.npy")
    path.write_bytes(data.draw(damages(path.read_bytes())))
    found = superpixels(pixels, "slic", cache=LabelCache(tmp_path / "labels"), **options)
    assert found.shape == expected.shape and found.dtype == torch.int32
    assert int(found.min()) >= 0 and int(found.max()) < found.numel()


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What the command has told; from C++ too."""

    def read() -> str:
        told = capfd.readouterr()
        assert "Traceback" not in told.out + told.err
        return told.err

    return read


def test_the_command_explains_the_pictures_that_can_be_read(
    tmp_path: Path, said: Callable[[], str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(picture("PNG", (32, 32)))
    arguments = ["--model", "demo", "--device", "cpu", "--no-progress", "--format", "npz"]
    for number, data in enumerate(
        [picture("PNG")[:60], picture("JPEG")[:100], BOMBS["promises"], b"", b"GIF89a"]
    ):
        bad.write_bytes(data)
        out = tmp_path / f"out-{number}"
        files = ["explain", str(good), str(bad), "--out", str(out), "--method", "saliency"]
        assert main([*files, *arguments]) == 1
        assert "bad.png" in said()
        assert (out / "good.png").exists()


@pytest.mark.parametrize("name", OF_A_JOB)
def test_the_command_says_what_of_a_job_is_damaged(
    name: str, finished: Any, tmp_path: Path, said: Callable[[], str]
) -> None:
    pictures = tmp_path / "in"
    shutil.copytree(finished[0], pictures)
    out = tmp_path / "out"
    fixed = ["--model", "demo", "--device", "cpu", "--workers", "0", "--no-progress"]
    run = ["run", str(pictures), "--out", str(out), *fixed, "--method", "saliency", "--shard-size"]
    assert main([*run, "4"]) == 1  # one picture is bad
    said()
    damaged = next(out.glob("log/*.jsonl")) if name == "log" else out / name
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"\xff" * 9)
    code = main([*run, "4", "--resume"])
    told = said()
    if name in ("items.arrow", "log"):
        assert code == 1 and "error" not in told
    else:
        assert code == 2 and damaged.name in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "data", "arguments"),
    [
        ("p.json", b'{"size": [1e999, 3]}', ["--preprocessing", "p.json"]),
        ("p.json", b"\xff\xfe", ["--preprocessing", "p.json"]),
        ("net.onnx", b"\x08\x07nothing", ["--model", "onnx:net.onnx"]),
        ("paths/path_model.json", b"[]", ["--method", "diffusion_ig", "--path-model", "paths"]),
        ("prior/model_index.json", b"{", ["--method", "freemcg", "--prior", "prior"]),
        ("a.png", None, ["--references", "a.png", "--baseline", "zero"]),
    ],
)
def test_the_command_says_in_a_line_what_cannot_be_used(
    name: str,
    data: bytes | None,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], str],
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.chdir(tmp_path)
    Path("cat.png").write_bytes(picture("PNG", (32, 32)))
    Path(name).parent.mkdir(exist_ok=True)
    if data is not None:
        Path(name).write_bytes(data)
    model = [] if "--model" in arguments else ["--model", "demo"]
    fixed = ["--device", "cpu", "--no-progress", "--out", "out"]
    assert main(["explain", "cat.png", *model, *fixed, *arguments]) in (1, 2)
    told = said()
    assert told.count("pyxai-fast: error: ") == 1 and not Path("out").exists()


# --- the damage itself ----------------------------------------------------------------------------


@given(data=st.data(), whole=st.binary(max_size=300))
def test_damage_is_always_done(data: st.DataObject, whole: bytes) -> None:
    assert data.draw(damages(whole)) != whole

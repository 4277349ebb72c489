"""The command line explains sounds: what is heard is what the model answers to."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyxai_fast import METHODS
from pyxai_fast.audio import Spectrum, audible, read_audio, write_audio
from pyxai_fast.cli import main
from pyxai_fast.cli_audio import mask_of
from pyxai_fast.cli_kinds import IMAGE, SOUND, kind_of
from pyxai_fast.combinations import COMBINATIONS

pytest.importorskip("matplotlib")
pytest.importorskip("soundfile")
load_file = pytest.importorskip("safetensors.torch").load_file

RATE, SAMPLES = 8000, 8000
SPECTRUM = Spectrum(RATE)
TONE = 1250.0  # Hz
WHEN, BEFORE = (0.5, 0.8), (0.1, 0.35)  # seconds

# How loud a sound is at 1250 Hz, anywhere.
MODEL = """
import math
import torch
from torch import nn
from pyxai_fast import BlackBox

class Tone(nn.Module):
    sample_rate = 8000
    class_names = ["no tone", "tone"]

    def forward(self, waveforms):
        assert waveforms.dim() == 2
        phase = 2 * math.pi * 1250 / 8000 * torch.arange(400, dtype=waveforms.dtype)
        frames = waveforms.unfold(1, 400, 200)
        power = (frames @ phase.cos()).square() + (frames @ phase.sin()).square()
        logit = 8 * (power.mean(1) + 1e-9).sqrt() / 20 - 4
        return torch.stack([torch.zeros_like(logit), logit], 1)

def tone():
    return Tone()

def answers():
    return BlackBox(Tone(), budget=60)

def broken():
    raise AssertionError("loaded")
"""


def sine(hertz: float, seconds: tuple[float, float], loud: float = 0.3) -> Tensor:
    time = torch.arange(SAMPLES) / RATE
    within = (time >= seconds[0]) & (time < seconds[1])
    return loud * torch.sin(2 * math.pi * hertz * time) * within


def sound() -> Tensor:
    """The tone, and a hiss before it."""
    time = torch.arange(SAMPLES) / RATE
    hiss = 0.1 * torch.randn(SAMPLES, generator=torch.Generator().manual_seed(0))
    return sine(TONE, WHEN) + hiss * (time >= BEFORE[0]) * (time < BEFORE[1])


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "models.py").write_text(MODEL)
    return f"python:{tmp_path / 'models.py'}"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "in" / "one.wav"
    path.parent.mkdir()
    write_audio(path, sound(), RATE)
    return str(path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(*arguments: str) -> int:
    return main(["explain", *arguments, "--device", "cpu", "--no-progress"])


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def tone_in(waveform: Tensor) -> float:
    """The tone's power, while it lasts."""
    first, last = (round(RATE * at) for at in WHEN)
    turn = torch.exp(2j * math.pi * TONE * torch.arange(first, last).double() / RATE)
    return float((waveform[first:last].double() * turn).mean().abs().square())


def hiss_in(waveform: Tensor) -> float:
    first, last = (round(RATE * at) for at in BEFORE)
    return float(waveform[first:last].square().mean())


# ---------------------------------------------------------------- what it writes


def dax(samples: int, **options: Any) -> list[str]:
    settings = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    return ["--samples", str(samples), "--seed", "1", *settings]


BRIEFLY = dax(60, n_epochs=2)
OF_PIXELS = dax(60, loss="release", student_size=32, width=128, filters=8, n_epochs=1)


@pytest.mark.parametrize("options", [BRIEFLY, OF_PIXELS])
def test_a_mask_of_dax_is_what_is_heard(
    model: str, file: str, out: Path, options: list[str]
) -> None:
    options = ["--method", "dax", *options]
    assert run(file, "--model", f"{model}:tone", "--out", str(out), *options) == 0
    tensors = load_file(out / "one.safetensors")
    assert torch.equal(tensors["mask"], tensors["attributions"][0])
    assert 0 < tensors["mask"].max() <= 1


@pytest.mark.parametrize("method", ["lime", "dax"])
def test_what_is_heard_is_the_tone_and_not_the_other_sound(
    model: str, file: str, out: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    options = ["--method", method, "--samples", "250", "--seed", "1"]
    assert run(file, "--model", f"{model}:tone", "--out", str(out), *options) == 0
    names = ["one.heard.wav", "one.png", "one.safetensors", "run.json"]
    assert sorted(path.name for path in out.iterdir()) == names

    tensors = load_file(out / "one.safetensors")
    assert tensors["attributions"].shape == SPECTRUM.shape(SAMPLES)
    mask = tensors["mask"]
    assert mask.shape == SPECTRUM.shape(SAMPLES)[1:] and mask.min() >= 0 and mask.max() <= 1
    hertz, seconds = SPECTRUM.hertz(), SPECTRUM.seconds(mask.shape[1])
    tone = mask[(hertz - TONE).abs().argmin(), ((seconds - 0.65).abs()).argmin()]
    hiss = mask[:, (seconds > BEFORE[0]) & (seconds < BEFORE[1])].mean()
    assert tone > 0.4 and hiss < 0.1

    heard, rate = read_audio(out / "one.heard.wav")
    assert rate == RATE and len(heard) == SAMPLES
    whole, _ = read_audio(file)
    assert tone_in(heard) > 0.15 * tone_in(whole)
    assert hiss_in(heard) < 0.05 * hiss_in(whole)
    again = audible(SPECTRUM, SPECTRUM.of(whole[None]), mask[None, None], SAMPLES)[0]
    assert float((again - heard).abs().max()) < 1e-4  # of 16 bits

    (result,) = record(out)["results"]
    assert result["class_name"] == "tone" and result["heard"] == "one.heard.wav"
    assert 0.5 < result["probability"] <= 1
    said = capsys.readouterr().out
    assert "one.png, one.safetensors, one.heard.wav" in said and "1 explained" in said
    assert said.startswith("sound ")


def test_the_record_says_what_was_explained(model: str, file: str, out: Path) -> None:
    tiles = ["--set", "hertz=1000", "--set", "seconds=0.5"]
    options = ["--method", "lime", "--samples", "40", *tiles, "--baseline", "-20"]
    assert run(file, "--model", f"{model}:tone", "--out", str(out), *options) == 0
    said = record(out)
    assert said["settings"]["sounds"] == [file] and "images" not in said["settings"]
    assert said["settings"]["options"] == {"hertz": 1000, "seconds": 0.5}
    assert said["spectrum"] == {"rate": 8000, "n_fft": 256, "hop": 64, "padding": "reflect"}
    assert "preprocessing" not in said
    assert said["cost"]["queries"] >= 40
    # 4 bands and 2 moments.
    maps = load_file(out / "one.safetensors")["attributions"]
    assert 4 < len(maps.unique()) <= 8


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "stick_breaking_ig"])
def test_slopes_are_of_bins_and_frames(model: str, file: str, out: Path, method: str) -> None:
    steps = [] if method == "saliency" else ["--steps", "8"]
    named = ["--model", f"{model}:tone", "--method", method, *steps]
    assert run(file, *named, "--out", str(out)) == 0
    tensors = load_file(out / "one.safetensors")
    assert tensors["attributions"].shape == SPECTRUM.shape(SAMPLES)
    assert torch.equal(tensors["mask"], mask_of(tensors["attributions"], method))
    strongest = tensors["attributions"].abs().sum(0).amax(1).argmax()
    assert float(SPECTRUM.hertz()[strongest]) == pytest.approx(TONE, abs=40)
    if method == "integrated_gradients":
        heard, _ = read_audio(out / "one.heard.wav")
        whole, _ = read_audio(file)
        assert tone_in(heard) > 0.5 * tone_in(whole)
        assert hiss_in(heard) < 0.1 * hiss_in(whole)


COSTS = {
    "integrated_gradients": ["--steps", "3"],
    "guided_ig": ["--steps", "3"],
    "smooth_grad": ["--samples", "3"],
    "expected_gradients": ["--samples", "3"],
    "geometrically_guided_ig": ["--steps", "2", "--set", "n_ascent=2"],
    "blur_ig": ["--steps", "3"],
    "stick_breaking_ig": ["--steps", "3", "--set", "n_paths=2"],
    "lime": ["--samples", "40"],
    "kernel_shap": ["--samples", "40"],
    "rise": ["--samples", "40"],
    "dax": BRIEFLY,
    "student_gradient": BRIEFLY,
}
OF_PICTURES = {"freemcg", "diffusion_ig"}  # their priors are


@pytest.mark.parametrize("method", sorted({*METHODS, *COMBINATIONS} - OF_PICTURES))
def test_every_method_can_be_asked_for(model: str, file: str, out: Path, method: str) -> None:
    options = ["--method", method, "--model", f"{model}:tone", *COSTS.get(method, [])]
    assert run(file, "--out", str(out), *options) == 0
    tensors = load_file(out / "one.safetensors")
    assert float(tensors["attributions"].abs().max()) > 0
    assert 0 <= float(tensors["mask"].min()) <= float(tensors["mask"].max()) <= 1


def test_a_model_that_only_answers_is_asked_within_its_budget(
    model: str, file: str, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--model", f"{model}:answers", "--method", "rise"]
    assert run(file, *named, "--samples", "40", "--out", str(out)) == 0
    assert record(out)["cost"]["sent"] <= 60 and record(out)["cost"]["budget"] == 60
    assert run(file, *named, "--samples", "80", "--out", str(tmp_path / "more")) == 1
    assert "the budget has 60 left" in capsys.readouterr().err
    estimated = ["--method", "saliency", "--gradient", "likelihood_ratio", "--samples", "20"]
    arguments = ["--model", f"{model}:answers", *estimated, "--out", str(tmp_path / "slope")]
    assert run(file, *arguments) == 0
    assert "standard_error" in load_file(tmp_path / "slope" / "one.safetensors")


def test_no_result_depends_on_what_is_explained_beside_it(
    model: str, file: str, out: Path, tmp_path: Path
) -> None:
    shorter = tmp_path / "in" / "shorter.wav"
    write_audio(shorter, sound()[2000:7000], RATE)
    options = ["--model", f"{model}:tone", "--method", "dax", *BRIEFLY]
    assert run(str(shorter), file, "--out", str(out), *options) == 0
    assert run(file, "--out", str(tmp_path / "alone"), *options) == 0
    together = load_file(out / "one.safetensors")["attributions"]
    assert torch.equal(together, load_file(tmp_path / "alone" / "one.safetensors")["attributions"])
    assert len(read_audio(out / "shorter.heard.wav")[0]) == 5000


def test_sounds_are_brought_to_the_rate_of_the_model(
    model: str, file: str, out: Path, tmp_path: Path
) -> None:
    twice = tmp_path / "in" / "twice.flac"
    write_audio(twice, torch.rand(16000) - 0.5, 16000)
    named = ["--model", f"{model}:tone", "--method", "saliency"]
    assert run(str(twice), *named, "--out", str(out)) == 0
    assert read_audio(out / "twice.heard.wav")[1] == RATE
    other = tmp_path / "other"
    assert run(file, *named, "--sample-rate", "4000", "--out", str(other)) == 0
    assert record(other)["spectrum"]["rate"] == 4000
    assert len(read_audio(other / "one.heard.wav")[0]) == 4000


def test_baselines_are_so_many_decibels_below_the_sound(
    model: str, file: str, tmp_path: Path
) -> None:
    named = ["--model", f"{model}:tone", "--steps", "16", "--target", "1"]
    sums = {}
    for baseline in ("silence", "quiet", "-20"):
        out = tmp_path / baseline.strip("-")
        assert run(file, *named, "--baseline", baseline, "--out", str(out)) == 0
        sums[baseline] = float(load_file(out / "one.safetensors")["attributions"].sum())
    # The logit is linear in the sound's amplitude, but for the smallest.
    assert sums["quiet"] == pytest.approx(sums["silence"] * (1 - 10**-1.5), rel=1e-2)
    assert sums["-20"] == pytest.approx(sums["silence"] * 0.9, rel=1e-2)


def test_references_are_sounds_of_any_length(model: str, file: str, out: Path) -> None:
    longer = Path(file).with_name("longer.wav")
    write_audio(longer, 0.1 * torch.rand(9000), RATE)
    shorter = Path(file).with_name("shorter.wav")
    write_audio(shorter, 0.1 * torch.rand(500), RATE)
    options = ["--method", "expected_gradients", "--samples", "4", "--model", f"{model}:tone"]
    assert run(file, *options, "--out", str(out), "--references", str(longer), str(shorter)) == 0
    assert record(out)["settings"]["references"] == [str(longer), str(shorter)]


def test_masks_of_other_methods_are_what_speaks_for_the_class() -> None:
    maps = torch.zeros(2, 20, 50)
    maps[0, 3, 4], maps[1, 3, 4] = 3.0, 1.0
    maps[0, 5, 6], maps[1, 5, 6] = 3.0, -1.0
    maps[:, 7, 8] = -9.0
    mask = mask_of(maps, "saliency")
    assert mask.shape == (20, 50)
    assert mask[3, 4] == 1 and mask[5, 6] == 0.5  # so sparse that the maximum is 1
    assert float(mask.sum()) == 1.5
    dense = torch.rand(2, 200, 50, generator=torch.Generator().manual_seed(0))
    top = np.percentile(dense.sum(0).numpy(), 99.5)
    expected = (dense.sum(0) / top).clamp(max=1)
    assert torch.allclose(mask_of(dense, "lime"), expected, atol=1e-6)


# ---------------------------------------------------------------- nothing is lost


def test_what_cannot_be_read_is_named_and_the_others_are_explained(
    model: str, file: str, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrupt, short = tmp_path / "corrupt.wav", tmp_path / "short.wav"
    corrupt.write_bytes(b"RIFF and then nothing")
    write_audio(short, torch.rand(100), RATE)
    missing = str(tmp_path / "missing.ogg")
    files = [str(corrupt), file, missing, str(short)]
    assert run(*files, "--model", f"{model}:tone", "--steps", "3", "--out", str(out)) == 1
    error = capsys.readouterr().err
    assert f"{missing}: no such file" in error
    assert f"{short}: is too short: 100 samples at 8000 per second" in error
    said = record(out)
    assert [result["file"] for result in said["results"]] == [file]
    assert [failure["file"] for failure in said["failures"]] == [str(corrupt), missing, str(short)]
    assert said["failures"][0]["reason"].startswith("not a sound file")


def test_an_input_in_the_output_folder_is_never_replaced(model: str, tmp_path: Path) -> None:
    files = [tmp_path / "a.wav", tmp_path / "a.heard.wav"]
    for path in files:
        write_audio(path, sound(), RATE)
    before = files[1].read_bytes()
    arguments = ["--model", f"{model}:tone", "--method", "saliency", "--out", str(tmp_path)]
    assert run(str(files[0]), str(files[1]), *arguments, "--overwrite") == 0
    assert files[1].read_bytes() == before
    assert record(tmp_path)["results"][0]["heard"] == "a-2.heard.wav"
    assert run(str(files[0]), *arguments) == 2


# ---------------------------------------------------------------- one clear line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "--method: must be one of"),
        (["--set", "no_such_option=1"], "no_such_option"),
        (["--method", "dax", "--set", "student_size=0"], "DAX: student_size must be an integer"),
        (["--method", "dax", "--set", "n_queries=2"], "n_queries must be an integer >= 3"),
        (["--method", "dax", "--output", "margin"], "DAX: output must be prob or logit"),
        (["--method", "lime", "--set", "hertz=0"], "--set: hertz must be a number above 0"),
        (["--method", "lime", "--set", "seconds=long"], "--set: seconds must be a number above 0"),
        (["--method", "saliency", "--set", "hertz=50"], "the method saliency hides no segments"),
        (
            ["--method", "lime", "--set", "hertz=50", "--set", "segments=tiles:8"],
            "give one of them",
        ),
        (["--baseline", "black"], "--baseline: must be silence, quiet or so many decibels below 0"),
        (["--baseline", "3"], "or so many decibels below 0 for sounds, got '3'"),
        (["--method", "saliency", "--baseline", "quiet"], "saliency has no baseline"),
        (["--references", "a.wav"], "--references: the method integrated_gradients takes none"),
        (
            ["--preprocessing", "a.json"],
            "--preprocessing: must be given for images alone, and these are sounds",
        ),
        (["--sample-rate", "0"], "must be a whole number of at least 1"),
        (["cat.png"], "files: must be of one kind, got sounds"),
        (["--model", "torchvision:resnet18"], "--model: must be python:MODULE_OR_FILE.py:FACTORY"),
    ],
)
def test_what_cannot_be_used_is_said_before_the_model_is_loaded(
    model: str,
    file: str,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    named = [] if "--model" in arguments else ["--model", f"{model}:broken"]
    assert run(file, *arguments, *named, "--out", str(out)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error, error
    assert not out.exists()


def test_a_rate_is_refused_for_images(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["a.png", "--model", "demo", "--sample-rate", "8000", "--out", str(out)]
    assert run(*arguments) == 2
    assert "--sample-rate: must be given for sounds alone" in capsys.readouterr().err


def test_missing_packages_are_named_with_their_extra(
    model: str,
    file: str,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == "soundfile" else find(name)
    )
    assert run(file, "--model", f"{model}:broken", "--out", str(out)) == 2
    error = capsys.readouterr().err
    assert "needs soundfile; run: pip install pyxai-fast[audio]" in error


def test_files_are_told_by_their_suffix() -> None:
    assert kind_of(["a.png", "b.jpeg", "c"]) == IMAGE
    assert kind_of(["a.wav", "b.FLAC", "c.Ogg"]) == SOUND

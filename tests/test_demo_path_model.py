"""The demo's path model: its guides know the demo's classifier, on digits it never saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("safetensors", reason="the weights are a safetensors file")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

from pyxai_fast.cli import main
from pyxai_fast.demo import train_paths
from pyxai_fast.demo.data import load_digits
from pyxai_fast.demo.model import load_demo_model
from pyxai_fast.demo.path_model import PATH_MODEL_PATH, load_demo_path_model
from pyxai_fast.methods import IntegratedGradients
from pyxai_fast.path_models.guide_labels import entropy
from pyxai_fast.path_models.path_data import stick_breaking_tokens
from pyxai_fast.path_models.path_model import PathModel
from pyxai_fast.paths import DiffusionPaths


@pytest.fixture(scope="module")
def paths() -> PathModel:
    return load_demo_path_model()


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PATH_MODEL_PATH / "recipe.json").read_text())
    return found


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return load_digits("test")[0][:4]


def maps_of(paths: PathModel, digits: Tensor, guides: dict[str, float]) -> tuple[Tensor, Tensor]:
    model = load_demo_model()
    with torch.no_grad():
        target = model(digits).argmax(1)
    method = IntegratedGradients(model, path=DiffusionPaths(paths, 3, guides))
    maps, gaps = method.attribute(digits, target=target, n_steps=20, return_convergence_delta=True)
    return maps, gaps


def test_noise_on_paths_is_told_from_paths(paths: PathModel) -> None:
    """Better than the best linear answer that knows one number at a time."""
    tokens = stick_breaking_tokens(paths.config, torch.full((64,), 3.0), seed=99, part=7)
    noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    share = float(paths.shares[5])
    noisy = share**0.5 * tokens + (1 - share) ** 0.5 * noise
    error = float((paths.noise(noisy, 5) - noise).square().mean())
    linear = float(((1 - share) ** 0.5 * noisy - noise).square().mean())
    assert error < 0.9 * linear


def test_guides_change_the_map_as_they_say(paths: PathModel, digits: Tensor) -> None:
    plain, gaps = maps_of(paths, digits, {})
    sparse, led_gaps = maps_of(paths, digits, {"sparse": 20.0})
    dense, _ = maps_of(paths, digits, {"sparse": -20.0})
    means = [float(entropy(maps).mean()) for maps in (sparse, plain, dense)]
    assert means[0] < means[1] < means[2]
    # Complete with guidance as without, as far as 20 midpoints go on scores of about 10.
    for gap in (gaps, led_gaps):
        assert float(gap.abs().max()) < 0.5


def test_the_report_is_of_these_weights(paths: PathModel, report: dict[str, Any]) -> None:
    assert report["parameters"] == sum(p.numel() for p in paths.networks.parameters())
    recipe = train_paths.RECIPE
    assert report["recipe"]["steps"] == recipe.steps and report["recipe"]["paths"] == recipe.paths
    assert paths.config.points == recipe.points and paths.config.levels == recipe.levels
    for guide in report["guides"].values():
        assert guide["rank_correlation"] > 0.1
    table = report["quality"]["maps"]
    assert len(table) == 1 + len(train_paths.TRIED)


def test_the_command_line_leads_paths(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
    pytest.importorskip("matplotlib", reason="maps are drawn by matplotlib")
    pixels = (load_digits("test")[0][3, 0].numpy() * 255).round().astype(np.uint8)
    image.fromarray(pixels).save(tmp_path / "3.png")
    words = (
        f"explain {tmp_path}/3.png --model demo --method diffusion_ig --path-model demo --steps 20 "
        "--set n_paths=2 --device cpu --format npz"
    )
    maps = []
    for name, guides in (
        ("a", "--guide faithful=0"),
        ("b", "--guide sparse=20"),
    ):
        assert main(f"{words} {guides} --out {tmp_path}/{name}".split()) == 0
        maps.append(np.load(tmp_path / name / "3.npz")["attributions"])
    plain, sparse = (float(entropy(torch.from_numpy(each)[None])) for each in maps)
    assert sparse < plain


def test_what_is_shipped_is_small_and_complete() -> None:
    files = {p.name: p for p in PATH_MODEL_PATH.iterdir()}
    assert files.keys() == {"path_model.json", "path_model.safetensors", "recipe.json"}
    assert sum(p.stat().st_size for p in files.values()) < 3e6
    for path in files.values():
        if path.suffix == ".json":
            assert str(Path.home()) not in path.read_text()

"""The demo's path model: paths to digits, and guides that know the demo's classifier."""

from __future__ import annotations

from pathlib import Path

import torch

from pyxai_fast.path_models.path_model import PathModel

PATH_MODEL_PATH = Path(__file__).with_name("digits_paths")


def load_demo_path_model(*, device: str | torch.device = "cpu", compile: bool = False) -> PathModel:
    """The path model of digits [R, 1, 32, 32], trained on the demo's training split alone.

    Args:
        device: of the networks.
        compile: as for PathModel.

    Raises:
        MissingDependency: safetensors is not installed.
    """
    return PathModel.from_pretrained(PATH_MODEL_PATH, device=device, compile=compile)

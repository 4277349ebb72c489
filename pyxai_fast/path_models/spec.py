"""A path model by its name on the command line."""

from __future__ import annotations

import os

import torch

from .path_model import PathModel


def load_path_model(
    spec: str | os.PathLike[str], device: str | torch.device = "cpu", *, compile: bool = False
) -> PathModel:
    """The path model that a spec names: "demo", that of the demo's digits, or a folder such as
    `pyxai-fast train-paths` writes.

    Raises:
        ModelNotFound: there is no such folder.
        ModelSpecError: it cannot be read.
        MissingDependency: safetensors, or for latents diffusers, is not installed.
    """
    if os.fspath(spec) == "demo":
        from ..demo.path_model import load_demo_path_model

        return load_demo_path_model(device=device, compile=compile)
    return PathModel.from_pretrained(spec, device=device, compile=compile)

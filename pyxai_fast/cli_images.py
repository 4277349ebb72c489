"""What the commands on pictures share: files in, files out, and the record of a run."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyxai_fast
from pyxai_fast import ops
from pyxai_fast.images import read_images
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.models.spec import LoadedModel
from pyxai_fast.weights_file import save_weights


class UsageError(ValueError):
    """The command cannot be run as it was written; the message is one line that says why."""


# ---------------------------------------------------------------- before the model is loaded


def output_names(
    images: Sequence[str], out: Path, suffixes: Sequence[str] = (".png",)
) -> list[str]:
    """One name without a suffix per image: its stem, numbered where that is taken.

    Taken are the files of the images before it (whatever their case, for file systems that ignore
    it), and the images themselves: none of a name's files, with the suffixes of pictures, may be
    one of these.
    """
    inputs = {os.path.realpath(image) for image in images}
    taken: set[str] = set()
    names = []
    for image in images:
        stem = Path(image).stem or "image"
        name, number = stem, 1
        while any(
            f"{name}{suffix}".casefold() in taken
            or os.path.realpath(out / f"{name}{suffix}") in inputs
            for suffix in suffixes
        ):
            number += 1
            name = f"{stem}-{number}"
        taken.update(f"{name}{suffix}".casefold() for suffix in suffixes)
        names.append(name)
    return names


# Packages that the commands on pictures need, and the extras that have them.
PICTURES = {"PIL": "image", "matplotlib": "plot"}


def check_packages(command: str, file_format: str, needed: Mapping[str, str] = PICTURES) -> None:
    """Refuses what needs packages that are not installed."""
    needed = dict(needed)
    if file_format == "safetensors":
        needed["safetensors"] = "image"
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        extras = ",".join(sorted({needed[name] for name in missing}))
        raise UsageError(
            f"{command}: needs {', '.join(missing)}; run: pip install pyxai-fast[{extras}]"
        )


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device: cuda was asked for, but torch finds no CUDA device; use cpu")
    return torch.device(name)


def check_free(out: Path, names: Sequence[str], suffixes: Sequence[str], overwrite: bool) -> None:
    """Refuses a folder that has results already, unless they may be replaced."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out: must be a folder, got the file {out}")
    if overwrite:
        return
    files = [f"{name}{suffix}" for name in names for suffix in suffixes]
    there = [file for file in [*files, "run.json"] if (out / file).exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UsageError(
            f"--out: {out} already has {there[0]}{more}; add --overwrite or name another folder"
        )


# ---------------------------------------------------------------- per batch and per image


def read_batch(
    batch: Sequence[str], preprocessing: Preprocessing
) -> tuple[Tensor, list[int], list[tuple[int, str]]]:
    """Pixels, the positions in the batch they come from, and (position, reason) of the others."""
    pixels, _, failures = read_images(batch, preprocessing)
    reasons = dict(failures)
    kept = [i for i, path in enumerate(batch) if path not in reasons]
    unread = [(i, reasons[path]) for i, path in enumerate(batch) if path in reasons]
    return pixels, kept, unread


def save_arrays(tensors: Mapping[str, Tensor], path: Path, text: Mapping[str, str]) -> None:
    """Writes tensors on the CPU to an .npz file, or with text about them to .safetensors."""
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        np.savez(path, **arrays)
    else:
        save_weights(tensors, path, text)


# ---------------------------------------------------------------- afterwards


def surroundings(device: torch.device) -> dict[str, Any]:
    """What a result depends on besides the settings and the model, for run.json."""
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pyxai_fast": pyxai_fast.__version__,
        },
        "backend": ops.backend_of(device),
        "backends": ops.backends(),
        "device": {
            "type": device.type,
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "threads": torch.get_num_threads(),
        },
    }


def asked(model: LoadedModel) -> dict[str, Any]:
    """What a model that only answers was asked: rows sent, repetitions among them."""
    if not isinstance(model.module, BlackBox):
        return {}
    return {"sent": model.module.queries, "budget": model.module.budget}


def print_table(rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> None:
    """Rows of cells under their heads, columns of `numbers` to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if column in numbers else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}\u2026"

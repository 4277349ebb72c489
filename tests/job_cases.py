"""Pictures, a small model and the bytes of results, for tests of jobs."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from pyxai_fast import jobs
from pyxai_fast.jobs.items import Item, Items
from pyxai_fast.models.loaded import LoadedModel
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.picture_explainer import PictureExplainer

# What says when and how fast, and not what came of it.
_OF_THE_RUN = ("log", "lock", "summary.html")


def draw(folder: Path, count: int, size: tuple[int, int] = (16, 16), seed: int = 0) -> list[Path]:
    """Pictures of noise, 000.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    paths = [folder / f"{i:03d}.png" for i in range(count)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return paths


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar file of members, by name."""
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


# Of FatalItems, what the processes that read them die of.
FATAL = {"003.png": signal.SIGSEGV, "006.png": signal.SIGKILL}


class FatalItem(Item):
    """A picture that ends every process that reads it, but that of the tests."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name == "path" and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), FATAL[Path(value).name])
        return value


class FatalItems(Items):
    """Items of which those that FATAL names are so."""

    def __getitem__(self, number: Any) -> Any:
        item = super().__getitem__(number)
        if Path(item.path).name not in FATAL:
            return item
        return FatalItem(item.path, item.member, item.offset, item.size, item.target)

    def __reduce__(self) -> Any:
        return FatalItems, (self.folder,)


def network() -> nn.Module:
    """[B, 3, H, W] to [B, 4], of pictures of any size."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)
    ).eval()


def explainer(
    size: tuple[int, int] | None = (16, 16),
    module: nn.Module | None = None,
    method: str = "integrated_gradients",
    **options: object,
) -> PictureExplainer:
    """Of the network, or another; integrated gradients of 8 steps, unless told otherwise."""
    if method == "integrated_gradients":
        options = {"n_steps": 8, **options}
    loaded = LoadedModel(module or network(), Preprocessing(size=size), list("abcd"), "small")
    return PictureExplainer(loaded, method=method, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    """All that must be the same bytes however the job went."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            relative = path.relative_to(folder)
            if relative.parts[0] not in _OF_THE_RUN:
                found[str(relative)] = path.read_bytes()
    return found


def explain(source: Any, out: Path, made: Any = None, **options: Any) -> jobs.JobSummary:
    """In batches of 2, shards of 4."""
    options = {"batch_size": 2, "shard_size": 4, **options}
    return jobs.explain_dataset(made or explainer(), source, out, **options)

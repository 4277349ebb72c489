"""Small path models, pictures and classifiers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyxai_fast.path_models.config import PathModelConfig
from pyxai_fast.path_models.path_model import PathModel
from pyxai_fast.path_models.recipe import PathRecipe
from pyxai_fast.priors.training_data import Pictures

TINY = PathRecipe(
    grid=4,
    points=4,
    width=16,
    heads=2,
    depth=1,
    levels=6,
    paths=40,
    steps=6,
    batch_size=8,
    warm_up=2,
    learning_rate=1e-3,
    held_out=0.2,
)


def blobs(count: int = 20, size: int = 8) -> Pictures:
    """Grey pictures, bright here and there."""
    pixels = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(3))
    return Pictures(pixels, "blobs")


def classifier(size: int = 8, classes: int = 3, channels: int = 1) -> nn.Module:
    """A smooth one with random weights, which leaves torch's generator alone."""
    with torch.random.fork_rng([]):
        torch.manual_seed(11)
        network = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(4 * size * size, classes),
        )
        return network.eval().requires_grad_(False)


def path_model(**options: Any) -> PathModel:
    """With random weights; those that begin at zero too, so that every part counts."""
    codec = options.pop("codec", None)
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        given = {
            "shape": (1, 8, 8),
            "grid": 4,
            "points": 4,
            "width": 16,
            "heads": 2,
            "depth": 1,
            "levels": 6,
            "scores": {"faithful": (0.0, 1.0), "sparse": (1.0, 1.0)},
        }
        if codec is not None:
            given["codec"] = codec.kind
        model = PathModel(PathModelConfig(**(given | options)), codec)  # type: ignore[arg-type]
        for weights in model.networks.parameters():
            weights.copy_(0.2 * torch.randn(weights.shape))
    return model


def images(count: int = 3, size: int = 8, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, channels, size, size, generator=generator)

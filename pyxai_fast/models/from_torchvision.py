"""``torchvision:NAME``: torchvision's classifiers with their default weights."""

from __future__ import annotations

import difflib
from typing import Any

from pyxai_fast.models.errors import MissingDependency, ModelNotFound, ModelSpecError
from pyxai_fast.models.loaded import LoadedModel
from pyxai_fast.models.preprocessing import Preprocessing


def load_torchvision(name: str) -> LoadedModel:
    """Build ``name`` with its default weights, and read size, colours and classes from them."""
    spec = f"torchvision:{name}"
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingDependency(
            f"{spec}: torchvision is needed; run: pip install torchvision "
            "(the build that matches your torch, see https://pytorch.org)"
        ) from error
    try:
        weights = models.get_model_weights(name).DEFAULT
    except ValueError as error:
        close = difflib.get_close_matches(name.lower(), models.list_models(), n=3)
        hint = (
            f"did you mean {' or '.join(close)}?"
            if close
            else "see torchvision.models.list_models()"
        )
        raise ModelNotFound(f"{spec}: torchvision has no model {name!r}; {hint}") from error
    except AttributeError as error:
        raise ModelNotFound(f"{spec}: torchvision has no trained weights for {name!r}") from error
    preprocessing = preprocessing_from_preset(weights.transforms(), spec)
    try:
        module = models.get_model(name, weights=weights)
    except OSError as error:  # URLError is one
        raise ModelNotFound(
            f"{spec}: the weights could not be downloaded from {weights.url} ({error}); download "
            "that file on a machine that can, into ~/.cache/torch/hub/checkpoints"
        ) from error
    categories = weights.meta.get("categories")
    return LoadedModel(module, preprocessing, list(categories) if categories else None, spec)


def preprocessing_from_preset(preset: Any, spec: str) -> Preprocessing:
    """From a ``torchvision.transforms._presets.ImageClassification``.

    Raises:
        ModelSpecError: The preset is not that of an image classifier.
    """
    try:
        crop, resize = list(preset.crop_size), list(preset.resize_size)
        mean, std = tuple(preset.mean), tuple(preset.std)
    except (AttributeError, TypeError) as error:
        raise ModelSpecError(
            f"{spec}: must be an image classifier, got a model whose inputs are prepared by "
            f"{type(preset).__name__}"
        ) from error
    if len(mean) not in (1, 3):
        raise ModelSpecError(f"{spec}: must take 1 or 3 channels, got {len(mean)}")
    interpolation = getattr(preset.interpolation, "value", preset.interpolation)
    return Preprocessing(
        mean=mean,
        std=std,
        size=(crop[0], crop[-1]),
        resize=resize[0] if len(resize) == 1 else (resize[0], resize[1]),
        interpolation=str(interpolation).removesuffix("-exact"),
        channels=len(mean),
    )

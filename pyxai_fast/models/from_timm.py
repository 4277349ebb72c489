"""``timm:NAME``: pretrained classifiers of timm (PyTorch Image Models)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from pyxai_fast.models.errors import MissingDependency, ModelNotFound, ModelSpecError
from pyxai_fast.models.loaded import LoadedModel
from pyxai_fast.models.preprocessing import INTERPOLATIONS, Preprocessing


def load_timm(name: str) -> LoadedModel:
    """Build ``name`` with its pretrained weights, and read size, crop and colours from timm."""
    spec = f"timm:{name}"
    try:
        import timm
        from timm import data
    except ImportError as error:
        raise MissingDependency(f"{spec}: timm is needed; run: pip install timm") from error
    try:
        module = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelNotFound(
            f"{spec}: timm could not create it ({reason}); check the name with "
            "timm.list_models(pretrained=True), and that its weights can be downloaded"
        ) from error
    if not getattr(module, "num_classes", 1):
        raise ModelSpecError(f"{spec}: must be a classifier, got a model without a trained head")
    config = data.resolve_model_data_config(module)
    return LoadedModel(
        module, preprocessing_from_data_config(config, spec), _class_names(module, data), spec
    )


def preprocessing_from_data_config(config: Mapping[str, Any], spec: str) -> Preprocessing:
    """From what ``timm.data.resolve_model_data_config`` returns: timm's evaluation transform."""
    channels, height, width = (int(v) for v in config["input_size"])
    if channels not in (1, 3):
        raise ModelSpecError(f"{spec}: must take 1 or 3 channels, got {channels}")
    crop_pct = float(config.get("crop_pct") or 0.875)
    crop_mode = config.get("crop_mode") or "center"
    scaled = (math.floor(height / crop_pct), math.floor(width / crop_pct))
    resize: int | tuple[int, int]
    if crop_mode == "squash":
        resize = scaled
    else:
        if crop_mode != "center":
            warnings.warn(
                f"{spec}: crop mode {crop_mode!r} is not supported, a centre crop is used instead",
                stacklevel=2,
            )
        # Exact for square inputs, which nearly all are; others are zoomed in, never padded.
        resize = max(scaled)
    interpolation = str(config.get("interpolation") or "bicubic")
    return Preprocessing(
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        size=(height, width),
        resize=resize,
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",
        channels=channels,
    )


def _class_names(module: nn.Module, data: Any) -> list[str] | None:
    """The names in the checkpoint's configuration, else timm's ImageNet lists, else None."""
    config = getattr(module, "pretrained_cfg", None) or {}
    labels = config.get("label_names")
    if labels:
        described = config.get("label_descriptions")
        if isinstance(described, Mapping):
            return [str(described.get(label, label)) for label in labels]
        return [str(label) for label in labels]
    try:
        subset = data.infer_imagenet_subset(module)
        if subset is None:
            return None
        info = data.ImageNetInfo(subset)
        return [str(info.index_to_description(i)) for i in range(info.num_classes())]
    # Names are a courtesy: older versions of timm lack these functions.
    except (AttributeError, KeyError, ValueError, AssertionError):
        return None

"""``hf:NAME_OR_DIR``: image classifiers saved by Hugging Face transformers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pyxai_fast.models.errors import ModelSpecError
from pyxai_fast.models.from_timm import preprocessing_from_data_config
from pyxai_fast.models.hf_checkpoint import (
    checkpoint_name,
    class_names,
    import_transformers,
    load_classifier,
    quiet,
    without_settings,
)
from pyxai_fast.models.loaded import LoadedModel
from pyxai_fast.models.preprocessing import Preprocessing

# Pillow's resampling numbers, which the configuration files hold.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


class LogitsOnly(nn.Module):
    """A transformers classifier as a plain function of pixels: [B, C, H, W] -> logits [B, n]."""

    def __init__(self, model: nn.Module, *, flip_channels: bool = False) -> None:
        super().__init__()
        self.model = model
        self.flip_channels = flip_channels

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits [B, n_classes] of normalised inputs [B, C, H, W]."""
        if self.flip_channels:
            pixel_values = pixel_values.flip(-3)
        logits: Tensor = self.model(pixel_values=pixel_values).logits
        return logits


def load_hf(name: str) -> LoadedModel:
    """Load a directory written by ``save_pretrained``, or a model of the hub.

    Refuses a checkpoint without a trained classification head: transformers would fill the head
    with random numbers, and the explanation would be of noise.
    """
    spec = f"hf:{name}"
    transformers = import_transformers(spec)
    name = checkpoint_name(name, spec)
    with quiet(transformers):
        model = load_classifier(
            transformers.AutoModelForImageClassification, name, spec, "an image classifier"
        )
        settings = _load_processor_settings(transformers, name, spec)
    channels = int(getattr(model.config, "num_channels", 3))
    if channels not in (1, 3):
        raise ModelSpecError(f"{spec}: must take 1 or 3 channels, got {channels}")
    return LoadedModel(
        module=LogitsOnly(model, flip_channels=bool(settings.get("do_flip_channel_order"))),
        preprocessing=preprocessing_from_settings(settings, spec, channels=channels),
        class_names=class_names(model.config),
        spec=spec,
    )


def preprocessing_from_settings(
    settings: Mapping[str, Any], spec: str, *, channels: int = 3
) -> Preprocessing:
    """From the settings of an image processor, as in a preprocessor_config.json.

    Raises:
        ModelSpecError: The settings describe a geometry that this package does not have.
    """
    if isinstance(settings.get("data_config"), Mapping):  # timm checkpoints inside transformers
        return preprocessing_from_data_config(settings["data_config"], spec)
    size, resize = _geometry(settings, spec)
    mean, std = _colours(settings, channels)
    resample = settings.get("resample")
    return Preprocessing(
        mean=mean,
        std=std,
        size=size,
        resize=resize,
        interpolation=_RESAMPLE[2 if resample is None else int(resample)],
        channels=channels,
    )


def _colours(
    settings: Mapping[str, Any], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fold rescaling and normalising, both optional, into one mean and std in pixel units."""
    factor, offset = 255.0, 0.0  # processors start from 0..255
    if settings.get("do_rescale", True):
        factor *= float(settings.get("rescale_factor") or 1 / 255)
        offset = 1.0 if settings.get("rescale_offset") else 0.0
    if abs(factor - 1.0) < 1e-6:  # 1/255 written with few digits
        factor = 1.0
    mean, std = [0.0] * channels, [1.0] * channels
    if settings.get("do_normalize", settings.get("image_mean") is not None):
        mean = _channel_values(settings.get("image_mean"), 0.5, channels)
        std = _channel_values(settings.get("image_std"), 0.5, channels)
        if settings.get("include_top"):  # EfficientNet divides by std twice
            std = [s * s for s in std]
        if settings.get("do_flip_channel_order"):  # statistics of BGR, pixels are RGB
            mean, std = mean[::-1], std[::-1]
    return tuple((m + offset) / factor for m in mean), tuple(s / factor for s in std)


def _channel_values(value: Any, default: float, channels: int) -> list[float]:
    values = [default] if value is None else value
    values = [float(v) for v in values] if isinstance(values, (list, tuple)) else [float(values)]
    if channels == 1:
        return values[:1]
    return values * channels if len(values) == 1 else values


def _geometry(
    settings: Mapping[str, Any], spec: str
) -> tuple[tuple[int, int] | None, int | tuple[int, int] | None]:
    """(size, resize) of a Preprocessing."""
    crop: tuple[int, int] | None = None
    if settings.get("do_center_crop") and settings.get("crop_size") is not None:
        shorter, exact = _size(settings["crop_size"], spec)
        crop = exact or (shorter, shorter)
    if not settings.get("do_resize", True):
        return crop, None if crop is None else min(crop)
    if settings.get("size") is None:
        raise ModelSpecError(f"{spec}: the image processor says to resize, but not to which size")
    shorter, exact = _size(settings["size"], spec)
    crop_pct = settings.get("crop_pct")
    kind = str(settings.get("image_processor_type", ""))
    if crop_pct and crop is not None:  # PoolFormer
        return crop, int(shorter / crop_pct)
    if crop_pct:  # ConvNeXT and ResNet: a crop below 384, a plain squeeze above
        square = (shorter, shorter)
        return (square, int(shorter / crop_pct)) if shorter < 384 else (square, None)
    if kind.startswith("Perceiver") and crop is not None and exact:  # crops before it resizes
        return exact, min(crop)
    if exact:
        return (exact, None) if crop is None else (crop, exact)
    if kind.startswith("Levit"):
        shorter = int(256 / 224 * shorter)
    if crop is None:
        # Such a model takes any aspect ratio; a batch needs one.
        warnings.warn(
            f"{spec}: the image processor keeps the aspect ratio of each picture; pictures are "
            f"centre cropped to {shorter}x{shorter} so that they fit one batch",
            stacklevel=2,
        )
        crop = (shorter, shorter)
    return crop, shorter


def _size(value: Any, spec: str) -> tuple[int, tuple[int, int] | None]:
    """(shorter side, (height, width) if both are given) from any of the forms in use."""
    if isinstance(value, Mapping):
        if value.get("height") and value.get("width"):
            pair = int(value["height"]), int(value["width"])
            return min(pair), pair
        if value.get("shortest_edge"):
            return int(value["shortest_edge"]), None
    elif isinstance(value, int):
        return value, (value, value)
    elif isinstance(value, (list, tuple)) and len(value) == 2:
        pair = int(value[0]), int(value[1])
        return min(pair), pair
    raise ModelSpecError(
        f"{spec}: the size of the image processor must have height and width, or shortest_edge, "
        f"got {value!r}; give the preprocessing yourself with python:MODULE:FACTORY"
    )


def _load_processor_settings(transformers: Any, name: str, spec: str) -> dict[str, Any]:
    """The processor's settings with its class's defaults filled in; never needs torchvision."""
    # The torchvision-backed processors compute the same thing from the same settings.
    major = int(transformers.__version__.split(".")[0])
    slow: dict[str, Any] = {"backend": "pil"} if major >= 5 else {"use_fast": False}
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, **slow)
    except OSError as error:
        raise without_settings(name, spec, error) from error
    # No processor class that works without torchvision, or none that this version knows: the file
    # itself still says most of it.
    except (ImportError, ValueError, AttributeError, TypeError):
        from transformers.image_processing_utils import BaseImageProcessor

        return dict(BaseImageProcessor.get_image_processor_dict(name)[0])
    settings = dict(processor.to_dict())
    if hasattr(processor, "data_config"):
        settings["data_config"] = processor.data_config
    settings.setdefault("image_processor_type", type(processor).__name__)
    return settings

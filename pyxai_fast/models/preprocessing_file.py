"""A Preprocessing from a file, or from what little a model says of its inputs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pyxai_fast.models.errors import ModelSpecError
from pyxai_fast.models.from_hf import preprocessing_from_settings
from pyxai_fast.models.preprocessing import Preprocessing

_FIELDS = tuple(field.name for field in fields(Preprocessing))


def read_preprocessing(path: str | os.PathLike[str], *, channels: int = 3) -> Preprocessing:
    """Read a JSON file with the fields of a Preprocessing, or that says the same in other words.

    Args:
        path: a file with some of the fields of Preprocessing, a preprocessor_config.json of Hugging
            Face, or a run.json of an earlier run.
        channels: of the model, for a preprocessor_config.json, which does not say.

    Raises:
        ModelSpecError: there is no such file, or it holds something else.
    """
    name = os.fspath(path)
    try:
        with open(os.path.expanduser(name), encoding="utf-8") as file:
            settings = json.load(file)
    except OSError as error:
        raise ModelSpecError(f"preprocessing: {name}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelSpecError(f"preprocessing: {name} is not JSON ({error})") from error
    if isinstance(settings, Mapping) and isinstance(settings.get("preprocessing"), Mapping):
        settings = settings["preprocessing"]  # of a run
    wrong = set(settings) - set(_FIELDS) if isinstance(settings, Mapping) else {"no object"}
    if wrong and isinstance(settings, Mapping) and _is_hugging_face(settings):
        try:
            return preprocessing_from_settings(settings, name, channels=channels)
        except ModelSpecError:
            raise
        # Settings of another type than theirs raise almost anything.
        except Exception as error:
            raise ModelSpecError(
                f"preprocessing: {name}: {type(error).__name__}: {error}"
            ) from error
    if wrong:
        raise ModelSpecError(
            f"preprocessing: {name} must hold {', '.join(_FIELDS)}, be a preprocessor_config.json "
            f"or a run.json; got {', '.join(sorted(map(str, wrong))[:5])}"
        )
    try:
        return Preprocessing(**{field: _plain(value) for field, value in settings.items()})
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelSpecError(f"preprocessing: {name}: {error}") from error


def assumed_preprocessing(
    shape: Sequence[int | None] | None, rounded: bool, spec: str
) -> tuple[Preprocessing, str]:
    """What pictures a model is taken to want, and a line that says so.

    Args:
        shape: of its input, [batch, C, H, W] or [C, H, W], None where a size is free; None where
            nothing is known.
        rounded: it takes whole numbers: pixels in 0..255.
        spec: its name in messages.

    Raises:
        ModelSpecError: it takes no pictures.
    """
    sizes = tuple(shape)[-3:] if shape else (None, None, None)
    if len(sizes) < 3 or len(shape or sizes) > 4 or sizes[0] not in (None, 1, 3):
        told = [-1 if size is None else size for size in shape or ()]
        last = " (its channels are last)" if len(sizes) == 3 and sizes[2] in (1, 3) else ""
        raise ModelSpecError(
            f"{spec}: must take pictures [batch, 1 or 3, H, W], got inputs {told}{last}; wrap it "
            "in a BlackBox of your own with python:MODULE:FACTORY"
        )
    channels, height, width = sizes
    size = (height, width) if height and width else None
    preprocessing = Preprocessing(
        std=(1 / 255,) if rounded else (1.0,), size=size, channels=channels or 3
    )
    note = (
        f"{spec}: says nothing of its preprocessing; assumed are "
        f"{'RGB' if preprocessing.channels == 3 else 'grey'} pixels in "
        f"{'0..255' if rounded else '[0, 1]'}, "
        f"{f'{height}x{width}' if size else 'in the size of the pictures'}; --preprocessing FILE "
        "says otherwise"
    )
    return preprocessing, note


def _is_hugging_face(settings: Mapping[str, Any]) -> bool:
    known = ("image_mean", "image_std", "image_processor_type", "feature_extractor_type")
    more = ("crop_size", "crop_pct", "rescale_factor", "data_config")
    return any(key in (*known, *more) or key.startswith("do_") for key in map(str, settings))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

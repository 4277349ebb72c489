"""Trained classifiers among the checkpoints of Hugging Face transformers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyxai_fast.models.errors import MissingDependency, ModelNotFound, ModelSpecError

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def import_transformers(spec: str) -> Any:
    """transformers.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingDependency(
            f"{spec}: transformers is needed; run: pip install transformers"
        ) from error
    return transformers


def checkpoint_name(name: str, spec: str) -> str:
    """A directory written by ``save_pretrained``, or the name of a repository of the hub.

    Raises:
        ModelNotFound: It is neither.
    """
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, "config.json")):
            raise ModelNotFound(
                f"{spec}: the directory has no config.json; "
                "write one with model.save_pretrained(DIR)"
            )
        return path
    if not _REPOSITORY.fullmatch(name) or name.startswith("."):
        raise ModelNotFound(f"{spec}: there is no directory {os.path.abspath(path)}")
    return name


def load_classifier(auto: Any, name: str, spec: str, kind: str) -> Any:
    """The model of a checkpoint.

    Refuses one without a trained classification head: transformers would fill the head with random
    numbers, and the explanation would be of noise.

    Args:
        auto: Such as transformers.AutoModelForImageClassification.
        name: As `checkpoint_name` gives it.
        spec: As it was asked for, for messages.
        kind: What it must be, "an image classifier".
    """
    try:
        model, info = auto.from_pretrained(name, output_loading_info=True)
    except ImportError as error:
        raise MissingDependency(f"{spec}: {first_line(error)}") from error
    except OSError as error:
        raise not_found(name, spec, error) from error
    except ValueError as error:
        raise ModelSpecError(
            f"{spec}: must be {kind} of transformers ({first_line(error)})"
        ) from error
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise ModelSpecError(
            f"{spec}: must be a trained classifier, but the checkpoint lacks {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}; those weights would "
            "be random; use a checkpoint fine-tuned for classification"
        )
    return model


def without_settings(name: str, spec: str, error: Exception) -> ModelNotFound:
    """Of a checkpoint without the file that says how its inputs are prepared."""
    if os.path.isdir(name):
        return ModelNotFound(
            f"{spec}: the directory has no preprocessor_config.json; write one with "
            "processor.save_pretrained(DIR)"
        )
    return not_found(name, spec, error)


def not_found(name: str, spec: str, error: Exception) -> ModelNotFound:
    if os.path.isdir(name):
        return ModelNotFound(f"{spec}: the directory could not be loaded ({first_line(error)})")
    return ModelNotFound(
        f"{spec}: looked for a directory {os.path.abspath(name)}, in the local cache and on "
        f"https://huggingface.co/{name} ({first_line(error)}); check the name and the connection, "
        f"or run 'hf download {name} --local-dir DIR' where there is one and use "
        f"{spec.partition(':')[0]}:DIR"
    )


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def class_names(config: Any) -> list[str] | None:
    names = {int(k): str(v) for k, v in (getattr(config, "id2label", None) or {}).items()}
    if sorted(names) != list(range(len(names))):
        return None
    return [names[i] for i in range(len(names))] or None


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No retry messages, advice about torchvision or bars over the weights; errors still show."""
    import logging

    log = transformers.utils.logging
    hub = logging.getLogger("huggingface_hub")
    verbosity, hub_level, bars = log.get_verbosity(), hub.level, log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        hub.setLevel(hub_level)
        if bars:
            log.enable_progress_bar()

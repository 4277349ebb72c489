"""A prior by its name on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import ArgumentError
from ..models.from_python import made_by_python
from .prior import Prior, is_prior

# Of DiffusionPrior.from_pretrained, as they may be given in words.
OPTIONS = ("dtype", "channels_last", "compile", "max_rows", "class_label", "image_size")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def prior_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as words and numbers, checked and ready for the prior; before anything is loaded."""
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ArgumentError(
            f"prior: options must be among {', '.join(OPTIONS)}, got {', '.join(unknown)}"
        )
    ready = dict(options)
    if ready.get("dtype") is not None:
        if ready["dtype"] not in _DTYPES:
            raise ArgumentError(
                f"prior: dtype must be one of {', '.join(_DTYPES)}, got {ready['dtype']!r}"
            )
        ready["dtype"] = _DTYPES[ready["dtype"]]
    for name in ("channels_last", "compile"):
        if name in ready and not isinstance(ready[name], bool):
            raise ArgumentError(f"prior: {name} must be true or false, got {ready[name]!r}")
    return ready


def load_prior(
    spec: str,
    device: torch.device,
    image_size: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Prior:
    """The prior that a spec names.

    Args:
        spec: "demo", the prior of the demo's digits; python:MODULE:FACTORY or
            python:FILE.py:FACTORY, a function that returns a prior; or a directory or hub name of
            diffusers, such as `pyxai-fast train-prior` writes.
        device: where it runs.
        image_size: of the pictures, where it may differ from the prior's own: they are resized on
            the way in and out.
        options: as `prior_options` takes them.

    Raises:
        ValueError: naming what is wrong with the spec or an option.
        MissingDependency: diffusers is not installed.
    """
    given = prior_options(options or {})
    if spec.startswith("python:"):
        if given:
            raise ArgumentError(
                f"prior: options must be left to the factory of {spec}, got {', '.join(given)}"
            )
        made = made_by_python(spec.removeprefix("python:"))
        if not is_prior(made):
            raise ArgumentError(
                f"{spec}: the factory must return a prior (see pyxai_fast.priors.Prior), got "
                f"{type(made).__name__}"
            )
        prior: Prior = made
        return prior
    given = {"image_size": image_size} | given
    if spec == "demo":
        from ..demo.prior import load_demo_prior

        return load_demo_prior(device=device, **given)
    from .diffusion import DiffusionPrior

    return DiffusionPrior.from_pretrained(spec, device=device, **given)

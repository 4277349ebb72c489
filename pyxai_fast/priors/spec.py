"""A prior by its name on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import ArgumentError
from ..models.from_python import made_by_python
from .prior import Prior


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
        options: of DiffusionPrior.from_pretrained.

    Raises:
        ValueError: naming what is wrong with the spec or an option.
        MissingDependency: diffusers is not installed.
    """
    options = dict(options or {})
    if spec == "demo":
        from ..demo.prior import load_demo_prior

        return load_demo_prior(device=device, **options)
    if spec.startswith("python:"):
        if options:
            raise ArgumentError(
                f"prior: options must be left to the factory of {spec}, got {', '.join(options)}"
            )
        made = made_by_python(spec.removeprefix("python:"))
        if not all(hasattr(made, name) for name in ("shares", "predict_noise", "encode", "decode")):
            raise ArgumentError(
                f"{spec}: the factory must return a prior (see pyxai_fast.priors.Prior), got "
                f"{type(made).__name__}"
            )
        prior: Prior = made
        return prior
    from .diffusion import DiffusionPrior

    return DiffusionPrior.from_pretrained(spec, device=device, image_size=image_size, **options)

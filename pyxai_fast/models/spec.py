"""From a short text such as ``hf:microsoft/resnet-18`` to a model with its preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from pyxai_fast.models.errors import (
    MissingDependency,
    ModelNotFound,
    ModelSpecError,
    UnknownModelSpec,
)
from pyxai_fast.models.from_hf import load_hf
from pyxai_fast.models.from_python import load_python
from pyxai_fast.models.from_timm import load_timm
from pyxai_fast.models.from_torchvision import load_torchvision
from pyxai_fast.models.loaded import LoadedModel
from pyxai_fast.models.preprocessing import Preprocessing

__all__ = [
    "SPEC_KINDS",
    "LoadedModel",
    "MissingDependency",
    "ModelNotFound",
    "ModelSpecError",
    "SpecKind",
    "UnknownModelSpec",
    "load_model",
]


@dataclass(frozen=True)
class SpecKind:
    """One way to name a model: ``usage`` is shown to people, ``load`` gets the text after it."""

    usage: str
    load: Callable[[str], LoadedModel]


def _load_demo(name: str) -> LoadedModel:
    if name:
        raise UnknownModelSpec(
            f"model spec: demo takes no name, got 'demo:{name}'; write just: demo"
        )
    from pyxai_fast.demo.model import load_demo_model

    return LoadedModel(
        module=load_demo_model(),
        preprocessing=Preprocessing(channels=1, size=(32, 32)),
        class_names=[str(digit) for digit in range(10)],
        spec="demo",
    )


# A new kind of spec is one function and one line here.
SPEC_KINDS: dict[str, SpecKind] = {
    "hf": SpecKind("hf:NAME_OR_DIR", load_hf),
    "torchvision": SpecKind("torchvision:NAME", load_torchvision),
    "timm": SpecKind("timm:NAME", load_timm),
    "python": SpecKind("python:MODULE_OR_FILE.py:FACTORY", load_python),
    "demo": SpecKind("demo", _load_demo),
}


def load_model(spec: str, device: str | torch.device = "cpu") -> LoadedModel:
    """Load the model that ``spec`` names, in eval mode, with frozen parameters.

    Parameters are frozen because attributions need gradients of the inputs only; autograd then
    keeps less of the forward pass in memory.

    Args:
        spec: ``hf:NAME_OR_DIR`` (a transformers image classifier), ``torchvision:NAME``,
            ``timm:NAME``, ``python:MODULE_OR_FILE.py:FACTORY`` or ``demo``.
        device: Where the model goes.

    Raises:
        UnknownModelSpec: No such kind of spec; the message lists them.
        ModelNotFound: There is no such model; the message says where it was looked for.
        MissingDependency: A package is needed; the message says which.
        ModelSpecError: The model is there but cannot be used; the message says why.
    """
    kind, _, name = spec.partition(":")
    known = SPEC_KINDS.get(kind)
    if known is None:
        usages = ", ".join(entry.usage for entry in SPEC_KINDS.values())
        raise UnknownModelSpec(f"model spec: must be one of {usages}; got {spec!r}")
    if not name and ":" in known.usage:
        raise UnknownModelSpec(f"model spec: {kind} needs a name, {known.usage}; got {spec!r}")
    loaded = known.load(name)
    module = loaded.module.to(device).eval().requires_grad_(False)
    return replace(loaded, module=module, spec=spec)

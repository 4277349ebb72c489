"""From a short text such as ``hf:microsoft/resnet-18`` to a model with its preprocessing."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.errors import (
    MissingDependency,
    ModelNotFound,
    ModelSpecError,
    UnknownModelSpec,
)
from pyxai_fast.models.from_hf import load_hf
from pyxai_fast.models.from_hf_audio import load_hf_audio
from pyxai_fast.models.from_onnx import load_onnx
from pyxai_fast.models.from_python import load_python
from pyxai_fast.models.from_timm import load_timm
from pyxai_fast.models.from_torchvision import load_torchvision
from pyxai_fast.models.from_url import load_url, shown_spec
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
    """One way to name a model: ``usage`` is shown to people, ``load`` gets the text after it.

    The keyword-only arguments of ``load`` are its options, but for ``device``: a loader that has it
    puts the model there itself.
    """

    usage: str
    load: Callable[..., LoadedModel]

    @property
    def keywords(self) -> list[str]:
        """The names of the keyword-only arguments."""
        parameters = inspect.signature(self.load).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


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
    "hf-audio": SpecKind("hf-audio:NAME_OR_DIR", load_hf_audio),
    "torchvision": SpecKind("torchvision:NAME", load_torchvision),
    "timm": SpecKind("timm:NAME", load_timm),
    "python": SpecKind("python:MODULE_OR_FILE.py:FACTORY", load_python),
    "onnx": SpecKind("onnx:FILE", load_onnx),
    "http": SpecKind("http://HOST/v2/models/NAME/infer", partial(load_url, "http")),
    "https": SpecKind("https://HOST/v1/models/NAME:predict", partial(load_url, "https")),
    "demo": SpecKind("demo", _load_demo),
}


def load_model(
    spec: str,
    device: str | torch.device = "cpu",
    *,
    options: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
) -> LoadedModel:
    """Load the model that ``spec`` names, in eval mode, with frozen parameters.

    Parameters are frozen because attributions need gradients of the inputs only; autograd then
    keeps less of the forward pass in memory.

    Args:
        spec: ``hf:NAME_OR_DIR`` (a transformers image classifier), ``hf-audio:NAME_OR_DIR`` (one of
            waveforms), ``torchvision:NAME``, ``timm:NAME``,
            ``python:MODULE_OR_FILE.py:FACTORY``, ``onnx:FILE``, the address of a model behind HTTP,
            or ``demo``.
        device: Where the model goes.
        options: Of the loader: those of BlackBox.from_onnx and BlackBox.from_url, where headers
            come from ``token_env`` or ``headers_file``. Other kinds take none.
        preprocessing: In place of the model's own.

    Warns of what had to be assumed about a model that does not say what inputs it takes.

    Raises:
        UnknownModelSpec: No such kind of spec; the message lists them.
        ModelNotFound: There is no such model; the message says where it was looked for.
        MissingDependency: A package is needed; the message says which.
        ModelSpecError: The model is there but cannot be used; the message says why.
        QueryError: A server could not be asked about its model.
        ValueError, TypeError: An option that the loader does not take, or not with that value.
    """
    kind, _, name = spec.partition(":")
    known = SPEC_KINDS.get(kind)
    if known is None:
        usages = ", ".join(entry.usage for entry in SPEC_KINDS.values())
        raise UnknownModelSpec(f"model spec: must be one of {usages}; got {shown_spec(spec)!r}")
    if not name and ":" in known.usage:
        raise UnknownModelSpec(f"model spec: {kind} needs a name, {known.usage}; got {spec!r}")
    loaded = known.load(name, **_checked_options(kind, known, options or {}, device))
    module = loaded.module
    if not isinstance(module, BlackBox):
        module = module.to(device).eval().requires_grad_(False)
    if preprocessing is None and loaded.note is not None:
        warnings.warn(loaded.note, stacklevel=2)
    return replace(
        loaded,
        module=module,
        preprocessing=preprocessing or loaded.preprocessing,
        spec=shown_spec(spec),
    )


def _checked_options(
    kind: str, known: SpecKind, options: Mapping[str, Any], device: str | torch.device
) -> dict[str, Any]:
    keywords = known.keywords
    takes = sorted(set(keywords) - {"device"})
    unknown = sorted(set(options) - set(takes))
    if unknown:
        hint = ""
        if kind in ("http", "https") and any(
            word in name for name in unknown for word in ("header", "token", "auth")
        ):
            hint = "; secrets come from token_env=VARIABLE or headers_file=FILE"
        raise ModelSpecError(
            f"model options: those of {kind} models are {', '.join(takes) or 'none'}; got "
            f"{', '.join(unknown)}{hint}"
        )
    placed = {"device": torch.device(device)} if "device" in keywords else {}
    return {**options, **placed}

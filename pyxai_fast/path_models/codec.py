"""The space that paths lie in: pixels, the latents of an autoencoder, or features of one's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.errors import MissingDependency, ModelSpecError
from ..priors.latents import LatentSpace

AUTOENCODER = "autoencoder"


class Codec(Protocol):
    """Leads from inputs [R, ...] to codes [R, ...], and back."""

    kind: str

    def encode(self, inputs: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...


class Pixels:
    """Paths between the inputs themselves, in their own units."""

    kind = "pixels"

    def encode(self, inputs: Tensor) -> Tensor:
        return inputs

    def decode(self, codes: Tensor) -> Tensor:
        return codes

    def __repr__(self) -> str:
        return "Pixels()"


class Latents:
    """The latents of an autoencoder of diffusers, for inputs that are pixels from 0 to 1.

    Args:
        autoencoder: AutoencoderKL, AutoencoderTiny, VQModel or another of their kind; it is put in
            eval mode and asks for no gradients.
        max_rows: at most so many pictures go through it at a time; None for all.
    """

    kind = "latents"

    def __init__(self, autoencoder: Any, max_rows: int | None = None) -> None:
        self.space = LatentSpace(autoencoder, max_rows)

    def encode(self, inputs: Tensor) -> Tensor:
        return self.space.encode(2 * inputs - 1)

    def decode(self, codes: Tensor) -> Tensor:
        return (self.space.decode(codes) + 1) / 2

    def __repr__(self) -> str:
        return f"Latents({type(self.space.autoencoder).__name__})"


class Features:
    """A space of one's own.

    Args:
        encode: inputs [R, ...] to codes [R, C, H, W] or [R, D].
        decode: codes to inputs, nearly: the ends of paths are the inputs themselves.
    """

    kind = "features"

    def __init__(
        self, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]
    ) -> None:
        self._encode, self._decode = encode, decode

    @torch.no_grad()
    def encode(self, inputs: Tensor) -> Tensor:
        return self._encode(inputs)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        return self._decode(codes)

    def __repr__(self) -> str:
        return "Features(encode, decode)"


def save_codec(codec: Codec, folder: Path) -> None:
    """What a codec needs besides its name: an autoencoder is written as diffusers writes it."""
    if isinstance(codec, Latents):
        codec.space.autoencoder.save_pretrained(folder / AUTOENCODER)


def load_codec(kind: str, folder: Path, codec: Codec | None, device: torch.device) -> Codec:
    """The codec of a path model's folder, or the given one, which must be of its kind.

    Raises:
        ArgumentError: a codec of another kind was given, or none where only the caller has it.
        MissingDependency: an autoencoder needs diffusers.
        ModelSpecError: the autoencoder cannot be read.
    """
    if codec is not None and codec.kind != kind:
        raise ArgumentError(
            f"PathModel: codec must be of the kind that it was trained with, {kind}, got {codec!r}"
        )
    if codec is not None:
        return codec
    if kind == "pixels":
        return Pixels()
    if kind == "features":
        raise ArgumentError(
            "PathModel: codec must be given with paths between features: Features(encode, decode)"
        )
    return Latents(load_autoencoder(folder / AUTOENCODER).to(device))


def load_autoencoder(name: str | os.PathLike[str]) -> Any:
    """An autoencoder of diffusers from a folder, a folder's ``vae``, or the hub."""
    try:
        import diffusers
    except ImportError as error:
        raise MissingDependency(
            f"{name}: diffusers is needed for latents; run: pip install pyxai-fast[diffusion]"
        ) from error
    where = os.path.expanduser(os.fspath(name))
    part = {"subfolder": "vae"} if os.path.isdir(os.path.join(where, "vae")) else {}
    try:
        kind = diffusers.AutoencoderKL.load_config(where, **part)
        return getattr(diffusers, kind["_class_name"]).from_pretrained(where, **part)
    # A broken file raises almost anything: OSError, SafetensorError, KeyError...
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelSpecError(f"{where}: is no autoencoder of diffusers ({reason})") from error

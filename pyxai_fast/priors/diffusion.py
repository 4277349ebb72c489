"""A prior that was learned: a diffusion network of Hugging Face diffusers."""

from __future__ import annotations

import os
import warnings
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ArgumentError
from .latents import LatentSpace
from .noise_schedule import NoiseSchedule
from .pretrained import load_parts

# Pixels from 0 to 1, and what resizing or a step along a slope makes of them, stay within this;
# inputs in other units, such as from -1 to 1, do not.
PLAUSIBLE = (-0.5, 1.5)


class DiffusionPrior:
    """Pictures as a diffusion network knows them: pixels, or the latents of an autoencoder.

    The caller's inputs are pixels from 0 to 1, [R, C, H, W]. The prior's space is pixels from -1 to
    1, or latents where there is an autoencoder. Networks that predict the noise, the clean picture
    or the velocity are asked alike; of those that predict variances too, these are left out.

    Args:
        unet: a network ``unet(noisy, levels)`` such as diffusers' UNet2DModel, or
            UNet2DConditionModel with a condition. It is put in eval mode and asks for no gradients.
        scheduler: the one that it was trained with, or the shares of signal [T] of a network that
            predicts noise.
        autoencoder: for latent diffusion.
        condition: of a text-conditional network, [1, L, D]: what the empty prompt becomes.
        class_label: of a class-conditional network, the class that stands for none.
        channels_last: the layout that the network gets its input in, and keeps its weights in.
        compile: torch.compile the network, when it is first asked.
        max_rows: at most so many rows go through a network at a time; None for all.
        image_size: the caller's, (H, W) or one side of a square, where it is not the prior's:
            pictures are then resized, there and back.

    Raises:
        ArgumentError: naming the argument, what it must be and what it is.
    """

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        autoencoder: Any = None,
        *,
        condition: Tensor | None = None,
        class_label: int | None = None,
        channels_last: bool = False,
        compile: bool = False,
        max_rows: int | None = None,
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        if max_rows is not None and (not isinstance(max_rows, int) or max_rows < 1):
            raise ArgumentError(
                f"DiffusionPrior: max_rows must be an integer >= 1, got {max_rows!r}"
            )
        self.schedule = NoiseSchedule.of(scheduler)
        self.unet = unet.eval().requires_grad_(False)
        self.latents = None if autoencoder is None else LatentSpace(autoencoder, max_rows)
        self.channels_last, self.compile, self.max_rows = channels_last, compile, max_rows
        if channels_last:
            self.unet.to(memory_format=torch.channels_last)
        self.config = getattr(unet, "config", None) or {}
        self._check_network()
        self._conditions = self._conditions_of(condition, class_label)
        self.image_size = self._image_size(image_size)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        scheduler: Any = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> DiffusionPrior:
        """The prior of a pipeline or of a UNet alone: unconditional, latent or Stable Diffusion.

        Args:
            name: a directory written by ``save_pretrained``, or the name of a repository of the
                hub, such as google/ddpm-cifar10-32. A directory is preferred, and then nothing is
                downloaded.
            scheduler: in place of the pipeline's own; a UNet alone needs it.
            device: of the networks.
            dtype: of the weights: torch.bfloat16 or torch.float16 halves time and memory on GPUs.
                What comes in and goes out keeps its own.
            options: class_label, channels_last, compile, max_rows and image_size, as for the class.

        Raises:
            MissingDependency: diffusers is not installed.
            ModelNotFound: there is nothing of that name.
            ModelSpecError: it is no diffusion model that a prior can be made of.
        """
        parts = load_parts(name, scheduler=scheduler, dtype=dtype)
        return cls(
            parts.unet.to(device),
            parts.scheduler,
            None if parts.autoencoder is None else parts.autoencoder.to(device),
            condition=parts.condition,
            **options,
        )

    def __repr__(self) -> str:
        size = "any size" if self._side is None else f"{self._side[0]}x{self._side[1]}"
        space = "pixels" if self.latents is None else "latents"
        return (
            f"DiffusionPrior({type(self.unet).__name__}, {self._channels} channels of {space}, "
            f"{size}, predicts {self.schedule.prediction})"
        )

    @property
    def shares(self) -> Tensor:
        return self.schedule.shares

    @property
    def bounds(self) -> tuple[float, float] | None:
        return self.schedule.bounds if self.latents is None else None

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Of a row of the prior's space, where the network has a size."""
        if self._side is None or self._channels is None:
            return None
        return (self._channels, *self._side)

    @torch.no_grad()
    def predict_noise(self, noisy: Tensor, level: int) -> Tensor:
        count = len(self.shares)
        if not 0 <= level < count:
            raise ArgumentError(
                f"DiffusionPrior: level must be from 0 to {count - 1}, got {level!r}"
            )
        parts = noisy.split(self.max_rows or max(len(noisy), 1))
        return torch.cat([self._noise(part, level) for part in parts])

    def encode(self, inputs: Tensor) -> Tensor:
        self._check(inputs)
        wanted = self._pixel_size or tuple(inputs.shape[-2:])
        pixels = _resized(inputs, wanted) * 2 - 1
        return pixels if self.latents is None else self.latents.encode(pixels)

    def decode(self, clean: Tensor) -> Tensor:
        pixels = (clean if self.latents is None else self.latents.decode(clean)) / 2 + 0.5
        if self.latents is not None:
            pixels = pixels.clamp(0, 1)
        return pixels if self.image_size is None else _resized(pixels, self.image_size)

    # --- the network -----------------------------------------------------------------------------

    @cached_property
    def _network(self) -> Any:
        return torch.compile(self.unet) if self.compile else self.unet

    def _noise(self, noisy: Tensor, level: int) -> Tensor:
        weights = self._weights
        inputs = noisy.to(weights)
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        # A tensor, because a compiled network is compiled again for another number.
        levels = torch.full((len(noisy),), level, device=weights.device)
        conditions = {
            name: value.to(weights.device).expand(len(noisy), *value.shape[1:])
            for name, value in self._conditions.items()
        }
        answer = self._network(inputs, levels, **conditions)
        answer = answer if isinstance(answer, Tensor) else answer.sample
        if answer.shape[1] == 2 * noisy.shape[1]:  # noise, then variances
            answer = answer[:, : noisy.shape[1]]
        answer = answer.to(noisy.device, torch.promote_types(noisy.dtype, torch.float32))
        return self.schedule.noise(answer, noisy, level).to(noisy.dtype)

    @property
    def _weights(self) -> Tensor:
        """One of them, for where they are and of which dtype."""
        found: Tensor = next(self.unet.parameters(), torch.empty(0))
        return found

    @cached_property
    def _channels(self) -> int | None:
        count = self.config.get("in_channels")
        return None if count is None else int(count)

    @cached_property
    def _side(self) -> tuple[int, int] | None:
        """The size that the network was made for, in its own space."""
        size = self.config.get("sample_size")
        return None if size is None else _pair(size)

    @cached_property
    def _pixel_size(self) -> tuple[int, int] | None:
        if self._side is None:
            return None
        factor = 1 if self.latents is None else self.latents.pixels_per_latent
        return self._side[0] * factor, self._side[1] * factor

    @property
    def _pixel_channels(self) -> int | None:
        return self._channels if self.latents is None else self.latents.pixel_channels

    @property
    def _multiple(self) -> int:
        """What the sides of a network without a size must be multiples of."""
        factor = 1 if self.latents is None else self.latents.pixels_per_latent
        return factor * int(2 ** (len(self.config.get("block_out_channels") or (1,)) - 1))

    # --- checks ----------------------------------------------------------------------------------

    def _check_network(self) -> None:
        ins, outs = self._channels, self.config.get("out_channels")
        if ins is not None and outs not in (ins, 2 * ins):
            raise ArgumentError(
                f"DiffusionPrior: unet must answer with as many channels as it sees, {ins}, or "
                f"twice as many, for variances, got {outs}: it is made for something else than "
                "denoising"
            )
        if self.latents is not None and ins is not None and ins != self.latents.channels:
            raise ArgumentError(
                f"DiffusionPrior: unet must see the autoencoder's {self.latents.channels} "
                f"channels, got {ins}: it is made for something else than denoising"
            )
        if self.config.get("addition_embed_type") is not None:
            raise ArgumentError(
                "DiffusionPrior: unet must need a prompt at most, got one with "
                f"addition_embed_type={self.config['addition_embed_type']!r}, which needs more"
            )

    def _conditions_of(self, condition: Tensor | None, label: int | None) -> dict[str, Tensor]:
        """What the network is told besides, [1, ...] each."""
        told: dict[str, Tensor] = {}
        needs_text = self.config.get("cross_attention_dim") is not None
        if needs_text != (condition is not None):
            raise ArgumentError(
                "DiffusionPrior: condition must be "
                + ("the embedding [1, L, D] of the empty prompt" if needs_text else "left out")
                + f" for this unet, got {'none' if condition is None else 'one'}"
            )
        if condition is not None:
            if condition.dim() != 3 or len(condition) != 1:
                raise ArgumentError(
                    f"DiffusionPrior: condition must be [1, L, D], got {list(condition.shape)}"
                )
            told["encoder_hidden_states"] = condition.to(self._weights)
        classes = self.config.get("num_class_embeds")  # None for an unconditional network
        if self.config.get("class_embed_type") is not None:
            raise ArgumentError(
                "DiffusionPrior: unet must know classes by their number, got "
                f"class_embed_type={self.config['class_embed_type']!r}"
            )
        if (classes is None) != (label is None) or (
            classes is not None and label is not None and not 0 <= label < int(classes)
        ):
            expected = (
                "left out for an unconditional unet"
                if classes is None
                else f"the class, from 0 to {classes - 1}, that stands for none: this unet was "
                "trained on inputs of given classes, and one without such a class knows no others"
            )
            raise ArgumentError(f"DiffusionPrior: class_label must be {expected}, got {label!r}")
        if label is not None:
            told["class_labels"] = torch.tensor([label])
        return told

    def _image_size(self, size: int | tuple[int, int] | None) -> tuple[int, int] | None:
        if size is None:
            return None
        pair = _pair(size) if isinstance(size, (int, tuple, list)) else (0, 0)
        if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
            raise ArgumentError(
                f"DiffusionPrior: image_size must be (height, width) or one side, got {size!r}"
            )
        return None if self._pixel_size is None else pair  # a network of any size resizes nothing

    def _check(self, inputs: Tensor) -> None:
        channels = self._pixel_channels
        size = self.image_size or self._pixel_size
        wanted = "[R, {}, {}, {}]".format(channels or "C", *(size or ("H", "W")))
        shape = tuple(inputs.shape)
        if inputs.dim() != 4 or (channels is not None and shape[1] != channels):
            raise ArgumentError(
                f"DiffusionPrior: inputs must be {wanted} pixels in [0, 1], got {list(shape)}"
                + (
                    f"; a prior of {channels} channels knows no inputs of {shape[1]}; train one "
                    f"with channels={shape[1]}"
                    if inputs.dim() == 4
                    else ""
                )
            )
        if not inputs.is_floating_point():
            raise ArgumentError(
                f"DiffusionPrior: inputs must be floating-point pixels in [0, 1], got "
                f"{inputs.dtype}"
            )
        if size is not None and shape[2:] != size:
            advice = (
                f"; image_size={shape[2:]} lets the prior resize" if self.image_size is None else ""
            )
            raise ArgumentError(
                f"DiffusionPrior: inputs must be {wanted} pixels in [0, 1], got "
                f"{list(shape)}{advice}"
            )
        if size is None and any(side % self._multiple for side in shape[2:]):
            raise ArgumentError(
                f"DiffusionPrior: inputs must have sides that are multiples of {self._multiple}, "
                f"got {list(shape)}"
            )
        if len(inputs) and inputs.numel():
            low, high = (float(end) for end in torch.aminmax(inputs))
            if low < PLAUSIBLE[0] or high > PLAUSIBLE[1]:
                warnings.warn(
                    f"DiffusionPrior: inputs must be pixels in [0, 1], got {low:.3g} to "
                    f"{high:.3g}: give preprocessing= to the method, rather than preprocessed "
                    "inputs",
                    stacklevel=3,
                )


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _resized(pixels: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear and antialiased: what lies within bounds stays within them."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    wide = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
    found = functional.interpolate(wide, size=tuple(size), mode="bilinear", antialias=True)
    return found.to(pixels.dtype)

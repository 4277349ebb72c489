"""A path model: a diffusion model of paths, two guides, and the space that paths lie in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from ..models.errors import MissingDependency, ModelNotFound, ModelSpecError
from ..priors.schedule import linear_schedule
from ..runtime.training import write_whole
from ..weights_file import save_weights
from .codec import AUTOENCODER, Codec, Pixels, load_codec, save_codec
from .config import GUIDES, PathModelConfig
from .path_transformer import PathDenoiser, PathGuide

CONFIG, WEIGHTS = "path_model.json", "path_model.safetensors"
PATHS = "paths"


class PathModel:
    """Paths as diffusion knows them, and what makes one better than another.

    Kim, Lee and Choi, DiffIG (arXiv 2606.22314, 2026): an unconditional diffusion model of
    discretised paths that predicts the noise, and two regressors, of noisy paths, that tell the
    faithfulness and the complexity of the clean path's attributions.

    What is public of it leaves open what a path's numbers are. Here they are paces (see
    `pyxai_fast.path_models.pace`): how fast each feature of a code goes from the baseline's to the
    input's. Stick-breaking paths have the same law of paces whatever their ends, so that the
    diffusion model needs to know nothing of the input, and is for every one; every path that it
    gives leads from baseline to input. The guides see the ends, as tokens of their own.

    Args:
        config: shape and units.
        codec: the space that paths lie in; pixels by default.
        device: of the networks, which have random weights.
        compile: torch.compile the networks, on a GPU with CUDA graphs, when they are first asked.

    Attributes:
        networks: by name: "paths", and the guides "faithful" and "sparse".
        shares: of signal variance at each level of noise, [levels] float64, falling.
    """

    def __init__(
        self,
        config: PathModelConfig,
        codec: Codec | None = None,
        *,
        device: str | torch.device = "cpu",
        compile: bool = False,
    ) -> None:
        self.config, self.codec = config, Pixels() if codec is None else codec
        if self.codec.kind != config.codec:
            raise ArgumentError(
                f"PathModel: codec must be of the kind {config.codec}, got {self.codec!r}"
            )
        self.shares = linear_schedule(config.levels)
        networks: dict[str, nn.Module] = {PATHS: PathDenoiser(config, self.shares)}
        networks |= {name: PathGuide(config) for name in GUIDES}
        self.networks = nn.ModuleDict(networks).to(device).eval().requires_grad_(False)
        self.compile = compile
        self._asked: dict[str, Callable[..., Tensor]] = {}

    @property
    def device(self) -> torch.device:
        return next(self.networks.parameters()).device

    @property
    def bounds(self) -> tuple[float, float]:
        """Of clean tokens: no increment below 0, none above the whole way."""
        return -1 / self.config.spread, (self.config.points - 1) / self.config.spread

    def __repr__(self) -> str:
        config = self.config
        paces = "x".join(map(str, config.pace_shape))
        return f"PathModel({self.codec!r}, {config.points} points, {paces} paces)"

    def noise(self, noisy: Tensor, level: int) -> Tensor:
        """The noise in tokens [R, T, P] of a level."""
        return self._ask(PATHS)(noisy, _levels(noisy, level))

    def score(self, guide: str, noisy: Tensor, level: int, ends: Tensor) -> Tensor:
        """What a guide says of tokens [R, T, P] of a level: by how much the faithfulness or the
        entropy of the clean path's attributions is above the mean of all paths with these ends,
        [R], in the standard deviation of such paths.

        Differentiable with respect to the tokens.
        """
        return self._ask(guide)(noisy, _levels(noisy, level), ends)

    def ends(self, inputs: Tensor, baselines: Tensor) -> Tensor:
        """Codes of baselines [1 or B, *shape] and inputs [B, *shape] as the guides see them,
        [B, 2, C * h * w]."""
        last = self.config.seen(inputs.to(self.device, torch.float32))
        first = self.config.seen(baselines.to(self.device, torch.float32))
        return torch.stack([first.expand_as(last), last], 1)

    def _ask(self, name: str) -> Callable[..., Tensor]:
        if name not in self._asked:
            network: Any = self.networks[name]
            if self.compile:
                mode = "reduce-overhead" if self.device.type == "cuda" else "default"
                network = torch.compile(network, mode=mode)
            self._asked[name] = network
        return self._asked[name]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes path_model.json, path_model.safetensors and, for latents, the autoencoder."""
        need_safetensors(folder)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.contiguous() for name, value in self.networks.state_dict().items()}
        config = json.dumps(asdict(self.config), indent=2) + "\n"
        write_whole(folder / WEIGHTS, lambda path: save_weights(weights, path))
        write_whole(folder / CONFIG, lambda path: path.write_text(config, encoding="utf-8"))
        save_codec(self.codec, folder)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        codec: Codec | None = None,
        device: str | torch.device = "cpu",
        compile: bool = False,
    ) -> PathModel:
        """The path model of a folder that `save_pretrained` or `pyxai-fast train-paths` wrote.

        Args:
            folder: where.
            codec: in place of the one that was saved; paths between features need it.
            device: of the networks.
            compile: as for the class.

        Raises:
            ArgumentError: the codec is missing, or of another kind.
            MissingDependency: safetensors, or for latents diffusers, is not installed.
            ModelNotFound: there is no path model.
            ModelSpecError: it cannot be read.
        """
        folder = Path(folder).expanduser()
        if not (folder / CONFIG).is_file():
            raise ModelNotFound(
                f"{folder}: there is no path model ({CONFIG}); pyxai-fast train-paths makes one"
            )
        load_file = need_safetensors(folder).load_file
        try:
            config = _config(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
            codec = load_codec(config.codec, folder, codec, torch.device(device))
            # Random weights come before the file's: the caller's state is put back.
            with torch.random.fork_rng(devices=[]):
                model = cls(config, codec, device=device, compile=compile)
            model.networks.load_state_dict(load_file(folder / WEIGHTS, device=str(device)))
        except (ArgumentError, ModelSpecError, MissingDependency):
            raise
        # A broken file raises almost anything: SafetensorError, KeyError, RuntimeError...
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelSpecError(f"{folder}: the path model cannot be read ({reason})") from error
        return model


WRITTEN = (CONFIG, WEIGHTS, AUTOENCODER)


def need_safetensors(folder: str | os.PathLike[str]) -> Any:
    """The module that reads and writes weights."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingDependency(
            f"{folder}: safetensors is needed; run: pip install safetensors"
        ) from error
    return safetensors.torch


def _levels(rows: Tensor, level: int) -> Tensor:
    return torch.full((len(rows),), level, device=rows.device)


def _config(found: dict[str, Any]) -> PathModelConfig:
    known = {field.name for field in fields(PathModelConfig)}
    ready = {name: value for name, value in found.items() if name in known}
    for name in ("shape", "ends"):
        ready[name] = tuple(ready[name])
    ready["scores"] = {name: tuple(pair) for name, pair in ready["scores"].items()}
    return PathModelConfig(**ready)

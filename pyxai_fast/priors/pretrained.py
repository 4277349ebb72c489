"""Diffusion models by name: the parts of a pipeline of diffusers that a prior needs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.errors import MissingDependency, ModelNotFound, ModelSpecError

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
_UNETS = ("UNet2DModel", "UNet2DConditionModel")
_AUTOENCODERS = ("vae", "vqvae", "movq")  # what pipelines call it


@dataclass(frozen=True)
class Parts:
    unet: Any
    scheduler: Any
    autoencoder: Any = None
    condition: Tensor | None = None


def load_parts(
    name: str | os.PathLike[str], *, scheduler: Any = None, dtype: torch.dtype | None = None
) -> Parts:
    """The parts of a pipeline, or of a UNet alone, from a directory or from the hub.

    A directory that exists is all that is looked at.

    Args:
        name: a directory written by ``save_pretrained``, or the name of a repository.
        scheduler: in place of the pipeline's own.
        dtype: of the weights; None keeps float32.

    Raises:
        MissingDependency: diffusers, or for prompts transformers, is not installed.
        ModelNotFound: there is nothing of that name.
        ModelSpecError: it is no diffusion model that a prior can be made of.
    """
    where = os.path.expanduser(os.fspath(name))
    try:
        import diffusers
    except ImportError as error:
        raise MissingDependency(
            f"{where}: diffusers is needed; run: pip install pyxai-fast[diffusion]"
        ) from error
    if not os.path.isdir(where) and (not _REPOSITORY.fullmatch(where) or where.startswith(".")):
        raise ModelNotFound(f"{where}: there is no directory {os.path.abspath(where)}")
    # Networks are made with random weights before theirs are read: the caller's state is put back.
    with _quiet(diffusers), torch.random.fork_rng(devices=[]):
        return _Pipeline(diffusers, where).parts(scheduler, dtype)


class _Pipeline:
    def __init__(self, diffusers: Any, where: str) -> None:
        self.diffusers, self.where = diffusers, where
        self.index = self._index()

    def parts(self, scheduler: Any, dtype: torch.dtype | None) -> Parts:
        kind = self._class_of("unet")
        if kind not in _UNETS:
            raise ModelSpecError(
                f"{self.where}: must have a unet of class {' or '.join(_UNETS)}, got "
                f"{self.index.get('_class_name')} with {kind or 'none'}"
            )
        unet = self._network("unet", dtype)
        autoencoder = None
        for part in _AUTOENCODERS:
            if self._class_of(part) is not None:
                autoencoder = self._network(part, None)
                # Some overflow in float16, and say so.
                if dtype != torch.float16 or not autoencoder.config.get("force_upcast"):
                    autoencoder = autoencoder.to(dtype)
        return Parts(
            unet=unet,
            scheduler=self._scheduler() if scheduler is None else scheduler,
            autoencoder=autoencoder,
            condition=self._empty_prompt() if kind == "UNet2DConditionModel" else None,
        )

    def _index(self) -> Mapping[str, Any]:
        """Which part is of which library and class; of a UNet alone, what it would be."""
        try:
            index: Mapping[str, Any] = self.diffusers.DiffusionPipeline.load_config(self.where)
            return index
        except OSError as of_pipeline:
            try:
                alone = self.diffusers.UNet2DModel.load_config(self.where)
            except OSError:
                raise self._not_found(of_pipeline) from of_pipeline
            name = alone.get("_class_name")
            return {"_class_name": name, "unet": ("diffusers", name)}

    def _class_of(self, part: str) -> str | None:
        entry = self.index.get(part)
        return str(entry[1]) if isinstance(entry, (list, tuple)) and entry[1] else None

    def _folder(self, kind: Any, part: str) -> dict[str, str]:
        """Where a part lies: old repositories have everything at the top, as has a UNet alone."""
        if os.path.isdir(self.where):
            there = os.path.isdir(os.path.join(self.where, part))
        else:
            try:
                kind.load_config(self.where, subfolder=part)
                there = True
            except OSError:
                there = False
        return {"subfolder": part} if there else {}

    def _network(self, part: str, dtype: torch.dtype | None) -> Any:
        kind = getattr(self.diffusers, str(self._class_of(part)), None)
        if kind is None:
            raise ModelSpecError(
                f"{self.where}: the installed diffusers has no {self._class_of(part)}"
            )
        try:
            network, info = kind.from_pretrained(
                self.where,
                **self._folder(kind, part),
                torch_dtype=dtype,
                output_loading_info=True,
                low_cpu_mem_usage=False,
            )
        # A broken file raises almost anything: OSError, SafetensorError, KeyError...
        except Exception as error:
            raise ModelSpecError(
                f"{self.where}: the {part} could not be loaded ({_first_line(error)})"
            ) from error
        missing = sorted(info.get("missing_keys", ()))
        if missing:
            raise ModelSpecError(
                f"{self.where}: must be trained, but the weights of the {part} lack {missing[0]}"
                f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}"
            )
        return network

    def _scheduler(self) -> Any:
        named = self._class_of("scheduler")
        # Levels are read the same way whatever the class, so any will do where there is no name.
        kind = getattr(self.diffusers, named or "DDPMScheduler", self.diffusers.DDPMScheduler)
        try:
            return kind.from_pretrained(self.where, **self._folder(kind, "scheduler"))
        except (OSError, ValueError) as error:
            raise ModelSpecError(
                f"{self.where}: has no scheduler ({_first_line(error)}); give the one that the "
                "network was trained with: scheduler=diffusers.DDPMScheduler(...)"
            ) from error

    def _empty_prompt(self) -> Tensor:
        """What the text encoder makes of no text, [1, L, D]: the condition that says nothing."""
        names = [self._class_of(part) for part in ("tokenizer", "text_encoder")]
        if None in names:
            raise ModelSpecError(
                f"{self.where}: must have a tokenizer and a text_encoder, for the empty prompt; "
                "give the parts themselves: DiffusionPrior(unet, scheduler, condition=...)"
            )
        try:
            import transformers
        except ImportError as error:
            raise MissingDependency(
                f"{self.where}: transformers is needed for the empty prompt; run: pip install "
                "transformers"
            ) from error
        try:
            with _quiet(transformers):
                tokenizer, encoder = (
                    getattr(transformers, str(name)).from_pretrained(self.where, subfolder=part)
                    for name, part in zip(names, ("tokenizer", "text_encoder"), strict=True)
                )
            tokens = tokenizer(
                "",
                padding="max_length",
                max_length=min(tokenizer.model_max_length, encoder.config.max_position_embeddings),
                truncation=True,
                return_tensors="pt",
            )
            with torch.no_grad():
                embedding: Tensor = encoder.eval()(tokens.input_ids)[0]
        except Exception as error:
            raise ModelSpecError(
                f"{self.where}: the empty prompt could not be encoded ({_first_line(error)})"
            ) from error
        return embedding

    def _not_found(self, error: Exception) -> ModelNotFound:
        if os.path.isdir(self.where):
            return ModelNotFound(
                f"{self.where}: the directory has no model_index.json and no config.json; write "
                "one with pipeline.save_pretrained(DIR)"
            )
        return ModelNotFound(
            f"{self.where}: looked for a directory {os.path.abspath(self.where)}, in the local "
            f"cache and on https://huggingface.co/{self.where} ({_first_line(error)}); check the "
            f"name and the connection, or run 'hf download {self.where} --local-dir DIR' where "
            "there is one and use DIR"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """No advice and no bars over the weights, of diffusers or transformers; errors still show."""
    log = library.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()

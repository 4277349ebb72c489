"""What is to be done with a data set, and where: all that a process needs to do a part of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import ops
from ..errors import ArgumentError
from ..models.preprocessing import Preprocessing
from ..picture_explainer import PictureExplainer, Plan
from ..version import __version__
from .atomic_file import write_text

FILE, SHARDS, INDEX, LOG = "job.json", "shards", "index", "log"
# Of the files of a job; another layout is another number.
FORMAT = 3
STORES = {"fp32": torch.float32, "fp16": torch.float16}
# What a record must say, for anything else to be read.
_SAID: dict[str, type | tuple[type, ...]] = {
    "settings.model": str, "settings.method": str, "items.count": int, "batch_size": int,
    "shard_size": int, "store": str, "plan": dict, "preprocessing": dict, "size": list,
    "weights": (str, type(None)), "sources": list,
}  # fmt: skip

MakeExplainer = Callable[[], PictureExplainer]


@dataclass(frozen=True)
class Job:
    """A data set that is explained shard by shard, each by itself, into a folder.

    It can be pickled if `make_explainer` can, and is a few kilobytes whatever the data set is: a
    process anywhere that sees the folder and the pictures can explain any of the shards.

    Attributes:
        folder: where all of it is.
        make_explainer: what makes the explainer, once in each process.
        count: of items; they are in folder/items.arrow.
        batch_size: items that are explained together, at most.
        shard_size: items in a shard; the last has the rest.
        store: "fp32" or "fp16", of attributions.
        plan: of the explainer.
        weights: what fingerprint() gives of it.
        preprocessing: of the model.
        size: height and width of the pictures that the plan is for: the model's own, or those of
            the first picture for a model that takes any.
    """

    folder: Path
    make_explainer: MakeExplainer
    count: int
    batch_size: int
    shard_size: int
    store: str
    plan: Plan
    weights: str | None
    preprocessing: Preprocessing
    size: tuple[int, int]

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.count // self.shard_size)

    def items_of(self, shard: int) -> range:
        """The numbers of the items of a shard."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.count))

    def shard_file(self, shard: int) -> Path:
        """Its attributions; not there for a shard in which nothing could be read."""
        return self.folder / SHARDS / f"{shard:05d}.safetensors"

    def index_file(self, shard: int) -> Path:
        """What is known of its items. Written last: a shard is done when this is there."""
        return self.folder / INDEX / f"{shard:05d}.parquet"

    def missing(self) -> list[int]:
        """The shards that are not done."""
        there = {path.name for path in (self.folder / INDEX).glob("*.parquet")}
        return [n for n in range(self.shards) if self.index_file(n).name not in there]


def describe(explainer: PictureExplainer) -> dict[str, Any]:
    """The settings of an explainer, fit for JSON and the same in every process."""
    return {
        "model": explainer.model.spec,
        "method": explainer.method,
        "target": explainer.target,
        "baseline": _plain(explainer.baseline),
        "gradient": _plain(explainer.gradient),
        "output": explainer.output,
        "precision": explainer.precision,
        "compile": explainer.compile,
        "options": {name: _plain(value) for name, value in sorted(explainer.options.items())},
    }


def fingerprint(explainer: PictureExplainer) -> str | None:
    """A digest of the weights of the model; None for one that only answers."""
    module = explainer.model.module
    return (
        _digest_of(sorted(module.state_dict().items())) if isinstance(module, nn.Module) else None
    )


def fingerprint_of_parts(explainer: PictureExplainer) -> str | None:
    """A digest of what else an explainer holds: priors, path models, tensors, in its baseline,
    gradient and options. None where there is nothing."""
    held = {
        "baseline": explainer.baseline,
        "gradient": explainer.gradient,
        "options": explainer.options,
    }
    found = list(_tensors_in(held, "", set()))
    return _digest_of(found) if found else None


def _digest_of(values: Iterable[tuple[str, Any]]) -> str:
    state = hashlib.sha256()
    for name, tensor in values:
        if not isinstance(tensor, torch.Tensor):
            state.update(f"{name} {_plain(tensor)}\n".encode())
            continue
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        held = tensor.detach().cpu().contiguous()
        state.update(held.reshape(-1).view(torch.uint8).numpy().tobytes() if held.numel() else b"")
    return f"sha256:{state.hexdigest()}"


def _tensors_in(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Tensors and weights that a value leads to, and how; what is private may be a cache, and
    another one tomorrow."""
    if isinstance(value, str | bytes | int | float | type | ModuleType | None) or id(value) in seen:
        return
    seen.add(id(value))
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, np.ndarray):
        yield name, torch.from_numpy(np.frombuffer(value.tobytes(), np.uint8).copy())
    elif isinstance(value, nn.Module):
        yield from ((f"{name}.{key}", held) for key, held in sorted(value.state_dict().items()))
    elif isinstance(value, Mapping):
        parts = sorted(value.items(), key=lambda item: str(item[0]))
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    elif isinstance(value, partial):
        parts = enumerate((value.func, value.args, value.keywords))
    elif isinstance(value, FunctionType):
        parts = enumerate(cell.cell_contents for cell in value.__closure__ or () if _filled(cell))
    elif isinstance(value, MethodType):
        parts = [("self", value.__self__)]
    else:
        held = getattr(value, "__dict__", {})
        parts = sorted((key, part) for key, part in held.items() if not key.startswith("_"))
    for key, part in parts:
        yield from _tensors_in(part, f"{name}.{key}", seen)


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def surroundings(device: torch.device) -> dict[str, Any]:
    """What the bits of a result depend on besides: they must be the same when a job goes on."""
    return {
        "device": device.type,
        "backend": ops.backend_of(device),
        "versions": {"pyxai_fast": __version__, "torch": torch.__version__},
    }


def save_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes folder/job.json. The same job has the same bytes."""
    write_text(folder / FILE, json.dumps(record, indent=2, sort_keys=True) + "\n")


def load_record(folder: Path) -> dict[str, Any]:
    """What job.json says.

    Raises:
        ArgumentError: there is none, one of another version, or one that is damaged.
    """
    try:
        record: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArgumentError(
            f"jobs: out must be the folder of a job, got {folder}, which has no {FILE}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"jobs: {folder / FILE} must be JSON, got {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ArgumentError(
            f"jobs: {folder / FILE} must be of format {FORMAT}, got "
            f"{_shown(record.get('format') if isinstance(record, dict) else record)}"
        )
    _check_said(record, folder / FILE)
    return record


def _check_said(record: Mapping[str, Any], path: Path) -> None:
    """Refuses a record of which a part is missing, or of another type."""
    for name, kind in _SAID.items():
        value: Any = record
        for key in name.split("."):
            value = value.get(key, ...) if isinstance(value, Mapping) else ...
        if not isinstance(value, kind) or (isinstance(value, int) and value < 1):
            got = "nothing" if value is ... else _shown(value)
            raise ArgumentError(f"jobs: {path} must say {name}, got {got}: it is damaged")


def check_same(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuses to go on with a job in another way than it began.

    Args:
        then: what job.json says.
        now: what it would say; what it does not say is not compared.

    Raises:
        ArgumentError: naming what differs.
    """
    differing = [
        f"{name} {_shown(before)} then, {_shown(after)} now"
        for name, before, after in _differences(then, now)
    ]
    if differing:
        shown = "; ".join(differing[:4]) + ("; ..." if len(differing) > 4 else "")
        raise ArgumentError(
            f"jobs: resume must be asked with the settings of the job in {folder}, got {shown}"
        )


def _differences(
    then: Mapping[str, Any], now: Mapping[str, Any], within: str = ""
) -> list[tuple[str, Any, Any]]:
    found = []
    for key, after in now.items():
        before, name = then.get(key), f"{within}{key}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            both = {**dict.fromkeys(before), **after}
            found += _differences(before, both, f"{name}.")
        elif before != after:
            found.append((name.removeprefix("settings."), before, after))
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 48 else f"{text[:47]}\u2026"


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, torch.Tensor):
        held = value.detach().cpu().contiguous()
        digest = hashlib.sha256(held.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        return f"{value.dtype} {list(value.shape)} sha256:{digest}"
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    # Without what is another in every process: addresses.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))

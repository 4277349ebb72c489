"""Networks whose evidence is known: trained where they are needed, once."""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..runtime import random_state, training
from ..runtime.progress import progress_bar
from ..runtime.random_state import seeded
from ..runtime.training import TrainingRun, seed_of, write_whole
from . import nets
from .examples import Examples
from .nets import SmallCNN
from .sets import TRAINED_ON, KnownSet, known_set

# Examples whose bytes tell one way to make them from another.
_LOOKED_AT = 4
_in_memory: dict[str, nn.Module] = {}


def load_net(
    name: str, *, cache: bool | str | os.PathLike[str] = True, progress: bool = False
) -> nn.Module:
    """The network of a set, in eval mode, on the CPU, float32; the caller's own, to do with what
    they like.

    It is trained the first time, in some seconds, and kept: in the process, and in a folder. What
    is kept belongs to a recipe, a network, the examples that are made, the code that trains and a
    version of PyTorch; where one of these is another, it is trained again.

    Args:
        name: of one of SETS.
        cache: True keeps it in `cache_folder()`, if that can be written to, False in the process
            alone; or another folder.
        progress: a progress bar while it is trained.

    Raises:
        ValueError: there is no such set.
    """
    known = known_set(name)
    key = fingerprint(known)
    folder = None if cache is False else cache_folder() if cache is True else Path(cache)
    path = None if folder is None else folder.expanduser() / f"{name}-{key}.pt"
    net = _in_memory.get(key)
    there = path is not None and path.exists()
    if net is None and path is not None and there:
        net = _read(known, path)
        there = net is not None
    if net is None:
        net = train_net(known, progress=progress)
    _in_memory[key] = net
    if path is not None and not there:
        try:
            _write(net, path)
        except OSError:
            if cache is not True:
                raise
    return copy.deepcopy(net)


def cache_folder() -> Path:
    """Where networks are kept: pyxai_fast/known_evidence in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "pyxai_fast" / "known_evidence"


def fingerprint(known: KnownSet) -> str:
    """Of all that decides the weights."""
    with torch.random.fork_rng([]):
        examples, net = known.make(_LOOKED_AT, TRAINED_ON), known.net()
    found = hashlib.blake2b(
        f"{known.name} {known.recipe} {net} {torch.__version__}".encode(), digest_size=8
    )
    for tensor in (examples.inputs, examples.without, examples.masks, examples.labels):
        found.update(tensor.numpy().tobytes())
    for code in (nets, training, random_state, sys.modules[__name__]):
        found.update(inspect.getsource(code).encode())
    return found.hexdigest()


def train_net(known: KnownSet, *, progress: bool = False) -> nn.Module:
    """Train the network of a set from the beginning, on one thread: the same bits every time, on
    one kind of machine and version of PyTorch. The global random state stays as it was.

    Each step sees evidence in its own place and in those of others, as of its class, and places
    without evidence as "nothing": what is around the evidence says nothing about the class.
    """
    recipe = known.recipe
    bar = progress_bar(progress, recipe.steps, known.name, unit=" steps")
    with _one_thread(), seeded(seed_of(recipe.seed, "weights")):
        examples = known.make(recipe.examples, TRAINED_ON)
        run = _EvidenceRun(known, examples, known.net())
        run.train(recipe.steps, bar.update)
    bar.close()
    return _finished(run.network)


def _finished(net: nn.Module) -> nn.Module:
    net = net.folded() if isinstance(net, SmallCNN) else net
    return net.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(net: nn.Module, examples: Examples) -> float:
    """How often the class is right, of the inputs and of what they are without their evidence."""
    nothing = torch.full_like(examples.labels, net(examples.inputs[:1]).shape[1] - 1)
    right = [
        net(inputs).argmax(1) == labels
        for inputs, labels in _parts(
            torch.cat([examples.inputs, examples.without]), torch.cat([examples.labels, nothing])
        )
    ]
    return float(torch.cat(right).double().mean())


@torch.no_grad()
def probabilities(net: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Of the class of each input, float64 [B]."""
    return torch.cat(
        [
            net(some).double().softmax(1).gather(1, of[:, None])[:, 0]
            for some, of in _parts(inputs, labels)
        ]
    )


class _EvidenceRun(TrainingRun):
    def __init__(self, known: KnownSet, examples: Examples, net: nn.Module) -> None:
        # A third faster on a CPU.
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__("train_net", known.recipe, "", net, torch.device("cpu"), "examples")
        self.examples, self.nothing = examples, len(known.class_names) - 1

    def losses(self) -> dict[str, Tensor]:
        """Of a quarter without evidence, and of the others every second one in another place."""
        count = self.recipe.batch_size
        rows, others = torch.randint(len(self.examples), (2, count))
        seen = self.examples.take(rows)
        grounds = self.examples.without[others]
        grounds[::2] = seen.without[::2]
        inputs, labels = seen.onto(grounds), seen.labels.clone()
        empty = slice(0, count // 4)
        inputs[empty], labels[empty] = seen.without[empty], self.nothing
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return {"classes": functional.cross_entropy(self.network(inputs), labels)}

    def measure(self) -> str:
        return f"step {self.step}: {self.mean_losses()}"


def _read(known: KnownSet, path: Path) -> nn.Module | None:
    """None where the file does not fit: it is trained again then."""
    with torch.random.fork_rng([]):
        net = _finished(known.net())
    try:
        net.load_state_dict(torch.load(path, weights_only=True))
    except Exception:
        return None
    return net


def _write(net: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda there: torch.save(net.state_dict(), there))


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(256) for tensor in tensors), strict=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

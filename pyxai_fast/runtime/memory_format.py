"""Choosing the memory format of the model inputs by measuring, once for each model and shape."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import is_one_of

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# channels_last must win by this much, so that noise does not change the choice (and with it the
# last bits of the result) between runs where there is little to win.
MARGIN = 0.9
# Smaller inputs have little to win.
MIN_FEATURES = 16 * 1024
# Each format is tried several times and its fastest trial counts, because a trial takes
# milliseconds and a busy moment of the machine can triple one. The first does not count: in it
# libraries make their kernels for the shape.
TRIALS = 3
TRIAL_ROWS = 8
# Less work than the trials themselves is not worth them: pictures go channels last then to networks
# with convolutions on a CPU, which gained by it on every one that was measured, or made no
# difference. Fewer rows than these are not worth the one with which it is seen whether that runs.
MIN_ROWS, MIN_UNMEASURED_ROWS = 32, 8

_choices: weakref.WeakKeyDictionary[nn.Module, dict[Any, str]] = weakref.WeakKeyDictionary()


def check_memory_format(name: str) -> None:
    if not is_one_of(name, ("auto", *FORMATS)):
        raise ValueError(
            f"memory_format: memory_format must be auto, contiguous or channels_last, got {name!r}"
        )


def choose_memory_format(
    wish: str,
    module: nn.Module | None,
    inputs: tuple[Tensor, ...],
    rows: int,
    max_rows: int | None,
    run: Callable[[tuple[Tensor, ...]], object],
) -> str:
    """The format to use for `rows` rows of work, asked `max_rows` at a time at most.

    "auto" measures `run` (one evaluation of the model on a few rows) in both formats when there are
    images to gain on, work enough, and a module in eval mode, which a trial run cannot change.
    A module whose own filters lie channels last gets such inputs unmeasured, and so does one with
    convolutions on a CPU where there is too little work to measure. Other models are given
    contiguous inputs, and so are models that fail on channels_last ones (`x.view` of a flattened
    feature map does).
    """
    if wish != "auto":
        return wish
    images = [x for x in inputs if x.dim() == 4 and x.shape[1] > 1]
    if not images or module is None or any(part.training for part in module.modules()):
        return "contiguous"
    key = (inputs[0].device, *((x.shape[1:], x.dtype) for x in inputs), torch.get_num_threads())
    known = _choices.setdefault(module, {})
    if key in known:
        return known[key]
    if "filters" not in known:
        known["filters"] = "channels_last" if _lies_channels_last(module) else "contiguous"
    if known["filters"] == "channels_last" and _runs_channels_last(inputs, run):
        known[key] = "channels_last"
        return known[key]
    if max(x.shape[1:].numel() for x in images) < MIN_FEATURES:
        return "contiguous"
    if rows < MIN_ROWS:
        if rows < MIN_UNMEASURED_ROWS or inputs[0].is_cuda or not _convolves(module):
            return "contiguous"
        unmeasured = ("unmeasured", key)
        if unmeasured not in known:
            runs = _runs_channels_last(inputs, run)
            known[unmeasured] = "channels_last" if runs else "contiguous"
        return known[unmeasured]
    known[key] = "channels_last" if _is_faster(inputs, max_rows, run) else "contiguous"
    return known[key]


def _lies_channels_last(module: nn.Module) -> bool:
    """Whether filters of a module lie so, and not otherwise too, as those of one element do."""
    last = torch.channels_last
    return any(
        w.dim() == 4 and not w.is_contiguous() and w.is_contiguous(memory_format=last)
        for w in module.parameters()
    )


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def _runs_channels_last(
    inputs: tuple[Tensor, ...], run: Callable[[tuple[Tensor, ...]], object]
) -> bool:
    """Whether the model takes one such row."""
    try:
        run(tuple(_laid(x[:1], torch.channels_last) for x in inputs))
    except (RuntimeError, MemoryError):
        return False
    return True


def _laid(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    return x.contiguous(memory_format=memory_format) if x.dim() == 4 else x


def _is_faster(
    inputs: tuple[Tensor, ...],
    max_rows: int | None,
    run: Callable[[tuple[Tensor, ...]], object],
) -> bool:
    """Whether channels_last beats contiguous by the margin."""
    count = min(TRIAL_ROWS, TRIAL_ROWS if max_rows is None else max_rows, inputs[0].shape[0])
    seconds = {name: float("inf") for name in FORMATS}
    try:
        for number in range(TRIALS):
            for name, memory_format in FORMATS.items():
                trial = tuple(_laid(x[:count], memory_format) for x in inputs)
                took = _time(run, trial)
                if number > 0:
                    seconds[name] = min(seconds[name], took)
    except (RuntimeError, MemoryError):
        # What is really wrong with the model, the work itself will say.
        return False
    return seconds["channels_last"] < MARGIN * seconds["contiguous"]


def _time(run: Callable[[tuple[Tensor, ...]], object], inputs: tuple[Tensor, ...]) -> float:
    synchronise = inputs[0].is_cuda
    if synchronise:
        torch.cuda.synchronize(inputs[0].device)
    start = time.perf_counter()
    run(inputs)
    if synchronise:
        torch.cuda.synchronize(inputs[0].device)
    return time.perf_counter() - start

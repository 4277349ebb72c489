"""Which output is explained: every form of `target` that captum knows, checked once.

A target names the element(s) of the model's output [B, n, ...] to explain, without the batch index:

- None: the output has one element per example
- int, or a tensor with one element: that column, for all examples
- tuple of ints: that element of a higher-dimensional output, for all examples
- list of ints or tensor [B]: a column for each example
- list of tuples: an element for each example

`Targets(...)` holds several of these, explained together from the same model evaluations.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..errors import ArgumentError

Target: TypeAlias = (
    int | tuple[int, ...] | Tensor | Sequence[int] | Sequence[tuple[int, ...]] | None
)


class Targets:
    """Several targets, explained together: attributions get a dimension after the batch.

    They share the model's answers: an estimated gradient costs the queries of one target, and
    Autograd one forward pass with a backward pass for each.

    Args:
        targets: two or more targets, or one, each in any form that `target` takes but None.

    Example:
        >>> Targets(3, 5)
        Targets(3, 5)
    """

    def __init__(self, *targets: Any) -> None:
        if not targets or any(t is None or isinstance(t, Targets) for t in targets):
            raise ArgumentError(
                "Targets: targets must be ints, tuples, tensors or lists, at least one, got "
                f"{targets!r}"
            )
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.targets)

    def __repr__(self) -> str:
        return f"Targets({', '.join(map(repr, self.targets))})"


def normalise_target(target: Any, batch: int) -> tuple[int, ...] | Tensor | None:
    """The target as None, one index tuple for all examples, or indices [B, k] on the CPU."""
    if target is None:
        return None
    if isinstance(target, bool):
        raise TypeError("target: target must be an index, got a bool")
    if isinstance(target, int):
        return (target,)
    if isinstance(target, tuple):
        if not all(isinstance(i, slice) or _is_index(i) for i in target):
            raise TypeError(
                "target: a tuple must hold ints, got "
                f"{[type(i).__name__ for i in target if not isinstance(i, slice)][:3]}"
            )
        return target
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.dtype == torch.bool or target.is_complex():
            raise TypeError(f"target: target must be a tensor of integers, got {target.dtype}")
        if target.numel() == 1:
            return (int(target.item()),)
        indices = target.detach().cpu().long()
        if indices.dim() == 1:
            indices = indices[:, None]
        if indices.dim() != 2:
            raise ArgumentError(
                f"target: target must have shape [B] or [B, k], got {list(target.shape)}"
            )
    elif isinstance(target, list):
        indices = _indices_of_list(target)
    else:
        raise TypeError(
            "target: target must be None, an int, a tuple of ints, a tensor of integers or a list "
            f"of ints or tuples, got {type(target).__name__}"
        )
    if indices.shape[0] != batch:
        raise ArgumentError(
            f"target: target must have one entry for each of the {batch} examples, got "
            f"{indices.shape[0]}"
        )
    return indices


def _indices_of_list(target: list[Any]) -> Tensor:
    entries = [entry if isinstance(entry, tuple) else (entry,) for entry in target]
    lengths = {len(entry) for entry in entries}
    if len(lengths) > 1 or not all(_is_index(i) for entry in entries for i in entry):
        raise TypeError(
            "target: a list must hold ints, or tuples of ints of one length, got "
            f"{[type(entry).__name__ for entry in target[:3]]}"
        )
    indices = [tuple(map(operator.index, entry)) for entry in entries]
    far = [i for entry in indices for i in entry if not -(2**63) <= i < 2**63]
    if far:
        raise ArgumentError(f"target: target must hold indices of the output, got {far[0]}")
    return torch.tensor(indices, dtype=torch.long).reshape(len(entries), max(lengths, default=1))


def _is_index(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def check_target(target: tuple[int, ...] | Tensor | None, output: Tensor) -> None:
    """Raises when the target does not select one element of `output` [B, ...] for each example."""
    shape = list(output.shape)
    per_example = output[0].numel() if shape and shape[0] else 1
    if target is None:
        if per_example != 1:
            raise ArgumentError(
                f"target: a target must be given for a model output of shape {shape} (more than "
                "one element for each example), got None"
            )
        return
    width = target.shape[1] if isinstance(target, Tensor) else len(target)
    if width > len(shape) - 1:
        raise ArgumentError(
            f"target: target must have at most {len(shape) - 1} indices for a model output of "
            f"shape {shape}, got {width}"
        )
    for position in range(width):
        size = shape[1 + position]
        if isinstance(target, Tensor):
            if target.numel() == 0:
                continue
            low, high = int(target[:, position].min()), int(target[:, position].max())
        else:
            if isinstance(target[position], slice):
                continue  # what it selects is counted when it is selected
            low = high = int(target[position])
        if low < -size or high >= size:
            worst = low if low < -size else high
            raise ArgumentError(
                f"target: target must be in [0, {size}) for a model output of shape {shape}, got "
                f"{worst}"
            )


def select_target(output: Tensor, target: tuple[int, ...] | Tensor | None) -> Tensor:
    """The explained element of each row: `output` [R, ...] -> [R].

    A tensor of targets has one row of indices, [R, k], for each row of the output.
    """
    if target is None:
        return output
    if isinstance(target, Tensor):
        rows = torch.arange(output.shape[0], device=output.device)
        return output[(rows, *target.to(output.device).unbind(1))]
    columns: tuple[Any, ...] = (slice(None), *target)
    return output[columns]

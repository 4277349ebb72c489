"""Each input's integral, by nested rules, until it is complete enough."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..gradients import Gradient
from ..models.score import Score
from ..paths.refining import Refinable, RefiningTrace
from .loop import LoopOptions, contract


def check_tolerance(tolerance: float) -> None:
    number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if not number or not 0 < tolerance < math.inf:
        raise ArgumentError(f"attribute: tolerance must be None or a number > 0, got {tolerance!r}")


def refined(
    score: Score,
    gradient: Gradient,
    inputs: tuple[Tensor, ...],
    starts: tuple[Tensor, ...],
    way: Tensor,
    path: Refinable,
    n_steps: int,
    tolerance: float,
    options: LoopOptions,
    description: str,
) -> tuple[Tensor, ...]:
    """Attributions whose sums differ from `way` by at most `tolerance` times it.

    An input that is complete leaves, and the others go on to the next rule with the gradients that
    they have.

    Args:
        way: float64 [B] or [B, n]: the differences of the scores of inputs and starts.
        n_steps: as the path's rules take it. Inputs that would need more than the last rule are
            left as they are then, with a warning.

    Returns:
        float64 [B, ...], or [B, n, ...] for n targets, for each tensor of inputs.
    """
    rules = path.rules(n_steps)
    batch = inputs[0].shape[0]
    open_ = torch.arange(batch, device=way.device)
    found: list[Tensor | None] = [None] * len(inputs)
    kept: list[list[Tensor]] = [[] for _ in inputs]  # sums by this rule and the later ones
    for level, taken in enumerate(rules):
        traces: tuple[RefiningTrace, ...] = tuple(
            path.refining(
                x[open_.to(x.device)],
                b[open_.to(b.device)] if b.dim() > 0 and b.shape[0] > 1 else b,
                n_steps,
                level,
                open_.to(x.device),
                affine,
                stream,
            )
            for stream, (x, b, affine) in enumerate(zip(inputs, starts, score.affines, strict=True))
        )
        part = score.of_examples(open_)
        some = tuple(x[open_.to(x.device)] for x in inputs)
        totals = contract(
            part,
            gradient,
            some,
            traces,
            options,
            f"{description}, rule {level + 1} of {len(rules)}",
        ).values
        maps = []
        for i, (trace, total) in enumerate(zip(traces, totals, strict=True)):
            sums = [total, *trace.later]
            if kept[i]:
                sums = [new + old for new, old in zip(sums, kept[i], strict=True)]
            maps.append(trace.attributions(sums[0], True))
            kept[i] = sums[1:]
        lead = way.dim()
        reached = sum(m.flatten(lead).sum(lead) if m.dim() > lead else m for m in maps)
        assert isinstance(reached, Tensor)
        away = (reached.to(way.device) - way[open_]).abs()
        complete = away <= tolerance * way[open_].abs()
        complete = complete if lead == 1 else complete.all(1)
        last = level == len(rules) - 1
        if last and not bool(complete.all()):
            warnings.warn(
                f"attribute: {int((~complete).sum())} of {batch} inputs have a completeness gap "
                f"above the tolerance, {tolerance:g}, after {taken} gradients each; a larger "
                "n_steps lets them have more",
                stacklevel=5,
            )
        done = torch.ones_like(complete) if last else complete
        for i, m in enumerate(maps):
            result = found[i]
            if result is None:
                result = found[i] = m.new_zeros((batch, *m.shape[1:]))
            result[open_[done].to(m.device)] = m[done.to(m.device)]
            kept[i] = [sums[~done.to(sums.device)] for sums in kept[i]]
        open_ = open_[~done]
        if len(open_) == 0:
            break
    return tuple(m for m in found if m is not None)

"""Whether the features of a random subset matter together as much as a map says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from .asked import Asked, check_attributions, check_count, random_key
from .insertion_deletion import baseline_of
from .random_subsets import random_subsets

# Of the random numbers; see the streams of paths, gradients and queries.
STREAM = 2**15 + 2**13
# Of the largest of numbers that a network computes in float32.
ROUNDING = 1e-6

# Makes the subsets of some examples and runs, [S, B, size].
Subsets = Callable[[slice, slice], Tensor]


def faithfulness_correlation(
    model: Any,
    inputs: Tensor,
    attributions: Tensor,
    target: Any = None,
    *,
    n_runs: int = 100,
    subset_size: int = 224,
    baselines: Tensor | float | str = 0.0,
    seed: int = 0,
    subsets: Tensor | None = None,
    **asking: Any,
) -> Tensor:
    """Correlation of the attributions of random subsets with what the score loses without them.

    In each run a random subset of the features is replaced by the baseline. Pearson's correlation,
    over the runs, of the sum of the subset's attributions with the fall of the score: Bhatt, Weller
    and Moura, "Evaluating and Aggregating Feature-based Model Explanations" (2020).

    A feature is an element of the attributions: of those with one channel a pixel, with all of its
    channels.

    Args:
        model, inputs, target: as in `Asked`, and so is `asking`.
        attributions: shaped as the inputs, or with one channel; with their signs.
        n_runs: at least 2.
        subset_size: from 1 to the number of features.
        baselines: what features are replaced by, as in `insertion`.
        seed: of the subsets, with the inputs' numbers: counter-based, the same on every device and
            in any chunks.
        subsets: int64 [n_runs, B, subset_size] or [n_runs, 1, subset_size], different features of
            each: those instead of random ones.

    Returns:
        float64 [B], from -1 to 1; large is good. NaN where what the score loses,
        or the sum, never changes by more than rounding.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
    """
    op = "faithfulness_correlation"
    asked = Asked(op, model, inputs, target, **asking)
    maps = check_attributions(op, attributions, asked.inputs).flatten(1).double()
    batch, features = maps.shape
    choose: Subsets
    if subsets is None:
        check_count(op, "n_runs", n_runs, 2)
        check_count(op, "subset_size", subset_size)
        if subset_size > features:
            raise ArgumentError(
                f"{op}: subset_size must be at most the number of features, {features}, got "
                f"{subset_size}"
            )
        choose = _drawn(features, subset_size, asked.numbers, seed)
    else:
        given = _given(op, subsets, batch, features).to(maps.device)
        n_runs = len(given)

        def take(examples: slice, runs: slice) -> Tensor:
            return given[runs, examples]

        choose = take
    # All features [B, c, features] of c channels that come and go together.
    shown = asked.model_inputs(asked.inputs).reshape(batch, -1, features)
    base = asked.model_inputs(baseline_of(op, asked.inputs, baselines)).reshape(shown.shape)
    sums = maps.new_empty(n_runs, batch)

    def rows(examples: slice, steps: slice) -> Tensor:
        chosen = choose(examples, steps)
        some = len(chosen)
        sums[steps, examples] = maps[examples].expand(some, -1, -1).gather(2, chosen).sum(2)
        chosen = chosen[:, :, None].expand(-1, -1, shown.shape[1], -1)
        hidden = base[examples].expand(some, -1, -1, -1).gather(3, chosen)
        changed = shown[examples].repeat(some, 1, 1, 1).scatter_(3, chosen, hidden)
        return changed.view(-1, *inputs.shape[1:])

    scores = asked.scores(n_runs, rows, "subsets")
    # Rounding is of the scores, however little they fall.
    sizes = torch.maximum(asked.clean.abs(), scores.abs().amax(0))
    constant = _constant(sums, sums.abs().amax(0)) | _constant(scores, sizes)
    return _correlation(sums, asked.clean - scores).masked_fill(constant, torch.nan)


def _drawn(features: int, size: int, numbers: Tensor, seed: int) -> Subsets:
    key = random_key("faithfulness_correlation", seed, STREAM, numbers.device)

    def draw(examples: slice, runs: slice) -> Tensor:
        run = torch.arange(runs.start, runs.stop, device=numbers.device)
        return random_subsets(features, size, numbers[examples], run, key)

    return draw


def _given(op: str, subsets: Any, batch: int, features: int) -> Tensor:
    if not isinstance(subsets, Tensor) or subsets.dtype != torch.int64:
        got = subsets.dtype if isinstance(subsets, Tensor) else type(subsets).__name__
        raise TypeError(f"{op}: subsets must be an int64 tensor, got {got}")
    shape = list(subsets.shape)
    if subsets.dim() != 3 or shape[0] < 2 or shape[1] not in (1, batch) or not shape[2]:
        raise ArgumentError(
            f"{op}: subsets must be [n_runs, 1 or {batch}, size] with n_runs >= 2, got {shape}"
        )
    ordered = subsets.sort(2).values
    within = bool(((ordered >= 0) & (ordered < features)).all())
    if not within or bool((ordered.diff(dim=2) == 0).any()):
        raise ArgumentError(
            f"{op}: subsets must be of different features from 0 to {features - 1}, got "
            f"{'one twice' if within else f'{int(ordered.min())} to {int(ordered.max())}'}"
        )
    return subsets.expand(-1, batch, -1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, over the rows of [R, B]."""
    a, b = a - a.mean(0), b - b.mean(0)
    found: Tensor = (a / a.norm(dim=0) * (b / b.norm(dim=0))).sum(0).clamp(-1, 1)
    return found


def _constant(values: Tensor, sizes: Tensor) -> Tensor:
    """Whether values [R, B] change by no more than the rounding of numbers of sizes [B]."""
    return values.amax(0) - values.amin(0) <= ROUNDING * sizes

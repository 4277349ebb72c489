"""Insertion and deletion: what becomes of a class as the first of a ranking come, or go.

Source: Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
Models" (2018), section 4.2. The scripts of its authors insert into a picture that a kernel of 11 x
11 pixels with a sigma of 5 blurs, on a border of zeros, and delete to zeros of normalised tensors,
the mean picture; here, unless `baselines` is given, the kernel is a whole Gaussian and repeats the
border, and what is deleted becomes black.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from ..images import gaussian_blur
from .asked import Asked, check_attributions
from .curve import Curve
from .ranking import counts_of, even_fractions, pixel_ranks

# Of the blurred picture that pixels are inserted into, in pixels of 224: a Gaussian of 5.
BLUR = 5 / 224


def insertion(
    model: Any,
    inputs: Tensor,
    attributions: Tensor,
    target: Any = None,
    *,
    baselines: Tensor | float | str = "blur",
    n_steps: int = 28,
    **asking: Any,
) -> Curve:
    """The score with only the first of the ranking, on a baseline. A large area is good.

    Pixels rank by their attribution, summed over channels, with its sign; give `attributions.abs()`
    to rank by size.

    Args:
        model, inputs, target: as in `Asked`, and so is `asking`: output, preprocessing,
            select_output, internal_batch_size, cost, numbers.
        attributions: shaped as the inputs, or with one channel.
        baselines: what stands where no feature is inserted, in the units of the inputs: "blur" for
            pictures (a Gaussian of 5 pixels in 224), a number, or a tensor [1, ...] or [B, ...].
        n_steps: of equal numbers of features, up to rounding.

    Returns:
        Curve of n_steps + 1 points: nothing inserted, ..., everything.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.

    Example:
        >>> import torch
        >>> from pyxai_fast.metrics import insertion
        >>> net = torch.nn.Linear(12, 3).eval()
        >>> x = torch.rand(2, 12)
        >>> curve = insertion(net, x, net.weight[0] * x, target=0, baselines=0.0, n_steps=4)
        >>> curve.scores.shape, curve.area.shape
        (torch.Size([5, 2]), torch.Size([2]))
    """
    op = "insertion"
    asked = Asked(op, model, inputs, target, **asking)
    ranks = pixel_ranks(check_attributions(op, attributions, asked.inputs))
    base = baseline_of(op, asked.inputs, baselines)
    return _curve(asked, base, asked.inputs, ranks, even_fractions(op, n_steps))


def deletion(
    model: Any,
    inputs: Tensor,
    attributions: Tensor,
    target: Any = None,
    *,
    baselines: Tensor | float | str = 0.0,
    n_steps: int = 28,
    **asking: Any,
) -> Curve:
    """The score with the first of the ranking replaced by a baseline. A small area is good.

    The arguments are those of `insertion`; 0 is black for pixels in [0, 1].

    Returns:
        Curve of n_steps + 1 points: the input, ..., the baseline.
    """
    op = "deletion"
    asked = Asked(op, model, inputs, target, **asking)
    ranks = pixel_ranks(check_attributions(op, attributions, asked.inputs))
    base = baseline_of(op, asked.inputs, baselines)
    return _curve(asked, asked.inputs, base, ranks, even_fractions(op, n_steps))


def baseline_of(op: str, inputs: Tensor, baselines: Tensor | float | str) -> Tensor:
    """A baseline for each input, [B, ...], from how it is named."""
    if isinstance(baselines, str):
        if baselines != "blur" or inputs.dim() != 4:
            raise ArgumentError(
                f"{op}: baselines must be a number, a tensor, or for pictures [B, C, H, W] "
                f"'blur', got {baselines!r} for {list(inputs.shape)}"
            )
        return gaussian_blur(inputs, max(inputs.shape[-2:]) * BLUR)
    try:
        base = torch.as_tensor(baselines, dtype=inputs.dtype, device=inputs.device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{op}: baselines must be a number, a tensor, or for pictures 'blur', got {baselines!r}"
        ) from error
    try:
        return base.expand_as(inputs)
    except RuntimeError as error:
        raise ArgumentError(
            f"{op}: baselines must be a number, [1, ...] or {list(inputs.shape)}, got "
            f"{list(base.shape)}"
        ) from error


def _curve(
    asked: Asked, start: Tensor, replaced_by: Tensor, ranks: Tensor, fractions: Tensor
) -> Curve:
    counts = counts_of(fractions, ranks)

    def rows(examples: slice, steps: slice) -> Tensor:
        return ops.rank_mask(
            start[examples], replaced_by[examples], ranks[examples], counts[steps], **asked.scaling
        )

    return Curve(fractions, asked.scores(len(counts), rows, "ranked"))

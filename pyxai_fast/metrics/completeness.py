"""Whether attributions add up to what the score rises by."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import check_bool
from .asked import Asked, check_attributions
from .insertion_deletion import baseline_of


def completeness_gap(
    model: Any,
    inputs: Tensor,
    attributions: Tensor,
    target: Any = None,
    *,
    baselines: Tensor | float | str = 0.0,
    relative: bool = True,
    output: str = "logit",
    **asking: Any,
) -> Tensor:
    """How far the sum of attributions is from the rise of the score between baseline and input.

    ``|sum(A) - (s(x) - s(x'))| / |s(x) - s(x')|``: the axiom of completeness of Sundararajan, Taly
    and Yan, "Axiomatic Attribution for Deep Networks" (2017), section 3. It is for methods that
    promise it, such as those with a path from the baseline.

    Args:
        model, inputs, target: as in `Asked`, and so is `asking`.
        attributions: shaped as the inputs, or added up over channels.
        baselines: those of the attributions; as in `insertion`.
        relative: to the rise; else in the units of the score.
        output: that the attributions are of.

    Returns:
        float64 [B]; small is good. A relative gap of a score that does not rise is infinite, or NaN
        where the sum is 0 too.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
    """
    op = "completeness_gap"
    check_bool(op, "relative", relative)
    asked = Asked(op, model, inputs, target, output=output, **asking)
    total = check_attributions(op, attributions, asked.inputs).double().flatten(1).sum(1)
    base = baseline_of(op, asked.inputs, baselines)

    def rows(examples: slice, steps: slice) -> Tensor:
        return asked.model_inputs(base[examples])

    rise = asked.clean - asked.scores(1, rows, "baselines")[0]
    gap = (total - rise).abs()
    return gap / rise.abs() if relative else gap

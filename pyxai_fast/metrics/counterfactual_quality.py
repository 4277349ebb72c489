"""What counterfactuals are worth: whether they change the answer, and how little of the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.score import RowScore
from .asked import Asked, check_size, is_target, of_target


@dataclass(frozen=True)
class CounterfactualQuality:
    """Of each of B counterfactuals; on the device of the inputs.

    Attributes:
        flipped: bool [B], whether the model takes it for the target; not where it answers NaN.
        confidence: float64 [B], the probability of the target.
        confidence_before: float64 [B], the same of the input.
        l1: float64 [B], the mean absolute difference from the input, in its units.
        l2: float64 [B], the root of the mean squared difference.
        changed: float64 [B], the share of the features that were changed.
    """

    flipped: Tensor
    confidence: Tensor
    confidence_before: Tensor
    l1: Tensor
    l2: Tensor
    changed: Tensor

    @property
    def flip_rate(self) -> float:
        """The share of the counterfactuals that the model takes for the target."""
        return float(self.flipped.double().mean())


def counterfactual_quality(
    model: Any,
    inputs: Tensor,
    counterfactuals: Tensor,
    target: Any,
    *,
    changed_by: float = 0.0,
    **asking: Any,
) -> CounterfactualQuality:
    """Validity and proximity: large is good for what the model answers, small for the differences.

    Both are as in Wachter, Mittelstadt and Russell, "Counterfactual Explanations without Opening
    the Black Box" (2017), and Mothilal, Sharma and Tan, "Explaining Machine Learning Classifiers
    through Diverse Counterfactual Explanations" (2020), section 4; differences are means over the
    features, so that inputs of different sizes can be compared.

    Args:
        model, inputs: as in `Asked`, and so is `asking`, but for the output, the probability.
        counterfactuals: shaped as the inputs, in their units; such as `best` of `Counterfactuals`.
        target: the class that was asked for, or [B] of them.
        changed_by: a feature is changed if it differs by more than this.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
    """
    op = "counterfactual_quality"
    if target is None:
        raise ArgumentError(f"{op}: target must be the class that was asked for, got None")
    check_size(op, "changed_by", changed_by)
    asked = Asked(op, model, inputs, target, output="prob", **asking)
    others = _like(op, counterfactuals, asked.inputs)

    def rows(examples: slice, steps: slice) -> Tensor:
        return asked.model_inputs(others[examples])

    flipped, confidence = asked.scores(1, rows, "outputs", _flipped_and_confidence)[0].unbind(1)
    away = (others.double() - asked.inputs.double()).abs().flatten(1)
    return CounterfactualQuality(
        flipped=flipped > 0,
        confidence=confidence,
        confidence_before=asked.clean,
        l1=away.mean(1),
        l2=away.square().mean(1).sqrt(),
        changed=(away > changed_by).double().mean(1),
    )


def _flipped_and_confidence(outputs: Tensor, rows: RowScore) -> Tensor:
    return torch.stack([is_target(outputs, rows), of_target(outputs, rows)], 1)


def _like(op: str, counterfactuals: Any, inputs: Tensor) -> Tensor:
    if not isinstance(counterfactuals, Tensor):
        kind = type(counterfactuals).__name__
        raise TypeError(f"{op}: counterfactuals must be a tensor, got {kind}")
    if counterfactuals.shape != inputs.shape or not counterfactuals.is_floating_point():
        raise ArgumentError(
            f"{op}: counterfactuals must be floating-point and shaped as the inputs, "
            f"{list(inputs.shape)}, got {counterfactuals.dtype} {list(counterfactuals.shape)}"
        )
    return counterfactuals.detach().to(inputs)

"""Differences on the same pictures, and what is said of them: by the rules of pyxai_fast."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from pyxai_fast.evaluation.statistics import Difference, difference_of
from pyxai_fast.metrics.bootstrap import Mean

TOO_FEW = "too few pictures to tell"


def minus(one: Tensor, other: Tensor) -> Mean:
    """Of values [B] for the same pictures: the mean difference, of those that have both; what may
    be rounding is none."""
    found = difference_of(_known(one), _known(other), "", None)
    assert found is not None
    return found.mean


def _known(values: Tensor) -> dict[int, float]:
    return {i: value for i, value in enumerate(values.tolist()) if not math.isnan(value)}


def verdict(found: Any, pictures: int, good: int = 1) -> str:
    """ "better", "worse", "no different" or TOO_FEW, of a mean difference of so many pictures;
    good=-1 where small is good."""
    return Difference("", pictures, found, good > 0).verdict


def than(words: str) -> str:
    """The word that goes on from a verdict."""
    return "than" if words.startswith(("better", "worse")) else "from"

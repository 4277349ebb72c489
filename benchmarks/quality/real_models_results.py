"""What a comparison on a real model comes to: of each method its figures, and what it has on its
counterpart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from known_evidence_contenders import CONTENDERS

from pyxai_fast.evaluation.comparison import Comparison
from pyxai_fast.evaluation.controls import CONTROLS
from pyxai_fast.evaluation.metrics import METRICS
from pyxai_fast.evaluation.statistics import difference_of
from pyxai_fast.known_evidence import MAPS

Values = dict[tuple[str, str, str], dict[int, float]]


def result_of(
    comparison: Comparison,
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """All that the page says, fit for JSON."""
    values = _values(comparison)
    return {
        "machine_info": dict(machine),
        "settings": dict(settings),
        "methods": [_method(comparison, name, values, labels) for name in comparison.methods],
        "metrics": {
            name: {"meaning": METRICS[name].meaning, "large_is_good": METRICS[name].large_is_good}
            for name in dict.fromkeys(metric for metric, _, _ in values)
            if not METRICS[name].part
        },
    }


def order_of(name: str) -> str:
    """How the maps of a method are to be read: a slope's sign says for or against more of the
    input, not for or against the class."""
    if name in CONTENDERS:
        return "signed" if CONTENDERS[name].signed else "absolute"
    return "absolute" if name in MAPS and not MAPS[name].signed else "signed"


def _method(
    comparison: Comparison, name: str, values: Values, labels: Mapping[str, str]
) -> dict[str, Any]:
    theirs = name in CONTENDERS
    counterpart = CONTENDERS[name].counterpart if theirs else ""
    cost = comparison.costs[name]
    found: dict[str, Any] = {
        "name": name,
        "label": CONTENDERS[name].label if theirs else labels[name],
        "kind": "control" if name in CONTROLS else "theirs" if theirs else "ours",
        "order": order_of(name),
        "figures": {
            f"{line.metric} {line.order}".strip(): line.mean
            for line in comparison.results
            if line.method == name and not METRICS[line.metric].part
        },
        "gradients": cost.gradients,
        "queries": cost.queries,
        "seconds": cost.seconds,
    }
    if counterpart in comparison.methods:
        found["counterpart"] = labels[counterpart]
        found["ours_minus"] = compared(values, counterpart, name)
    if name not in CONTROLS:
        found["minus_controls"] = {control: compared(values, name, control) for control in CONTROLS}
    return found


def compared(values: Values, one: str, other: str) -> dict[str, Any]:
    """By metric, each method in its own order: the difference on the same pictures, in words."""
    found = {}
    for metric in dict.fromkeys(metric for metric, _, _ in values):
        if METRICS[metric].part:
            continue
        of_one, of_other = (_own(values, metric, name) for name in (one, other))
        difference = difference_of(of_one, of_other, other, METRICS[metric].large_is_good)
        if difference is not None:
            found[metric] = difference.as_dict()
    return found


def _own(values: Values, metric: str, name: str) -> dict[int, float]:
    order = order_of(name) if METRICS[metric].ordered else ""
    return values.get((metric, order, name), {})


def _values(comparison: Comparison) -> Values:
    """By metric, order and method: of each picture that has one."""
    values: Values = {}
    for entry in comparison.entries:
        found = values.setdefault((entry.metric, entry.order, entry.method), {})
        if not math.isnan(entry.value):
            found[entry.picture] = entry.value
    return values

"""Options with which a method asks the model as often as the others do."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..combinations import COMBINATIONS
from ..errors import ArgumentError
from ..front_door import gradient_of
from ..gradients import FreeMCG
from ..methods import METHODS
from ..methods.perturbation import LEAST_QUERIES
from ..metrics.asked import check_count

# Points of a path from a diffusion model: at least as many as the model was trained on.
LEARNT_STEPS = 50
# Of geometrically guided IG: points of the path for each step of a climb, as in its defaults.
POINTS_PER_ASCENT = 2.5


@dataclass(frozen=True)
class Scaled:
    """A method's options within a budget.

    Attributes:
        options: all of them.
        asks: how often the model is asked for a map, besides for what it says of the picture.
        note: what must be said of it; None where `asks` is the budget.
    """

    options: dict[str, Any]
    asks: int
    note: str | None = None


def scaled(method: str, options: Mapping[str, Any], budget: int) -> Scaled:
    """The options of a method with which it asks the model `budget` times for a map.

    Counted are gradients of methods that take gradients, and queries of those that only ask. What
    cannot be as many is said in the note: a method with a single gradient, and numbers that the
    method's parts do not divide.

    Args:
        method: a name in METHODS or COMBINATIONS.
        options: that were asked for; none may say what the budget says.
        budget: evaluations of the model for each map.

    Raises:
        ArgumentError: the budget is too small, or an option says the same thing, or is not what the
            method takes.
    """
    check_count("evaluate", "budget", budget)
    takes = options_of(method)
    for name in takes & {*options} & {"n_steps", "n_paths", "n_ascent", "n_particles"}:
        check_count(method, name, options[name])
    if method == "freemcg":
        return _particles(options, budget)
    each = _evaluations(options.get("gradient"))
    points = budget // each
    if points < 1:
        raise ArgumentError(
            f"budget: must be at least {each} for {method}, whose gradient asks that often, got "
            f"{budget}"
        )
    if "n_queries" in takes:
        if budget < LEAST_QUERIES:
            raise ArgumentError(
                f"budget: must be at least {LEAST_QUERIES} for {method}, got {budget}"
            )
        found = {"n_queries": points}
        asked = points
    elif "n_samples" in takes:
        found, asked = {"n_samples": points}, points
    elif "n_ascent" in takes:
        found, asked = _climbs(options, points)
    elif "n_paths" in takes:
        wanted = LEARNT_STEPS if "path_model" in takes else math.sqrt(points)
        found = _split(method, options, points, "n_steps", "n_paths", wanted)
        asked = found["n_steps"] * found["n_paths"]
    elif "n_steps" in takes:
        paths = getattr(options.get("path"), "n_paths", 1)
        found = {"n_steps": max(1, points // paths)}
        asked = found["n_steps"] * paths
    else:
        found, asked = {}, 1
    for name in found:
        if name in options and options[name] != found[name]:
            raise ArgumentError(
                f"budget: must not be given together with {name} of {method}, which says the same "
                f"thing, got {budget} and {options[name]}"
            )
    return _within({**options, **found}, asked * each, budget)


def options_of(method: str) -> set[str]:
    """Names of the options that a method takes, of its constructor and of the call."""
    combination = COMBINATIONS.get(method)
    kind: Any = METHODS[method if combination is None else combination.method]
    taken = {*inspect.signature(kind).parameters, *inspect.signature(kind.attribute).parameters}
    return taken if combination is None else taken | {*combination.own_options}


def _evaluations(gradient: Any) -> int:
    """Of each point."""
    return int(getattr(gradient_of(gradient), "evaluations", 1))


def _within(options: dict[str, Any], asks: int, budget: int) -> Scaled:
    if asks > budget:
        raise ArgumentError(f"budget: must be at least {asks} with these options, got {budget}")
    note = None
    times = "once" if asks == 1 else f"{asks:,} times"
    if options.get("tolerance") is not None or options.get("early_stop"):
        note = f"asks the model {times} at most, of {budget:,}"
    elif asks < budget:
        note = f"asks the model {times}, not {budget:,}"
    return Scaled(options, asks, note)


def _particles(options: Mapping[str, Any], budget: int) -> Scaled:
    levels = options.get("levels", inspect.signature(FreeMCG).parameters["levels"].default)
    if not isinstance(levels, Sequence) or isinstance(levels, str) or not levels:
        raise ArgumentError(
            f"freemcg: levels must be different integers, at least one, got {levels!r}"
        )
    particles = options.get("n_particles", (budget - 1) // len(levels))
    if particles < 2:
        raise ArgumentError(
            f"budget: must be at least {2 * len(levels) + 1} for freemcg, of {len(levels)} levels, "
            f"got {budget}"
        )
    return _within({**options, "n_particles": particles}, particles * len(levels) + 1, budget)


def _climbs(options: Mapping[str, Any], points: int) -> tuple[dict[str, int], int]:
    """Climbs of n_ascent steps from n_steps + 1 points, or fewer."""
    left_out = options.get("first_point", 0)
    check_count("geometrically_guided_ig", "first_point", left_out, 0)
    if "n_steps" in options:
        if left_out > options["n_steps"]:
            raise ArgumentError(
                f"geometrically_guided_ig: first_point must be at most n_steps, got {left_out} and "
                f"{options['n_steps']}"
            )
        starts = options["n_steps"] + 1 - left_out
        ascent = max(1, points // starts)
    elif "n_ascent" in options:
        ascent = options["n_ascent"]
        starts = points // ascent
    else:
        # Two starts at least: a path has two ends.
        pairs = [starts for starts in _divisors(points) if starts >= 2] or [points]
        starts = _nearest(pairs, math.sqrt(POINTS_PER_ASCENT * points))
        ascent = points // starts
    found = {"n_steps": max(1, starts - 1 + left_out), "n_ascent": ascent}
    return found, (found["n_steps"] + 1 - left_out) * ascent


def _split(
    method: str, options: Mapping[str, Any], total: int, steps: str, paths: str, wanted: float
) -> dict[str, int]:
    if steps in options:
        return {steps: options[steps], paths: max(1, total // options[steps])}
    if paths in options:
        return {steps: max(1, total // options[paths]), paths: options[paths]}
    chosen = _nearest(_divisors(total), wanted)
    return {steps: chosen, paths: total // chosen}


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _nearest(numbers: list[int], wanted: float) -> int:
    """By ratio; the larger of two."""
    return min(numbers, key=lambda n: (abs(math.log(n / wanted)), -n))


# What is enough for a method to show how large its model's tensors are.
_LITTLE = {
    "n_steps": 8, "n_samples": 8, "n_queries": 8, "n_paths": 1, "n_ascent": 2, "n_particles": 8,
}  # fmt: skip
# Options to which the number of steps is tied.
_TIED = ("path_model", "first_point", "tolerance")


def lightened(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a method, asking the model as little as they can."""
    takes = options_of(method)
    found = dict(options)
    for name, little in _LITTLE.items():
        tied = name == "n_steps" and any(option in options for option in _TIED)
        if name in takes and not tied:
            found[name] = min(little, options.get(name) or little)
    return found

"""Names for combinations of method and gradient to which a paper has given one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ArgumentError
from .gradients import FreeMCG, Gradient


@dataclass(frozen=True)
class Combination:
    """A method with a gradient that has options of its own.

    Attributes:
        method: its name in METHODS.
        gradient: the gradient's class.
        options: of the method, unless they are given.
        gradient_options: name of each option as the user gives it, to that of the gradient. (An
            explanation's target is a class, so that a gradient's must be called something else.)
        needed: which of them must be given, and what they are.
    """

    method: str
    gradient: type[FreeMCG]
    options: Mapping[str, Any] = field(default_factory=dict)
    gradient_options: Mapping[str, str] = field(default_factory=dict)
    needed: Mapping[str, str] = field(default_factory=dict)

    def split(self, name: str, options: Mapping[str, Any]) -> tuple[Gradient, dict[str, Any]]:
        """The gradient, and the options that are left for the method."""
        for option, what in self.needed.items():
            if options.get(option) is None:
                raise ArgumentError(f"explain: {option} must be given for {name}: {what}")
        own = {
            argument: options[option]
            for option, argument in self.gradient_options.items()
            if option in options
        }
        left = {k: v for k, v in options.items() if k not in self.gradient_options}
        return self.gradient(**own), {**self.options, **left}


COMBINATIONS: dict[str, Combination] = {
    "freemcg": Combination(
        "saliency",
        FreeMCG,
        options={"abs": False},
        gradient_options={
            "prior": "prior",
            "n_particles": "n_particles",
            "levels": "levels",
            "target_score": "target",
            "seed": "seed",
        },
        needed={"prior": "what inputs look like; see pyxai_fast.priors"},
    ),
}

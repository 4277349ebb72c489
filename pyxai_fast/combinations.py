"""Names for combinations of a method with a gradient or a path to which a paper has given one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import ArgumentError
from .gradients import FreeMCG
from .paths import BlurPath, DiffusionPaths, StickBreaking


@dataclass(frozen=True)
class Combination:
    """A method with a gradient, or a path, that has options of its own.

    Attributes:
        method: its name in METHODS.
        axis: "gradient" or "path": the method's argument that `kind` makes.
        kind: the gradient's or the path's class.
        options: of the method, unless they are given.
        own_options: name of each option as the user gives it, to that of `kind`. (An explanation's
            target is a class, so that a gradient's must be called something else.)
        needed: which of them must be given, and what they are.
    """

    method: str
    axis: Literal["gradient", "path"]
    kind: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    own_options: Mapping[str, str] = field(default_factory=dict)
    needed: Mapping[str, str] = field(default_factory=dict)

    def split(self, name: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The gradient or path, and the options that are left for the method."""
        for option, what in self.needed.items():
            if options.get(option) is None:
                raise ArgumentError(f"explain: {option} must be given for {name}: {what}")
        own = {
            argument: options[option]
            for option, argument in self.own_options.items()
            if option in options
        }
        if self.axis in options:
            raise ArgumentError(
                f"explain: {self.axis} must not be given for {name}, which has its own, got "
                f"{options[self.axis]!r}"
            )
        left = {k: v for k, v in options.items() if k not in self.own_options}
        return self.kind(**own), {**self.options, **left}


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


COMBINATIONS: dict[str, Combination] = {
    "freemcg": Combination(
        "saliency",
        "gradient",
        FreeMCG,
        options={"abs": False},
        own_options={**_same("prior", "n_particles", "levels", "seed"), "target_score": "target"},
        needed={"prior": "what inputs look like; see pyxai_fast.priors"},
    ),
    "stick_breaking_ig": Combination(
        "integrated_gradients",
        "path",
        StickBreaking,
        own_options=_same("alpha", "n_paths", "per", "aggregate", "rule", "seed", "numbers"),
    ),
    "blur_ig": Combination(
        "integrated_gradients",
        "path",
        BlurPath,
        own_options=_same("max_sigma", "schedule", "boundary"),
    ),
    "diffusion_ig": Combination(
        "integrated_gradients",
        "path",
        DiffusionPaths,
        own_options={
            "path_model": "model",
            **_same("n_paths", "guides", "aggregate", "omega", "seed", "numbers"),
        },
        needed={"path_model": "which paths there are: a PathModel, a folder of one, or 'demo'"},
    ),
}

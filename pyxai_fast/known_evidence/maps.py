"""Maps of the package's methods for known evidence, from equally many evaluations of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import ArgumentError, near
from ..explanation import Explanation
from ..front_door import explain
from ..gradients import LikelihoodRatio
from ..priors import GaussianPrior
from .examples import Examples

Options = dict[str, Any]

# Of a side, the tiles that are hidden together, or share their noise.
TILES = 8
SHAPE_NOISE, COLUMN_NOISE = 0.1, 0.3


@dataclass(frozen=True)
class Budget:
    """What methods may use.

    Attributes:
        evaluations: of the network for each input, at most; a gradient is one.
        references: inputs of the same kind, [R, ...]. Their mean, [1, ...], is where paths start
            and what stands for what is hidden.
        seed: of what is drawn at random.
    """

    evaluations: int
    references: Tensor
    seed: int = 0

    @property
    def mean(self) -> Tensor:
        return self.references.mean(0, keepdim=True)

    @property
    def is_table(self) -> bool:
        return self.references.dim() == 2

    @property
    def segments(self) -> str:
        if self.is_table:
            return "features"
        return "tiles:" + "x".join(str(-(-extent // TILES)) for extent in self.references.shape[2:])


@dataclass(frozen=True)
class MethodMap:
    """A map of a method of `explain`.

    Attributes:
        method: its name there.
        options: of it; None where the inputs are such that it has no map.
        signed: whether its sign says for or against the class. A slope's does not: it says for or
            against more of the input.
    """

    method: str
    options: Callable[[Budget], Options | None]
    signed: bool = True


def maps_of(net: nn.Module, examples: Examples, name: str, budget: Budget) -> Explanation:
    """A map for the class of each example.

    Args:
        name: of one of MAPS.

    Raises:
        ValueError: there is none of this name, or it is none of inputs of this kind.
    """
    if name not in MAPS:
        raise ArgumentError(
            f"maps_of: name must be one of {', '.join(MAPS)}, got {name!r}{near(name, MAPS)}"
        )
    options = MAPS[name].options(budget)
    if options is None:
        raise ArgumentError(
            f"maps_of: name must be one of {', '.join(names_of(budget))} for inputs "
            f"{list(examples.inputs.shape)}, got {name!r}"
        )
    return explain(
        net, examples.inputs, method=MAPS[name].method, target=examples.labels, **options
    )


def names_of(budget: Budget) -> tuple[str, ...]:
    """Of the maps that inputs of this kind have."""
    return tuple(name for name, asked in MAPS.items() if asked.options(budget) is not None)


def one_channel(attributions: Tensor, *, signed: bool) -> Tensor:
    """[B, C, H, W] to [B, 1, H, W], the sum over channels, of sizes where they are not signed;
    [B, D] as it is, or its sizes."""
    values = attributions if signed else attributions.abs()
    return values if values.dim() == 2 else values.sum(1, keepdim=True)


def _no_options(budget: Budget) -> Options:
    return {}


def _along_a_path(budget: Budget) -> Options:
    return {"n_steps": budget.evaluations, "baselines": budget.mean}


def _smooth(budget: Budget) -> Options:
    sigma = COLUMN_NOISE if budget.is_table else SHAPE_NOISE
    return {"n_samples": budget.evaluations, "sigma": sigma, "seed": budget.seed}


def _references(budget: Budget) -> Options:
    return {
        "n_samples": budget.evaluations, "baselines": budget.references, "seed": budget.seed
    }  # fmt: skip


def _several_paths(budget: Budget) -> Options:
    steps = min(16, budget.evaluations)
    return {
        "n_steps": steps,
        "n_paths": max(1, budget.evaluations // steps),
        "baselines": budget.mean,
        "seed": budget.seed,
    }


def _blurred(budget: Budget) -> Options | None:
    return None if budget.is_table else {"n_steps": budget.evaluations}


def _climbing(budget: Budget) -> Options:
    ascent = 4
    return {
        "n_steps": max(1, budget.evaluations // ascent - 1),
        "n_ascent": ascent,
        "step_size": 0.5,
        "normalised": True,
        "select": "absmax",
        "baselines": budget.mean,
    }


def _from_answers(budget: Budget) -> Options:
    samples = budget.evaluations - budget.evaluations % 2
    if budget.is_table:
        return {
            "abs": False, "gradient": LikelihoodRatio(samples, COLUMN_NOISE, seed=budget.seed)
        }  # fmt: skip
    # Of features that share their noise there are few enough to be told apart.
    side = -(-min(budget.references.shape[2:]) // TILES)
    gradient = LikelihoodRatio(samples, SHAPE_NOISE, blocks=side, mode="shared", seed=budget.seed)
    return {"abs": False, "gradient": gradient}


def _on_the_manifold(budget: Budget) -> Options | None:
    # Of a picture's pixels the covariance is too large, and nothing else is known without training.
    if not budget.is_table:
        return None
    levels = (100, 200, 300)
    return {
        "prior": GaussianPrior.fit(budget.references),
        "n_particles": max(2, (budget.evaluations - 1) // len(levels)),
        "levels": levels,
        "seed": budget.seed,
    }


def _hiding(budget: Budget) -> Options:
    return {
        "segments": budget.segments,
        "n_queries": budget.evaluations,
        "baselines": budget.mean,
        "seed": budget.seed,
    }


MAPS: dict[str, MethodMap] = {
    "saliency": MethodMap("saliency", lambda budget: {"abs": False}, signed=False),
    "input_x_gradient": MethodMap("input_x_gradient", _no_options),
    "smooth_grad": MethodMap("smooth_grad", _smooth, signed=False),
    "integrated_gradients": MethodMap("integrated_gradients", _along_a_path),
    "expected_gradients": MethodMap("expected_gradients", _references),
    "guided_ig": MethodMap("guided_ig", _along_a_path),
    "blur_ig": MethodMap("blur_ig", _blurred),
    "stick_breaking_ig": MethodMap("stick_breaking_ig", _several_paths),
    "geometrically_guided_ig": MethodMap("geometrically_guided_ig", _climbing, signed=False),
    "likelihood_ratio": MethodMap("saliency", _from_answers, signed=False),
    "freemcg": MethodMap("freemcg", _on_the_manifold, signed=False),
    "lime": MethodMap("lime", _hiding),
    "kernel_shap": MethodMap("kernel_shap", _hiding),
    "rise": MethodMap("rise", _hiding),
    "dax": MethodMap("dax", _hiding),
    "student_gradient": MethodMap("student_gradient", _hiding),
}

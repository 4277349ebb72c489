"""FreeMCG's maps against others that ask as much: where they point, and what their rankings do."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from differences import minus
from off_manifold import nearest, principal_directions, share_outside
from torch import Tensor

from pyxai_fast import Cost, FreeMCG, LikelihoodRatio, Saliency, SmoothGrad
from pyxai_fast.images import gaussian_blur
from pyxai_fast.metrics import deletion, insertion, road
from pyxai_fast.metrics.bootstrap import mean_of
from pyxai_fast.metrics.road import FRACTIONS
from pyxai_fast.models.spec import LoadedModel
from pyxai_fast.priors import Prior

GROUP = 10
REFERENCE, RANDOM = "gradient", "random"
# Of the pixels that ROAD imputes, in pixels of [0, 1].
ROAD_NOISE = 0.01
# By which measures a map is judged, and whether large or small is good.
MEASURES = {
    "off_manifold": -1,
    "deletion": -1,
    "insertion": 1,
    "road_most": -1,
    "road_least": 1,
}


@dataclass(frozen=True)
class MapPlan:
    """What is measured of the maps.

    Attributes:
        particles, levels: of FreeMCG; their product is what all maps but the gradient's may ask.
        sigma: of the noise of SmoothGrad and the likelihood ratio, in pixels of [0, 1].
        neighbours, directions: of the tangent space.
        steps: of deletion and insertion.
        fractions: of the pixels that ROAD imputes.
        blur: sigma of the picture that pixels are inserted into, in shares of the longer side.
    """

    particles: int = 100
    levels: tuple[int, ...] = (100, 200, 300)
    sigma: float = 0.15
    neighbours: int = 100
    directions: int = 20
    steps: int = 28
    fractions: tuple[float, ...] = FRACTIONS
    blur: float = 1 / 6
    seed: int = 0

    @property
    def queries(self) -> int:
        return self.particles * len(self.levels)


class Remembering:
    """A prior that answers the same question once: several maps share their particles."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self.answers: dict[tuple[int, str], Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    def predict_noise(self, noisy: Tensor, level: int) -> Tensor:
        asked = hashlib.sha256(noisy.contiguous().numpy().tobytes()).hexdigest()
        if (level, asked) not in self.answers:
            self.answers[level, asked] = self.prior.predict_noise(noisy, level)
        return self.answers[level, asked]


@dataclass(frozen=True)
class Kind:
    """A map: what it asks of the model, and how it is found for pictures [B, C, H, W], classes [B]
    and the numbers of the pictures, by which what is drawn tells them apart."""

    queries: int
    attribute: Callable[[Tensor, Tensor, Sequence[int]], Tensor]


def kinds_of(loaded: LoadedModel, prior: Remembering, plan: MapPlan, cost: Cost) -> dict[str, Kind]:
    """The maps by name."""
    model, common = loaded.module, {"preprocessing": loaded.preprocessing}
    options = {"abs": False, "cost": cost}

    def free(target: str) -> FreeMCG:
        return FreeMCG(prior, plan.particles, plan.levels, target, plan.seed)

    def by_gradient(output: str = "logit", gradient: Any = None) -> Callable[..., Tensor]:
        method = Saliency(model, gradient=gradient, output=output, **common)

        def attribute(x: Tensor, target: Tensor, numbers: Sequence[int]) -> Tensor:
            method.numbers = numbers
            return method.attribute(x, target, **options)

        return attribute

    def smooth(x: Tensor, target: Tensor, numbers: Sequence[int]) -> Tensor:
        method = SmoothGrad(model, **common)
        method.numbers = numbers
        return method.attribute(
            x, target, None, plan.queries // 2, plan.sigma, plan.seed, cost=cost
        )

    def through_particles(x: Tensor, target: Tensor, numbers: Sequence[int]) -> Tensor:
        slopes = Saliency(model, **common).attribute(x, target, **options)
        method = Saliency(_linear, gradient=free("logit"))
        method.numbers = numbers
        return method.attribute(
            x, torch.zeros_like(target), abs=False, additional_forward_args=slopes
        )

    # Goes on from batch to batch.
    generator = torch.Generator().manual_seed(plan.seed)

    def random_answers(x: Tensor, target: Tensor, numbers: Sequence[int]) -> Tensor:
        def answers(rows: Tensor) -> Tensor:
            return torch.randn(len(rows), 2, generator=generator)

        method = Saliency(answers, gradient=free("logit"))
        method.numbers = numbers
        return method.attribute(x, torch.zeros_like(target), abs=False)

    def random(x: Tensor, target: Tensor, numbers: Sequence[int]) -> Tensor:
        return torch.randn(x.shape, generator=generator)

    ratio = LikelihoodRatio(plan.queries, plan.sigma, antithetic=False, seed=plan.seed)
    return {
        "random": Kind(0, random),
        "gradient": Kind(2, by_gradient()),
        "gradient of log p": Kind(2, by_gradient("logprob")),
        "SmoothGrad": Kind(2 * (plan.queries // 2), smooth),
        "likelihood ratio": Kind(plan.queries, by_gradient(gradient=ratio)),
        "FreeMCG, logit": Kind(plan.queries + 1, by_gradient(gradient=free("logit"))),
        "FreeMCG, log p": Kind(plan.queries + 1, by_gradient(gradient=free("logprob"))),
        "gradient, through FreeMCG's particles": Kind(2, through_particles),
        "random answers at FreeMCG's particles": Kind(0, random_answers),
    }


def measured_maps(
    loaded: LoadedModel, prior: Prior, images: Tensor, pool: Tensor, plan: MapPlan
) -> dict[str, Any]:
    """All figures of the maps for pixels [B, C, H, W] in [0, 1].

    Args:
        pool: training pictures [N, C, H, W], for the tangent spaces.
    """
    cost, remembering = Cost(), Remembering(prior)
    kinds = kinds_of(loaded, remembering, plan, cost)
    with torch.no_grad():
        outputs = Saliency(loaded.module, preprocessing=loaded.preprocessing).outputs(images)
    target = outputs.argmax(1)
    parts: dict[str, list[Tensor]] = {name: [] for name in kinds}
    for first in range(0, len(images), GROUP):
        numbers = range(first, min(first + GROUP, len(images)))
        some = slice(first, first + GROUP)
        remembering.answers.clear()
        with warnings.catch_warnings():
            # Sure classes are part of what is compared: "log p" against "logit".
            warnings.filterwarnings("ignore", message=".*probability 1 to six digits")
            for name, kind in kinds.items():
                found = kind.attribute(images[some], target[some], numbers)
                parts[name].append(found.double())
        print(f"maps: {min(first + GROUP, len(images))} of {len(images)}", flush=True)
    remembering.answers.clear()
    maps = {name: torch.cat(found) for name, found in parts.items()}

    near = nearest(images, pool, plan.neighbours + 1)
    basis = principal_directions(pool[near[:, :-1]], plan.directions)
    blurred = gaussian_blur(images, max(images.shape[-2:]) * plan.blur)
    values: dict[str, dict[str, Tensor]] = {}
    curves = {}
    for name, found in maps.items():
        common = (loaded.module, images, found.abs(), target)
        asking = {"preprocessing": loaded.preprocessing}
        steps = {"n_steps": plan.steps, **asking}
        imputed = road(*common, fractions=plan.fractions, noise=ROAD_NOISE, **asking)
        most, least = imputed.most_first, imputed.least_first
        curves[name] = {
            "most relevant first": most.scores.mean(1).tolist(),
            "least relevant first": least.scores.mean(1).tolist(),
        }
        values[name] = {
            "off_manifold": share_outside(found, basis),
            "deletion": deletion(*common, **steps).area,
            "insertion": insertion(*common, baselines=blurred, **steps).area,
            "road_most": most.area,
            "road_least": least.area,
        }
        print(f"{name}: {', '.join(f'{k} {float(v.mean()):.3f}' for k, v in values[name].items())}")
    return {
        "settings": {
            "pictures": len(images),
            "particles": plan.particles,
            "levels": list(plan.levels),
            "queries": plan.queries,
            "sigma": plan.sigma,
            "neighbours": plan.neighbours,
            "directions": plan.directions,
            "features": images[0].numel(),
            "deletion_steps": plan.steps,
            "insertion_blur": max(images.shape[-2:]) * plan.blur,
            "road_noise": ROAD_NOISE,
            "seed": plan.seed,
            "drawn": "for each picture",
        },
        "maps": [
            {"map": name, "queries": kinds[name].queries, **_compared(values, name)}
            for name in maps
        ],
        "to_a_real_picture": mean_of(share_outside(pool[near[:, -1]] - images, basis)),
        "saturated": mean_of((outputs.double().softmax(1).amax(1) > 1 - 1e-6).double()),
        "road_fractions": list(plan.fractions),
        "road_curves": curves,
    }


def _compared(values: dict[str, dict[str, Tensor]], name: str) -> dict[str, Any]:
    return {
        measure: {
            "mean": mean_of(values[name][measure]),
            "minus_gradient": minus(values[name][measure], values[REFERENCE][measure]),
            "minus_random": minus(values[name][measure], values[RANDOM][measure]),
        }
        for measure in MEASURES
    }


def _linear(rows: Tensor, slopes: Tensor) -> Tensor:
    """Two classes: linear scores of rows [R, ...], each with its own slope, and the opposite."""
    score = (rows.double() * slopes.double()).flatten(1).sum(1)
    return torch.stack((score, -score), 1)

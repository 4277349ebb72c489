"""Counterfactuals of models that only answer, against those that their gradients give.

Every method has the same number of evaluations of the model, a forward and backward pass counted as
two, and settings that the same small search found on other pictures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from differences import minus
from off_manifold import distances
from torch import Tensor
from white_box_counterfactuals import (
    GradientGuided,
    PriorGradientGuided,
    ProjectedGradientDescent,
)

from pyxai_fast import Counterfactual
from pyxai_fast.metrics import CounterfactualQuality, counterfactual_quality
from pyxai_fast.metrics.bootstrap import mean_of
from pyxai_fast.models.spec import LoadedModel
from pyxai_fast.priors import Prior

REFERENCE = "ensemble"
WHITE_BOX = {"gradient": GradientGuided, "gradient through the prior": PriorGradientGuided}
# By which measures a counterfactual is judged, and whether large or small is good; each of the best
# particle and, where there is one, of the mean of the particles.
MEASURES = {
    "flipped": 1,
    "judge": 1,
    "both": 1,
    "probability": 1,
    "change": -1,
    "nearness": -1,
}


@dataclass(frozen=True)
class CounterfactualPlan:
    """What is measured of counterfactuals.

    Attributes:
        particles, steps: of the black box; those that differentiate have half the particles.
        strengths, step_sizes: tried on other pictures, for each kind of guidance.
        radii: of projected gradient descent with one radius, tried on other pictures.
        least, most: the nearest and the farthest radius where each particle has one of its own.
        search_pictures: on which settings are tried.
    """

    particles: int = 40
    steps: int = 20
    strengths: tuple[float, ...] = (0.4, 0.6)
    step_sizes: tuple[float, ...] = (0.05, 0.2, 0.5, 1.0)
    radii: tuple[float, ...] = (1, 2, 4, 6, 8, 10)
    least: float = 0.25
    most: float = 10.0
    search_pictures: int = 6
    seed: int = 0

    @property
    def evaluations(self) -> int:
        """Of the model, for each input, at most."""
        return self.particles * (self.steps + 1) + 2


@dataclass(frozen=True)
class Task:
    """Pictures [B, C, H, W] that the model reads right, and what they are to become, [B]."""

    images: Tensor
    target: Tensor


@dataclass(frozen=True)
class Found:
    """What a method returned for a task, and what that took: seconds are the processor's."""

    best: Tensor
    mean: Tensor | None
    evaluations: int
    denoised: int
    seconds: float


@dataclass(frozen=True)
class Bench:
    """What counterfactuals are made and judged with.

    Attributes:
        judge: an independent classifier; None leaves its measures out.
        pool, pool_labels: training pictures.
        real: the mean distance of real test pictures of each class to the nearest training picture
            of it, [classes].
    """

    loaded: LoadedModel
    prior: Prior
    judge: LoadedModel | None
    pool: Tensor
    pool_labels: Tensor
    real: Tensor
    plan: CounterfactualPlan

    def guided(self, kind: str, task: Task, **options: Any) -> Found:
        """Reverse diffusion with the guidance of that kind."""
        plan = self.plan
        maker, count = Counterfactual, plan.particles
        if kind in WHITE_BOX:
            maker, count = WHITE_BOX[kind], plan.particles // 2
        else:
            options["coupling"] = kind
        method = maker(
            self.loaded.module, self.prior, n_particles=count, n_steps=plan.steps, seed=plan.seed,
            preprocessing=self.loaded.preprocessing, **options,
        )  # fmt: skip
        started = time.process_time()
        found = method.generate(
            task.images, task.target, keep_particles=False, keep_trajectory=False
        )
        steps = len(method.schedule.steps)
        # A gradient is a forward and a backward pass in place of a forward pass.
        backward = sum(step.guided for step in method.schedule.steps) * count
        asked = method.evaluations + (backward if kind in WHITE_BOX else 0)
        through = 2 if kind == "gradient through the prior" else 1
        return Found(
            found.best, found.mean, asked, through * count * steps, time.process_time() - started
        )

    def descended(self, task: Task, radii: tuple[float, ...]) -> Found:
        """Projected gradient descent in balls of these radii, with the plan's evaluations."""
        steps = max(1, (self.plan.evaluations // len(radii) - 1) // 2)
        method = ProjectedGradientDescent(
            self.loaded.module, radii, steps, preprocessing=self.loaded.preprocessing
        )
        started = time.process_time()
        best, _ = method.generate(task.images, task.target)
        return Found(best, None, method.evaluations, 0, time.process_time() - started)

    def judged(self, task: Task, changed: Tensor) -> dict[str, Tensor]:
        """The measures of changed pictures, [B] each."""
        said = self._said(self.loaded, task, changed)
        near = torch.stack(
            [
                distances(one[None], self.pool[self.pool_labels == c]).min() / self.real[c]
                for one, c in zip(changed, task.target, strict=True)
            ]
        )
        found = {
            "flipped": said.flipped.double(),
            "probability": said.confidence,
            "change": said.l1,
            "nearness": near,
        }
        if self.judge is not None:
            agrees = self._said(self.judge, task, changed).flipped
            found |= {"judge": agrees.double(), "both": (agrees & said.flipped).double()}
        return found

    @staticmethod
    def _said(loaded: LoadedModel, task: Task, changed: Tensor) -> CounterfactualQuality:
        return counterfactual_quality(
            loaded.module, task.images, changed, task.target, preprocessing=loaded.preprocessing
        )


Runner = Callable[[Task], Found]


def measured_counterfactuals(
    bench: Bench, images: Tensor, labels: Tensor, search: Tensor, search_labels: Tensor
) -> dict[str, Any]:
    """All figures; the search has pictures of its own."""
    plan = bench.plan
    tried = Task(search, random_other(bench, search, search_labels, plan.seed + 1))
    table, runners = searched(bench, tried)
    rows: list[dict[str, Any]] = []
    for kind, classes in (
        ("second", second(bench, images)),
        ("other", random_other(bench, images, labels, plan.seed)),
    ):
        task = Task(images, classes)
        values: dict[tuple[str, str], dict[str, Tensor]] = {}
        founds = {}
        for name, run in runners.items():
            founds[name] = found = run(task)
            values[name, "best"] = bench.judged(task, found.best)
            if found.mean is not None:
                values[name, "mean"] = bench.judged(task, found.mean)
            both = values[name, "best"].get("both", values[name, "best"]["flipped"])
            print(f"{kind}, {name}: {float(both.mean()):.2f}, {found.seconds:.0f} s", flush=True)
        rows += [
            {
                "target": kind,
                "method": name,
                "picture": which,
                "evaluations": founds[name].evaluations,
                "denoised": founds[name].denoised,
                "seconds": founds[name].seconds / len(images),
                "measures": {key: mean_of(value) for key, value in of.items()},
                "minus_ensemble": {
                    key: minus(value, values.get((REFERENCE, which), {}).get(key, value))
                    for key, value in of.items()
                },
            }
            for (name, which), of in values.items()
        ]
    return {
        "settings": {
            "pictures": len(images),
            "search_pictures": len(search),
            "particles": plan.particles,
            "steps": plan.steps,
            "evaluations": plan.evaluations,
            "seed": plan.seed,
            "chosen": {row["method"]: row["options"] for row in table if row["chosen"]},
            "radii": list(_radii(plan)),
        },
        "search": table,
        "counterfactuals": rows,
    }


def searched(bench: Bench, task: Task) -> tuple[list[dict[str, Any]], dict[str, Runner]]:
    """Every setting on the search's pictures, and a runner for the best of each method.

    The best makes most pictures the target for the model and the judge; among these, it changes
    least.
    """
    plan, table = bench.plan, []
    chosen: dict[str, dict[str, Any]] = {}
    for method, options in _settings(plan):
        found = _run(bench, method, options)(task)
        of = bench.judged(task, found.best)
        worth = of.get("both", of["flipped"]).mean(), -of["change"].mean()
        row = {
            "method": method,
            "options": options,
            "both": float(worth[0]),
            "flipped": float(of["flipped"].mean()),
            "change": -float(worth[1]),
            "chosen": False,
        }
        table.append(row)
        print(f"search: {method} {options}: {row['both']:.2f}, {row['change']:.3f}", flush=True)
        best = chosen.get(method)
        if best is None or (row["both"], -row["change"]) > (best["both"], -best["change"]):
            chosen[method] = row
    runners: dict[str, Runner] = {}
    for method, row in chosen.items():
        row["chosen"] = True
        runners[method] = _run(bench, method, row["options"])
    if chosen[REFERENCE]["options"] != NEARER:
        runners["ensemble, strength 0.4"] = _run(bench, REFERENCE, NEARER)
    unguided = {**chosen[REFERENCE]["options"], "step_size": 0.0}
    runners["unguided"] = _run(bench, REFERENCE, unguided)
    runners["pixels, nearest"] = lambda task: bench.descended(task, _radii(plan))
    return table, runners


NEARER = {"strength": 0.4, "step_size": 0.2}


def _settings(plan: CounterfactualPlan) -> Iterator[tuple[str, dict[str, Any]]]:
    for method in ("ensemble", "diagonal", *WHITE_BOX):
        for strength, step_size in product(plan.strengths, plan.step_sizes):
            yield method, {"strength": strength, "step_size": step_size}
    for radius in plan.radii:
        yield "pixels, one radius", {"radius": radius}


def _run(bench: Bench, method: str, options: dict[str, Any]) -> Runner:
    if "radius" in options:
        return lambda task: bench.descended(task, (options["radius"],))
    return lambda task: bench.guided(method, task, **options)


def _radii(plan: CounterfactualPlan) -> tuple[float, ...]:
    """One for each of half the particles, so that each has steps enough."""
    count = max(2, plan.particles // 2)
    ratio = (plan.most / plan.least) ** (1 / (count - 1))
    return tuple(plan.least * ratio**i for i in range(count))


# --- targets and what they are measured by -------------------------------------------------------


def second(bench: Bench, images: Tensor) -> Tensor:
    """The class that the model takes for the second most likely, [B]."""
    return _chances(bench.loaded, images).topk(2, dim=1).indices[:, 1]


def random_other(bench: Bench, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """A class that the picture is not of, at random, [B]."""
    classes = len(bench.real)
    away = torch.randint(1, classes, labels.shape, generator=torch.Generator().manual_seed(seed))
    return (labels + away) % classes


def real_nearness(
    images: Tensor, labels: Tensor, pool: Tensor, pool_labels: Tensor, most: int = 50
) -> Tensor:
    """The mean distance of pictures of each class to the nearest of it in the pool, [classes]."""
    classes = int(pool_labels.max()) + 1
    return torch.stack(
        [
            distances(images[labels == c][:most], pool[pool_labels == c]).amin(1).mean()
            for c in range(classes)
        ]
    )


@torch.no_grad()
def _chances(loaded: LoadedModel, pixels: Tensor) -> Tensor:
    """The model's probabilities, [B, n], float64."""
    pixels = pixels.float()
    if loaded.preprocessing is not None:
        pixels = loaded.preprocessing.normalise(pixels)
    return loaded.module(pixels).double().softmax(1)

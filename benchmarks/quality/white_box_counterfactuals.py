"""Counterfactuals of those who may differentiate the model, to compare with.

A forward and backward pass counts as two evaluations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyxai_fast import Counterfactual
from pyxai_fast.methods.counterfactual import Guide, Step
from pyxai_fast.models.preprocessing import Preprocessing

ROWS = 100


class GradientGuided(Counterfactual):
    """The same reverse diffusion, but each particle is guided by its own gradient of log p_c.

    Taken at the particle's clean estimate, through the model and the prior's `decode`. Prior,
    schedule, noise and lengths of steps are those of `Counterfactual`: only the direction differs.
    """

    def _guide(
        self,
        step: Step,
        clean: Tensor,
        noisy: Tensor,
        answers: Tensor,
        classes: Tensor,
        origin: Tensor,
    ) -> Guide:
        slopes = self._directions(step, clean, noisy, classes)
        return Guide(slopes.unflatten(0, clean.shape[:2]))

    def _directions(self, step: Step, clean: Tensor, noisy: Tensor, classes: Tensor) -> Tensor:
        """Which way each particle is guided, [B * K, ...]."""
        return self._slopes(lambda rows: rows, clean.flatten(0, 1), classes)

    @torch.enable_grad()
    def _slopes(
        self, clean_of: Callable[[Tensor], Tensor], points: Tensor, classes: Tensor
    ) -> Tensor:
        """The gradients of log p_c at what points [R, ...] become, with respect to the points."""
        parts = []
        for some, wanted in zip(points.split(ROWS), classes.split(ROWS), strict=True):
            rows = some.detach().requires_grad_(True)
            pixels = self.prior.decode(clean_of(rows))
            if self.preprocessing is not None:
                pixels = self.preprocessing.normalise(pixels)
            chosen = self.forward_func(pixels).log_softmax(1).gather(1, wanted[:, None])
            parts += torch.autograd.grad(chosen.sum(), rows)
        slopes = torch.cat(parts)
        # Only directions count, and gradients of a model that is sure are too small for a norm.
        largest = slopes.flatten(1).abs().amax(1).reshape(-1, *[1] * (slopes.dim() - 1))
        return torch.where(largest > 0, slopes / largest, 0.0)


class PriorGradientGuided(GradientGuided):
    """As `GradientGuided`, with the gradient taken with respect to the noisy particle.

    It goes through the prior, whose Jacobian keeps it on the manifold: Chung, Sim, Ryu and Ye,
    "Improving Diffusion Models for Inverse Problems using Manifold Constraints" (2022), equation 11
    with log p_c for the data term. The prior must be differentiable.
    """

    def _directions(self, step: Step, clean: Tensor, noisy: Tensor, classes: Tensor) -> Tensor:
        # Predictions of the package's priors are not recorded, but what they wrap is.
        ask = inspect.unwrap(type(self.prior).predict_noise)
        share, bounds = step.share, self.prior.bounds

        def clean_of(rows: Tensor) -> Tensor:
            found = (rows - (1 - share) ** 0.5 * ask(self.prior, rows, step.level)) / share**0.5
            return found if bounds is None else found.clamp(*bounds)

        return self._slopes(clean_of, noisy.flatten(0, 1), classes)


@dataclass(frozen=True)
class ProjectedGradientDescent:
    """The nearest picture in pixel space that the model takes for another class, without a prior.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (2018), equation
    in section 2.1, in the L2 ball: normalised steps up log p_c, then back into the ball and into
    [0, 1]. Every radius is one particle, and the nearest that the model takes for the class, by the
    mean absolute difference, is the best, as in `Counterfactual`.

    Args:
        radii: of the balls, in pixels of [0, 1].
        n_steps: of each.
        reach: the length of all steps together, in radii.
        preprocessing: turns pixels into model inputs.
    """

    model: Any
    radii: tuple[float, ...]
    n_steps: int
    reach: float = 2.5
    preprocessing: Preprocessing | None = None

    @property
    def evaluations(self) -> int:
        """For each input, a gradient counted as two."""
        return len(self.radii) * (2 * self.n_steps + 1)

    def generate(self, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The best of each input, [B, ...], and all of them, [B, len(radii), ...]."""
        count = len(self.radii)
        origin = inputs.detach().repeat_interleave(count, 0)
        wide = (-1, *[1] * (inputs.dim() - 1))
        radii = torch.tensor(self.radii).to(inputs).repeat(len(inputs)).reshape(wide)
        classes = target.repeat_interleave(count)
        found = origin.clone()
        for _ in range(self.n_steps):
            found.requires_grad_(True)
            (slope,) = torch.autograd.grad(self._log_probability(found, classes).sum(), found)
            moved = found.detach() + self.reach / self.n_steps * radii * _unit(slope)
            change = moved - origin
            length = change.flatten(1).norm(dim=1).reshape(wide)
            inside = change * (radii / length.clamp(min=1e-12)).clamp(max=1)
            found = (origin + inside).clamp(0, 1)
        with torch.no_grad():
            answers = self._outputs(found)
        return self._best(found, origin, answers, classes, count)

    def _best(
        self, found: Tensor, origin: Tensor, answers: Tensor, classes: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        distance = (found - origin).abs().flatten(1).mean(1)
        hit = answers.argmax(1) == classes
        chance = answers.double().log_softmax(1).gather(1, classes[:, None])[:, 0]
        # Those that are taken for the class by their nearness, before all others by their chance.
        worth = torch.where(hit, -distance.double(), chance - 1e6).reshape(-1, count)
        particles = found.unflatten(0, (-1, count))
        return particles[torch.arange(len(particles)), worth.argmax(1)], particles

    def _outputs(self, pixels: Tensor) -> Tensor:
        if self.preprocessing is not None:
            pixels = self.preprocessing.normalise(pixels)
        return self.model(pixels)

    def _log_probability(self, pixels: Tensor, classes: Tensor) -> Tensor:
        return self._outputs(pixels).log_softmax(1).gather(1, classes[:, None])[:, 0]


def _unit(slope: Tensor) -> Tensor:
    wide = (-1, *[1] * (slope.dim() - 1))
    return slope / slope.flatten(1).norm(dim=1).reshape(wide).clamp(min=1e-30)

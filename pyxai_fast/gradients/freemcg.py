"""Black box, on the data manifold: the slope from the answers at likely inputs nearby."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError, is_one_of
from ..models.score import RowScore
from ..priors import Prior
from ..priors.particles import PriorAtWork, check_prior, noised
from ..reference.path import memory_format_of
from ..runtime.stopwatch import Stopwatch
from .asking import outputs_at
from .class_directions import CLASS_TARGETS, class_directions
from .gradient import Slopes

# Far from the streams in which paths and the likelihood ratio draw.
FIRST_STREAM = 2**15
# Particles whose root mean variance is a smaller share of their distance from zero have collapsed:
# float32 cannot tell them apart.
COLLAPSED = 1e-6
# A class of such probability leaves nothing of the gradient of its logarithm.
SATURATED = 1 - 1e-6


class FreeMCG:
    """The gradient, seen from the data manifold, without derivatives of the model or the prior.

    ``g = C_xf (e_c - p) ~ C_xx grad log p_c``

    Particles around the input are made by noising it and asking a diffusion prior what it was
    (Tweedie's formula, one step), so that they lie where inputs lie. The covariance of particles
    and logits, times the derivative of the log-probability with respect to the logits, is the
    gradient multiplied by the particles' covariance: it is kept along the manifold and vanishes
    across it. "Derivative-Free Diffusion Manifold-Constrained Gradient for Unified XAI" (2024),
    equation 1 and theorem 2.

    Each level's g is divided by the mean variance of its particles, which makes it a slope: levels
    then agree on its size, and isotropic particles give the likelihood ratio's estimate.

    Args:
        prior: see pyxai_fast.priors.
        n_particles: K, for each point and level. The map has a rank of K - 1 at most.
        levels: of the prior's schedule, from 0; the maps are averaged. Small ones stay close to the
            input, large ones see more of the manifold.
        target: of outputs [R, n] asked as logits: "logprob", equation 1; "logit", e_c in place of
            (e_c - p), for classes so sure that nothing is left of (e_c - p); "logit_diff", the
            class against the likeliest other. Other outputs, `output="prob"` for one, are
            explained as they are.
        seed: of the noise.

    Raises:
        ArgumentError: naming the argument, what it must be and what it is.
    """

    needs_autograd = False

    def __init__(
        self,
        prior: Prior,
        n_particles: int = 100,
        levels: Sequence[int] = (100, 200, 300),
        target: str = "logprob",
        seed: int = 0,
    ) -> None:
        check_prior("FreeMCG", prior)
        if not isinstance(n_particles, int) or n_particles < 2:
            raise ArgumentError(
                f"FreeMCG: n_particles must be an integer >= 2, got {n_particles!r}"
            )
        if n_particles < 8:
            warnings.warn(
                f"FreeMCG: {n_particles} particles span {n_particles - 1} directions at most: the "
                "map is one of these, whatever the model",
                stacklevel=2,
            )
        count = len(prior.shares)
        known = isinstance(levels, Sequence) and all(
            isinstance(t, int) and 0 <= t < count for t in levels
        )
        # The particles of a level are drawn once: naming it twice would add nothing.
        if not known or not levels or len(set(levels)) < len(levels):
            raise ArgumentError(
                f"FreeMCG: levels must be different integers from 0 to {count - 1}, at least one, "
                f"got {levels!r}"
            )
        if not is_one_of(target, CLASS_TARGETS):
            raise ArgumentError(
                f"FreeMCG: target must be one of {', '.join(CLASS_TARGETS)}, got {target!r}"
            )
        self.prior, self.n_particles, self.levels = prior, n_particles, tuple(levels)
        self.target, self.seed = target, seed

    def __repr__(self) -> str:
        return (
            f"FreeMCG({type(self.prior).__name__}, n_particles={self.n_particles}, "
            f"levels={self.levels}, target={self.target!r}, seed={self.seed})"
        )

    @property
    def explains_score(self) -> bool:
        """Whether the slope is that of the score itself, and not of the log-probability."""
        return self.target == "logit"

    @property
    def evaluations(self) -> int:
        return self.n_particles * len(self.levels) + 1

    def __call__(
        self,
        rows: RowScore,
        points: tuple[Tensor, ...],
        *,
        create_graph: bool = False,
        variances: bool = False,
    ) -> Slopes:
        if create_graph:
            raise ArgumentError(
                "FreeMCG: create_graph must be False, got True: what is estimated from answers "
                "alone has no graph"
            )
        if len(points) != 1:
            raise ArgumentError(
                f"FreeMCG: inputs must be one tensor, which the prior knows, got {len(points)}"
            )
        x = points[0].detach()
        with torch.no_grad():
            watch = Stopwatch(x.device)
            directions = self._directions(rows, x, watch)
            parts = [self._level(rows, x, t, directions, variances, watch) for t in self.levels]
            rows.score.cost.add_parts(watch.seconds())
            slopes = torch.stack([slope for slope, _ in parts]).mean(0)
            slopes = slopes if rows.score.several else slopes[:, 0]
            if not variances:
                return Slopes((slopes,))
            variance = torch.stack([v for _, v in parts if v is not None]).sum(0) / len(parts) ** 2
        return Slopes((slopes,), (variance if rows.score.several else variance[:, 0],))

    def particles(
        self,
        rows: RowScore,
        x: Tensor,
        level: int,
        n_particles: int,
        watch: Stopwatch | None = None,
    ) -> Tensor:
        """Likely inputs around each point, [n_particles * R, ...] in the caller's units.

        The particles of a row depend on its number, the level and the seed alone.
        """
        watch = Stopwatch(x.device) if watch is None else watch
        prior = PriorAtWork(self.prior, rows.score.cost, watch, "FreeMCG")
        clean = prior.encode(x)
        key = ops.random_key(self.seed, FIRST_STREAM + level, device=clean.device)
        noisy = noised(clean, float(self.prior.shares[level]), n_particles, key, rows.numbers)
        return prior.decode(prior.denoise(noisy, prior.predict_noise(noisy, level), level))

    def _directions(self, rows: RowScore, x: Tensor, watch: Stopwatch) -> Tensor | None:
        """What outputs are multiplied by, [R, outputs, n]; None where scores are taken as they are.

        (e_c - p) for "logprob", e_c - e_other for "logit_diff".
        """
        outputs = outputs_at(rows, x, watch, "FreeMCG", memory_format_of(x))
        rows.score.select(outputs, rows.targets)  # checks the targets
        if outputs.dim() != 2 or outputs.shape[1] < 2 or rows.score.output != "logit":
            return None
        if self.target == "logit":
            return None
        columns = torch.arange(outputs.shape[1], device=outputs.device).expand(outputs.shape)
        chosen = rows.score.select(columns, rows.targets).reshape(len(outputs), -1)
        if self.target == "logprob" and float(outputs.softmax(1).gather(1, chosen).max()) > (
            SATURATED
        ):
            warnings.warn(
                "FreeMCG: a class has probability 1 to six digits, so that hardly anything is left "
                "of the gradient of its logarithm; FreeMCG(target='logit'), or for the method "
                "freemcg target_score='logit', explains its logit",
                stacklevel=2,
            )
        return class_directions(outputs, chosen, self.target)

    def _level(
        self,
        rows: RowScore,
        x: Tensor,
        level: int,
        directions: Tensor | None,
        variances: bool,
        watch: Stopwatch,
    ) -> tuple[Tensor, Tensor | None]:
        """Slopes from the particles of one level and their variances, [R, n, ...], float64."""
        count = self.n_particles
        particles = self.particles(rows, x, level, count, watch)
        answers = self._answers(rows, x, particles, directions, watch)  # [R, K, n]
        by_row = particles.unflatten(0, (count, len(x))).transpose(0, 1).contiguous()
        weights = (answers - answers.mean(1, keepdim=True)) / count
        contraction, variance = ops.ensemble_contract(by_row, weights, x)
        spread = variance.double().flatten(1).mean(1)
        size = by_row.flatten(1).norm(dim=1, dtype=torch.float64) / by_row[0].numel() ** 0.5
        if bool((spread <= (COLLAPSED * size) ** 2).any()):
            warnings.warn(
                f"FreeMCG: the particles of level {level} coincide, so that there is nothing to "
                "learn from them; try a higher level",
                stacklevel=2,
            )
        spread = spread.reshape(-1, 1, *[1] * (x.dim() - 1))
        slopes = torch.where(spread > 0, contraction.double() / spread, 0.0)
        if not variances:
            return slopes, None
        # The variance of the mean of K products of centred answers and centred particles. An input
        # at a time: it takes copies of its particles.
        squares = torch.empty_like(contraction, dtype=torch.float64)
        for row, (own, weight) in enumerate(zip(by_row, weights, strict=True)):
            centred = (own.double() - own.double().mean(0)).flatten(1).square_()
            product = ((weight * count) ** 2).T @ centred / count
            squares[row] = product.reshape(squares[row].shape)
        of_mean = (squares - contraction.double() ** 2).clamp(min=0) / (count - 1)
        return slopes, torch.where(spread > 0, of_mean / spread**2, torch.inf)

    def _answers(
        self,
        rows: RowScore,
        x: Tensor,
        particles: Tensor,
        directions: Tensor | None,
        watch: Stopwatch,
    ) -> Tensor:
        """What the particles say of each target, [R, K, n]."""
        count = self.n_particles
        copies = rows.take(slice(None), count)
        outputs = outputs_at(copies, particles, watch, "FreeMCG", memory_format_of(x))
        if directions is None:
            scores: Tensor = rows.score.select(outputs, copies.targets)
            return scores.reshape(count, len(rows), -1).transpose(0, 1)
        by_row: Tensor = outputs.unflatten(0, (count, len(rows))).transpose(0, 1)
        return by_row @ directions

"""What would have to change: the nearest likely input that the model takes for another class."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..counterfactuals import Counterfactuals
from ..errors import ArgumentError
from ..gradients.asking import outputs_at
from ..gradients.class_directions import CLASS_TARGETS, class_directions
from ..models.preprocessing import Affine, Preprocessing
from ..models.query_error import BudgetExceeded
from ..models.score import ForwardFunc, RowScore, Score
from ..models.target import Targets
from ..priors import Prior
from ..priors.particles import denoised, noised, predicted_noise
from ..runtime.cost import Cost
from ..runtime.inference import outside_inference_mode
from ..runtime.progress import progress_bar
from ..runtime.stopwatch import Stopwatch
from .arguments import input_tensors, to_device

# And the step size of each, where none is given.
COUPLINGS = {"ensemble": 0.05, "diagonal": 0.2}
# Streams of random numbers: of the noise at the start, and of that of step i.
START_STREAM = 2**15 + 2**14
STEP_STREAM = START_STREAM + 1
MOST_STEPS = 2**13
# Particles whose root mean variance is a smaller share of their size have collapsed.
COLLAPSED = 1e-6


class Step(NamedTuple):
    """One step of the way back from the noise.

    Attributes:
        level: of the particles, by which they are denoised.
        share, share_next: of signal, before and after.
        guided: False where the clean estimate is the result.
    """

    level: int
    share: float
    share_next: float
    guided: bool


@dataclass(frozen=True)
class Schedule:
    """From which level the particles start, and how they come back.

    Attributes:
        start_share: of signal, with which the inputs are noised.
        steps: one by one.
    """

    start_share: float
    steps: tuple[Step, ...]


class Counterfactual:
    """Inputs near those given that the model takes for another class, and that are likely.

    Particles around each input are noised and led back to the data by a diffusion prior, a step at
    a time, and at each step up the slope of the target's log-probability, which their covariance
    with the model's answers gives. The model is only asked, and the prior too.
    "Derivative-Free Diffusion Manifold-Constrained Gradient for Unified XAI" (2024); the step is
    that of `ops.guided_step`.

    With F_k the logits and x_k the clean estimates of K particles, P_j the softmax of F_j, the
    guidance of particle j is

    - coupling "ensemble": ``(1/K) sum over k of (F_k - F) (e_c - P_j) (x_k - x)``, equation 1 with
      each particle's own direction;
    - coupling "diagonal": only the k = j term, as in the authors' release, with its schedule: noise
      of the level above the first, no guidance in the last step but one, and some in the last.

    either is scaled to the norm of the predicted noise.

    Args:
        forward_func: the model: logits [R, n] of rows, n > 1. Log-probabilities will do.
        prior: see pyxai_fast.priors.
        n_particles: K, for each input.
        n_steps: of the way back.
        strength: how far the inputs are noised, as a share of the prior's levels: more changes
            more.
        step_size: of the guidance, in norms of the predicted noise. By default 0.05, and for
            "diagonal", whose particles go each its own way, 0.2, as in the release.
        step_proximity: of what draws particles back to the input (the sign of the difference: the
            gradient of its L1 norm), in the same unit.
        eta: fresh noise in each step: 0 none (DDIM), 1 as much as DDPM.
        inflation: particles are spread about their mean by this factor after each step; 1 leaves
            them. Somewhat more helps where they collapse.
        coupling: "ensemble" or "diagonal".
        target_score: what the guidance raises: "logprob", "logit" or "logit_diff" (the class
            against the likeliest other).
        seed: of all noise.
        preprocessing: given when inputs are pixels: turns them into model inputs.
        select_output: picks the logits from what the model returns.

    Raises:
        ArgumentError: naming the argument, what it must be and what it is.
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        prior: Prior,
        *,
        n_particles: int = 100,
        n_steps: int = 50,
        strength: float = 0.4,
        step_size: float | None = None,
        step_proximity: float = 0.02,
        eta: float = 1.0,
        inflation: float = 1.0,
        coupling: str = "ensemble",
        target_score: str = "logprob",
        seed: int = 0,
        preprocessing: Preprocessing | None = None,
        select_output: Callable[[Any], Tensor] | None = None,
    ) -> None:
        if not callable(forward_func):
            raise TypeError(
                "Counterfactual: forward_func must be a callable, got "
                f"{type(forward_func).__name__}"
            )
        levels = len(prior.shares)
        enough = _whole(n_particles) and n_particles >= 2
        countable = _whole(n_steps) and 2 <= n_steps <= MOST_STEPS
        scores = ", ".join(CLASS_TARGETS)
        for holds, name, wanted, value in (
            (enough, "n_particles", "an integer >= 2", n_particles),
            (countable, "n_steps", f"an integer from 2 to {MOST_STEPS}", n_steps),
            (0 < strength <= 1, "strength", "in (0, 1]", strength),
            (step_size is None or step_size >= 0, "step_size", "at least 0", step_size),
            (step_proximity >= 0, "step_proximity", "at least 0", step_proximity),
            (0 <= eta <= 1, "eta", "in [0, 1]", eta),
            (inflation > 0, "inflation", "greater than 0", inflation),
            (coupling in COUPLINGS, "coupling", f"one of {', '.join(COUPLINGS)}", coupling),
            (target_score in CLASS_TARGETS, "target_score", f"one of {scores}", target_score),
        ):
            if not holds:
                raise ArgumentError(f"Counterfactual: {name} must be {wanted}, got {value!r}")
        if int(strength * levels) < n_steps:
            raise ArgumentError(
                f"Counterfactual: n_steps must be at most strength * levels = "
                f"{int(strength * levels)} for this prior, got {n_steps}"
            )
        if n_particles < 8:
            warnings.warn(
                f"Counterfactual: {n_particles} particles span {n_particles - 1} directions at "
                "most: the guidance is one of these, whatever the model",
                stacklevel=2,
            )
        self.forward_func, self.prior = forward_func, prior
        self.n_particles, self.n_steps, self.strength = n_particles, n_steps, strength
        self.step_size = COUPLINGS[coupling] if step_size is None else step_size
        self.step_proximity, self.eta = step_proximity, eta
        self.inflation, self.coupling, self.target_score = inflation, coupling, target_score
        self.seed, self.preprocessing, self.select_output = seed, preprocessing, select_output
        make = _schedule if coupling == "ensemble" else _released_schedule
        self.schedule = make(prior.shares, n_steps, strength)

    @property
    def evaluations(self) -> int:
        """Queries for each input."""
        return self.n_particles * (len(self.schedule.steps) + 1) + 2

    @outside_inference_mode
    def generate(
        self,
        inputs: Tensor,
        target: Any,
        additional_forward_args: Any = None,
        *,
        keep_particles: bool = True,
        keep_trajectory: bool = True,
        internal_batch_size: int | None = None,
        class_names: list[str] | None = None,
        show_progress: bool = False,
        cost: Cost | None = None,
    ) -> Counterfactuals:
        """Changes each of a batch of inputs until the model takes it for the target.

        Args:
            inputs: [B, ...] in the caller's units.
            target: the class that is wanted, for all inputs or one for each.
            additional_forward_args: further arguments of the model; tensors [B, ...] are repeated
                with their inputs.
            keep_particles: whether all last particles are returned, [B, K, ...].
            keep_trajectory: whether the mean of each step is returned, [B, n_steps + 1, ...].
            internal_batch_size: rows sent through the model at once, at most.
            class_names: kept with the result, for pictures.
            show_progress: a bar over the steps.
            cost: filled in with what the call cost.

        Returns:
            Counterfactuals.

        Raises:
            TypeError, ValueError: naming the argument, what it must be and what it is.
            QueryError: a BlackBox could not answer, or has not the budget to.
        """
        cost = Cost() if cost is None else cost
        started = time.perf_counter()
        x, rows = self._checked(inputs, target, additional_forward_args, cost)
        rows.score.max_rows = internal_batch_size
        with torch.no_grad():
            result = self._generate(x, rows, keep_particles, keep_trajectory, show_progress, cost)
        cost.seconds += time.perf_counter() - started
        cost.backend = ops.backend_of(x.device)
        result.class_names = class_names
        return result

    def _checked(
        self, inputs: Tensor, target: Any, additional_forward_args: Any, cost: Cost
    ) -> tuple[Tensor, RowScore]:
        """The inputs on the model's device, and the score of the target."""
        if isinstance(target, Targets) or target is None:
            raise ArgumentError(
                "Counterfactual: target must be the class that is wanted, or one for each input, "
                f"got {target!r}"
            )
        tensors = input_tensors(inputs, self.forward_func)
        if len(tensors) != 1 or isinstance(inputs, tuple):
            raise ArgumentError(
                "Counterfactual: inputs must be one tensor, which the prior knows, got a tuple of "
                f"{len(tensors)}"
            )
        x = tensors[0].detach()
        batch = x.shape[0]
        if batch == 0:
            raise ArgumentError("Counterfactual: inputs must hold at least one, got none")
        remaining = getattr(self.forward_func, "remaining", None)
        needed = batch * self.evaluations
        if remaining is not None and needed > remaining:
            raise BudgetExceeded(
                getattr(self.forward_func, "name", "model"),
                f"{needed} queries are needed ({batch} inputs, {self.evaluations} each), and the "
                f"budget has {remaining} left",
                spent=getattr(self.forward_func, "queries", 0),
                advice="raise the budget, or ask for fewer particles, steps or inputs",
            )
        affine = None
        if self.preprocessing is not None:
            affine = Affine(
                self.preprocessing.scale.to(x.device), self.preprocessing.shift.to(x.device)
            )
        score = Score(
            self.forward_func,
            batch,
            x.device,
            target,
            to_device(additional_forward_args, x.device),
            select_output=self.select_output,
            cost=cost,
            affines=(affine,),
        )
        return x, score.rows(slice(None))

    def _generate(
        self,
        x: Tensor,
        rows: RowScore,
        keep_particles: bool,
        keep_trajectory: bool,
        show_progress: bool,
        cost: Cost,
    ) -> Counterfactuals:
        watch, prior, count = Stopwatch(x.device), self.prior, self.n_particles
        outputs = outputs_at(rows, x, watch)
        target = self._classes(rows, outputs)
        origin = prior.encode(x)
        # Particles are kept with their input: its K rows are next to each other.
        copies = rows.take(torch.arange(len(x), device=x.device).repeat_interleave(count))
        classes = target.repeat_interleave(count)
        key = ops.random_key(self.seed, START_STREAM, device=x.device)
        noisy = noised(origin, self.schedule.start_share, count, key)
        noisy = noisy.unflatten(0, (count, len(x))).transpose(0, 1).contiguous()  # [B, K, ...]
        way = _Way(len(x), len(self.schedule.steps), keep_trajectory, prior)
        bar = progress_bar(show_progress, len(self.schedule.steps), "Counterfactual", unit=" steps")
        try:
            for number, step in enumerate(self.schedule.steps):
                flat = noisy.flatten(0, 1)
                noise = predicted_noise(prior, flat, step.level, cost, watch, "Counterfactual")
                clean = denoised(prior, flat, noise, step.level)
                answers = outputs_at(copies, prior.decode(clean), watch)
                clean = clean.unflatten(0, noisy.shape[:2])
                way.note(number, clean, answers, classes)
                if step.guided:
                    noisy = self._step(number, step, clean, noise, answers, classes, origin)
                else:
                    noisy = clean
                bar.update(1)
        finally:
            bar.close()
        if prior.bounds is not None:
            noisy = noisy.clamp(*prior.bounds)
        pixels = prior.decode(noisy.flatten(0, 1))
        answers = outputs_at(copies, pixels, watch)
        way.note(len(self.schedule.steps), noisy, answers, classes)
        way.warn_of_collapse()
        particles = pixels.unflatten(0, (len(x), count))
        mean = particles.mean(1)
        best = _nearest(particles, x, answers.unflatten(0, (len(x), count)), target)
        each = torch.arange(len(x), device=x.device)
        mean_outputs = outputs_at(rows, mean, watch)
        cost.add_parts(watch.seconds())
        return Counterfactuals(
            inputs=x,
            target=target,
            mean=mean,
            best=particles[each, best],
            particles=particles if keep_particles else None,
            outputs=outputs,
            mean_outputs=mean_outputs,
            best_outputs=answers.unflatten(0, (len(x), count))[each, best],
            confidence=way.confidence,
            spread=way.spread,
            trajectory=None if way.means is None else torch.stack(way.means, 1),
            levels=torch.tensor([step.level for step in self.schedule.steps]),
            cost=cost,
            settings=self._settings(),
        )

    def _classes(self, rows: RowScore, outputs: Tensor) -> Tensor:
        """The target of each input, [B]."""
        if outputs.dim() != 2 or outputs.shape[1] < 2:
            raise ArgumentError(
                "Counterfactual: the model must return logits [B, n] of n > 1 classes, got "
                f"{list(outputs.shape)}; for one logit z, return (0, z)"
            )
        rows.score.select(outputs, rows.targets)  # checks the target
        columns = torch.arange(outputs.shape[1], device=outputs.device).expand(outputs.shape)
        return rows.score.select(columns, rows.targets)

    def _step(
        self,
        number: int,
        step: Step,
        clean: Tensor,
        noise: Tensor,
        answers: Tensor,
        classes: Tensor,
        origin: Tensor,
    ) -> Tensor:
        """The particles of the next level, [B, K, ...]."""
        shape = clean.shape[:2]
        directions = class_directions(answers, classes[:, None], self.target_score)[:, :, 0]
        directions = directions.unflatten(0, shape)
        logits = answers.unflatten(0, shape)
        logits = logits - logits.mean(1, keepdim=True)
        guide, center, weights = clean, None, None
        if self.coupling == "ensemble":
            # matrix[j, k] = (F_k - F) (e_c - P_j) / K; its rows sum to zero, as the F_k - F do.
            matrix = directions @ logits.transpose(1, 2) / shape[1]
            guide = ops.ensemble_transform(
                clean, matrix.to(clean.dtype), origin, add_particles=False
            )
        else:
            weights = (directions * logits).sum(2).to(clean.dtype)
            center = ops.ensemble_moments(clean)[0].to(clean.dtype)
        key = ops.random_key(self.seed, STEP_STREAM + number, device=clean.device)
        following = ops.guided_step(
            clean,
            noise.unflatten(0, shape),
            guide,
            alpha_bar=step.share,
            alpha_bar_next=step.share_next,
            eta=self.eta,
            step_size=self.step_size,
            step_proximity=self.step_proximity,
            origin=origin,
            center=center,
            weights=weights,
            key=key,
        )
        if self.inflation != 1:
            mean = following.mean(1, keepdim=True)
            following = mean + self.inflation * (following - mean)
        return following

    def _settings(self) -> dict[str, Any]:
        names = (
            "n_particles", "n_steps", "strength", "step_size", "step_proximity", "eta",
            "inflation", "coupling", "target_score", "seed",
        )  # fmt: skip
        own = {name: getattr(self, name) for name in names}
        return {"method": "counterfactual", "prior": repr(self.prior), **own}


class _Way:
    """What is noted at each step."""

    def __init__(self, batch: int, n_steps: int, keep_means: bool, prior: Prior) -> None:
        self.confidence = torch.zeros(batch, n_steps + 1, dtype=torch.float64)
        self.spread = torch.zeros(batch, n_steps + 1, dtype=torch.float64)
        self.means: list[Tensor] | None = [] if keep_means else None
        self.prior = prior
        self._collapsed: list[Tensor] = []

    def note(self, number: int, clean: Tensor, answers: Tensor, classes: Tensor) -> None:
        if number == 0:
            self.confidence = self.confidence.to(clean.device)
            self.spread = self.spread.to(clean.device)
        shape = clean.shape[:2]
        p = answers.softmax(1).gather(1, classes[:, None])
        self.confidence[:, number] = p.reshape(shape).mean(1)
        mean, variance = ops.ensemble_moments(clean)
        spread = variance.double().flatten(1).mean(1).sqrt()
        self.spread[:, number] = spread
        size = clean.flatten(1).norm(dim=1, dtype=torch.float64) / clean[0].numel() ** 0.5
        self._collapsed.append(spread <= COLLAPSED * size)
        if self.means is not None:
            self.means.append(self.prior.decode(mean.to(clean.dtype)))

    def warn_of_collapse(self) -> None:
        collapsed = torch.stack(self._collapsed, 1)
        if bool(collapsed.any()):
            which = collapsed.any(1).nonzero()[:, 0].tolist()
            first = int(collapsed[which[0]].nonzero()[0])
            warnings.warn(
                f"Counterfactual: the particles of inputs {which} coincide from step {first} on, "
                "so that there is nothing to learn from them; try inflation=1.02, a smaller "
                "step_size or more particles",
                stacklevel=2,
            )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _schedule(shares: Tensor, n_steps: int, strength: float) -> Schedule:
    """Evenly down from the level at `strength`, where the particles start; the end is clean."""
    top = int(strength * len(shares))
    levels = [max(0, round(top * i / n_steps) - 1) for i in range(n_steps, 0, -1)]
    own = [float(shares[level]) for level in levels]
    steps = [
        Step(level, share, after, guided=True)
        for level, share, after in zip(levels[:-1], own[:-1], own[1:], strict=True)
    ]
    return Schedule(own[0], (*steps, Step(levels[-1], own[-1], 1.0, guided=False)))


def _released_schedule(shares: Tensor, n_steps: int, strength: float) -> Schedule:
    """Levels 0, s, 2 s... below `strength`, noise of that level itself, and a guided last step."""
    top = int(strength * len(shares))
    levels = list(range(0, top, top // n_steps))[::-1]
    own = [float(shares[level]) for level in levels]
    steps = [
        Step(level, share, after, guided=level_after != 0)
        for level, level_after, share, after in zip(
            levels[:-1], levels[1:], own[:-1], own[1:], strict=True
        )
    ]
    start = float(shares[min(top, len(shares) - 1)])
    return Schedule(start, (*steps, Step(levels[-1], own[-1], 1.0, guided=True)))


def _nearest(particles: Tensor, x: Tensor, answers: Tensor, target: Tensor) -> Tensor:
    """Which particle is best, [B]: see Counterfactuals.best."""
    distance = (particles - x[:, None]).abs().flatten(2).mean(2)
    hit = answers.argmax(2) == target[:, None]
    p = answers.log_softmax(2).gather(2, target[:, None, None].expand(-1, answers.shape[1], 1))
    nearest = distance.masked_fill(~hit, torch.inf).argmin(1)
    return torch.where(hit.any(1), nearest, p[:, :, 0].argmax(1))

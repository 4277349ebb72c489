"""What would have to change: the nearest likely input that the model takes for another class."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..counterfactuals import Counterfactuals
from ..errors import ArgumentError, check_bool, is_one_of
from ..gradients.asking import outputs_at
from ..gradients.class_directions import CLASS_TARGETS, class_directions
from ..models.black_box import check_remaining, query_error_of
from ..models.input_numbers import numbers_of
from ..models.preprocessing import Affine, Preprocessing
from ..models.score import ForwardFunc, RowScore, Score
from ..models.target import Targets
from ..priors import Prior
from ..priors.particles import PriorAtWork, check_prior, noised
from ..reference.path import memory_format_of
from ..runtime.cost import Cost
from ..runtime.inference import outside_inference_mode
from ..runtime.progress import Progress, progress_bar
from ..runtime.stopwatch import Stopwatch
from .arguments import input_tensors, to_device
from .loop import LoopOptions

# And the step size of each, where none is given.
COUPLINGS = {"ensemble": 0.05, "diagonal": 0.2}
# Streams of random numbers: of the noise at the start, and of that of step i.
START_STREAM = 2**15 + 2**14
STEP_STREAM = START_STREAM + 1
MOST_STEPS = 2**13
# From the seed of one input to that of the next: odd, and far from everything that people choose.
SEED_STEP = 0x9E3779B97F4A7C15
# Particles whose root mean variance is a smaller share of their size have collapsed.
COLLAPSED = 1e-6
# Bytes of one copy of the particles that are at work at once; there are about six copies. Inputs
# beyond come after.
GROUP_BYTES = 256 * 2**20


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


class Guide(NamedTuple):
    """Where particles are guided: `guide`, `center` and `weights` of `ops.guided_step`."""

    towards: Tensor
    center: Tensor | None = None
    weights: Tensor | None = None


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
        inflation: the clean estimates of each step are spread about their mean by this factor; 1
            leaves them. Somewhat more helps where particles collapse.
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
        check_prior("Counterfactual", prior)
        self.check_options(
            n_particles=n_particles, n_steps=n_steps, strength=strength, step_size=step_size,
            step_proximity=step_proximity, eta=eta, inflation=inflation, coupling=coupling,
            target_score=target_score, seed=seed,
        )  # fmt: skip
        top = int(strength * len(prior.shares))
        if top < n_steps or (coupling == "diagonal" and top % n_steps):
            fits = "divide" if coupling == "diagonal" else "be at most"
            raise ArgumentError(
                f"Counterfactual: n_steps must {fits} strength * levels = {top} for this prior, "
                f"got {n_steps}"
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

    @staticmethod
    def check_options(
        *,
        n_particles: Any = 100,
        n_steps: Any = 50,
        strength: Any = 0.4,
        step_size: Any = None,
        step_proximity: Any = 0.02,
        eta: Any = 1.0,
        inflation: Any = 1.0,
        coupling: Any = "ensemble",
        target_score: Any = "logprob",
        seed: Any = 0,
    ) -> None:
        """Raises for options that make no sense with any model and prior."""
        enough = _whole(n_particles) and n_particles >= 2
        countable = _whole(n_steps) and 2 <= n_steps <= MOST_STEPS
        sized = step_size is None or (_number(step_size) and step_size >= 0)
        scores = ", ".join(CLASS_TARGETS)
        for holds, name, wanted, value in (
            (enough, "n_particles", "an integer >= 2", n_particles),
            (countable, "n_steps", f"an integer from 2 to {MOST_STEPS}", n_steps),
            (_number(strength) and 0 < strength <= 1, "strength", "in (0, 1]", strength),
            (sized, "step_size", "at least 0", step_size),
            (
                _number(step_proximity) and step_proximity >= 0,
                "step_proximity",
                "at least 0",
                step_proximity,
            ),
            (_number(eta) and 0 <= eta <= 1, "eta", "in [0, 1]", eta),
            (_number(inflation) and inflation > 0, "inflation", "greater than 0", inflation),
            (
                is_one_of(coupling, COUPLINGS),
                "coupling",
                f"one of {', '.join(COUPLINGS)}",
                coupling,
            ),
            (
                is_one_of(target_score, CLASS_TARGETS),
                "target_score",
                f"one of {scores}",
                target_score,
            ),
            (_whole(seed), "seed", "an integer", seed),
        ):
            if not holds:
                raise ArgumentError(f"Counterfactual: {name} must be {wanted}, got {value!r}")

    @property
    def points(self) -> int:
        """S: how often the particles are asked about."""
        return len(self.schedule.steps) + self.schedule.steps[-1].guided

    @property
    def evaluations(self) -> int:
        """Queries for each input."""
        return self.n_particles * self.points + 2

    @outside_inference_mode
    def generate(
        self,
        inputs: Tensor,
        target: Any,
        additional_forward_args: Any = None,
        *,
        keep_particles: bool = True,
        keep_trajectory: bool = True,
        numbers: Sequence[int] | None = None,
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
            keep_trajectory: whether the mean of each step is returned, [B, S, ...].
            numbers: of the inputs, by which their noise is drawn: an input with the same number
                has the same noise in every batch. 0, 1, ... by default.
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
        LoopOptions(max_rows=internal_batch_size)  # checks it
        cost = Cost() if cost is None else cost
        started = time.perf_counter()
        x, score = self._checked(inputs, target, additional_forward_args, cost)
        score.max_rows = internal_batch_size
        numbers = numbers_of("Counterfactual", numbers, len(x)).tolist()
        keep = keep_particles, keep_trajectory
        for name, kept in zip(("keep_particles", "keep_trajectory"), keep, strict=True):
            check_bool("Counterfactual", name, kept)
        group = max(1, GROUP_BYTES // max(1, self.n_particles * x[0].numel() * x.element_size()))
        steps = len(self.schedule.steps) * -(-len(x) // group)
        bar = progress_bar(show_progress, steps, "Counterfactual", unit=" steps")
        watch, parts = Stopwatch(x.device), []
        try:
            with torch.no_grad():
                for first in range(0, len(x), group):
                    part = slice(first, min(first + group, len(x)))
                    rows = score.rows(part)
                    parts.append(self._generate(x[part], rows, numbers[part], keep, bar, watch))
        except Exception as error:
            failed = query_error_of(error, self.forward_func)
            if failed is None or failed is error:
                raise
            raise failed from error
        finally:
            bar.close()
        cost.seconds += time.perf_counter() - started
        cost.backend = ops.backend_of(x.device)
        cost.memory_format = "channels_last" if _channels_last(x) else "contiguous"
        cost.add_parts(watch.seconds())
        return self._together(x, parts, cost, class_names)

    def _checked(
        self, inputs: Tensor, target: Any, additional_forward_args: Any, cost: Cost
    ) -> tuple[Tensor, Score]:
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
        check_remaining(
            self.forward_func,
            batch * self.evaluations,
            f"{batch} inputs, {self.evaluations} each",
            "particles, steps or inputs",
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
        return x, score

    def _generate(
        self,
        x: Tensor,
        rows: RowScore,
        numbers: list[int],
        keep: tuple[bool, bool],
        bar: Progress,
        watch: Stopwatch,
    ) -> dict[str, Tensor | None]:
        """What becomes of some of the inputs: fields of Counterfactuals."""
        count, layout = self.n_particles, memory_format_of(x)
        prior = PriorAtWork(self.prior, rows.score.cost, watch, "Counterfactual")
        outputs = outputs_at(rows, x, watch, "Counterfactual", layout)
        target = self._classes(rows, outputs)
        origin = prior.encode(x)
        # Particles are kept with their input: its K rows are next to each other.
        copies = rows.take(torch.arange(len(x), device=x.device).repeat_interleave(count))
        classes = target.repeat_interleave(count)

        def ask(clean: Tensor) -> tuple[Tensor, Tensor]:
            """What clean particles [B, K, ...] are for the caller, and the model's answers."""
            pixels = prior.decode(clean.flatten(0, 1))
            return pixels, outputs_at(copies, pixels, watch, "Counterfactual", layout)

        key = ops.random_key(self.seed, START_STREAM, device=x.device)
        examples = torch.tensor(numbers, device=x.device)
        noisy = noised(origin, self.schedule.start_share, count, key, examples)
        noisy = noisy.unflatten(0, (count, len(x))).transpose(0, 1).contiguous()  # [B, K, ...]
        way = _Way(len(x), self.points, keep[1], prior, classes)
        for number, step in enumerate(self.schedule.steps):
            flat = noisy.flatten(0, 1)
            noise = prior.predict_noise(flat, step.level)
            clean = prior.denoise(flat, noise, step.level).unflatten(0, noisy.shape[:2])
            if self.inflation != 1 and step.guided:
                mean = clean.mean(1, keepdim=True)
                clean = prior.bound(mean + self.inflation * (clean - mean))
            pixels, answers = ask(clean)
            way.note(clean, answers)
            if step.guided:
                del pixels
                noise = noise.unflatten(0, noisy.shape[:2])
                self._step(number, step, clean, noise, answers, classes, origin, numbers, noisy)
            else:
                noisy = clean
            del clean, noise
            bar.update(1)
        if self.schedule.steps[-1].guided:
            noisy = prior.bound(noisy)
            pixels, answers = ask(noisy)
            way.note(noisy, answers)
        way.warn_of_collapse(numbers)
        particles = pixels.unflatten(0, (len(x), count))
        answers = answers.unflatten(0, (len(x), count))
        mean = particles.mean(1)
        best = _nearest(particles, x, answers, target)
        each = torch.arange(len(x), device=x.device)
        return {
            "target": target,
            "mean": mean,
            "best": particles[each, best],
            "particles": particles if keep[0] else None,
            "outputs": outputs,
            "mean_outputs": outputs_at(rows, mean, watch, "Counterfactual", layout),
            "best_outputs": answers[each, best],
            "confidence": torch.stack(way.confidence, 1),
            "spread": torch.stack(way.spread, 1),
            "trajectory": torch.stack(way.means, 1) if keep[1] else None,
        }

    def _together(
        self,
        x: Tensor,
        parts: list[dict[str, Tensor | None]],
        cost: Cost,
        class_names: list[str] | None,
    ) -> Counterfactuals:
        found: dict[str, Any] = {}
        for name, first in parts[0].items():
            values = [part[name] for part in parts]
            found[name] = None if first is None else torch.cat([v for v in values if v is not None])
        return Counterfactuals(
            inputs=x,
            levels=torch.tensor([step.level for step in self.schedule.steps]),
            cost=cost,
            settings=self._settings(),
            class_names=class_names,
            **found,
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
        numbers: list[int],
        out: Tensor,
    ) -> None:
        """The particles of the next level, [B, K, ...], written over `out`."""
        towards, center, weights = self._guide(step, clean, out, answers, classes, origin)
        for i, example in enumerate(numbers):
            one = slice(i, i + 1)
            # A seed for each input: the op's noise goes by the place in the batch.
            seed = (self.seed + example * SEED_STEP) % 2**64
            ops.guided_step(
                clean[one],
                noise[one],
                towards[one],
                alpha_bar=step.share,
                alpha_bar_next=step.share_next,
                eta=self.eta,
                step_size=self.step_size,
                step_proximity=self.step_proximity,
                origin=origin[one],
                center=None if center is None else center[one],
                weights=None if weights is None else weights[one],
                key=ops.random_key(seed, STEP_STREAM + number, device=clean.device),
                out=out[one],
            )

    def _guide(
        self,
        step: Step,
        clean: Tensor,
        noisy: Tensor,
        answers: Tensor,
        classes: Tensor,
        origin: Tensor,
    ) -> Guide:
        """Which way the particles go, from the model's answers to their clean estimates."""
        shape = clean.shape[:2]
        directions = class_directions(answers, classes[:, None], self.target_score)[:, :, 0]
        directions = directions.unflatten(0, shape)
        logits = answers.unflatten(0, shape)
        logits = logits - logits.mean(1, keepdim=True)
        if self.coupling == "diagonal":
            center = ops.ensemble_moments(clean)[0].to(clean.dtype)
            return Guide(clean, center, (directions * logits).sum(2).sign())
        # matrix[j, k] = (F_k - F) (e_c - P_j) / K; its rows sum to zero, as the F_k - F do. Only
        # the direction of a row counts. Its size is that of what is left of (e_c - P_j), which for
        # a model that is sure no float32 can hold.
        matrix = directions @ logits.transpose(1, 2)
        largest = matrix.abs().amax(2, keepdim=True)
        matrix = torch.where(largest > 0, matrix / largest, 0.0)
        return Guide(ops.ensemble_transform(clean, matrix, origin, add_particles=False))

    def _settings(self) -> dict[str, Any]:
        names = (
            "n_particles", "n_steps", "strength", "step_size", "step_proximity", "eta",
            "inflation", "coupling", "target_score", "seed",
        )  # fmt: skip
        own = {name: getattr(self, name) for name in names}
        return {"method": "counterfactual", "prior": repr(self.prior), **own}


class _Way:
    """What is noted each time that the particles were asked about."""

    def __init__(
        self, batch: int, points: int, keep_means: bool, prior: PriorAtWork, classes: Tensor
    ) -> None:
        self.confidence: list[Tensor] = []
        self.spread: list[Tensor] = []
        self.means: list[Tensor] = []
        self._keep_means, self._prior, self._classes = keep_means, prior, classes
        self._collapsed: list[Tensor] = []

    def note(self, clean: Tensor, answers: Tensor) -> None:
        p = answers.softmax(1).gather(1, self._classes[:, None])
        self.confidence.append(p.reshape(clean.shape[:2]).mean(1))
        mean, variance = ops.ensemble_moments(clean)
        spread = variance.double().flatten(1).mean(1).sqrt()
        self.spread.append(spread)
        size = clean.flatten(1).norm(dim=1, dtype=torch.float64) / clean[0].numel() ** 0.5
        self._collapsed.append(spread <= COLLAPSED * size)
        if self._keep_means:
            self.means.append(self._prior.decode(mean.to(clean.dtype)))

    def warn_of_collapse(self, numbers: list[int]) -> None:
        collapsed = torch.stack(self._collapsed, 1)
        if bool(collapsed.any()):
            which = [numbers[i] for i in collapsed.any(1).nonzero()[:, 0].tolist()]
            first = int(collapsed.any(0).nonzero()[0])
            warnings.warn(
                f"Counterfactual: the particles of inputs {which} coincide from step {first} on, "
                "so that there is nothing to learn from them; try inflation=1.02, a smaller "
                "step_size or more particles",
                stacklevel=2,
            )


def _channels_last(x: Tensor) -> bool:
    return bool(memory_format_of(x) == torch.channels_last)


def _number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and -math.inf < value < math.inf


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
    distance = torch.stack(
        [(own - one).abs().flatten(1).mean(1) for own, one in zip(particles, x, strict=True)]
    )
    hit = answers.argmax(2) == target[:, None]
    p = answers.log_softmax(2).gather(2, target[:, None, None].expand(-1, answers.shape[1], 1))
    nearest = distance.masked_fill(~hit, torch.inf).argmin(1)
    return torch.where(hit.any(1), nearest, p[:, :, 0].argmax(1))

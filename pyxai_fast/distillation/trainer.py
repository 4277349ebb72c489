"""Training masks and students side by side: one pair for every input and target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..queries import Queries
from ..runtime.progress import progress_bar
from ..runtime.random_state import seeded
from .answers import prepared
from .networks import Learning, Networks
from .pixel_networks import PixelNetworks
from .recipe import DistillationRecipe
from .segment_networks import SegmentNetworks
from .views import Transform

# Answers that differ by less say nothing of the segments.
LEAST_SPREAD = 1e-6
# Of bytes, for what all pairs that are trained side by side hold between steps.
BUDGET = 2**31
TINY = 1e-12


@dataclass(frozen=True)
class Distilled:
    """What was learnt, for E = B * n pairs of an input and a target, targets counting fastest.

    Attributes:
        masks: float32 [B, n, ...] in [0, 1], over the inputs' features; one channel.
        training_loss: float64 [epochs, E], mean of each epoch.
        held_out_error: float64 [epochs, E]: the student's mean squared error on queries that it was
            not trained on, over the variance of the answers: 1 is no better than their mean. NaN
            without such queries, and without evidence.
        evidence: bool [E]: whether the answers depend on the segments at all.
        networks: mask generators and students, see `Networks`: of all inputs, or where these take
            too much memory side by side, of so many and the next.
        recipe: how they were trained.
        span: float32 [E], what differences between a student's answers are to be multiplied by for
            those of the model's: 1, but for answers that were "stretched".
    """

    masks: Tensor
    training_loss: Tensor
    held_out_error: Tensor
    evidence: Tensor
    networks: tuple[Networks, ...]
    recipe: DistillationRecipe
    span: Tensor


def distil(
    queries: Queries,
    recipe: DistillationRecipe,
    *,
    transform: Transform | None = None,
    keep_student: bool = False,
    show_progress: bool = False,
    told: Callable[[dict[str, float]], object] = lambda losses: None,
) -> Distilled:
    """Train a mask generator and a student for every input and target, all of them together.

    The student is to answer to what the mask leaves of a query as the black box answered to the
    query: with seen queries u, masks m = M(u), answers y and proximities w,

        L = mean w (S(u m) - y)^2 + l1 |m|
            + l2 sum w p log(p / q) - l3 mean w (S(u (1 - m)) - y)^2

    p and q are y and S(u m) as shares of their sums over the batch. "Gradient-free Post-hoc
    Explainability Using Distillation Aided Learnable Approach" (2024). Of segments there is one
    mask for all queries, and in place of u m the student sees u m + v (1 - m), v being another
    query. See DistillationRecipe.

    Args:
        queries: whose scores are in [0, 1]; their seed is that of weights and dropout.
        transform: of masked inputs, what networks that see pixels see of them: spectra of waves.
            None for pictures as they are.
        keep_student: train all epochs. Otherwise training stops when the masks are known, which
            the last epochs change nothing of.
        told: given the mean losses after each epoch of inputs that are trained side by side.
    """
    batch, at_once = len(queries.inputs), inputs_at_once(queries, recipe, transform)
    parts = [
        _distil_some(
            queries.of(slice(first, first + at_once)), recipe, transform, keep_student,
            show_progress, told,
        )
        for first in range(0, batch, at_once)
    ]  # fmt: skip
    return parts[0] if len(parts) == 1 else _joined(parts)


def inputs_at_once(
    queries: Queries, recipe: DistillationRecipe, transform: Transform | None = None
) -> int:
    """How many inputs are trained side by side: what all their pairs hold fits BUDGET."""
    targets = queries.rows().shape[2]
    if recipe.sees == "segments":
        each = SegmentNetworks.bytes_of_one(queries, recipe, targets)
    else:
        each = PixelNetworks.bytes_of_one(queries, recipe, targets, transform)
    return max(1, BUDGET // max(1, each))


def _distil_some(
    queries: Queries,
    recipe: DistillationRecipe,
    transform: Transform | None,
    keep_student: bool,
    show_progress: bool,
    told: Callable[[dict[str, float]], object],
) -> Distilled:
    device = queries.inputs.device
    with seeded(queries.seed, device):
        run = _Training(queries, recipe, transform)
    # Seeded anew, however many numbers the first weights took.
    with seeded(queries.seed, device):
        return run.train(keep_student, show_progress, told)


def _joined(parts: list[Distilled]) -> Distilled:
    """Of consecutive inputs. Epochs that patience has spared some of them are NaN."""

    def side_by_side(each: list[Tensor]) -> Tensor:
        most = max(len(one) for one in each)
        return torch.cat(
            [
                torch.cat([one, one.new_full((most - len(one), one.shape[1]), float("nan"))])
                for one in each
            ],
            1,
        )

    return Distilled(
        torch.cat([part.masks for part in parts]),
        side_by_side([part.training_loss for part in parts]),
        side_by_side([part.held_out_error for part in parts]),
        torch.cat([part.evidence for part in parts]),
        tuple(network for part in parts for network in part.networks),
        parts[0].recipe,
        torch.cat([part.span for part in parts]),
    )


class _Training:
    def __init__(
        self, queries: Queries, recipe: DistillationRecipe, transform: Transform | None
    ) -> None:
        self.recipe = recipe
        scores = queries.rows()  # [B, Q, n]
        device = queries.inputs.device
        self.batch, self.targets = len(scores), scores.shape[2]
        answers = scores.transpose(1, 2).flatten(0, 1)  # [E, Q]
        self.evidence = answers.std(1, correction=0) > LEAST_SPREAD
        self.answers, self.span = prepared(answers, recipe.answers)
        weights = queries.proximity().float()
        # Of a single segment, without which nothing is left that could be near.
        alone = torch.tensor([count == 1 for count in queries.n_segments], device=device)
        weights = torch.where(alone[:, None], 1.0, weights)
        self.weights = weights.repeat_interleave(self.targets, 0)
        held = round(recipe.held_out * self.answers.shape[1])
        self.trained = self.answers.shape[1] - held
        if self.trained < 2:
            raise ArgumentError(
                f"DAX: held_out must leave at least 2 of {self.answers.shape[1]} queries to train "
                f"on, got {recipe.held_out}"
            )
        size = recipe.batch_size
        # A batch of one has no variance to be normalised by: it is left out.
        self.firsts = [f for f in range(0, self.trained, size) if self.trained - f > 1]
        steps = recipe.epochs(len(self.firsts))[0] * len(self.firsts)
        self.price = torch.ones_like(self.span)
        if recipe.sees == "segments":
            # A price in shares of the variance is of weights that are 1 on average.
            self.price = self.answers.var(1, correction=0) * self.weights.mean(1)
        networks: Networks
        if recipe.sees == "segments":
            networks = SegmentNetworks(queries, recipe, self.targets, steps)
        else:
            networks = PixelNetworks(queries, recipe, self.targets, transform)
        networks.generator.to(device)
        networks.student.to(device)
        networks.student.step = recipe.learning_rate, recipe.momentum
        self.networks = networks
        self.optimiser = torch.optim.SGD(
            [*networks.generator.parameters(), *networks.student.parameters()],
            recipe.learning_rate,
            recipe.momentum,
            nesterov=recipe.momentum > 0,
            foreach=True,
        )

    def train(
        self,
        keep_student: bool,
        show_progress: bool,
        told: Callable[[dict[str, float]], object],
    ) -> Distilled:
        recipe, size, networks = self.recipe, self.recipe.batch_size, self.networks
        firsts = self.firsts
        n_epochs, first_mask, last_mask = recipe.epochs(len(firsts))
        epochs = n_epochs if keep_student else last_mask
        masks = _Means(networks.mask(), first_mask == 0)
        best = torch.full((len(self.answers),), float("inf"), dtype=torch.float64)
        since, going = torch.zeros_like(best), torch.ones_like(best, dtype=torch.bool)
        losses, errors = [], []
        bar = progress_bar(show_progress, epochs * len(firsts), "DAX", unit=" steps")
        try:
            for epoch in range(1, epochs + 1):
                # Where the networks are: a step that waited for its loss would leave a GPU idle.
                sums = torch.zeros(len(self.answers), device=self.answers.device)
                sums = sums.double()
                networks.student.train()
                for number, first in enumerate(firsts):
                    rows = slice(first, min(first + size, self.trained))
                    sums += self.step(rows, number)
                    bar.update(1)
                losses.append(sums.cpu() / max(1, len(firsts)))
                errors.append(self.held_out_error())
                loss, error = float(losses[-1].mean()), float(errors[-1].mean())
                bar.say(f"loss {loss:.3g}, held out {error:.3g}")
                told({"epoch": epoch, "loss": loss, "held_out": error})
                if epoch <= last_mask:
                    masks.add(networks.mask(), going, counts=epoch >= first_mask)
                since = torch.where(errors[-1] < best, 0, since + 1)
                best = torch.fmin(best, errors[-1])
                # Each pair has patience of its own, so that it does not matter who is beside it.
                going &= since < (recipe.patience or math.inf)
                if not bool(going.any()):
                    break
        finally:
            bar.close()
        networks.student.finish()
        whole = networks.finished(masks.mean(), self.evidence)
        each = whole.unflatten(0, (self.batch, self.targets))
        on_inputs = torch.stack([networks.view.on_inputs(m) for m in each.unbind(1)], 1)
        return Distilled(
            on_inputs,
            torch.stack(losses) if losses else torch.zeros(0, len(self.answers)).double(),
            torch.stack(errors) if errors else torch.zeros(0, len(self.answers)).double(),
            self.evidence.cpu(),
            (networks,),
            recipe,
            self.span,
        )

    def step(self, rows: slice, number: int) -> Tensor:
        """One step for all pairs; their losses [E]."""
        losses = self.losses(self.networks.learn(rows, number), rows)
        self.optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        self.optimiser.step()
        self.networks.stepped()
        return losses.detach()

    def losses(self, learning: Learning, rows: slice) -> Tensor:
        masks, mine, without = learning
        size, spread, complement = self.recipe.weights
        answers, weights = self.answers[:, rows], self.weights[:, rows]
        losses = (weights * (mine - answers).square()).mean(1)
        if size:
            losses = losses + size * self.price * self.networks.size(masks)
        if spread:
            p = answers / answers.sum(1, keepdim=True).clamp(min=TINY)
            q = mine / mine.sum(1, keepdim=True).clamp(min=TINY)
            apart = p * (p.clamp(min=TINY).log() - q.clamp(min=TINY).log())
            losses = losses + spread * (weights * apart).sum(1)
        if without is not None:
            losses = losses - complement * (weights * (without - answers).square()).mean(1)
        return losses

    @torch.no_grad()
    def held_out_error(self) -> Tensor:
        count = self.answers.shape[1] - self.trained
        if count == 0:
            return torch.full((len(self.answers),), float("nan"), dtype=torch.float64)
        self.networks.student.eval()
        off, size = [], self.recipe.batch_size
        for first in range(self.trained, self.answers.shape[1], size):
            rows = slice(first, first + size)
            told = self.networks.answer(self.networks.seen(rows))
            off.append((told - self.answers[:, rows]).square())
        squares = torch.cat(off, 1).double().mean(1)
        variance = self.answers.double().var(1, correction=0).clamp(min=LEAST_SPREAD**2)
        return torch.where(self.evidence, squares / variance, torch.nan).cpu()


class _Means:
    """Means of masks [E, ...] over epochs, each pair's over those that count for it."""

    def __init__(self, mask: Tensor, counts: bool) -> None:
        self._last, self._sum = mask, mask.double() if counts else torch.zeros_like(mask).double()
        self._count = torch.full((len(mask),), float(counts), dtype=torch.float64)

    def add(self, mask: Tensor, going: Tensor, *, counts: bool) -> None:
        shape = (-1, *[1] * (mask.dim() - 1))
        here = going.to(mask.device).view(shape)
        self._last = torch.where(here, mask, self._last)
        if counts:
            self._sum += torch.where(here, mask, 0.0)
            self._count += going

    def mean(self) -> Tensor:
        """Of a pair that none counts for, the last."""
        count = self._count.to(self._sum.device).view(-1, *[1] * (self._sum.dim() - 1))
        return torch.where(count > 0, self._sum / count.clamp(min=1), self._last.double()).float()

"""Training masks and students side by side: one pair for every input and target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..queries import Queries
from ..runtime.progress import progress_bar
from .augment import in_other_colours
from .mask_generator import MaskGenerator
from .recipe import DistillationRecipe
from .student import Student
from .table_mask import TableMask
from .views import Bits, Transform, View, view_of

# Answers that differ by less say nothing of the segments.
LEAST_SPREAD = 1e-6
# A mask has about so many cells along its longer side.
CELLS = 16
TINY = 1e-12
# Answers about tables are stretched, but not to where a sigmoid has no slope.
LEAST = 0.1
# Of so many pixels of a picture's longer side, the release leaves out some at the edges.
BORDER = 7 / 128


@dataclass(frozen=True)
class Distilled:
    """What was learnt, for E = B * n pairs of an input and a target, targets counting fastest.

    Attributes:
        masks: float32 [B, n, ...] in [0, 1], over the inputs' features; one channel.
        training_loss: float64 [epochs, E], mean of each epoch.
        held_out_error: float64 [epochs, E]: the student's mean squared error on queries that it was
            not trained on, over the variance of the answers: 1 is no better than their mean. NaN
            without such queries.
        evidence: bool [E]: whether the answers depend on the segments at all.
        student, generator: the networks.
        view: what they see.
        recipe: how they were trained.
        span: float32 [E], what a student's answers are to be multiplied by for differences of the
            model's: 1, but for tables, whose answers are brought to [0.1, 0.9] by their least
            and greatest.
    """

    masks: Tensor
    training_loss: Tensor
    held_out_error: Tensor
    evidence: Tensor
    student: Student
    generator: nn.Module
    view: View
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

        L = mean w (S(u m) - y)^2 + l1 mean |m|
            + l2 sum w p log(p / q) - l3 mean w (S(u (1 - m)) - y)^2

    p and q are y and S(u m) as shares of their sums over the batch. "Gradient-free Post-hoc
    Explainability Using Distillation Aided Learnable Approach" (2024); see DistillationRecipe.

    Args:
        queries: whose scores are in [0, 1]; their seed is that of weights and dropout.
        transform: of masked inputs, what is seen of them: spectra of waves. None for pictures and
            tables as they are.
        keep_student: train all epochs. Otherwise training stops when the masks are known, which
            the last epochs change nothing of.
        told: given the mean losses after each epoch.
    """
    device = queries.inputs.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(queries.seed)
        run = _Training(queries, recipe, transform)
        return run.train(keep_student, show_progress, told)


class _Training:
    def __init__(
        self, queries: Queries, recipe: DistillationRecipe, transform: Transform | None
    ) -> None:
        self.recipe = recipe
        self.view = view_of(queries, recipe.student_size, transform)
        self.table = isinstance(self.view, Bits)
        scores = queries.rows()  # [B, Q, n]
        self.batch, self.targets = len(scores), scores.shape[2]
        self.answers = scores.transpose(1, 2).flatten(0, 1).float()  # [E, Q]
        self.span = torch.ones(len(self.answers), device=self.answers.device)
        if self.table:
            self.answers, self.span = _stretched(self.answers)
        weights = queries.proximity().float()
        self.weights = weights.repeat_interleave(self.targets, 0)
        count = len(self.answers)
        device = queries.inputs.device
        features = 1
        for extent in self.view.shape:
            features *= extent
        self.generator: nn.Module
        if self.table:
            self.generator = TableMask(count, features)
        else:
            cell = recipe.cell or max(1, round(max(self.view.shape[1:]) / CELLS))
            # As in the release where the edges are left out of the mask, with what `border` says.
            edges = "constant" if self.view.has_border else "replicate"
            self.generator = MaskGenerator(
                count, self.view.shape[0], recipe.filters, cell, recipe.mask_norm, edges
            )
        self.student = Student(count, features, recipe.width, recipe.dropout)
        self.generator.to(device)
        self.student.to(device)
        # Only where it trains: what is looked at in between must outlive the next step.
        self.make_masks: Callable[[Tensor], Tensor] = self.generator
        if recipe.compile:
            mode = "reduce-overhead" if device.type == "cuda" else None
            self.make_masks = torch.compile(self.generator, mode=mode)
        self.student.step = recipe.learning_rate, recipe.momentum
        self.optimiser = torch.optim.SGD(
            [*self.generator.parameters(), *self.student.parameters()],
            recipe.learning_rate,
            recipe.momentum,
            nesterov=recipe.momentum > 0,
            foreach=True,
        )
        held = round(recipe.held_out * self.answers.shape[1])
        self.trained = self.answers.shape[1] - held

    def train(
        self,
        keep_student: bool,
        show_progress: bool,
        told: Callable[[dict[str, float]], object],
    ) -> Distilled:
        recipe, size = self.recipe, self.recipe.batch_size
        # A batch of one has no variance to be normalised by: it is left out.
        firsts = [f for f in range(0, self.trained, size) if self.trained - f > 1]
        first_mask, last_mask = recipe.mask_epochs
        epochs = recipe.n_epochs if keep_student else last_mask
        masks = _Means(self.mask(), first_mask == 0)
        best = torch.full((len(self.answers),), float("inf"), dtype=torch.float64)
        since, going = torch.zeros_like(best), torch.ones_like(best, dtype=torch.bool)
        losses, errors = [], []
        bar = progress_bar(show_progress, epochs * len(firsts), "DAX", unit=" steps")
        try:
            for epoch in range(1, epochs + 1):
                sums = torch.zeros(len(self.answers), dtype=torch.float64)
                self.student.train()
                for number, first in enumerate(firsts):
                    rows = slice(first, min(first + size, self.trained))
                    sums += self.step(rows, number).double().cpu()
                    bar.update(1)
                losses.append(sums / max(1, len(firsts)))
                errors.append(self.held_out_error())
                told(
                    {
                        "epoch": epoch,
                        "loss": float(losses[-1].mean()),
                        "held_out": float(errors[-1].mean()),
                    }
                )
                if epoch <= last_mask:
                    masks.add(self.mask(), going, counts=epoch >= first_mask)
                since = torch.where(errors[-1] < best, 0, since + 1)
                best = torch.minimum(best, errors[-1])
                # Each pair has patience of its own, so that it does not matter who is beside it.
                going &= since < (recipe.patience or math.inf)
                if not bool(going.any()):
                    break
        finally:
            bar.close()
        self.student.eval()
        spread = (self.answers * self.span[:, None]).double().std(1, correction=0)
        evidence = spread > LEAST_SPREAD
        whole = masks.mean()  # [E, 1, h, w] or [E, D]
        whole = _spread(self.inside(whole) * evidence.view(-1, *[1] * (whole.dim() - 1)))
        each = whole.unflatten(0, (self.batch, self.targets))
        on_inputs = torch.stack([self.view.on_inputs(m) for m in each.unbind(1)], 1)
        return Distilled(
            on_inputs,
            torch.stack(losses) if losses else torch.zeros(0, len(self.answers)).double(),
            torch.stack(errors) if errors else torch.zeros(0, len(self.answers)).double(),
            evidence.cpu(),
            self.student,
            self.generator,
            self.view,
            recipe,
            self.span,
        )

    def seen(self, rows: slice, number: int | None) -> Tensor:
        """[E, R, *shape], half of them in other colours while it trains."""
        seen = self.view(rows)
        if (
            self.recipe.augment
            and number is not None
            and self.view.shape[0] == 3
            and not self.table
        ):
            seen = in_other_colours(seen, number)
        return seen.repeat_interleave(self.targets, 0) if self.targets > 1 else seen

    def step(self, rows: slice, number: int) -> Tensor:
        """One step for all pairs; their losses [E]."""
        seen = self.seen(rows, number)
        masks = self.make_masks(seen)
        losses = self.losses(*self.told(seen, masks), masks, rows)
        self.optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        self.optimiser.step()
        return losses.detach()

    def told(self, seen: Tensor, masks: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the student makes of what masks leave, and of the rest if the loss asks for it."""
        kept = seen * masks
        if not self.recipe.weights[2]:
            return self.student(kept.flatten(2)), None
        rest = seen * (1 - masks)
        if self.table:
            return self.student(kept), self.told_apart(rest)
        answers = self.student(torch.cat([kept, rest], 1).flatten(2), halves=2)
        mine, without = answers.unflatten(1, (2, -1)).unbind(1)
        return mine, without

    def told_apart(self, rest: Tensor) -> Tensor:
        """What the student makes of a complement that it is not trained on.

        A student that is rewarded for errors learns to tell complements from masks by any pattern
        there is. Bits that are half masked have plenty, and none of them need be a cause.
        """
        fixed = {name: value.detach() for name, value in self.student.named_parameters()}
        self.student.eval()
        answers: Tensor = torch.func.functional_call(self.student, fixed, (rest,))
        self.student.train()
        return answers

    def losses(self, mine: Tensor, without: Tensor | None, masks: Tensor, rows: slice) -> Tensor:
        size, spread, complement = self.recipe.weights
        answers, weights = self.answers[:, rows], self.weights[:, rows]
        losses = (weights * (mine - answers).square()).mean(1)
        if size:
            # Of a feature among many as much as of one among few.
            count = masks.shape[2] if self.table else 1
            losses = losses + size * count * masks.abs().flatten(1).mean(1)
        if spread:
            p = answers / answers.sum(1, keepdim=True).clamp(min=TINY)
            q = mine / mine.sum(1, keepdim=True).clamp(min=TINY)
            apart = p * (p.clamp(min=TINY).log() - q.clamp(min=TINY).log())
            losses = losses + spread * (weights * apart).sum(1)
        if without is not None:
            losses = losses - complement * (weights * (without - answers).square()).mean(1)
        return losses

    @torch.no_grad()
    def mask(self) -> Tensor:
        """Of the whole inputs, [E, 1, h, w] or [E, D]."""
        masks: Tensor = self.generator(self.seen(slice(0, 1), 0))[:, 0]
        return masks

    def inside(self, masks: Tensor) -> Tensor:
        """Masks [E, 1, h, w] that are 0 along the edges; those of tables [E, D] as they are."""
        border = self.recipe.border
        if self.table or border == 0 or (border is None and not self.view.has_border):
            return masks
        border = round(BORDER * max(masks.shape[2:])) if border is None else border
        kept = torch.zeros_like(masks)
        within = slice(border, -border or None)
        kept[..., within, within] = masks[..., within, within]
        return kept

    @torch.no_grad()
    def held_out_error(self) -> Tensor:
        count = self.answers.shape[1] - self.trained
        if count == 0:
            return torch.full((len(self.answers),), float("nan"), dtype=torch.float64)
        self.student.eval()
        off, size = [], self.recipe.batch_size
        for first in range(self.trained, self.answers.shape[1], size):
            rows = slice(first, first + size)
            seen = self.seen(rows, None)
            told = self.student((seen * self.generator(seen)).flatten(2))
            off.append((told - self.answers[:, rows]).square())
        squares = torch.cat(off, 1).double().mean(1)
        variance = self.answers.double().var(1, correction=0).clamp(min=LEAST_SPREAD**2)
        return (squares / variance).cpu()


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


def _stretched(answers: Tensor) -> tuple[Tensor, Tensor]:
    """Answers [E, Q] of each from LEAST to 1 - LEAST, and by how much [E] less they were apart: how
    quickly a mask is learnt does not depend on how much there is to explain."""
    low, high = answers.amin(1, keepdim=True), answers.amax(1, keepdim=True)
    span = torch.where(high - low > LEAST_SPREAD, high - low, 1.0) / (1 - 2 * LEAST)
    return LEAST + (answers - low) / span, span[:, 0]


def _spread(masks: Tensor) -> Tensor:
    """Each [E, ...] from 0 to 1; one that is the same everywhere is 0."""
    flat = masks.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    span = high - low
    scaled = torch.where(span > 0, (flat - low) / torch.where(span > 0, span, 1.0), 0.0)
    return scaled.view_as(masks)

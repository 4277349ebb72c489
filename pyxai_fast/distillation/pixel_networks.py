"""Mask and student that see pixels, as in the paper."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..queries import Queries
from .augment import in_other_colours
from .mask_generator import MaskGenerator
from .networks import Learning
from .recipe import DistillationRecipe
from .student import Student
from .views import SmallPictures, Transform, Transformed

# A mask has about so many cells along its longer side.
CELLS = 16
# Of so many pixels of a picture's sides, the release leaves out some at the edges.
BORDER = 7 / 128


class PixelNetworks:
    """A mask for each query, from what is seen of it, and a student that sees what it leaves.

    Args:
        transform: of masked inputs, what is seen of them. None for pictures as they are.
    """

    def __init__(
        self,
        queries: Queries,
        recipe: DistillationRecipe,
        targets: int,
        transform: Transform | None,
    ) -> None:
        self.recipe, self.targets, self.batch = recipe, targets, len(queries.inputs)
        self.view = _view(queries, recipe, transform)
        count, shape = self.batch * targets, self.view.shape
        cell = recipe.cell or max(1, round(max(shape[1:]) / CELLS))
        # As in the release where the edges are left out of the mask, with what `border` says.
        edges = "constant" if self.view.has_border else "replicate"
        self.generator = MaskGenerator(
            count, shape[0], recipe.filters, cell, recipe.mask_norm, edges
        )
        self.student = Student(count, prod(shape), recipe.width, recipe.dropout)
        self._within = self._inside()
        # Colours are those of pictures; of what else has three channels nothing is known.
        self._colours = recipe.augment and shape[0] == 3 and transform is None
        # Only where it trains: what is looked at in between must outlive the next step.
        self._make_masks: Callable[[Tensor], Tensor] = self.generator
        if recipe.compile:
            mode = "reduce-overhead" if queries.inputs.device.type == "cuda" else None
            self._make_masks = torch.compile(self.generator, mode=mode)

    @staticmethod
    def bytes_of_one(
        queries: Queries, recipe: DistillationRecipe, targets: int, transform: Transform | None
    ) -> int:
        """What the pairs of one input hold: the student's first layer, and its velocity."""
        shape = _view(queries.of(slice(0, 1)), recipe, transform).shape
        return 8 * prod(shape) * recipe.width * targets

    def learn(self, rows: slice, batch: int) -> Learning:
        seen = self.view(rows)
        if self._colours:
            seen = in_other_colours(seen, batch)
        seen = self._for_targets(seen)
        masks = self._make_masks(seen)
        kept = seen * masks
        if not self.recipe.weights[2]:
            return Learning(masks, self.student(kept.flatten(2)), None)
        rest = seen * (1 - masks)
        answers = self.student(torch.cat([kept, rest], 1).flatten(2), halves=2)
        mine, without = answers.unflatten(1, (2, -1)).unbind(1)
        return Learning(masks, mine, without)

    def stepped(self) -> None:
        pass

    def size(self, masks: Tensor) -> Tensor:
        return masks.abs().flatten(1).mean(1)

    @torch.no_grad()
    def mask(self) -> Tensor:
        """[E, 1, h, w], of the inputs in their own colours."""
        masks: Tensor = self.generator(self.seen(slice(0, 1)))[:, 0]
        return masks

    def seen(self, rows: slice) -> Tensor:
        return self._for_targets(self.view(rows))

    def answer(self, seen: Tensor) -> Tensor:
        answers: Tensor = self.student((seen * self.generator(seen)).flatten(2))
        return answers

    def finished(self, masks: Tensor, evidence: Tensor) -> Tensor:
        """Each from 0 to 1, without what is along the edges; one that is the same everywhere is
        0."""
        kept = torch.zeros_like(masks)
        kept[(..., *self._within)] = masks[(..., *self._within)]
        kept = kept * evidence.view(-1, 1, 1, 1)
        flat = kept.flatten(1)
        low, high = flat.amin(1), flat.amax(1)
        low, span = low.view(-1, 1, 1, 1), (high - low).view(-1, 1, 1, 1)
        return torch.where(span > 0, (kept - low) / torch.where(span > 0, span, 1.0), 0.0)

    def _for_targets(self, seen: Tensor) -> Tensor:
        return seen.repeat_interleave(self.targets, 0) if self.targets > 1 else seen

    def _inside(self) -> tuple[slice, slice]:
        """Rows and columns away from the edges."""
        border, sides = self.recipe.border, self.view.shape[1:]
        each = [border if border is not None else round(BORDER * side) for side in sides]
        if border is None and not self.view.has_border:
            each = [0, 0]
        if any(2 * margin >= side for margin, side in zip(each, sides, strict=True)):
            raise ArgumentError(
                f"DAX: border must leave something of {sides[0]} x {sides[1]} pixels, got {border}"
            )
        rows, columns = (slice(margin, -margin or None) for margin in each)
        return rows, columns


def _view(
    queries: Queries, recipe: DistillationRecipe, transform: Transform | None
) -> SmallPictures | Transformed:
    if transform is None:
        return SmallPictures(queries, recipe.student_size)
    return Transformed(queries, recipe.student_size, transform)

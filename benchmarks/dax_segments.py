"""The training of DAX's networks that see segments, by PyTorch's own layers and optimiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyxai_fast.distillation import DistillationRecipe
from pyxai_fast.distillation.answers import prepared
from pyxai_fast.distillation.segment_mask import PACE
from pyxai_fast.distillation.segment_networks import STILL
from pyxai_fast.queries import Queries

PLAIN_SEGMENTS = "torch.nn and torch.optim.SGD, one by one"


class PlainSegments:
    """Of one input and target, whose masks are as those of `distil`: what is drawn is drawn
    alike."""

    def __init__(self, queries: Queries, recipe: DistillationRecipe) -> None:
        self.recipe, self.seed = recipe, (queries.seed << 20) % 2**62
        self.kept = queries.kept()[0].float()
        self.answers = prepared(queries.rows()[0].T, recipe.answers)[0][0]
        self.weights = queries.proximity()[0].float()
        segments = self.kept.shape[1]
        self.mask = nn.Parameter(torch.full((segments,), 0.5 / PACE))
        self.first, self.last = nn.Linear(segments, recipe.width), nn.Linear(recipe.width, 1)
        self._begin(queries.seed)
        self.student = nn.Sequential(self.first, nn.LeakyReLU(), self.last, nn.Sigmoid())
        self.optimiser = torch.optim.SGD(
            [self.mask, *self.student.parameters()],
            recipe.learning_rate,
            recipe.momentum,
            nesterov=True,
            foreach=True,
        )

    @torch.no_grad()
    def _begin(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        width, segments = self.first.weight.shape

        def drawn(*shape: int) -> Tensor:
            return 2 * torch.rand(shape, generator=generator) - 1

        self.last.weight.copy_(drawn(1, width) / width**0.5)
        self.last.bias.copy_(drawn(1) / width**0.5)
        self.first.bias.copy_(drawn(width) / segments**0.5)
        self.first.weight.copy_(drawn(segments, width).T / segments**0.5)

    def train(self) -> Tensor:
        """The mask [S]."""
        recipe, size = self.recipe, self.recipe.batch_size
        trained = len(self.kept) - round(recipe.held_out * len(self.kept))
        firsts = [first for first in range(0, trained, size) if trained - first > 1]
        epochs, first_mask, last_mask = recipe.epochs(len(firsts))
        price = recipe.weights[0] * self.answers.var(correction=0) * self.weights.mean()
        still, step, random = int(STILL * epochs * len(firsts)), 0, torch.Generator()
        masks = []
        for epoch in range(1, epochs + 1):
            for first in firsts:
                rows = slice(first, min(first + size, trained))
                seen = self.kept[rows]
                random.manual_seed(self.seed + step)
                others = seen.roll(1 + int(torch.randint(len(seen) - 1, (), generator=random)), 0)
                chances = torch.rand(seen.shape[1], len(seen), generator=random).T
                mask = PACE * self.mask
                mask = mask.detach() if step < still else mask
                through = (chances < mask).float() + (mask - mask.detach())
                told = self.student(2 * (others + through * (seen - others)) - 1)[:, 0]
                loss = (self.weights[rows] * (told - self.answers[rows]).square()).mean()
                self.optimiser.zero_grad()
                (loss + price * mask.sum()).backward()
                self.optimiser.step()
                with torch.no_grad():
                    self.mask.clamp_(0, 1 / PACE)
                step += 1
            if first_mask <= epoch <= last_mask:
                masks.append(PACE * self.mask.detach())
        return torch.stack(masks).mean(0)

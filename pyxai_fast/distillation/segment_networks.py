"""Mask and student that see which segments a query keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from ..queries import Queries
from .networks import Learning
from .recipe import DistillationRecipe
from .segment_mask import SegmentMask
from .student import Student
from .views import Bits

# Share of the steps in which the student learns and masks stay what they are: of a student that
# knows nothing yet they would learn by chance, and where a mask hides a segment whole, the student
# does not learn what it is for.
STILL = 1 / 3


class SegmentNetworks:
    """One mask for each input, whatever a query keeps of it; where it hides, the student sees
    another query.

    A mask that leaves nothing there, or noise, can be seen through: weights make up for a faint
    one, and one that depends on the query is itself an answer. Another query looks like any, so
    that the student knows of a segment as much as the mask lets through: a segment stays where
    what it explains of the answers' variance is worth its price.
    """

    def __init__(
        self, queries: Queries, recipe: DistillationRecipe, targets: int, steps: int
    ) -> None:
        self._step, self._still = 0, int(STILL * steps)
        self._random, self._seed = torch.Generator(), (queries.seed << 20) % 2**62
        self.recipe, self.targets, self.batch = recipe, targets, len(queries.inputs)
        self.view = Bits(queries)
        count, segments = self.batch * targets, self.view.shape[0]
        self.generator = SegmentMask(count, segments)
        self.student = Student(count, segments, recipe.width, recipe.dropout, False)
        counts = torch.tensor(queries.n_segments).repeat_interleave(targets)
        _begin(self.student, counts, queries.seed)
        self._mean = self.view(slice(None)).mean(1, keepdim=True).repeat_interleave(targets, 0)
        self._exists = self.view.exists.repeat_interleave(targets, 0)

    @staticmethod
    def bytes_of_one(queries: Queries, recipe: DistillationRecipe, targets: int) -> int:
        """What the pairs of one input hold."""
        return 4 * max(queries.n_segments) * (len(queries) + 2 * recipe.width * targets)

    def learn(self, rows: slice, batch: int) -> Learning:
        seen, masks = self.seen(rows), self.generator()
        if self._step < self._still:
            masks = masks.detach()
        others, through = self._drawn(seen, masks)
        self._step += 1
        answers = self._told(others + through * (seen - others))
        without = None
        if self.recipe.weights[2]:
            without = self._told_apart(seen + through * (others - seen))
        return Learning(masks, answers, without)

    def _drawn(self, seen: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Another query for each, and what masks let through of each segment, which is 0 or 1.

        Masks are the chances of 1. Backwards it is as if they had been let through themselves
        (Bengio, Leonard and Courville, 2013: the straight-through estimator).
        """
        rows, segments = seen.shape[1:]
        # Seeded anew, and segments first: what is drawn for an input is the same whatever number of
        # segments those beside it have.
        self._random.manual_seed(self._seed + self._step)
        others = seen.roll(1 + int(torch.randint(rows - 1, (), generator=self._random)), 1)
        chances = torch.rand(segments, rows, generator=self._random).T.to(seen)
        through = (chances < masks).to(masks.dtype)
        return others, through + (masks - masks.detach())

    def _told_apart(self, rest: Tensor) -> Tensor:
        """What the student makes of a complement that it is not trained on.

        A student that is rewarded for errors learns to tell complements from masks by any pattern
        there is. Half masked segments have plenty, and none of them need be a cause.
        """
        fixed = {name: value.detach() for name, value in self.student.named_parameters()}
        self.student.eval()
        answers: Tensor = torch.func.functional_call(
            self.student, fixed, (self._from_minus_one(rest),)
        )
        self.student.train()
        return answers

    def stepped(self) -> None:
        self.generator.hold()

    def size(self, masks: Tensor) -> Tensor:
        # A segment among many costs as much as one among few.
        return (masks[:, 0] * self._exists).sum(1)

    @torch.no_grad()
    def mask(self) -> Tensor:
        """[E, S]."""
        masks: Tensor = self.generator()
        return masks[:, 0]

    def seen(self, rows: slice) -> Tensor:
        seen = self.view(rows)
        return seen.repeat_interleave(self.targets, 0) if self.targets > 1 else seen

    def answer(self, seen: Tensor) -> Tensor:
        """Where the mask hides is the mean of all queries."""
        return self._told(self._mean + self.generator() * (seen - self._mean))

    def _told(self, shown: Tensor) -> Tensor:
        answers: Tensor = self.student(self._from_minus_one(shown))
        return answers

    def _from_minus_one(self, shown: Tensor) -> Tensor:
        """To 1, what is shown from 0 to 1; and 0 for segments that an input does not have."""
        return (2 * shown - 1) * self._exists[:, None]

    def finished(self, masks: Tensor, evidence: Tensor) -> Tensor:
        """As they are: the share of each segment that is let through."""
        return masks * self._exists * evidence[:, None]


@torch.no_grad()
def _begin(student: Student, counts: Tensor, seed: int) -> None:
    """Uniform weights, as those of torch.nn.Linear; of an input with `counts` [E] segments those
    that it has by itself, whatever is beside it has more of."""
    generator = torch.Generator().manual_seed(seed)
    _, width, segments = student.weight.shape

    def drawn(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=generator) - 1

    student.last.copy_(drawn(1, width) / width**0.5)
    student.last_bias.copy_(drawn(1) / width**0.5)
    bound = counts.double().rsqrt().float()
    student.bias.copy_(drawn(width) * bound[:, None])
    student.weight.copy_(drawn(segments, width).T * bound[:, None, None])

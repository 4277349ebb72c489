"""DAX: ours, a plain implementation in the style of the authors' release, and careful PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pyxai_fast.distillation import DistillationRecipe, Distilled, distil
from pyxai_fast.queries import SEGMENT_GREY, Queries, bernoulli_coalitions, hidden_values

# Pixels by which the edges of segments waver, as those of quickshift do.
RAGGED = 2.0
# A picture's part that a stored answer says is there: of its segments, by number.
SHOWN = 0.3
# Rows of a chunk, where queries are streamed.
CHUNK = 32
FULL = 255.0


def problem(batch: int, side: int, n_queries: int, n_segments: int) -> Queries:
    """Queries about random pictures whose answers cost nothing: the share that is kept of the first
    segments."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, max(2, side // 16), max(2, side // 16), generator=generator)
    inputs = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    segments = torch.cat([ragged_cells(side, n_segments, generator) for _ in range(batch)])
    counts = (segments.flatten(1).amax(1) + 1).tolist()
    coalitions = bernoulli_coalitions(n_queries, counts, seed=0)
    unanswered = Queries(
        inputs,
        segments,
        hidden_values(SEGMENT_GREY, inputs, segments),
        coalitions,
        tuple(counts),
        torch.zeros(n_queries, batch, dtype=torch.float64),
    )
    shown = unanswered.kept()[:, :, : max(1, int(SHOWN * min(counts)))]
    return replace(unanswered, scores=shown.mean(2).T.contiguous())


def ragged_cells(side: int, count: int, generator: torch.Generator) -> Tensor:
    """int32 [1, 1, side, side]: the cells around random points, about as many as `count`."""
    centres = torch.rand(count, 2, generator=generator) * side
    grid = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    places = grid + RAGGED * torch.randn(side * side, 2, generator=generator)
    nearest = torch.cdist(places, centres).argmin(1)
    _, labels = nearest.unique(return_inverse=True)
    return labels.int().view(1, 1, side, side)


# --- masked pictures -----------------------------------------------------------------------------

# Some queries of one picture: [rows, 3, H, W].
Masked = Callable[[slice], Tensor]
OURS = "ours"
LIME = "LIME's loop over rows"
RELEASED = "the release's loop over rows"
LOOPS = (LIME, RELEASED)
PLAIN = "in the style of the release"
CAREFUL = "careful PyTorch"


def maskings(queries: Queries) -> dict[str, Masked]:
    """Contenders that write the model's inputs for queries about one picture, chunk by chunk."""
    return {
        OURS: into_a_buffer(queries),
        "torch.where": by_where(queries),
        "torch.where(out=)": by_where_out(queries),
        "torch.where(out=), by row": by_where_rows(queries),
        LIME: by_lime(queries),
        RELEASED: by_release(queries),
    }


def parts_of(count: int, size: int = CHUNK) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def batches(count: int, size: int) -> list[slice]:
    """A batch of one has no variance to be normalised by: it is left out."""
    return [rows for rows in parts_of(count, size) if rows.stop - rows.start > 1]


def room(queries: Queries) -> Tensor:
    return torch.empty(CHUNK, *queries.inputs.shape[1:])


def into_a_buffer(queries: Queries) -> Masked:
    buffer = room(queries)
    return lambda rows: queries.masked(rows, out=buffer[: rows.stop - rows.start])


def by_where(queries: Queries) -> Masked:
    """Masks of a chunk gathered in one go."""
    kept, labels = queries.kept()[0].bool(), queries.segments[0].long()
    return lambda rows: torch.where(kept[rows][:, labels], queries.inputs, queries.hidden)


def by_where_out(queries: Queries) -> Masked:
    kept, labels, buffer = queries.kept()[0].bool(), queries.segments[0].long(), room(queries)

    def masked(rows: slice) -> Tensor:
        into = buffer[: rows.stop - rows.start]
        return torch.where(kept[rows][:, labels], queries.inputs, queries.hidden, out=into)

    return masked


def by_where_rows(queries: Queries) -> Masked:
    """Row by row: a mask is small, and the picture stays in cache."""
    kept, labels, buffer = queries.kept()[0].bool(), queries.segments[0].long(), room(queries)
    picture, hidden = queries.inputs[0], queries.hidden[0]

    def masked(rows: slice) -> Tensor:
        into = buffer[: rows.stop - rows.start]
        for row, one in zip(kept[rows], into, strict=True):
            torch.where(row[labels], picture, hidden, out=one)
        return into

    return masked


def by_lime(queries: Queries) -> Masked:
    """For every row a copy, a mask that grows segment by segment, and an assignment."""
    kept = queries.kept()[0].bool().numpy()
    labels = queries.segments[0, 0].numpy()
    picture, hidden = (x[0].permute(1, 2, 0).numpy() for x in (queries.inputs, queries.hidden))

    def masked(rows: slice) -> Tensor:
        found = []
        for row in kept[rows]:
            one, mask = picture.copy(), np.zeros(labels.shape, dtype=bool)
            for segment in np.flatnonzero(~row):
                mask |= labels == segment
            one[mask] = hidden[mask]
            found.append(one)
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)

    return masked


def by_release(queries: Queries) -> Masked:
    """For every row a copy, the pixels whose segment is among the hidden, and an assignment."""
    kept, labels = queries.kept()[0].bool(), queries.segments[0, 0]
    picture, hidden = queries.inputs[0], queries.hidden[0]

    def masked(rows: slice) -> Tensor:
        found = []
        for row in kept[rows]:
            one, mask = picture.clone(), torch.isin(labels, (~row).nonzero().flatten())
            one[:, mask] = hidden[:, mask]
            found.append(one)
        return torch.stack(found)

    return masked


# --- training ------------------------------------------------------------------------------------

Told = Callable[[dict[str, float]], object]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
OPTIMISERS = ("foreach", "fused")


class Plain:
    """In the style of the release: all masked pictures are held, mask and student are sequences of
    layers, and the student is called twice a step.

    Args:
        queries: about one square picture.
        recipe: what decides the mask; its loss is the release's.
        pictures: [Q, 3, S, S], what mask and student see of the queries, in [0, 1].
        optimiser: options of torch.optim.SGD.
    """

    def __init__(
        self,
        queries: Queries,
        recipe: DistillationRecipe,
        pictures: Tensor,
        memory_format: torch.memory_format = torch.contiguous_format,
        **optimiser: bool,
    ) -> None:
        self.recipe, self.memory_format = recipe, memory_format
        self.answers = queries.scores[:, 0].float()
        self.weights = queries.proximity()[0].float()
        self.trained = len(pictures) - round(recipe.held_out * len(pictures))
        # The first picture is the whole one.
        self.pictures = pictures * (FULL / pictures[0].max())
        side = pictures.shape[-1]
        cell = recipe.cell or max(1, round(side / 16))
        torch.manual_seed(queries.seed)
        self.generator = nn.Sequential(
            nn.Conv2d(3, recipe.filters, 7, padding=3),
            nn.LeakyReLU(),
            nn.Conv2d(recipe.filters, 1, 7, padding=3),
            nn.LeakyReLU(),
            nn.MaxPool2d(cell),
            nn.Upsample(scale_factor=cell),
            nn.LeakyReLU(),
        ).to(memory_format=memory_format)
        self.student = nn.Sequential(
            nn.Flatten(),
            nn.Linear(3 * side * side, recipe.width),
            nn.LeakyReLU(),
            nn.BatchNorm1d(recipe.width),
            nn.Dropout(recipe.dropout),
            nn.Linear(recipe.width, 1),
            nn.Sigmoid(),
        )
        self.sgd = torch.optim.SGD(
            [*self.generator.parameters(), *self.student.parameters()],
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=True,
            **optimiser,
        )

    def train(self, told: Told) -> None:
        for _ in range(self.recipe.n_epochs):
            self.student.train()
            for number, rows in enumerate(batches(self.trained, self.recipe.batch_size)):
                loss = self.step(rows, number)
            told({"loss": loss, "held_out": self.held_out_error()})

    def step(self, rows: slice, number: int) -> float:
        seen = self.pictures[rows]
        if self.recipe.augment:
            count = int(len(seen) * (3 / 5, 2 / 5)[number % 2])
            seen = torch.cat([hue_saturation_value(seen[:count]), seen[count:]])
        mine, without = self.both(seen, self.masks(seen))
        answers, weights = self.answers[rows], self.weights[rows]
        loss = (weights * (mine - answers) ** 2).mean()
        loss = loss - (weights * (without - answers) ** 2).mean()
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()
        return float(loss.detach())

    def masks(self, seen: Tensor) -> Tensor:
        scaled = self.from_0_to_1(self.generator(seen))
        return torch.cat([scaled, scaled, scaled], 1)

    def from_0_to_1(self, masks: Tensor) -> Tensor:
        over = (1, 2, 3) if self.recipe.mask_norm == "sample" else (0, 1, 2, 3)
        low, high = masks.amin(over, keepdim=True), masks.amax(over, keepdim=True)
        return (masks - low) / (high - low)

    def both(self, seen: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """What the student answers to what the masks leave, and to the rest."""
        return self.student(seen * masks)[:, 0], self.student(seen * (1 - masks))[:, 0]

    @torch.no_grad()
    def held_out_error(self) -> float:
        self.student.eval()
        off = [torch.zeros(0)]
        for part in parts_of(len(self.pictures) - self.trained, self.recipe.batch_size):
            rows = slice(self.trained + part.start, self.trained + part.stop)
            seen = self.pictures[rows]
            off.append(self.student(seen * self.masks(seen))[:, 0] - self.answers[rows])
        return float(torch.cat(off).square().mean())


class Careful(Plain):
    """What a good engineer makes of it: masks are scaled while they are small, and the student's
    large matrix is read once for both of its inputs, with the batch statistics of each."""

    def masks(self, seen: Tensor) -> Tensor:
        pool, upsample, relu = 5, self.generator[5], self.generator[6]
        seen = seen.contiguous(memory_format=self.memory_format)
        cells: Tensor = upsample(self.from_0_to_1(relu(self.generator[:pool](seen))))
        return cells

    def both(self, seen: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        kept = seen * masks
        flatten, first, relu, norm, *rest = self.student
        hidden = relu(first(flatten(torch.cat([kept, seen - kept]))))
        told = torch.cat([norm(half) for half in hidden.chunk(2)])
        for layer in rest:
            told = layer(told)
        mine, without = told[:, 0].chunk(2)
        return mine, without


def hue_saturation_value(pictures: Tensor) -> Tensor:
    """[R, 3, H, W] from 0 to 255, before and after: the hue's sixth is chosen by which channel is
    the greatest."""
    value, greatest = pictures.max(1)
    span = value - pictures.amin(1)
    red, green, blue = (pictures / torch.where(span > 0, span, 1.0)[:, None]).unbind(1)
    sixths = torch.stack([(green - blue) % 6, blue - red + 2, red - green + 4], 1)
    hue = sixths.gather(1, greatest[:, None])[:, 0] / 6 * (span > 0)
    saturation = span / torch.where(value > 0, value, 1.0)
    return torch.stack([hue * FULL, saturation * FULL, value], 1)


# --- from queries to a mask ----------------------------------------------------------------------


class Contender(NamedTuple):
    """One way to a mask, but for the black box's own work.

    Attributes:
        perturb: from queries about one picture to what is trained on: writes the black box's inputs
            on the way, whose answers are known.
        train: the networks on what `perturb` made.
    """

    perturb: Callable[[Queries], Tensor]
    train: Callable[[Queries, Tensor, Told], None]


def contenders(recipe: DistillationRecipe) -> dict[str, Contender]:
    def ours(queries: Queries, _: Tensor, told: Told) -> None:
        distil(queries, recipe, keep_student=True, told=told)

    def plain(queries: Queries, pictures: Tensor, told: Told) -> None:
        # Masks of a batch are scaled together, as in the release.
        Plain(queries, replace(recipe, mask_norm="batch"), pictures).train(told)

    def careful(layout: str, optimiser: str) -> Contender:
        def train(queries: Queries, pictures: Tensor, told: Told) -> None:
            options = {optimiser: True}
            Careful(queries, recipe, pictures, FORMATS[layout], **options).train(told)

        return Contender(lambda queries: gathered(queries, recipe.student_size), train)

    found = {
        OURS: Contender(streamed, ours),
        PLAIN: Contender(lambda queries: held(queries, recipe.student_size), plain),
    }
    for layout in FORMATS:
        for optimiser in OPTIMISERS:
            found[f"{CAREFUL}, {layout}, {optimiser}"] = careful(layout, optimiser)
    return found


def streamed(queries: Queries) -> Tensor:
    """Ours writes the black box's inputs into one buffer; small pictures are made as they are
    trained on."""
    masked = into_a_buffer(queries)
    for rows in parts_of(len(queries)):
        masked(rows)
    return queries.inputs


def held(queries: Queries, side: int) -> Tensor:
    """As the release: all masked pictures are made row by row and kept."""
    masked = by_release(queries)
    pictures = torch.cat([masked(rows) for rows in parts_of(len(queries))])
    return torch.cat([small(pictures[rows], side) for rows in parts_of(len(queries))])


def gathered(queries: Queries, side: int) -> Tensor:
    """The black box's inputs one chunk after the other, and all small ones from a small picture."""
    masked = by_where_out(queries)
    for rows in parts_of(len(queries)):
        masked(rows)
    picture = small(queries.inputs, side)
    labels, hidden = (
        functional.interpolate(x.float(), size=picture.shape[-2:], mode="nearest-exact")
        for x in (queries.segments, queries.hidden)
    )
    kept, labels = queries.kept()[0].bool(), labels.long()[0]
    parts = [torch.where(kept[rows][:, labels], picture, hidden) for rows in parts_of(len(queries))]
    return torch.cat(parts)


def small(pictures: Tensor, side: int) -> Tensor:
    if pictures.shape[-1] <= side:
        return pictures
    return functional.interpolate(
        pictures, size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )


# --- whether they learn the same -----------------------------------------------------------------


def apart_after_training(
    contender: type[Plain], queries: Queries, recipe: DistillationRecipe
) -> float:
    """How far its weights end from ours, relative to how far ours went, where both start with the
    same ones. Pictures must not be larger than the student's."""
    before, after = (
        distil(queries, each, keep_student=True)
        for each in (replace(recipe, learning_rate=0.0), recipe)
    )
    theirs = contender(queries, recipe, queries.masked(slice(None)))
    weights: list[Tensor] = theirs.sgd.param_groups[0]["params"]
    with torch.no_grad():
        for weight, start in zip(weights, weights_of(before), strict=True):
            weight.copy_(start.view_as(weight))
    theirs.train(lambda losses: None)
    far = off = 0.0
    for weight, start, end in zip(weights, weights_of(before), weights_of(after), strict=True):
        far += float((end - start).square().sum())
        off += float((weight.detach().view_as(end) - end).square().sum())
    return math.sqrt(off / far)


def weights_of(found: Distilled) -> list[Tensor]:
    """Ours of one input, in the order of the layers of the others."""
    mask, student = found.networks[0].generator, found.networks[0].student
    return [
        weight.detach()
        for weight in (
            mask.first, mask.first_bias, mask.second, mask.second_bias, student.weight,
            student.bias, student.gain, student.offset, student.last, student.last_bias,
        )
    ]  # fmt: skip

"""Queries: coalitions of the segments of inputs, and a black box's answers to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import ops
from .coalitions import Coalitions

LIME_WIDTH = 0.25


@dataclass(frozen=True)
class Queries:
    """What was asked about a batch of inputs, and what was answered.

    The perturbed inputs themselves are never held: coalitions are bits, and `masked` writes some of
    them anew.

    Attributes:
        inputs: [B, ...], in the caller's units.
        segments: int [B or 1, 1 or C, ...], from 0.
        hidden: what stands for segments that are not kept: [], [1, ...] or [B, ...].
        coalitions: Q of them.
        n_segments: of each input.
        scores: float64 [Q, B], or [Q, B, n] for n targets.
        seed: that the coalitions were drawn with; a method that learns from them draws with it too.
    """

    inputs: Tensor
    segments: Tensor
    hidden: Tensor
    coalitions: Coalitions
    n_segments: tuple[int, ...]
    scores: Tensor
    seed: int = 0

    def __len__(self) -> int:
        return len(self.coalitions.words)

    @property
    def several(self) -> bool:
        return self.scores.dim() == 3

    def kept(self) -> Tensor:
        """Which of its segments each query of an input keeps, float64 [B, Q, S]; S is the most that
        an input has, and of segments that it does not have none is kept."""
        kept = ops.unpack_coalitions(self.coalitions.words, max(self.n_segments, default=0))
        return kept.transpose(0, 1).double() * self.exists()[:, None]

    def exists(self) -> Tensor:
        """Which segments each input has, bool [B, S]."""
        counts = torch.tensor(self.n_segments, device=self.inputs.device)
        return torch.arange(max(self.n_segments, default=0), device=counts.device) < counts[:, None]

    def proximity(self, width: float = LIME_WIDTH) -> Tensor:
        """How near each query is to the whole input, in (0, 1], float64 [B, Q].

        ``sqrt(exp(-d^2 / width^2))`` with d the cosine distance of the coalition to all segments:
        ``1 - sqrt(share of segments kept)``. Ribeiro, Singh and Guestrin (2016), section 3.4; the
        root is their code's.
        """
        share = self.kept().sum(2) / self.exists().sum(1, keepdim=True).clamp(min=1)
        return (-((1 - share.sqrt()) ** 2) / (2 * width**2)).exp()

    def masked(
        self, queries: slice, examples: slice = slice(None), out: Tensor | None = None
    ) -> Tensor:
        """Some of the inputs under some of the queries, [q * b, ...], queries outermost."""
        return ops.mask_segments(
            self.inputs[examples],
            of_examples(self.segments, examples),
            words_of(self.coalitions, queries, examples),
            of_examples(self.hidden, examples),
            out=out,
        )

    def of_example(self, example: int) -> Queries:
        """The queries of one input of the batch."""
        return self.of(slice(example, example + 1))

    def of(self, some: slice) -> Queries:
        """The queries of some inputs of the batch."""
        words, weights = self.coalitions.words, self.coalitions.weights
        return replace(
            self,
            inputs=self.inputs[some],
            segments=of_examples(self.segments, some),
            hidden=of_examples(self.hidden, some),
            coalitions=self.coalitions._replace(
                words=words if words.shape[1] == 1 else words[:, some],
                weights=weights if weights.shape[1] == 1 else weights[:, some],
            ),
            n_segments=self.n_segments[some],
            scores=self.scores[:, some],
        )

    def rows(self) -> Tensor:
        """Scores float64 [B, Q, n], n = 1 for a single target."""
        scores = self.scores if self.several else self.scores[..., None]
        return scores.transpose(0, 1)

    def means(self, maps: Tensor) -> Tensor:
        """Of maps [B, n, ...] shaped as the inputs, over each segment: [B, n, S]."""
        labels = self.segments.long().expand(self.inputs.shape).flatten(1)[:, None]
        flat = maps.flatten(2)
        labels = labels.expand(flat.shape)
        sums = flat.new_zeros(*flat.shape[:2], max(self.n_segments, default=0))
        sizes = torch.zeros_like(sums).scatter_add_(2, labels, torch.ones_like(flat))
        return sums.scatter_add_(2, labels, flat) / sizes.clamp(min=1)

    def painted(self, values: Tensor) -> Tensor:
        """Values of segments [B, S], or [B, n, S], on the features: shaped as the inputs."""
        labels = self.segments.long().expand(self.inputs.shape).flatten(1)
        if not self.several:
            return values.gather(1, labels).reshape(self.inputs.shape)
        labels = labels[:, None].expand(-1, values.shape[1], -1)
        painted = values.gather(2, labels)
        return painted.reshape(len(values), values.shape[1], *self.inputs.shape[1:])


def of_examples(values: Tensor, examples: slice) -> Tensor:
    """Of some examples, where there is a row for each."""
    return values if values.dim() == 0 or len(values) == 1 else values[examples]


def words_of(coalitions: Coalitions, queries: slice, examples: slice) -> Tensor:
    """Of some queries about some examples, as `ops.mask_segments` takes them."""
    words = coalitions.words[queries]
    return words[:, 0] if words.shape[1] == 1 else words[:, examples].contiguous()

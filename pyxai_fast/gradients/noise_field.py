"""The noise of one tensor of points: written into queries, and contracted with their answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import ops
from ..models.preprocessing import Affine

# A feature that clipping leaves less of its slope than this has none that could be estimated.
SMALLEST_SHARE = 1e-3


@dataclass(frozen=True)
class NoiseField:
    """Rows of points and how they are perturbed.

    Attributes:
        points: [R, ...], in the caller's units.
        numbers: [R], the numbers of the rows in the noise's counter.
        sigma: the noise's size, [] or [1 or R, ...].
        key: of the noise.
        distribution: as in `ops.perturb`.
        antithetic: noise comes in pairs of opposite signs; a unit is such a pair, else a sample.
        blocks, n_blocks: int32 [1 or R, 1 or C, ...], the block of each feature, or None and 0.
        shared: the features of a block share one value, and are told apart no further.
        keep: share of the features (or blocks) that are perturbed, drawn for each unit.
        clip, reflect: as in `ops.perturb`.
        affine: on the way into the model.
    """

    points: Tensor
    numbers: Tensor
    sigma: Tensor
    key: Tensor
    distribution: str
    antithetic: bool
    blocks: Tensor | None
    n_blocks: int
    shared: bool
    keep: float
    clip: tuple[float | None, float | None] | None
    reflect: bool
    affine: Affine | None

    def take(self, rows: slice | Tensor) -> NoiseField:
        """The same noise for some of the rows."""
        return replace(
            self,
            points=self.points[rows],
            numbers=self.numbers[rows],
            sigma=_of_rows(self.sigma, rows),
            blocks=None if self.blocks is None else _of_rows(self.blocks, rows),
        )

    @property
    def contracted_shape(self) -> torch.Size:
        """What answers are contracted to: features, or blocks whose features share their noise."""
        return torch.Size([self.n_blocks]) if self.shared else self.points.shape[1:]

    def queries(
        self,
        first: int,
        units: int,
        active: Tensor | None,
        memory_format: torch.memory_format,
        out: Tensor | None = None,
    ) -> Tensor:
        """Model inputs [units * signs * R, ...]: units outermost, then signs, then rows.

        `active` [units] or [units, R]: the block that is perturbed in each unit.
        """
        signs = 2 if self.antithetic else 1
        one = self.sigma.dim() == 0
        return ops.perturb(
            self.points,
            units * signs,
            self.sigma if one else 1.0,
            self.key,
            mask=None if one else self.sigma,
            distribution=self.distribution,
            antithetic=self.antithetic,
            first_sample=first * signs,
            examples=self.numbers,
            blocks=self.blocks,
            n_blocks=self.n_blocks or None,
            active=None if active is None else active.repeat_interleave(signs, 0),
            shared=self.shared,
            keep=self.keep,
            clip=self.clip,
            reflect=self.reflect,
            scale=None if self.affine is None else self.affine.scale,
            shift=None if self.affine is None else self.affine.shift,
            dtype=self.points.dtype,
            memory_format=None if out is not None else memory_format,
            out=out,
        )

    def unperturbed(self, memory_format: torch.memory_format) -> Tensor:
        """Model inputs [R, ...] at the points themselves."""
        return ops.perturb(
            self.points,
            1,
            0.0,
            self.key,
            clip=self.clip,
            reflect=self.reflect,
            scale=None if self.affine is None else self.affine.scale,
            shift=None if self.affine is None else self.affine.shift,
            memory_format=memory_format,
        )

    def contract(
        self,
        total: Tensor,
        weights: Tensor,
        first: int,
        active: Tensor | None,
        *,
        squared: bool = False,
        what_is_kept: bool = False,
    ) -> None:
        """Adds weights [R, units, n] times the noise of the units to total [R, n, ...] in place.

        A unit counts once, with the noise of its first sign. `what_is_kept` contracts with 1 where
        a feature is perturbed in place of the noise.
        """
        blocks = None if self.shared else self.blocks
        ops.noise_contract(
            weights,
            None,
            self.key,
            distribution="ones" if what_is_kept else self.distribution,
            first_sample=first,
            examples=self.numbers,
            blocks=blocks,
            n_blocks=None if blocks is None else self.n_blocks,
            active=active,
            keep=self.keep,
            squared=squared,
            total=total,
        )

    def per_feature(self, of_blocks: Tensor) -> Tensor:
        """Values [R, k, n_blocks] of blocks at their features, [R, k, ...]; 0 outside every block.

        Values [R, k, 1] stand for all features.
        """
        shape = self.points.shape[1:]
        if self.blocks is None or of_blocks.shape[2] == 1:
            return of_blocks.reshape(*of_blocks.shape[:2], *[1] * len(shape))
        block = self.blocks.expand(len(of_blocks), *shape).flatten(1)[:, None].long()
        values = of_blocks.gather(2, block.clamp(min=0).expand(-1, of_blocks.shape[1], -1))
        values = values.masked_fill(block < 0, 0)
        return values.reshape(*of_blocks.shape[:2], *shape)

    def per_block(self, of_features: Tensor) -> Tensor:
        """Sums of features [R, ...] over their blocks, [R, n_blocks] in float64."""
        assert self.blocks is not None
        block = self.blocks.expand(of_features.shape).flatten(1).long()
        sums = torch.zeros(
            len(block), self.n_blocks + 1, dtype=torch.float64, device=of_features.device
        )
        # What lies outside every block is added to a place of its own.
        block = torch.where(block < 0, self.n_blocks, block)
        return sums.scatter_add_(1, block, of_features.flatten(1).double())[:, :-1]

    def perturbed(self) -> Tensor:
        """How many features (or blocks that share their noise) can be perturbed, [R] float64."""
        if self.blocks is None:
            rows = len(self.points)
            return torch.full((rows,), self.points[0].numel(), device=self.points.device).double()
        sizes = self.per_block(torch.ones_like(self.points))
        return (sizes > 0).sum(1).double() if self.shared else sizes.sum(1)

    def response(self) -> Tensor:
        """sigma times the share of a slope that is left by clipping: [R, ...], float64.

        E[noise * clip(x + sigma noise)]: by Stein's lemma sigma P(x + sigma noise is not clipped)
        for Gaussian noise.
        """
        x = self.points.double()
        sigma = self.sigma.double().expand(x.shape)
        if self.clip is None or self.reflect:
            return sigma
        low = -math.inf if self.clip[0] is None else self.clip[0]
        high = math.inf if self.clip[1] is None else self.clip[1]
        if self.distribution == "gaussian":
            inside = torch.special.ndtr((high - x) / sigma) - torch.special.ndtr((low - x) / sigma)
            response = sigma * inside
        else:
            response = ((x + sigma).clamp(low, high) - (x - sigma).clamp(low, high)) / 2
        kept: Tensor = response.masked_fill(response < SMALLEST_SHARE * sigma, 0)
        return kept


def _of_rows(value: Tensor, rows: slice | Tensor) -> Tensor:
    return value if value.dim() == 0 or value.shape[0] == 1 else value[rows]

"""The sums that a likelihood-ratio estimate is made of, and the estimate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from .noise_field import NoiseField


@dataclass(frozen=True)
class LikelihoodSums:
    """Sums over units (samples, or antithetic pairs) of rows, all float64, added unit by unit.

    ``w`` is what a unit's answer says: answer - reference, or half the difference of a pair.

    Attributes:
        reference: [R, n], subtracted from the answers.
        moments: [R, 1 or n_blocks, 1 + 2 n]: sums of 1, w and w^2, over the units of each block
            where blocks take turns.
        first: for each tensor [R, n (+ 1), ...]: sums of w times noise, and of the noise itself
            where w will be centred.
        second: for each tensor [R, n (2 n + 1), ...]: the same sums with squared weights and noise,
            where they are asked for and are no function of the moments.
        kept: for each tensor [R, 1, ...]: how often a feature was perturbed, where that is random.
    """

    reference: Tensor
    moments: Tensor
    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...] | None
    kept: tuple[Tensor, ...] | None
    centred: bool
    leave_one_out: bool

    @classmethod
    def zeros(
        cls,
        fields: tuple[NoiseField, ...],
        n: int,
        turns: int,
        *,
        centred: bool,
        leave_one_out: bool,
        variances: bool,
    ) -> LikelihoodSums:
        """Sums of nothing yet, for n targets and blocks that take turns (1: none do)."""
        rows, device = len(fields[0].points), fields[0].points.device

        def of_features(columns: int) -> tuple[Tensor, ...]:
            return tuple(
                torch.zeros(
                    rows, columns, *field.contracted_shape, dtype=torch.float64, device=device
                )
                for field in fields
            )

        random = any(field.keep < 1 for field in fields)
        # Squares of signs are 1: their second moments are those of the answers.
        squares = variances and (random or fields[0].distribution == "gaussian")
        return cls(
            reference=torch.full((rows, n), torch.nan, dtype=torch.float64, device=device),
            moments=torch.zeros(rows, turns, 1 + 2 * n, dtype=torch.float64, device=device),
            first=of_features(n + centred),
            second=of_features(n * (1 + centred) + centred) if squares else None,
            kept=of_features(1) if random else None,
            centred=centred,
            leave_one_out=leave_one_out,
        )

    def take(self, rows: slice | Tensor) -> LikelihoodSums:
        """The sums of some rows: a view for a slice."""
        return LikelihoodSums(
            self.reference[rows],
            self.moments[rows],
            tuple(t[rows] for t in self.first),
            None if self.second is None else tuple(t[rows] for t in self.second),
            None if self.kept is None else tuple(t[rows] for t in self.kept),
            self.centred,
            self.leave_one_out,
        )

    def put(self, rows: Tensor, part: LikelihoodSums) -> None:
        """Writes back what `take` of a tensor of rows copied."""
        self.reference[rows] = part.reference
        self.moments[rows] = part.moments
        for mine, others in (
            (self.first, part.first),
            (self.second, part.second),
            (self.kept, part.kept),
        ):
            for whole, piece in zip(mine or (), others or (), strict=True):
                whole[rows] = piece

    def clear(self) -> None:
        """Forgets everything but the reference."""
        for part in (self.first, self.second or (), self.kept or (), (self.moments,)):
            for total in part:
                total.zero_()

    def add(
        self, fields: tuple[NoiseField, ...], w: Tensor, first: int, active: Tensor | None
    ) -> None:
        """Adds units first, first + 1, ... with w [units, R, n]."""
        units = len(w)
        seen = torch.cat((torch.ones_like(w[:, :, :1]), w, w * w), 2)[:, :, None]
        if active is not None:
            turns = torch.arange(self.moments.shape[1], device=w.device)
            mine = active.reshape(units, -1, 1) == turns
            seen = seen * mine[..., None]
        ops.path_accumulate(seen.flatten(0, 1), w.new_ones(units), total=self.moments)
        w = w.transpose(0, 1)
        ones = torch.ones_like(w[:, :, :1])
        weights = torch.cat((w, ones), 2) if self.centred else w
        squares = torch.cat((w * w, w, ones), 2) if self.centred else w * w
        for i, field in enumerate(fields):
            field.contract(self.first[i], weights, first, active)
            if self.second is not None:
                field.contract(self.second[i], squares, first, active, squared=True)
            if self.kept is not None:
                field.contract(self.kept[i], ones, first, active, what_is_kept=True)

    def estimate(self, fields: tuple[NoiseField, ...], i: int) -> tuple[Tensor, Tensor]:
        """Slopes of tensor i and their variances, [R, n, ...].

        Without second moments the variances take the noise for independent of the answers.
        """
        field, n = fields[i], self.reference.shape[1]
        spread = field.per_feature if not field.shared else _first_of_blocks
        counts = spread(self.moments[..., :1].transpose(1, 2))
        means = spread(self._means().transpose(1, 2))
        times = counts if self.kept is None else self.kept[i]
        total = self.first[i][:, :n]
        if self.centred:
            total = total - means * self.first[i][:, n:]
        mean = torch.where(times > 0, total / times, 0.0)
        if self.second is None:
            squares = spread(self.moments[..., 1 + n :].transpose(1, 2)) / counts - means**2
        else:
            squares = self.second[i][:, :n]
            if self.centred:
                crossed, alone = self.second[i][:, n : 2 * n], self.second[i][:, 2 * n :]
                squares = squares - 2 * means * crossed + means**2 * alone
            squares = squares / times
        variance = ((squares - mean**2) / (times - 1)).clamp(min=0)
        variance = torch.where(times > 1, variance, torch.inf)
        if self.leave_one_out:
            # (y_k - mean of the others) is (y_k - mean of all) n / (n - 1).
            factor = counts / (counts - 1).clamp(min=1)
            mean, variance = mean * factor, variance * factor**2
        return self._slopes(field, mean, variance)

    def _slopes(self, field: NoiseField, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """From slopes along the noise to slopes along the features."""
        response = field.response()
        # A block's slope is the sum over its features; each gets an equal slope.
        response = (field.per_block(response) if field.shared else response)[:, None]
        slopes = torch.where(response > 0, mean / response, 0.0)
        variances = torch.where(response > 0, variance / response**2, torch.inf)
        if field.shared:
            slopes = field.per_feature(slopes)
            variances = field.per_feature(variances)
            outside = field.per_feature(torch.ones_like(response)) == 0
            variances = variances.masked_fill(outside, torch.inf)
        return slopes, variances

    def _means(self) -> Tensor:
        """Mean of w for each block that takes turns, [R, turns, n]; 0 where w is not centred."""
        n = self.reference.shape[1]
        counts, sums = self.moments[..., :1], self.moments[..., 1 : 1 + n]
        if not self.centred:
            return torch.zeros_like(sums)
        return torch.where(counts > 0, sums / counts, 0.0)

    def spread(self) -> Tensor:
        """Mean of w^2 (of its variance, where it is centred) of each block, [R, turns, n]."""
        n = self.reference.shape[1]
        counts = self.moments[..., :1].clamp(min=1)
        return (self.moments[..., 1 + n :] / counts - self._means() ** 2).clamp(min=0)


def _first_of_blocks(of_blocks: Tensor) -> Tensor:
    return of_blocks[:, :, :1]

"""Whose turn it is: which block is perturbed in which unit."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ArgumentError
from .noise_field import NoiseField

# The fewest units of which a spread can be told.
LEAST = 2


class Turns:
    """Blocks take turns, one a unit: at first evenly, then as many as `allocate` gives them.

    Args:
        fields: their blocks are numbered on from one tensor to the next.
        units: of each row, in all.
        least: turns that each block must have.
    """

    def __init__(self, fields: tuple[NoiseField, ...], units: int, least: int = 1) -> None:
        self.n_blocks = max(field.n_blocks for field in fields)
        self.device = fields[0].points.device
        if units < least * self.n_blocks:
            raise ArgumentError(
                f"LikelihoodRatio: n_samples must give each of {self.n_blocks} blocks {least} "
                f"turn{'s' * (least > 1)} (pairs, where antithetic), got {units} turns in all"
            )
        self.units = units
        self.sizes = torch.stack(
            [field.per_block(torch.ones_like(field.points)) for field in fields]
        ).sum(0)
        self._after: Tensor | None = None
        self._even = units

    def active(self, rows: slice, units: slice) -> Tensor:
        """The block of each unit: [units], or [units, rows] where rows have turns of their own."""
        if self._after is None or units.start < self._even:
            # Rounds end where turns begin to differ, so that a chunk has one sort of turns.
            return torch.arange(units.start, units.stop, device=self.device) % self.n_blocks
        return self._after[units.start - self._even : units.stop - self._even, rows]

    def take(self, rows: Tensor) -> Turns:
        """The turns of some rows."""
        part = object.__new__(Turns)
        part.__dict__.update(self.__dict__)
        part.sizes = self.sizes[rows]
        if self._after is not None:
            part._after = self._after[:, rows]
        return part

    def allocate(self, spread: Tensor, done: int) -> None:
        """Gives the units after `done` to the blocks whose error they reduce most.

        A block of D features with answers of variance v has a summed squared error D v / units, so
        units go as sqrt(D v) (Neyman 1934, with the blocks as strata).

        Args:
            spread: [R, n_blocks, n], v for each target; the sum over targets counts.
            done: units taken evenly so far.
        """
        self._even = done
        left = self.units - done
        wish = (self.sizes * spread.sum(2)).sqrt()
        wish = torch.where(wish.sum(1, keepdim=True) > 0, wish, self.sizes.sqrt())
        plans = [interleaved(shares(w, left, LEAST)) for w in wish]
        self._after = torch.stack(plans, 1) if plans else None


def shares(wish: Tensor, total: int, least: int) -> Tensor:
    """Whole numbers of turns that add up to `total`, go as the wish, and are `least` or more."""
    wanted = wish / wish.sum() * total
    # What the smallest get more than they wish, the others get less.
    above = (wanted - least).clamp(min=0)
    left = total - least * len(wish)
    more = above * (left / above.sum()) if bool(above.sum() > 0) else torch.zeros_like(above)
    whole = more.floor()
    # The largest remainders are rounded up; ties go to the first.
    order = torch.argsort(more - whole, descending=True, stable=True)
    whole[order[: left - int(whole.sum())]] += 1
    return whole.long() + least


def interleaved(counts: Tensor) -> Tensor:
    """Blocks in turn, each `counts` times, spread evenly over the units: [sum of counts]."""
    block = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    starts = torch.cumsum(counts, 0) - counts
    turn = torch.arange(len(block), device=counts.device) - starts[block]
    place = (turn + 0.5) / counts[block]
    return block[torch.argsort(place, stable=True)]

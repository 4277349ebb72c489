"""The mask generator: from what a query shows to how much of each cell the student may see."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNEL = 7
HALF = KERNEL // 2
ROUNDING = 1e-5
# On a CPU the second layer, with its one output, is computed for blocks of so many pixels a side:
# as outputs of one place, which fill vectors.
SIDE = 4
# And so many pictures at a time, which stay in a processor's cache.
AT_ONCE = 4


class MaskGenerator(nn.Module):
    """E small networks of the same shape, each with its own weights.

    Two convolutions of 7x7 with leaky ReLUs, the greatest value of each cell, and the range brought
    to [0, 1].

    Args:
        count: E.
        channels: of what it sees.
        filters: of the first layer.
        cell: side of a cell.
        norm: "sample" or "batch"; see DistillationRecipe.
        edges: what convolutions see beyond the edges: "constant", which is 0, or "replicate", what
            is at the edge. Where zeros differ from everything that is seen, edges stand out in a
            mask, whatever they show.
    """

    def __init__(
        self,
        count: int,
        channels: int,
        filters: int,
        cell: int,
        norm: str,
        edges: str = "constant",
    ) -> None:
        super().__init__()
        self.cell, self.norm, self.edges = cell, norm, edges
        first, second = nn.Conv2d(channels, filters, KERNEL), nn.Conv2d(filters, 1, KERNEL)
        assert first.bias is not None and second.bias is not None
        self.first, self.first_bias = alike(first.weight, count), alike(first.bias, count)
        self.second, self.second_bias = alike(second.weight, count), alike(second.bias, count)

    def forward(self, seen: Tensor) -> Tensor:
        """From [E, R, C, H, W] to masks [E, R, 1, H, W] in [0, 1]; of a constant one all zeros."""
        height, width = seen.shape[-2:]
        apart = seen.device.type == "cpu"
        cells = self._one_by_one(seen) if apart else self._side_by_side(seen)
        over = (2, 3, 4) if self.norm == "sample" else (1, 2, 3, 4)
        low, high = cells.amin(over, keepdim=True), cells.amax(over, keepdim=True)
        span = high - low
        # A mask that is the same everywhere, but for rounding, says nothing.
        says = span > ROUNDING * torch.maximum(high.abs(), low.abs())
        scaled = torch.where(says, (cells - low) / torch.where(says, span, 1.0), 0.0)
        fine = scaled.repeat_interleave(self.cell, 3).repeat_interleave(self.cell, 4)
        return fine[..., :height, :width]

    def _one_by_one(self, seen: Tensor) -> Tensor:
        """Cells [E, R, 1, h, w] of one network after the other: groups of few channels are slow on
        a CPU."""
        found = []
        weights = self.first, self.first_bias, self.second, self.second_bias
        for x, w1, b1, w2, b2 in zip(seen.unbind(), *(w.unbind() for w in weights), strict=True):
            last = torch.channels_last
            layers = w1.contiguous(memory_format=last), b1, in_blocks(w2), b2.expand(SIDE**2)
            found.append(torch.cat([self._cells(part, *layers) for part in x.split(AT_ONCE)]))
        return torch.stack(found)

    def _cells(self, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x, half = self._padded(x.contiguous(memory_format=torch.channels_last))
        hidden = functional.leaky_relu(functional.conv2d(x, w1, b1, padding=half), inplace=True)
        hidden, half = self._padded(hidden)
        if height % SIDE or width % SIDE:
            hidden = functional.pad(hidden, (0, -width % SIDE, 0, -height % SIDE))
        blocks = functional.conv2d(hidden, w2, b2, stride=SIDE, padding=half)
        raw = functional.pixel_shuffle(blocks, SIDE)[..., :height, :width]
        return self._pooled(raw)

    def _side_by_side(self, seen: Tensor) -> Tensor:
        """Cells [E, R, 1, h, w] of all networks at once, as groups of channels."""
        count = len(seen)
        x, half = self._padded(seen.transpose(0, 1).flatten(1, 2))
        w1, b1 = self.first.flatten(0, 1), self.first_bias.flatten()
        hidden = functional.leaky_relu(functional.conv2d(x, w1, b1, padding=half, groups=count))
        hidden, half = self._padded(hidden)
        w2, b2 = self.second.flatten(0, 1), self.second_bias.flatten()
        raw = functional.conv2d(hidden, w2, b2, padding=half, groups=count)
        cells: Tensor = self._pooled(raw).unflatten(1, (count, 1)).transpose(0, 1)
        return cells

    def _padded(self, x: Tensor) -> tuple[Tensor, int]:
        """With what is beyond the edges; and how much of it, as zeros, a convolution is to add."""
        if self.edges == "constant":
            return x, HALF
        return functional.pad(x, (HALF, HALF, HALF, HALF), mode=self.edges), 0

    def _pooled(self, raw: Tensor) -> Tensor:
        pooled = functional.max_pool2d(functional.leaky_relu(raw), self.cell, ceil_mode=True)
        return functional.leaky_relu(pooled)


def alike(value: Tensor, count: int) -> nn.Parameter:
    """The same weights for all networks at the start: what differs between inputs is what they
    are."""
    return nn.Parameter(value.detach().expand(count, *value.shape).clone())


def in_blocks(weight: Tensor) -> Tensor:
    """A convolution to one channel, [1, C, k, k], as one to the SIDE x SIDE pixels of a block: with
    the kernel at each of its places, [SIDE^2, C, k + SIDE - 1, k + SIDE - 1]."""
    left = SIDE - 1
    shifted = [
        functional.pad(weight, (column, left - column, row, left - row))
        for row in range(SIDE)
        for column in range(SIDE)
    ]
    return torch.cat(shifted).contiguous(memory_format=torch.channels_last)

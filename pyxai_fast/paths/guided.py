"""The path of Guided IG: features with small gradients go first, near the straight line."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from .row_sums import row_sums

# Features that are no further than this from where they may go have arrived.
ARRIVED = {torch.float32: 1e-6, torch.float64: 1e-12}
# Numbers that are sorted before another thread would have begun.
SORTED_ALONE = 2**17


class GuidedWalk:
    """How far each feature of each example has come from its baseline to its input.

    Kapishnikov, Venugopalan, Avci, Wedin, Terry and Bolukbasi, "Guided Integrated Gradients: an
    Adaptive Path Method for Removing Noise" (2021), section 4. After step k of n the distance (L1)
    to the input is ``1 - alpha`` of the whole, ``alpha = k / n``, and every feature has come
    between ``alpha - max_dist`` and ``alpha + max_dist`` of its own way. What lags behind is
    brought up. Then the `fraction` of the features with the smallest magnitudes of gradient, of
    those that may still move, moves as far as it may; then the next, until the distance is met,
    to which the last of them go only as far as it takes. All examples step together.

    Args:
        ways: float32 or float64 [E, D], from baselines to inputs, in the caller's units; a feature
            without a way is never chosen.
        fraction, max_dist: from 0 to 1.

    Attributes:
        progress: [E, D], 0 at the baseline and 1 at the input.
    """

    def __init__(self, ways: Tensor, n_steps: int, fraction: float, max_dist: float) -> None:
        self.n_steps, self.max_dist = n_steps, max_dist
        self.features = ways.shape[1]
        # The rank of the "lower" quantile, counted from 1.
        self.group = math.floor(fraction * max(self.features - 1, 0)) + 1
        self.progress = (ways == 0).to(ways.dtype)
        self._weights = ways.abs()
        total = row_sums(self._weights)
        self._weights /= total.clamp(min=torch.finfo(torch.float64).tiny).to(ways.dtype)
        self._buffers = [torch.empty_like(ways) for _ in range(4)]

    def step(self, number: int, grads: Tensor) -> Tensor:
        """Moves on by one step, number 0 to n_steps - 1; how far each feature went, [E, D].

        Args:
            grads: [E, D], of the score where the features are, in the caller's units.

        What is returned is overwritten by the next step.
        """
        moved, room, key, inside = self._buffers
        if number == self.n_steps - 1:  # whatever is left
            torch.sub(1.0, self.progress, out=moved)
            self.progress.fill_(1.0)
            return moved
        alpha = (number + 1) / self.n_steps
        least, most = max(alpha - self.max_dist, 0.0), min(alpha + self.max_dist, 1.0)
        before, self.progress = self.progress, torch.clamp_min(self.progress, least)
        need = alpha - row_sums(torch.mul(self.progress, self._weights, out=room))
        left = torch.sub(most, self.progress, out=moved)
        torch.mul(left, self._weights, out=room)

        # Larger than any gradient where nothing is left to go: never below a threshold.
        beyond = torch.finfo(left.dtype).max / 2
        torch.le(left, ARRIVED[left.dtype], out=inside)
        torch.abs(grads, out=key).add_(inside, alpha=beyond)
        full, last, share = self._thresholds(key, room, need, beyond)

        # left * (1 up to `full`, share up to `last`, else 0)
        chosen = torch.le(key, last, out=room).mul_(share)
        chosen.addcmul_(torch.le(key, full, out=inside), 1 - share)
        self.progress.addcmul_(left, chosen)
        return torch.sub(self.progress, before, out=moved)

    def _thresholds(
        self, key: Tensor, room: Tensor, need: Tensor, beyond: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Up to which key features go all the way, up to which `share` of it, and the share;
        each [E, 1]."""
        inside = self._buffers[3]
        ordered = ascending(key)
        count = torch.zeros_like(need, dtype=torch.int64)  # of features in groups that are full
        full = torch.full_like(need, -1.0, dtype=key.dtype)
        taken = torch.zeros_like(need)
        last, share = full.clone(), torch.zeros_like(full)
        met = need <= 0
        for _ in range(math.ceil(self.features / self.group)):
            if bool(met.all()):
                break
            rank = (count + self.group - 1).clamp_(max=self.features - 1)
            threshold = ordered.gather(1, rank).clamp_(max=beyond / 2)
            torch.le(key, threshold, out=inside)
            reached = row_sums(inside.mul_(room))
            meets = ~met & (reached >= need)
            part = ((need - taken) / (reached - taken)).to(key.dtype)
            last = torch.where(meets, threshold, last)
            share = torch.where(meets, part, share)
            met |= meets
            full = torch.where(met, full, threshold)
            taken = torch.where(met, taken, reached)
            count = torch.searchsorted(ordered, threshold, right=True)
        return full, last, share


def ascending(values: Tensor) -> Tensor:
    """Rows [E, D] sorted."""
    if values.device.type != "cpu":
        ordered, _ = values.sort(1)
        return ordered
    # NumPy's is several times as fast as torch's, which keeps the order too, but has one thread.
    ordered = values.clone()
    threads = min(torch.get_num_threads(), len(values), values.numel() // SORTED_ALONE)
    if threads < 2:
        _sort(ordered)
        return ordered
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_sort, ordered.tensor_split(threads)))
    return ordered


def _sort(rows: Tensor) -> None:
    rows.numpy().sort(axis=1)

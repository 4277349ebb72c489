"""Times contenders that take turns, on a CPU and on a CUDA device.

A busy moment of the machine then falls on all of them, and their medians can be compared. Turns of
a round come in a random order, the same in every run.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

Run = Callable[[], object]
# A turn on a CPU is as many calls as it takes to fill this, of calls that are that short.
TURN = 3e-4
# Calls up to this long are preceded by one that is not timed, so that caches hold its own data.
WARMED = 5e-3
# More than any GPU's second-level cache: written before every call on one.
FLUSHED_BYTES = 256 << 20


@dataclass(frozen=True)
class Effort:
    """How long to time: `seconds` for each contender, within these numbers of rounds."""

    seconds: float = 0.1
    fewest: int = 7
    most: int = 200

    def rounds(self, turn: float) -> int:
        """Of turns this long; those that take many times the effort get few."""
        if turn > max(5 * self.seconds, 0.5):
            return 1
        fewest = self.fewest if turn < self.seconds else min(3, self.fewest)
        return max(fewest, min(self.most, int(self.seconds / turn)))


QUICK = Effort(seconds=0.002, fewest=2, most=2)


@dataclass(frozen=True)
class Contender:
    """A call, and the context (instruction set, reference) that it runs in, which is not timed."""

    run: Run
    context: Callable[[], AbstractContextManager[None]]


def race(
    contenders: Mapping[str, Contender], device: torch.device, effort: Effort
) -> dict[str, list[float]]:
    """Seconds of one call, for every contender, round by round."""
    turn = _CudaTurn(device) if device.type == "cuda" else _cpu_turn
    calls, rounds = {}, {}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for name, contender in contenders.items():
        with contender.context():
            seconds = turn(contender.run, 1, False)
            if effort.rounds(seconds) > 1:  # or one call has to do
                seconds = turn(contender.run, 1, False)
        calls[name] = 1 if device.type == "cuda" else min(1000, int(TURN / seconds) + 1)
        rounds[name] = effort.rounds(calls[name] * seconds)
        if rounds[name] == 1:
            times[name], rounds[name] = [seconds], 0
    most = max(rounds.values())
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(most):
            # Those with fewer rounds have them spread evenly over all.
            names = [
                name
                for name, share in rounds.items()
                if number * share // most != (number + 1) * share // most
            ]
            random.Random(number).shuffle(names)
            for name in names:
                contender = contenders[name]
                with contender.context():
                    seconds = turn(contender.run, calls[name], True)
                times[name].append(seconds)
    finally:
        if collecting:
            gc.enable()
    return times


def _cpu_turn(run: Run, calls: int, warmed: bool) -> float:
    if warmed:
        start = time.perf_counter()
        run()
        # Where one call was long, it did not fit the caches anyway, and was the turn.
        if (seconds := time.perf_counter() - start) > WARMED:
            return seconds
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


class _CudaTurn:
    """One call between two events, after the cache was written over. Writing that takes longer than
    Python takes to launch the call, so that the events see the device's time and not Python's."""

    def __init__(self, device: torch.device) -> None:
        self.flushed = torch.empty(FLUSHED_BYTES // 4, dtype=torch.int32, device=device)
        self.start = torch.cuda.Event(enable_timing=True)
        self.end = torch.cuda.Event(enable_timing=True)

    def __call__(self, run: Run, calls: int, warmed: bool) -> float:
        self.flushed.zero_()
        self.start.record()
        run()
        self.end.record()
        self.end.synchronize()
        return 1e-3 * self.start.elapsed_time(self.end)


def quantiles(values: list[float]) -> list[float]:
    """Median, and the 20 % and 80 % quantiles, to four digits."""
    points = torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)
    found = torch.tensor(values, dtype=torch.float64).quantile(points).tolist()
    return [float(f"{value:.4g}") for value in found]

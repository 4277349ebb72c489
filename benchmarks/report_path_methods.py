"""The section on Blur IG, expected gradients and DiffIG."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tables import median, size, table, times

OURS = "ours"


def path_methods_section(result: dict[str, Any]) -> Iterator[str]:
    settings = result["settings"]
    yield "### Blur IG, expected gradients and DiffIG, end to end\n"
    yield (
        f"{settings['dtype']}, {settings['threads']} threads, {settings['rounds']} rounds in which "
        "the contenders take turns; speed-ups are ours over theirs. Careful versions are what a "
        "good engineer writes in PyTorch (`benchmarks/path_contenders.py`); the fastest of several "
        "chunk sizes and both memory formats counts. Gaps are between what attributions add up to "
        "and the difference of the scores, relative to it; those of expected gradients are as "
        "large as chance makes them.\n"
    )
    yield table(
        ("method", "", "inputs", "ours", "gap", "careful PyTorch", "speed-up", "others"),
        (
            [
                case["case"],
                case["what"],
                size(case["shape"]),
                f"{median(case, OURS):.2f} s",
                f"{case['gaps'][OURS]:.1e}",
                f"{median(case, case['rival']):.2f} s ({case['rival'].split(', ', 1)[1]})",
                times(case["speed_up"]),
                "; ".join(
                    f"{name}: {median(case, name):.2f} s, {times(speed_up)}, gap "
                    f"{case['gaps'][name]:.1e}"
                    for name, speed_up in case["peers"].items()
                ),
            ]
            for case in result["cases"]
        ),
    )

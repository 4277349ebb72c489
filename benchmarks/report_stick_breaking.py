"""The section on stick-breaking paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tables import median, ratio, size, table, times

OURS = "ours"
STRAIGHT = "ours, straight line, as many gradients"
# The peak of many paths, in that of the straight line with one path's steps, at most.
OF_STRAIGHT = 1.2


def stick_breaking_section(result: dict[str, Any]) -> Iterator[str]:
    settings = result["settings"]
    yield "### Stick-breaking paths of one image, end to end\n"
    yield (
        f"{settings['n_paths']} paths of {settings['n_steps']} steps, alpha {settings['alpha']:g}, "
        f"{settings['dtype']}, {settings['threads']} threads, {settings['rounds']} rounds in which "
        "the contenders take turns. The careful version is what a good engineer writes in PyTorch "
        "(`benchmarks/sb_contenders.py`): the increments of one path at a time, gamma numbers that "
        "are normalised; the fastest of several chunk sizes and both memory formats counts. Beside "
        "it, Integrated Gradients along the straight line with as many gradients: what random "
        "paths cost on top.\n"
    )
    yield table(
        ("model", "inputs", "ours", "careful PyTorch", "speed-up", "straight line", "ours / it"),
        (
            [
                case["case"],
                size(case["shape"]),
                f"{median(case, OURS):.2f} s",
                f"{median(case, case['rival']):.2f} s ({case['rival'].split(', ', 1)[1]})",
                times(case["speed_up"]),
                f"{median(case, STRAIGHT):.2f} s",
                ratio(case["of_straight_line"]),
            ]
            for case in result["cases"]
        ),
    )
    if result["peak_bytes"]:
        plain = next(r["peak_bytes"] for r in result["peak_bytes"] if r["contender"] == STRAIGHT)
        many = max(
            (r for r in result["peak_bytes"] if r["contender"] == OURS),
            key=lambda r: int(r["n_paths"]),
        )
        share = many["peak_bytes"] / plain
        word = "met" if share <= OF_STRAIGHT else "missed"
        yield "Peak memory during a call, in a fresh process for each figure:\n"
        yield table(
            ("", "paths", "gradients", "peak"),
            (
                [
                    row["contender"],
                    str(row["n_paths"]),
                    str(row["n_paths"] * settings["n_steps"]),
                    f"{row['peak_bytes'] / 1e6:.1f} MB",
                ]
                for row in result["peak_bytes"]
            ),
        )
        yield (
            f"{many['n_paths']} paths take {share:.2f} of the straight line's peak; wanted is at "
            f"most {OF_STRAIGHT} ({word}).\n"
        )

"""The section on geometrically guided Integrated Gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tables import against, median, ms, size, table, times

OURS = "ours"
ONE_BY_ONE = "a point and a step at a time"
MODEL_ALONE = "model alone"
# What is wanted over the loop: on pictures of digits, and on those of this side or more.
OF_DIGITS, OF_PICTURES, PICTURE = 5.0, 1.0, 224


def geometrically_guided_section(result: dict[str, Any]) -> Iterator[str]:
    settings = result["settings"]
    yield "### Geometrically guided Integrated Gradients, end to end\n"
    yield (
        f"{settings['dtype']}, {settings['threads']} threads, {settings['rounds']} rounds in which "
        "the contenders take turns; speed-ups are ours over theirs. The loop follows the "
        "definition, one input, one point and one step at a time. The careful version "
        "(`benchmarks/gg_contenders.py`) has all points of one input, or of all, side by side, "
        "moved and compared in place; the fastest of both batch sizes and memory formats counts. "
        f"All agree to {settings['agreement']:.0e}. The target is {OF_DIGITS:.0f}x the loop on "
        f"digits, and never slower at {PICTURE}x{PICTURE}.\n"
    )
    yield table(
        (
            "model",
            "inputs",
            "points x gradients",
            "ours",
            "loop",
            "over the loop",
            "careful PyTorch",
            "over careful",
            "model alone",
            "outside it",
        ),
        (
            [
                case["case"],
                size(case["shape"]),
                f"{case['n_steps'] + 1} x {case['n_ascent']}",
                ms(median(case, OURS)),
                ms(median(case, ONE_BY_ONE)),
                against(
                    case["speed_up_over_loop"],
                    OF_PICTURES if case["shape"][-1] >= PICTURE else OF_DIGITS,
                ),
                f"{ms(median(case, case['rival']))} ({case['rival'].split(', ', 1)[1]})",
                times(case["speed_up"]),
                ms(median(case, MODEL_ALONE)),
                f"{case['share_outside_model']:.0%}",
            ]
            for case in result["cases"]
        ),
    )

"""The section on Guided IG."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tables import against, median, size, table, times

OURS = "ours"
PAIR = "PAIR saliency, image by image"
MODEL_ALONE = "model alone"
# What is wanted of ours on two cores.
AT_LEAST = 5.0


def guided_ig_section(result: dict[str, Any]) -> Iterator[str]:
    settings = result["settings"]
    yield "### Guided IG, end to end\n"
    yield (
        f"{settings['n_steps']} steps, fraction {settings['fraction']}, max_dist "
        f"{settings['max_dist']}, {settings['dtype']}, {settings['threads']} threads, "
        f"{settings['rounds']} rounds in which the contenders take turns. PAIR's `saliency` takes "
        "one image at a time, in float64 on the host, with a batch of one each step. The careful "
        "version is what a good engineer writes in PyTorch (`benchmarks/guided_contenders.py`): "
        "all images together, masks where one is done before another; the fastest of its ways to "
        f"a quantile counts. The target is at least {AT_LEAST:.0f}x PAIR's.\n"
    )
    yield table(
        (
            "model",
            "inputs",
            "ours",
            "PAIR",
            "speed-up",
            "careful PyTorch",
            "speed-up",
            "model alone",
            "outside it",
            "distance to PAIR",
            "of float32 to float64",
        ),
        (
            [
                case["case"],
                size(case["shape"]),
                seconds(median(case, OURS)),
                *against_pair(case),
                f"{seconds(median(case, case['rival']))} ({case['rival'].split(', ', 1)[1]})",
                times(case["speed_up"]),
                seconds(median(case, MODEL_ALONE)),
                f"{case['share_outside_model']:.0%}",
                f"{case['distance']:.0e}",
                f"{case['distance_of_float32']:.0e}",
            ]
            for case in result["cases"]
        ),
    )
    yield (
        '"Model alone" is the forward and backward passes of the same chunks. Distances, of two '
        "inputs, are Euclidean, relative to the length of the attributions; PAIR's is compared in "
        "float64. In float32 rounding beside a kink of the network may send a path another way.\n"
    )


def against_pair(case: dict[str, Any]) -> tuple[str, str]:
    speed_up = case["speed_up_to_pair"]
    if speed_up is None:
        return "not installed", ""
    return seconds(median(case, PAIR)), against(speed_up, AT_LEAST)


def seconds(value: float) -> str:
    return f"{value:.2f} s"

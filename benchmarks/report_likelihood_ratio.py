"""The section on gradients that are estimated from answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tables import median, ratio, size, table, times

OURS = "ours"
MODEL_ALONE = "model alone"


def likelihood_ratio_section(result: dict[str, Any]) -> Iterator[str]:
    settings = result["settings"]
    yield "### Likelihood-ratio gradient of one image, end to end\n"
    yield (
        f"{settings['n_samples']} Gaussian copies in antithetic pairs, sigma {settings['sigma']}, "
        f"{settings['dtype']}, {settings['threads']} threads, {settings['rounds']} rounds in which "
        "the contenders take turns. The careful version is what a good engineer writes in PyTorch "
        "(`benchmarks/lr_contenders.py`): buffers made once, written in place, inference mode, one "
        "matrix-vector product a chunk; the fastest of several chunk sizes and both memory formats "
        "counts. All are checked to reach the cosine that theory gives for so many copies.\n"
    )
    yield table(
        ("model", "inputs", "ours", "careful PyTorch", "speed-up", "model alone", "outside it"),
        (
            [
                case["case"],
                size(case["shape"]),
                seconds(median(case, OURS)),
                f"{seconds(median(case, case['rival']))} ({case['rival'].split(', ', 1)[1]})",
                times(case["speed_up"]),
                seconds(median(case, MODEL_ALONE)),
                f"{case['share_outside_model']:.0%}",
            ]
            for case in result["cases"]
        ),
    )
    first = result["cases"][0]["seconds"]
    shown = (OURS, MODEL_ALONE)
    names = [name for name in first if name not in shown and not name.startswith("PyTorch")]
    yield (
        '"Model alone" is the forward passes of the same chunks. Beside them: ours with the '
        "standard error of each feature (Gaussian noise is drawn once more for it), ours with "
        "signs for noise, and loops as attack libraries have them.\n"
    )
    yield table(
        ("model", *names),
        (
            [
                case["case"],
                *(
                    f"{seconds(median(case, name))} "
                    f"({ratio(median(case, name) / median(case, OURS))} of ours)"
                    for name in names
                ),
            ]
            for case in result["cases"]
        ),
    )
    if result["peak_bytes"]:
        yield "Peak memory during a call, in a fresh process for each figure:\n"
        yield table(
            ("", "copies", "peak"),
            (
                [row["contender"], f"{row['n_samples']:,}", f"{row['peak_bytes'] / 1e6:.1f} MB"]
                for row in result["peak_bytes"]
            ),
        )


def seconds(value: float) -> str:
    return f"{value:.2f} s"

"""The section on DAX."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tables import against, median, ms, size, table, times
from targets import NOT_SLOWER

OURS = "ours"
# Wanted over loops over rows, of several pictures over one by one, and over the release's style.
OVER_LOOPS, OVER_RELEASE = 50.0, 2.0


def dax_section(result: dict[str, Any]) -> Iterator[str]:
    settings = result["settings"]
    yield "### DAX, without the black box\n"
    yield (
        f"{settings['dtype']}, {settings['threads']} threads, {settings['rounds']} rounds in which "
        "the contenders take turns; speed-ups are ours over theirs. Answers cost nothing: what is "
        "timed is the writing of the black box's inputs and the training. Contenders are in "
        "`benchmarks/dax_contenders.py`, and learn the same from the same weights.\n"
    )
    yield from perturbation_table(result["perturbation"], settings["shape"])
    yield from segments_table(result["segments"])
    yield "Networks that see pixels, as in the paper:\n"
    yield from together_table(result["together"])
    yield from end_to_end_tables(result["end_to_end"], settings)


def perturbation_table(result: dict[str, Any], shape: list[int]) -> Iterator[str]:
    yield (
        f"All {result['n_queries']} queries about a picture {size(shape)} with "
        f"{result['n_segments']} ragged segments, {result['rows_of_a_chunk']} at a time. Loops "
        f"over rows are to take at least {OVER_LOOPS:.0f} times as long.\n"
    )
    ours, rival = median(result, OURS), result["rival"]
    rows = [[OURS, f"{ours:.3f} s", ""]]
    for name, speed_up in sorted(result["speed_up"].items(), key=lambda row: row[1]):
        over = against(speed_up, OVER_LOOPS) if "loop" in name else times(speed_up)
        rows.append([name, f"{median(result, name):.3f} s", over + " (best)" * (name == rival)])
    yield table(("masked pictures by", "time", "speed-up"), rows)


def segments_table(result: dict[str, Any]) -> Iterator[str]:
    count = result["count"]
    yield (
        f"Networks that see segments, the whole training: {count} pictures side by side, "
        f"{result['n_queries']} queries each, up to {result['n_segments']} segments. Side by side "
        f"is not to be slower than one after the other: at least {NOT_SLOWER}x. PyTorch's layers "
        "learn the same masks (`benchmarks/dax_segments.py`).\n"
    )
    rows = [["side by side", f"{median(result, 'together') / count:.3f} s", ""]]
    for name, speed_up in result["speed_up"].items():
        over = against(speed_up, NOT_SLOWER) if name == "one by one" else times(speed_up)
        rows.append([name, f"{median(result, name) / count:.3f} s", over])
    yield table(("training", "a picture", "speed-up"), rows)


def together_table(result: dict[str, Any]) -> Iterator[str]:
    count, steps = result["count"], result["steps"]
    yield (
        f"{count} pictures trained side by side, and one after the other; an epoch of {steps} "
        f"steps. Side by side is not to be slower: at least {NOT_SLOWER}x, within what timing "
        "resolves.\n"
    )
    each = [median(result, name) / count / steps for name in ("together", "one by one")]
    yield table(
        ("a step and picture, side by side", "one by one", "speed-up"),
        [[*(ms(value) for value in each), against(result["speed_up"], NOT_SLOWER)]],
    )


def end_to_end_tables(result: dict[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    epochs, shipped = settings["n_epochs"], settings["shipped_epochs"]
    steps = result["steps_of_an_epoch"]
    yield (
        f"End to end, {settings['n_queries']} queries, networks that see "
        f"{size([3, *2 * [settings['student_side']]])}, batches of {settings['batch_size']}, "
        f"epochs of {steps} steps. An epoch is the median of those of fewer queries, "
        f"{result['timed_steps']} steps of each contender in turns, times the ratio of their "
        "steps; all else is timed in full. Totals are sums of these. Careful PyTorch is the "
        "fastest of several memory formats and optimisers.\n"
    )
    rows = []
    for name, parts in result["parts"].items():
        before = parts["perturbation"] + parts["making"]
        rows.append(
            [
                name,
                f"{parts['perturbation']:.2f} s",
                f"{parts['making']:.2f} s",
                ms(parts["step"]["median"]),
                *(f"{before + count * parts['epoch']:.0f} s" for count in (epochs, shipped)),
            ]
        )
    head = ["", "black box's inputs", "networks made", "a step with its share of the rest"]
    yield table([*head, f"{epochs} epochs", f"{shipped} epochs"], rows)
    yield (
        f"Over the style of the release, at least {OVER_RELEASE:.0f}x is wanted. As shipped ours "
        f"stops after {shipped} epochs, when its masks are known, and the others after {epochs}; "
        "the last epochs change no mask.\n"
    )
    yield table(
        ("ours over", "equal epochs", "as shipped"),
        (
            [
                name,
                *(
                    times(value) if name == result["rival"] else against(value, OVER_RELEASE)
                    for value in found.values()
                ),
            ]
            for name, found in result["speed_up"].items()
        ),
    )

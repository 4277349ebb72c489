"""The section on counterfactuals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tables import median, size, table, times

UNROUNDED = "in the style of the release but for 8 bits, diagonal"


def counterfactual_section(result: dict[str, Any]) -> Iterator[str]:
    settings = result["settings"]
    rows = result.get("careful_rows")
    together = (
        "all particles" if rows is None else f"{rows} particles, the fastest of several counts,"
    )
    yield "### Counterfactual of one picture, end to end\n"
    yield (
        f"{settings['n_particles']} particles, {settings['n_steps']} steps, "
        f"{size(result['shape'])}, {settings['dtype']}, {settings['threads']} threads; the demo's "
        f"classifier and its prior of {settings['prior_parameters']:,} parameters. The contenders "
        "(`benchmarks/cf_contenders.py`) take turns. Careful PyTorch denoises "
        f"{together} at once. "
        '"Particles differ" is their root mean '
        "square difference to ours, in pixels from 0 to 1, at the end of the same steps from the "
        "same noise. Couplings are different computations: each is compared with its own.\n"
    )
    lines = []
    for name in result["seconds"]:
        against = result["speed_up"].get(name)
        short = result["speed_up_short"].get(name)
        differ = result["differences"].get(name)
        lines.append(
            [
                name,
                f"{median(result, name):.2f} s",
                "" if against is None else times(against),
                "" if short is None else times(short),
                "" if differ is None else f"{differ:.1e}",
            ]
        )
    yield table(
        ("", "time", "ours is faster by", "with a bfloat16 prior", "particles differ"), lines
    )
    yield (
        "Without its rounding to 8 bits the release's style ends with the same particles as ours "
        f"(they differ by {result['differences'][UNROUNDED]:.0e}): rounding turns particles that "
        "the model hardly tells apart the other way.\n"
    )
    parts = ", ".join(f"{name} {value:.2f} s" for name, value in result["parts"].items())
    yield f"Of ours, ensemble, in runs of its own: {parts}.\n"

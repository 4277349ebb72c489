"""The section on metrics of maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tables import size, table, times

OURS, PEERS = "ours", ("captum", "Quantus", "PAIR")


def metrics_section(result: dict[str, Any]) -> Iterator[str]:
    info = result["machine_info"]
    peers = f"captum {info['captum']}" + (
        f", Quantus {info['quantus']}" if info.get("quantus") else ""
    )
    rows = result["rows"]
    if any("PAIR" in row["seconds"] for row in rows):
        peers += f", PAIR's saliency {info['saliency']}"
    yield f"## Metrics, {info['cpu']}\n"
    yield (
        "`.venv-quantus/bin/python benchmarks/bench_metrics.py`, in the environment that `make "
        "test-quantus` makes: the same maps of the same inputs, "
        "judged by ours and by other packages' metrics; those that explain anew call the same "
        f"explanation. {result['threads']} thread of {info['cores']} cores, torch {info['torch']}, "
        f"{peers}, commit {info['commit']}, {info['date']}; medians of turns. Where a "
        "peer does less or something else, the note says so.\n"
    )
    yield table(
        ("metric", "inputs", "ours", *PEERS, *(f"ours over {peer}" for peer in PEERS), "note"),
        (
            [
                row["metric"],
                size(row["shape"]),
                _milliseconds(row, OURS),
                *(_milliseconds(row, peer) for peer in PEERS),
                *(times(row["speedup"][p]) if p in row["speedup"] else "" for p in PEERS),
                row["note"],
            ]
            for row in rows
        ),
    )


def _milliseconds(row: dict[str, Any], name: str) -> str:
    return f"{1e3 * row['seconds'][name][0]:.2f} ms" if name in row["seconds"] else ""

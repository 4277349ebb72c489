"""The section on the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tables import against, table

MANY, SINGLE = "micro-batches", "one by one"
# What micro-batches are wanted to bring to a small network, where requests are many.
AT_LEAST = 2.0


def server_section(result: dict[str, Any]) -> Iterator[str]:
    info, memory = result["machine_info"], result["memory"]
    yield f"## Server, {info['cpu']}\n"
    yield (
        "`python benchmarks/load_server.py`: the demo's network of 32x32 digits, clients on the "
        f"same machine ({info['cores']} cores, torch {info['torch']}, commit {info['commit']}, "
        f"{info['date']}), batches of at most {result['max_batch']}. Two servers take turns, one "
        "with micro-batches and one that takes requests one by one; every answer is compared with "
        f"what the library computes. The target is at least {AT_LEAST:.0f}x at the most clients.\n"
    )
    yield table(
        (
            "work", "clients", "requests/s", "p50", "p99", "processor time of each",
            "one by one", "p50", "p99", "speed-up",
        ),
        _lines(result["works"]),
    )  # fmt: skip
    megabytes = memory["megabytes"]
    refused = ", ".join(f"{count} with {code}" for code, count in result["overload"].items())
    yield (
        f"Resident memory is {megabytes[0]:.1f} MB after a tenth of {memory['requests']:,} "
        f"requests and {megabytes[-1]:.1f} MB after all. Asked for more than may wait, the server "
        f"answers everybody: {refused}.\n"
    )


def _lines(works: dict[str, Any]) -> Iterator[list[str]]:
    for name, measured in works.items():
        options = "".join(f", {key}={value}" for key, value in measured["options"].items())
        servers, ratios = measured["servers"], measured["ratios"]
        for many, single in zip(servers[MANY], servers[SINGLE], strict=True):
            ratio = ratios[str(many["clients"])]
            last = many is servers[MANY][-1] and name != "predict"
            yield [
                name + options,
                str(many["clients"]),
                f"{many['per_second']:.0f}",
                *_milliseconds(many, "p50", "p99", "cpu"),
                f"{single['per_second']:.0f}",
                *_milliseconds(single, "p50", "p99"),
                against(ratio, AT_LEAST) if last else f"{ratio:.2f}x",
            ]


def _milliseconds(load: dict[str, float], *names: str) -> list[str]:
    return [f"{load[name]:.1f} ms" for name in names]

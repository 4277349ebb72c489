"""Times the ops against their rivals; see contest.py.

python benchmarks/bench_ops.py [family ...] [--device cuda] [--quick] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from clock import QUICK, Effort
from contest import FAMILIES, contest, ops_of, settings_on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("families", nargs="*", metavar="family", help=", ".join(FAMILIES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="two rounds: does it run?")
    parser.add_argument("--seconds", type=float, help="of timing, for each contender")
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--budget", type=float, help="seconds after which no row is begun")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    if unknown := set(options.families) - set(FAMILIES):
        parser.error(f"no family {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}")
    effort = QUICK if options.quick else Effort(options.seconds) if options.seconds else Effort()
    rows, failures = [], []
    start = time.perf_counter()
    for family in options.families or FAMILIES:
        for op in ops_of(family):
            for setting in settings_on(op, options.device):
                if options.only not in str(setting):
                    continue
                if options.budget and time.perf_counter() - start > options.budget:
                    failures.append(f"{setting}: not begun after {options.budget:.0f} s")
                    continue
                try:
                    rows.append(contest(op, setting, effort))
                    print(line(rows[-1]), flush=True)
                except Exception as error:  # the rows after it are worth having
                    failures.append(f"{setting}: {type(error).__name__}: {error}")
                    print("FAILED", failures[-1], file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "failures": failures}))
    seconds = time.perf_counter() - start
    print(f"{len(rows)} rows, {len(failures)} failures in {seconds:.0f} s")
    return int(bool(failures))


def line(row: dict[str, Any]) -> str:
    seconds = {name: values[0] for name, values in row["seconds"].items()}
    plain = [name for kind in ("eager", "compile") for name in row["rivals"].get(kind, [])]
    parts = [row["op"], row["case"], row["variant"], row["layout"], row["dtype"]]
    text = " ".join(part for part in parts if part) + f" x{row['threads']}:"
    if "native" in seconds:
        text += f" {1e3 * seconds['native']:.3f} ms"
        if plain:
            best = min(plain, key=seconds.__getitem__)
            text += f", {seconds[best] / seconds['native']:.2f}x {best}"
        if "copy" in seconds:
            text += f", {seconds['copy'] / seconds['native']:.0%} of copy"
    return text


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())

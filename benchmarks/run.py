"""Runs every benchmark on this machine, stores the figures and writes benchmarks/README.md.

    python benchmarks/run.py [--ops] [--integrated-gradients]

With one of the options only that part is measured; the other keeps its stored figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import report
from machine import RESULTS, ROOT, machine, short_name

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ops", action="store_true", help="only the ops")
    parser.add_argument("--integrated-gradients", action="store_true", help="only end to end")
    options = parser.parse_args()
    everything = options.ops == options.integrated_gradients
    info = machine()
    path = RESULTS / f"cpu-{short_name(str(info['cpu']))}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        if everything or options.integrated_gradients:
            raw = measure("bench_integrated_gradients.py", "--json", folder=folder)
            del raw["machine_info"]
            result["integrated_gradients"] = raw
        if everything or options.ops:
            raw = measure(
                "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-quiet",
                "bench_path_ops.py", "--benchmark-json", folder=folder,
            )  # fmt: skip
            result["path_ops"] = [stripped(row) for row in raw["benchmarks"]]
    result["machine_info"] = info
    RESULTS.mkdir(exist_ok=True)
    path.write_text(dumped(result))
    report.main()
    print(f"wrote {path.relative_to(ROOT)} and {report.README.relative_to(ROOT)}")


def measure(*command: str, folder: str) -> dict[str, Any]:
    """Runs a benchmark whose last option takes the file to write, and reads that file."""
    out = Path(folder) / "out.json"
    paths = [str(HERE / part) if part.endswith(".py") else part for part in command]
    subprocess.run([sys.executable, *paths, str(out)], cwd=ROOT, check=True)
    raw: dict[str, Any] = json.loads(out.read_text())
    return raw


def stripped(row: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one row of pytest-benchmark's."""
    kept = {name: float(f"{row['stats'][name]:.4g}") for name in ("median", "iqr", "min")}
    return {**kept, "rounds": row["stats"]["rounds"], "extra_info": row["extra_info"]}


def dumped(result: dict[str, Any]) -> str:
    """JSON with a line for each row of the ops, so that runs can be compared as text."""
    rows = ",\n  ".join(json.dumps(row) for row in result.get("path_ops", []))
    rest = {name: result[name] for name in ("machine_info", "integrated_gradients")}
    return json.dumps(rest, indent=1)[:-2] + f',\n "path_ops": [\n  {rows}\n ]\n}}\n'


if __name__ == "__main__":
    main()

"""Runs every benchmark on this machine, stores the figures and writes benchmarks/README.md.

    python benchmarks/run.py [--ops [family ...]] [--integrated-gradients] [--throughput]
                             [--geometrically-guided] [--likelihood-ratio] [--counterfactual]
                             [--guided-ig] [--stick-breaking] [--path-methods] [--dax] [--quick]

With some of the options only that part is measured; the others keep their stored figures.
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
from contest import FAMILIES
from machine import RESULTS, ROOT, machine, short_name

HERE = Path(__file__).resolve().parent
# What is said of each part, as parts may be measured at different times.
OF_A_PART = ("commit", "date", "load_before")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--ops", nargs="*", choices=FAMILIES, metavar="family", help="only the ops, or some of them"
    )
    parser.add_argument("--integrated-gradients", action="store_true", help="only end to end")
    parser.add_argument(
        "--throughput",
        nargs="*",
        metavar="model",
        help="only at equal completeness, or only some of the models",
    )
    parser.add_argument("--geometrically-guided", action="store_true", help="only guided climbs")
    parser.add_argument("--likelihood-ratio", action="store_true", help="only estimated gradients")
    parser.add_argument("--counterfactual", action="store_true", help="only counterfactuals")
    parser.add_argument("--guided-ig", action="store_true", help="only Guided IG")
    parser.add_argument("--stick-breaking", action="store_true", help="only stick-breaking paths")
    parser.add_argument("--path-methods", action="store_true", help="only other paths")
    parser.add_argument("--dax", action="store_true", help="only DAX")
    parser.add_argument("--quick", action="store_true", help="do they run? Stores nothing")
    options = parser.parse_args()
    parts = (
        "integrated_gradients",
        "throughput",
        "geometrically_guided",
        "likelihood_ratio",
        "counterfactual",
        "guided_ig",
        "stick_breaking",
        "path_methods",
        "dax",
    )
    chosen = [part for part in parts if getattr(options, part) not in (None, False)]
    everything = options.ops is None and not chosen
    families = list(FAMILIES) if everything or options.ops == [] else options.ops or []
    path = RESULTS / f"cpu-{short_name(str(machine()['cpu']))}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    runs = result.setdefault("measured", {})
    quick = ["--quick"] if options.quick else []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            if everything or part in chosen:
                info = machine()
                models = options.throughput or [] if part == "throughput" else []
                only = ["--cases", *models] if models else []
                raw = measure(f"bench_{part}.py", *quick, *only, "--json", folder=folder)
                del raw["machine_info"]
                result[part] = merged(result[part], raw) if models and part in result else raw
                cases = [row["case"] for row in result[part].get("cases", [])]
                when = {name: info[name] for name in OF_A_PART}
                note(runs, part.replace("_", " "), models, cases, when)
        for family in families:
            info = machine()
            raw = measure("bench_ops.py", family, *quick, "--json", folder=folder)
            failures += raw["failures"]
            kept = [row for row in result.get("ops", []) if row["family"] != family]
            rows = kept + raw["rows"]
            result["ops"] = sorted(rows, key=lambda row: FAMILIES.index(row["family"]))
            runs[f"ops: {family}"] = {name: info[name] for name in OF_A_PART}
    result["machine_info"] = {k: v for k, v in machine().items() if k not in OF_A_PART}
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        path.write_text(dumped(result))
        report.main()
        print(f"wrote {path.relative_to(ROOT)} and {report.README.relative_to(ROOT)}")
    if failures:
        sys.exit("failed:\n" + "\n".join(failures))


def merged(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The figures of some models in the place of those that there were."""
    found = dict(new)
    for name in ("cases", "methods"):
        models = {row["case"] for row in new[name]}
        order = [row["case"] for row in before[name]]
        rows = [row for row in before[name] if row["case"] not in models] + new[name]
        found[name] = sorted(rows, key=lambda row: [*order, row["case"]].index(row["case"]))
    return found


def note(
    runs: dict[str, Any], part: str, models: list[str], cases: list[str], when: dict[str, Any]
) -> None:
    """Keeps when a part was measured, or some models of it, and forgets what that replaces."""
    one = {case: f"{part}: {case}" for case in cases}
    runs.update({one[model]: when for model in models} or {part: when})
    gone = list(one.values()) if not models else [part] if set(one.values()) <= set(runs) else []
    for label in gone:
        runs.pop(label, None)


def measure(*command: str, folder: str) -> dict[str, Any]:
    """Runs a benchmark whose last option takes the file to write, and reads that file."""
    out = Path(folder) / "out.json"
    paths = [str(HERE / part) if part.endswith(".py") else part for part in command]
    out.unlink(missing_ok=True)
    # Failures of single rows are in the file; without one, nothing was measured.
    done = subprocess.run([sys.executable, *paths, str(out)], cwd=ROOT)
    if not out.exists():
        sys.exit(f"{command[0]} ended with {done.returncode}")
    raw: dict[str, Any] = json.loads(out.read_text())
    return raw


def dumped(result: dict[str, Any]) -> str:
    """JSON with a line for each row of the ops, so that runs can be compared as text."""
    rows = ",\n  ".join(json.dumps(row) for row in result.get("ops", []))
    rest = {name: value for name, value in sorted(result.items()) if name != "ops"}
    return json.dumps(rest, indent=1)[:-2] + f',\n "ops": [\n  {rows}\n ]\n}}\n'


if __name__ == "__main__":
    main()

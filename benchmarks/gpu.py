"""The stages of gpu.sh: build, tests, sanitisers, benchmarks; each within a limit of time.

    python benchmarks/gpu.py [--device cpu --out FILE] [--quick] [--stages build,ops,...]

A stage that fails or runs out of time does not stop those after it. `--device cpu` is a rehearsal
without a GPU: it runs what a CPU can of every stage, and stores nothing in benchmarks/results.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "gpu"
NATIVE = BUILD / "native"
# Of seconds, all stages together; one may take what is left up to its own limit.
TOTAL = 555.0
GRAPH_TESTS = ROOT / "tests" / "test_cuda_graphs.py"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
PROGRAMS = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])


@dataclass
class Outcome:
    """What a stage came to: "passed", "failed", "skipped" or "out of time"."""

    result: str
    detail: str = ""
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Stages:
    """Runs stages one after the other, and keeps their outcomes."""

    device: str
    quick: bool
    folder: Path
    started: float = field(default_factory=time.perf_counter)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def run(self, name: str, limit: float, stage: Callable[[float], Outcome]) -> None:
        start = time.perf_counter()
        left = min(limit, TOTAL - (start - self.started))
        print(f"\n=== {name} (at most {max(left, 0):.0f} s)", flush=True)
        try:
            if left <= 0:
                outcome = Outcome("out of time", "none was left")
            elif name != "build" and not self.loaded:
                outcome = Outcome("failed", "there are no native kernels for the device")
            else:
                outcome = stage(left)
        except subprocess.TimeoutExpired:
            outcome = Outcome("out of time", f"stopped after {left:.0f} s")
        except Exception as error:  # the stages after it go on
            outcome = Outcome("failed", f"{type(error).__name__}: {error}"[:300])
        seconds = round(time.perf_counter() - start, 1)
        print(f"=== {name}: {outcome.result} in {seconds} s. {outcome.detail}", flush=True)
        self.outcomes.append(
            {
                "name": name,
                "result": outcome.result,
                "seconds": seconds,
                "detail": outcome.detail,
                **outcome.more,
            }
        )

    @property
    def environment(self) -> dict[str, str]:
        """The package from this tree, with the libraries that were built for this GPU."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYXAI_FAST_")}
        # Without a build of this run, only a rehearsal may use what was installed before.
        ours = self.device == "cuda" or NATIVE.exists()
        built = {"PYXAI_FAST_NATIVE_DIRECTORY": str(NATIVE)} if ours else {}
        return {**kept, **built, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def call(self, *command: str | Path, limit: float, **more: str) -> int:
        """Runs a command; whatever it started ends with it when time is up."""
        words = [str(part) for part in command]
        print("$", " ".join(words), flush=True)
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**self.environment, **more, "PATH": PROGRAMS},
            start_new_session=True,
        )
        try:
            return process.wait(limit)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise

    # --- build -----------------------------------------------------------------------------------

    def build(self, limit: float) -> Outcome:
        import torch

        shutil.rmtree(NATIVE, ignore_errors=True)
        options = [f"-DPYXAI_FAST_TORCH={Path(torch.__file__).parent}", "-DPYXAI_FAST_WERROR=ON"]
        if self.device == "cuda":
            major, minor = torch.cuda.get_device_capability()
            options += [
                "-DPYXAI_FAST_CUDA=ON",
                f"-DPYXAI_FAST_CUDA_ARCHS={major}{minor}-real",
                f"-DCMAKE_CUDA_COMPILER={shutil.which('nvcc', path=PROGRAMS)}",
            ]
        generator = ["-G", "Ninja"] if shutil.which("ninja", path=PROGRAMS) else []
        start = time.perf_counter()
        cmake = shutil.which("cmake", path=PROGRAMS) or "cmake"
        jobs = str(os.cpu_count() or 2)
        for step in (
            ["-S", ROOT, "-B", BUILD, *generator, *options],
            ["--build", BUILD, "--parallel", jobs],
            ["--install", BUILD, "--component", "python", "--prefix", NATIVE],
        ):
            left = limit - (time.perf_counter() - start)
            if self.call(cmake, *step, limit=left) != 0:
                return Outcome("failed", f"cmake {step[0]}")
        return Outcome("passed")

    @functools.cached_property
    def loaded(self) -> bool:
        """Whether the kernels load: without them the reference would pass for them."""
        command = f"from pyxai_fast import ops; assert ops.backends()[{self.device!r}] == 'loaded'"
        return self.call(sys.executable, "-c", command, limit=60) == 0

    # --- tests -----------------------------------------------------------------------------------

    def pytest(self, *arguments: str | Path, keyword: str, limit: float) -> Outcome:
        report = self.folder / "junit.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rfE"]
        code = self.call(
            *command, *arguments, "-k", keyword, f"--junitxml={report}", "--tb=short", limit=limit
        )
        if not report.exists():
            return Outcome("failed", f"pytest ended with {code}")
        counts = test_counts(report)
        detail = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        passed = code == 0 and counts["passed"] > 0
        return Outcome("passed" if passed else "failed", detail, {"tests": counts})

    @property
    def keyword(self) -> str:
        """The tests that run on the device; kernels are emulated where there is no GPU."""
        return "cuda and not emulated" if self.device == "cuda" else "cpu"

    def op_tests(self, limit: float) -> Outcome:
        files = op_test_files()
        return self.pytest(*(files[:1] if self.quick else files), keyword=self.keyword, limit=limit)

    def suite(self, limit: float) -> Outcome:
        others = [f"--ignore={file}" for file in (*op_test_files(), GRAPH_TESTS)]
        folder = "tests/test_integrated_gradients.py" if self.quick else "tests"
        return self.pytest(folder, *others, keyword=self.keyword, limit=limit)

    def graphs(self, limit: float) -> Outcome:
        return self.pytest(GRAPH_TESTS, keyword="", limit=limit)

    # --- sanitisers ------------------------------------------------------------------------------

    def sanitiser(self, tool: str, limit: float) -> Outcome:
        cases = ["tests/native/gpu_cases.py", "--device", self.device]
        if self.device != "cuda":
            code = self.call(sys.executable, *cases, limit=limit)
            return Outcome("passed" if code == 0 else "failed", "a rehearsal without the tool")
        program = shutil.which("compute-sanitizer", path=PROGRAMS)
        if program is None:
            return Outcome("skipped", "compute-sanitizer was not found")
        log = self.folder / f"{tool}.log"
        command = [program, "--tool", tool, "--error-exitcode", "9", "--log-file", log]
        command += only_our_kernels(program)
        # Each tensor an allocation of its own, so that its end can be seen.
        code = self.call(
            *command, sys.executable, *cases, limit=limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1"
        )
        text = log.read_text(errors="replace") if log.exists() else ""
        print(text[-4000:])
        if "Device not supported" in text:
            return Outcome("skipped", "compute-sanitizer does not support this device")
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
        return Outcome(
            "passed" if code == 0 and summary else "failed",
            summary[-1].strip() if summary else f"ended with {code}, without a summary",
        )

    # --- benchmarks ------------------------------------------------------------------------------

    def benchmarks(self, limit: float) -> Outcome:
        out = self.folder / "rows.json"
        command = [sys.executable, "benchmarks/bench_ops.py", "--device", self.device]
        command += ["--json", str(out), "--budget", f"{limit - 25:.0f}"]
        if self.quick:
            command += ["--quick", "--only", "digits_28 contiguous"]
        self.call(*command, limit=limit)
        measured = json.loads(out.read_text())
        self.rows = measured["rows"]
        failures = measured["failures"]
        detail = f"{len(self.rows)} rows" + "".join(f"; {text[:200]}" for text in failures[:5])
        return Outcome("failed" if failures else "passed", detail, {"failures": failures})

    def dax(self, limit: float) -> Outcome:
        """Several pictures trained side by side, and one after the other."""
        out = self.folder / "dax.json"
        command = [sys.executable, "benchmarks/bench_dax.py", "--together"]
        command += ["--device", self.device, "--json", str(out)]
        code = self.call(*command, *(["--quick"] if self.quick else []), limit=limit)
        if code != 0:
            return Outcome("failed", f"ended with {code}")
        found = json.loads(out.read_text())
        over = {sees: found[sees]["speed_up"] for sees in ("pixels", "segments")}
        over["segments"] = over["segments"]["one by one"]
        count = found["pixels"]["count"]
        detail = ", ".join(f"{times:.2f}x that see {sees}" for sees, times in over.items())
        return Outcome(
            "passed",
            f"{count} pictures side by side over one by one: {detail}; 2.5x is wanted",
            {sees: found[sees] for sees in over},
        )

    def throughput(self, limit: float) -> Outcome:
        """Integrated Gradients at equal completeness error, in several precisions."""
        out = self.folder / "throughput.json"
        command = [sys.executable, "benchmarks/bench_throughput.py", "--device", self.device]
        command += ["--json", str(out), "--budget", f"{0.5 * limit:.0f}"]
        result = "passed"
        try:
            code = self.call(*command, *(["--quick"] if self.quick else []), limit=limit)
            if code != 0:
                return Outcome("failed", f"ended with {code}")
        except subprocess.TimeoutExpired:
            if not out.exists():
                raise
            result = "out of time"  # what was measured before is in the file
        found = json.loads(out.read_text())
        detail = f"{len(found['cases'])} models"
        if found["left_out"]:
            detail += f"; no time for {', '.join(found['left_out'])}"
        return Outcome(result, detail, {"throughput": found})


def op_test_files() -> list[Path]:
    return sorted((ROOT / "tests").glob("test_*_ops.py"))


def test_counts(report: Path) -> dict[str, int]:
    """Of pytest's JUnit file."""
    total = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        for word in total:
            total[word] += int(suite.get(word, 0))
    failed = total["failures"] + total["errors"]
    passed = total["tests"] - failed - total["skipped"]
    return {"passed": passed, "failed": failed, "skipped": total["skipped"]}


def only_our_kernels(program: str) -> list[str]:
    """The options that leave torch's own kernels alone, as this version of the tool spells them."""
    done = subprocess.run([program, "--help"], capture_output=True, text=True)
    for option in ("--kernel-name", "--kernel-regex"):
        if option in done.stdout + done.stderr:
            return [option, "kns=pyxai_fast"]
    return []


def machine_info(device: str) -> dict[str, str | int]:
    import torch
    from machine import machine

    info = machine()
    if device != "cuda":
        return {"gpu": f"none: a rehearsal on {info['cpu']}", **info}
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        driver = "unknown"
    nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release ([\d.]+)", nvcc)
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "driver": driver.strip().splitlines()[0] if driver.strip() else "unknown",
        "cuda_of_torch": torch.version.cuda or "none",
        "nvcc": release.group(1) if release else "unknown",
        **{key: info[key] for key in ("torch", "python", "system", "cpu", "commit", "date")},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="a small part of every stage")
    parser.add_argument("--out", type=Path, help="the file of figures")
    parser.add_argument("--stages", help="only these, separated by commas")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stages = Stages(options.device, options.quick, Path(folder))
        plan: list[tuple[str, float, Callable[[float], Outcome]]] = [
            ("build", 150, stages.build),
            ("op tests", 120, stages.op_tests),
            ("graphs and streams", 40, stages.graphs),
            *(
                (tool, 35, lambda limit, tool=tool: stages.sanitiser(tool, limit))  # type: ignore[misc]
                for tool in TOOLS
            ),
            ("benchmarks", 180, stages.benchmarks),
            ("dax", 60, stages.dax),
            ("throughput", 90, stages.throughput),
            ("suite", 120, stages.suite),
        ]
        names = [name for name, *_ in plan]
        chosen = options.stages.split(",") if options.stages else names
        if unknown := set(chosen) - set(names):
            parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(names)}")
        for name, limit, stage in plan:
            if name in chosen:
                stages.run(name, limit, stage)
    # Imported as late as this: it loads the libraries that were built.
    os.environ.update(stages.environment)
    sys.path.insert(0, str(ROOT))
    info = machine_info(options.device)
    result = {"machine_info": info, "stages": stages.outcomes, "rows": stages.rows}
    out = options.out or (ROOT / "benchmarks" / "results" / gpu_file(str(info["gpu"])))
    if options.device == "cuda" or options.out:
        out.parent.mkdir(exist_ok=True)
        out.write_text(dumped(result))
        print(f"\nwrote {out}")
    if options.device == "cuda" and not options.out:
        import report

        report.main()
        print(f"wrote {report.README}")
    print(f"\n=== summary, {time.perf_counter() - stages.started:.0f} s")
    for stage in stages.outcomes:
        print(f"{stage['result']:12} {stage['seconds']:6.1f} s  {stage['name']}  {stage['detail']}")
    return int(any(stage["result"] in ("failed", "out of time") for stage in stages.outcomes))


def gpu_file(name: str) -> str:
    from machine import short_name

    return f"gpu-{short_name(name)}.json"


def dumped(result: dict[str, Any]) -> str:
    """JSON with a line for each stage and row."""

    def lines(name: str) -> str:
        return ",\n  ".join(json.dumps(row) for row in result[name])

    info = json.dumps(result["machine_info"], indent=1)
    return (
        f'{{\n "machine_info": {info},\n "stages": [\n  {lines("stages")}\n ],\n'
        f' "rows": [\n  {lines("rows")}\n ]\n}}\n'
    )


if __name__ == "__main__":
    sys.exit(main())

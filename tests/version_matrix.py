"""Installs and tests the package with the oldest and the newest torch, on every Python there is.

    python tests/version_matrix.py [--torch 2.11,newest] [--python python3.12 ...] [--index URL]

One wheel, of which the kernels are built once, is installed in a fresh environment for each pair;
there it is imported, its kernels are compared with the reference, and a choice of its tests is run.
A pair whose torch cannot be had is listed with the reason, and has not passed. Exits with 1 where
something failed, and with 2 where nothing was run.

Only wheels of torch for the CPU are taken: others bring gigabytes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Where torch's wheels for the CPU are.
INDEX = "https://download.pytorch.org/whl/cpu"
PASSED, FAILED, NOT_RUN = "passed", "FAILED", "not run"
NEWEST = "newest"
# Besides torch: what the tests import.
NEEDED = ("numpy", "pytest", "hypothesis", "packaging")
TESTS = (
    "test_path_ops.py", "test_noise_ops.py", "test_mask_ops.py", "test_ensemble_ops.py",
    "test_dirichlet_ops.py", "test_methods.py", "test_explain.py", "test_import.py",
    "test_determinism.py",
)  # fmt: skip
SMOKE = """
import sys, torch, pyxai_fast
from pathlib import Path
from pyxai_fast import ops
assert Path(pyxai_fast.__file__).is_relative_to(sys.prefix), pyxai_fast.__file__
assert ops.backends()["cpu"] == "loaded", ops.backends()
model, x = torch.nn.Linear(6, 3).eval(), torch.rand(4, 6)
def maps():
    return [pyxai_fast.explain(model, x, method=m).attributions
            for m in ("integrated_gradients", "smooth_grad", "guided_ig", "rise")]
native = maps()
with ops.native_kernels(False):
    assert all(torch.equal(a, b) for a, b in zip(native, maps(), strict=True))
print("torch", torch.__version__)
"""

NEEDS = """
needs, for each pair, about 2 GB of disk and ten minutes of two cores; a C++ compiler, and cmake,
ninja and setuptools beside the Python that runs this; the interpreters, each with venv; a network
to --index and to PyPI, or their wheels in a folder that PIP_FIND_LINKS names. A pair whose torch is
in neither is "not run".
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Result:
    """What became of a pair.

    Attributes:
        python: its version, as 3.12.1.
        torch: its version; what was asked for where it cannot be had.
        outcome: PASSED, FAILED or NOT_RUN.
        reason: of the last two; how many tests of the first.
    """

    python: str
    torch: str
    outcome: str
    reason: str


class NotThere(Exception):
    """A torch that cannot be had; the message says why."""


def run(command: Sequence[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    """A command, with nothing of this environment that would reach another one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYXAI_FAST"))}
    return subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        **{"env": {**kept, "OMP_NUM_THREADS": "1"}, **options},  # type: ignore[call-overload]
    )


# --- which pairs ----------------------------------------------------------------------------------


def supported(pyproject: Path = ROOT / "pyproject.toml") -> tuple[tuple[int, int], str]:
    """The oldest Python, as (3, 11), and the oldest torch, as 2.11, that the package names."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    python = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"])
    torch = [re.fullmatch(r"torch>=(\d+\.\d+)", line) for line in project["dependencies"]]
    (oldest,) = [match[1] for match in torch if match]
    assert python is not None
    return (int(python[1]), int(python[2])), oldest


def pythons(named: Sequence[str], oldest: tuple[int, int], run: Run = run) -> dict[str, str]:
    """Interpreters that the package supports, by their versions: those named, or all that are
    found on the PATH and of pyenv; one of each minor version."""
    candidates = list(named) or [
        *(f"python{oldest[0]}.{minor}" for minor in range(oldest[1], oldest[1] + 10)),
        *map(str, sorted(Path.home().glob(".pyenv/versions/*/bin/python3"))),
    ]
    found: dict[str, str] = {}
    for candidate in candidates:
        if shutil.which(candidate) is None:
            if named:
                raise SystemExit(f"version_matrix: --python: there is no {candidate}")
            continue
        told = run([candidate, "-c", "import platform, venv; print(platform.python_version())"])
        version = told.stdout.strip()
        if told.returncode != 0 or not re.fullmatch(r"\d+\.\d+\.\d+\S*", version):
            continue
        minor = tuple(map(int, version.split(".")[:2]))
        if minor >= oldest and minor not in {tuple(map(int, v.split(".")[:2])) for v in found}:
            found[version] = candidate
    return found


def wheel_of_torch(python: Path, wish: str, index: str, run: Run = run) -> tuple[str, str]:
    """The version of torch for the CPU that pip finds for an interpreter, and where it is.

    Args:
        wish: a version, as 2.11, of which the newest patch is taken, or NEWEST.

    Raises:
        NotThere: there is none.
    """
    requirement = "torch" if wish == NEWEST else f"torch=={wish}.*"
    told = run(
        [
            python, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed",
            "--no-deps", "--only-binary", ":all:", "--retries", "1", "--timeout", "20",
            "--index-url", index, "--report", "-", requirement,
        ],
        env=_only_from_there(),
    )  # fmt: skip
    if told.returncode != 0:
        lines = [line for line in told.stderr.splitlines() if line.startswith("ERROR")]
        raise NotThere((lines or ["ERROR: pip failed"])[-1].removeprefix("ERROR: "))
    (found,) = json.loads(told.stdout)["install"]
    version, url = found["metadata"]["version"], found["download_info"]["url"]
    # A Mac's have no other build.
    if not version.endswith("+cpu") and "macosx" not in url:
        raise NotThere(f"{version} is no wheel for the CPU alone")
    return version, url


def _only_from_there() -> dict[str, str]:
    """The environment, without other places where pip would look: they may have newer wheels of
    torch, for other devices. What is in PIP_FIND_LINKS counts."""
    dropped = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    return {**kept, "PIP_CONFIG_FILE": os.devnull}


# --- one pair -------------------------------------------------------------------------------------


def build(directory: Path, run: Run = run) -> Path:
    """The wheel for every Python, with the kernels for every torch; built where this runs."""
    env = {**os.environ, "PYXAI_FAST_PYTHON": "off", "PYXAI_FAST_CUDA": "off"}
    told = run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps",
            "--wheel-dir", directory, ROOT,
        ],
        env=env,
    )  # fmt: skip
    found = list(directory.glob("*.whl"))
    if told.returncode != 0 or len(found) != 1:
        raise SystemExit(f"{told.stdout}{told.stderr}\nversion_matrix: no wheel could be built")
    if "-py3-none-" not in found[0].name:
        raise SystemExit(f"version_matrix: {found[0].name} must be for every Python")
    return found[0]


def tests_beside(directory: Path) -> Path:
    """tests/ and the settings of pytest, with no package beside them."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tests", directory / "tests", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", directory)
    return directory / "tests"


def try_pair(
    version: str, interpreter: str, wish: str, index: str, wheel: Path, tests: Path, work: Path,
    run: Run = run,
) -> Result:  # fmt: skip
    """What becomes of the package with an interpreter and a torch."""
    environment = work / f"{version}-{wish}"
    python = environment / "bin" / "python"

    def step(what: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
        told = run(command, cwd=work)
        if told.returncode != 0:
            said = (told.stderr or told.stdout).strip().splitlines()
            raise RuntimeError(f"{what}: {said[-1] if said else told.returncode}")
        return told

    torch = wish
    try:
        step("venv", interpreter, "-m", "venv", environment)
        torch, url = wheel_of_torch(python, wish, index, run)
        pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet"]
        step("torch", *pip, "--only-binary", ":all:", url, *NEEDED)
        step("wheel", *pip, "--no-deps", wheel)
        step("smoke", python, "-c", SMOKE)
        files = [tests / name for name in TESTS]
        told = step("tests", python, "-m", "pytest", "-p", "no:cacheprovider", *files)
        return Result(version, torch, PASSED, told.stdout.strip().splitlines()[-1])
    except NotThere as reason:
        return Result(version, torch, NOT_RUN, str(reason))
    except RuntimeError as reason:
        return Result(version, torch, FAILED, str(reason))
    finally:
        shutil.rmtree(environment, ignore_errors=True)


# --- all of them ----------------------------------------------------------------------------------


def table(results: Sequence[Result]) -> str:
    """A line for each pair."""
    rows = [
        ("python", "torch", "", ""),
        *((r.python, r.torch, r.outcome, r.reason) for r in results),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def exit_code(results: Sequence[Result]) -> int:
    """1 where something failed, 2 where nothing was run, else 0."""
    outcomes = {result.outcome for result in results}
    return 1 if FAILED in outcomes else 0 if PASSED in outcomes else 2


def main(arguments: Sequence[str] | None = None) -> int:
    (oldest_python, oldest_torch) = supported()
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=NEEDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--torch", default=f"{oldest_torch},{NEWEST}", help="versions, separated by commas")
    add("--python", action="append", default=[], help="an interpreter, repeatable; default: all")
    add("--index", default=INDEX, help="where torch's wheels for the CPU are")
    asked = parser.parse_args(arguments)
    found = pythons(asked.python, oldest_python)
    if not found:
        raise SystemExit(f"version_matrix: there is no Python from {oldest_python} on")
    if sysconfig.get_platform().startswith("win"):
        raise SystemExit("version_matrix: environments here have another layout on Windows")
    results = []
    with tempfile.TemporaryDirectory(prefix="pyxai_fast_matrix_") as name:
        work = Path(name)
        wheel, tests = build(work / "wheel"), tests_beside(work / "copy")
        for version, interpreter in found.items():
            for wish in asked.torch.split(","):
                results.append(
                    try_pair(version, interpreter, wish, asked.index, wheel, tests, work)
                )
                print(table(results[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(results)}")
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())

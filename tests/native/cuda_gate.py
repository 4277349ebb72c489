"""Compiles the CUDA code on a machine without a GPU, and watches what its kernels use.

    python tests/native/cuda_gate.py            compile, print the table, compare with the stored
    python tests/native/cuda_gate.py --update   store what was measured: csrc/cuda/resources.json

It compiles the kernels for every architecture with warnings as errors, and reads registers, shared
memory, stack and spills per kernel from ptxas. It fails on any spill, on a kernel that is missing
from or new to the stored table, and on one that has come to use over 10% more registers, more
stack or more shared memory. Where torch is installed it also compiles the torch ops for CUDA, so
that they cannot rot, and checks that they import no C++ symbol of torch.

Without nvcc it says so and succeeds. Stored figures of another nvcc are not compared with.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stable_abi import unstable_symbols

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "csrc" / "cuda" / "resources.json"
BUILD = ROOT / "build" / "cuda-gate"
ARCHS = ("80", "90", "100", "120")
GLUE = "CMakeFiles/_ops_cuda.dir/csrc/torch/ops_cuda.cpp.o"
REGISTER_TOLERANCE = 1.10


class Use(NamedTuple):
    """What one kernel takes on one architecture; bytes but for the registers (per thread)."""

    registers: int
    shared: int
    stack: int
    spills: int

    def __str__(self) -> str:
        extras = [f" {name}={n}" for name, n in self._asdict().items() if n and name != "registers"]
        return f"{self.registers}" + "".join(extras)


Table = dict[str, dict[str, Use]]  # kernel -> architecture -> use


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="store what is measured")
    update = parser.parse_args().update

    nvcc = find_nvcc()
    if nvcc is None:
        print("cuda gate: SKIPPED: nvcc not found")
        return 0
    version = nvcc_version(nvcc)
    log, glue = compile_all(nvcc)
    table = read_ptxas(log)
    print_table(table)
    problems = [
        f"{kernel}, sm_{arch}: {use.spills} bytes of registers spilled"
        for kernel, arch, use in rows(table)
        if use.spills
    ]
    if glue is not None:
        problems += [f"ops_cuda.cpp imports {name}" for name in unstable_symbols(glue)]
    if update:
        STORED.write_text(to_json(version, table))
        print(f"cuda gate: wrote {STORED.relative_to(ROOT)}")
    else:
        problems += compare(version, table)
    for problem in problems:
        print("cuda gate:", problem)
    if problems and not update:
        print("cuda gate: --update stores the new figures, where they are meant")
    checked = f"{len(table)} kernels for sm_{', sm_'.join(ARCHS)}, nvcc {version}"
    print(f"cuda gate: {checked}: {f'{len(problems)} problems' if problems else 'passed'}")
    return 1 if problems else 0


# --- compile --------------------------------------------------------------------------------------


def search_path() -> str:
    """PATH with the programs of this Python environment (cmake, ninja) and of CUDA."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return os.pathsep.join(
        [sysconfig.get_path("scripts"), os.environ.get("PATH", ""), f"{home}/bin"]
    )


def find_nvcc() -> str | None:
    return shutil.which("nvcc", path=search_path())


def nvcc_version(nvcc: str) -> str:
    text = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"release (\d+\.\d+)", text)
    if found is None:
        raise SystemExit(f"cuda gate: {nvcc} --version does not name a release:\n{text}")
    return found[1]


def torch_directory() -> Path | None:
    """Where torch is installed; it is not imported."""
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent if spec and spec.origin else None


def compile_all(nvcc: str) -> tuple[str, Path | None]:
    """Compiles kernels and torch ops; returns what ptxas said, and the ops' object file."""
    torch = torch_directory()
    run(
        "cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja",
        "-DPYXAI_FAST_CUDA=ON", "-DPYXAI_FAST_WERROR=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}",
        "-DPYXAI_FAST_CUDA_ARCHS=" + ";".join(f"{arch}-real" for arch in ARCHS),
        "-DCMAKE_CUDA_FLAGS=-Xptxas -v", f"-DPYXAI_FAST_TORCH={torch or ''}",
    )  # fmt: skip
    # ptxas speaks only while it compiles: objects of an earlier run would leave the table empty.
    log = run("cmake", "--build", str(BUILD), "--clean-first", "--target", "pyxai_fast_cuda")
    if torch is None:
        print("cuda gate: torch is not installed: the torch ops for CUDA are not compiled")
        return log, None
    # The object, not the library, which cannot be linked with a CPU build of torch.
    run("cmake", "--build", str(BUILD), "--target", GLUE)
    return log, BUILD / GLUE


def run(*command: str) -> str:
    environment = {**os.environ, "PATH": search_path()}
    program = shutil.which(command[0], path=environment["PATH"]) or command[0]
    done = subprocess.run(
        [program, *command[1:]],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if not is_about_resources(line)]
        raise SystemExit("\n".join([*lines, f"cuda gate: {' '.join(command)} failed"]))
    return done.stdout


# --- read -----------------------------------------------------------------------------------------


def is_about_resources(line: str) -> bool:
    return line.startswith("ptxas info") or "bytes stack frame" in line


def read_ptxas(log: str) -> Table:
    """The kernels in the output of `ptxas -v`."""
    entry = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)\w*'")
    frame = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill load")
    used = re.compile(r"Used (\d+) registers")
    shared = re.compile(r"(\d+) bytes smem")
    found: list[tuple[str, str, Use]] = []
    current: tuple[str, str] | None = None
    stack = spills = 0
    for line in log.splitlines():
        if match := entry.search(line):
            current = (match[1], match[2])
        elif match := frame.search(line):
            stack, spills = int(match[1]), int(match[2]) + int(match[3])
        elif (match := used.search(line)) and current is not None:
            smem = shared.search(line)
            use = Use(int(match[1]), int(smem[1]) if smem else 0, stack, spills)
            found.append((*current, use))
            current = None
    names = demangle([mangled for mangled, _, _ in found])
    table: Table = {}
    for name, (_, arch, use) in zip(names, found, strict=True):
        table.setdefault(name, {})[arch] = use
    incomplete = [kernel for kernel, uses in table.items() if sorted(uses) != sorted(ARCHS)]
    if not table or incomplete:
        raise SystemExit(f"cuda gate: ptxas' output lacks architectures of {incomplete or 'all'}")
    return dict(sorted(table.items()))


def demangle(mangled: list[str]) -> list[str]:
    """`path_points_kernel<float, Float16, 4>`: without namespaces, return type and parameters."""
    command = ["c++filt"]
    text = subprocess.run(
        command, input="\n".join(mangled), check=True, capture_output=True, text=True
    )
    names = []
    for name in text.stdout.splitlines():
        name = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::|pyxai_fast::", "", name)
        names.append(name.removeprefix("void ").split("(", 1)[0])
    return names


def rows(table: Table) -> Iterator[tuple[str, str, Use]]:
    for kernel, uses in table.items():
        for arch in ARCHS:
            yield kernel, arch, uses[arch]


def print_table(table: Table) -> None:
    """One line per kernel; shared memory, stack and spills only where there are any."""
    width = max(map(len, table))
    print("registers per thread (and bytes of shared memory, stack, spills)".ljust(width))
    print(" ".ljust(width), *(f"sm_{arch}".rjust(7) for arch in ARCHS))
    for kernel, uses in table.items():
        print(kernel.ljust(width), *(str(uses[arch]).rjust(7) for arch in ARCHS))


# --- compare --------------------------------------------------------------------------------------


def to_json(version: str, table: Table) -> str:
    """One kernel a line, so that a change of one is a change of one line."""
    lines = []
    for kernel, uses in table.items():
        by_arch = {
            f"sm_{arch}": {n: v for n, v in uses[arch]._asdict().items() if v} for arch in ARCHS
        }
        lines.append(f"    {json.dumps(kernel)}: {json.dumps(by_arch)}")
    kernels = ",\n".join(lines)
    return f'{{\n  "nvcc": {json.dumps(version)},\n  "kernels": {{\n{kernels}\n  }}\n}}\n'


def compare(version: str, table: Table) -> list[str]:
    """What is worse than in the stored table, or not in it."""
    if not STORED.exists():
        return [f"{STORED.relative_to(ROOT)} is missing"]
    content = json.loads(STORED.read_text())
    stored: Table = {
        kernel: {
            arch.removeprefix("sm_"): Use(*(use.get(field, 0) for field in Use._fields))
            for arch, use in uses.items()
        }
        for kernel, uses in content["kernels"].items()
    }
    problems = [f"{kernel}: gone, but stored" for kernel in stored.keys() - table.keys()]
    problems += [f"{kernel}: new, not stored" for kernel in table.keys() - stored.keys()]
    if content["nvcc"] == version:
        for kernel, arch, use in rows(table):
            before = stored.get(kernel, {}).get(arch)
            if before is not None and is_worse(use, before):
                problems.append(f"{kernel}, sm_{arch}: uses {use}, stored {before}")
    else:
        print(f"cuda gate: figures of nvcc {content['nvcc']} are not compared with {version}")
    return sorted(problems)


def is_worse(use: Use, before: Use) -> bool:
    return (
        use.registers > before.registers * REGISTER_TOLERANCE
        or use.shared > before.shared
        or use.stack > before.stack
    )


if __name__ == "__main__":
    sys.exit(main())

"""The kernels in a C++ project of somebody else: installed without torch, found, linked and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONSUMER = ROOT / "tests" / "native" / "consumer"
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
LEVELS = ("baseline", "avx2", "avx512")


def program(*names: str) -> str | None:
    return next(filter(None, (shutil.which(name, path=PATH) for name in names)), None)


def why_not() -> str | None:
    if not (ROOT / "CMakeLists.txt").exists():
        return "builds the sources, and this is a copy of tests/"
    if program(os.environ.get("CXX", "c++"), "g++", "clang++") is None:
        return "needs a C++ compiler"
    if program("cmake") is None:
        return "needs cmake (pip install cmake ninja)"
    return None


pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def run(*command: str | Path, fails: bool = False, **environment: str) -> str:
    env = {**os.environ, "PATH": PATH, **environment}
    done = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if (done.returncode != 0) != fails:
        pytest.fail(f"{' '.join(map(str, command))}\n{output}")
    return output


def cmake(*arguments: str | Path, fails: bool = False) -> str:
    return run(program("cmake") or "cmake", *arguments, fails=fails)


def generator() -> list[str]:
    return ["-G", "Ninja"] if program("ninja") else []


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The core alone, installed."""
    build = ROOT / "build" / "core"
    directory = tmp_path_factory.mktemp("prefix")
    cmake("-S", ROOT, "-B", build, *generator())
    cmake("--build", build, "--parallel", "2")
    cmake("--install", build, "--prefix", directory, "--component", "core")
    return directory


@pytest.fixture(scope="module")
def consumer(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which the consumer was built."""
    build = tmp_path_factory.mktemp("consumer")
    cmake("-S", CONSUMER, "-B", build, *generator(), f"-DCMAKE_PREFIX_PATH={prefix}")
    cmake("--build", build)
    return build


def declared(headers: Path, function: str) -> set[str]:
    """The ops whose `function` the installed headers declare."""
    pattern = re.compile(rf"PYXAI_FAST_API \w+ {function}\(\s*const (\w+)&")
    found = (pattern.findall(path.read_text()) for path in headers.rglob("*.h"))
    return {op for ops in found for op in ops}


def test_an_installed_kernel_runs_on_every_instruction_set(consumer: Path) -> None:
    best = run(consumer / "consumer").split()[-1]
    for level in LEVELS[: LEVELS.index(best) + 1]:
        points, used = run(consumer / "consumer", PYXAI_FAST_CPU_ISA=level).splitlines()
        assert used == level
        expected = [
            0.5 + alpha * (value - 0.5) for alpha in (0.0, 0.5, 1.0) for value in range(1, 7)
        ]
        assert [float(word) for word in points.split()] == expected


@pytest.mark.parametrize("page", ["README.md", "docs/kernels.md"])
def test_the_program_of_a_page_says_what_it_says(prefix: Path, tmp_path: Path, page: str) -> None:
    programs = re.findall(r"```cpp\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    if page == "README.md" and not programs:
        pytest.skip("README.md has no program")
    (program,) = programs
    source = tmp_path / "page.cpp"
    source.write_text(program)
    build = tmp_path / "build"
    cmake(
        "-S", CONSUMER, "-B", build, *generator(), f"-DCMAKE_PREFIX_PATH={prefix}",
        f"-DCONSUMER_SOURCE={source}",
    )  # fmt: skip
    cmake("--build", build)
    (said,) = re.findall(r"printf.*// (.+)", program)
    assert run(build / "consumer").strip() == said


def test_how_we_compile_is_not_how_others_must(consumer: Path) -> None:
    (command,) = json.loads((consumer / "compile_commands.json").read_text())
    flags = [word for word in command["command"].split() if word[:2] in ("-W", "-f", "-O", "-m")]
    assert flags == []
    assert "-DPYXAI_FAST" not in command["command"]


def test_every_declared_kernel_is_in_the_archive(prefix: Path) -> None:
    if (nm := shutil.which("nm")) is None:
        pytest.skip("reads symbols with nm")
    (archive,) = prefix.rglob("libpyxai_fast_core.a")
    symbols = run(nm, "--demangle", "--defined-only", archive)
    kernels = declared(prefix / "include", "run_cpu")
    assert {"PathPoints", "PathAccumulate"} <= kernels
    assert declared(prefix / "include", "work_of") == kernels
    assert declared(prefix / "include", "run_cuda") == kernels
    levels = LEVELS if " pyxai_fast::avx2::" in symbols else LEVELS[:1]
    for op in kernels:
        assert f" T pyxai_fast::work_of(pyxai_fast::{op} const&)" in symbols
        for namespace in ("", *(f"{level}::" for level in levels)):
            assert f" T pyxai_fast::{namespace}run_cpu(pyxai_fast::{op} const&, " in symbols


def test_headers_stand_alone(prefix: Path, tmp_path: Path) -> None:
    compiler = program(os.environ.get("CXX", "c++"), "g++", "clang++")
    include = prefix / "include"
    for header in sorted(include.rglob("*.h")):
        source = tmp_path / f"{header.stem}.cpp"
        source.write_text(f"#include <{header.relative_to(include)}>\n")
        flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]
        run(compiler or "c++", *flags, f"-I{include}", source)


def test_nothing_but_the_core_is_installed(prefix: Path) -> None:
    files = {path.relative_to(prefix).parts[0] for path in prefix.rglob("*") if path.is_file()}
    assert files <= {"include", "lib", "lib64"}
    assert not list(prefix.rglob("*.so"))


def test_cuda_that_was_not_built_is_missed_clearly(prefix: Path, tmp_path: Path) -> None:
    said = cmake(
        "-S", CONSUMER, "-B", tmp_path, *generator(), f"-DCMAKE_PREFIX_PATH={prefix}",
        "-DCONSUMER_COMPONENTS=cuda", fails=True,
    )  # fmt: skip
    assert "has no CUDA kernels: build pyxai_fast with -DPYXAI_FAST_CUDA=ON" in " ".join(
        said.split()
    )


def test_another_version_is_refused(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(other LANGUAGES CXX)\n"
        "find_package(pyxai_fast 99.0 REQUIRED)\n"
    )
    said = cmake("-S", tmp_path, "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={prefix}", fails=True)
    assert 'compatible with requested version "99.0"' in " ".join(said.split())

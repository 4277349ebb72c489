"""What is shipped: one version, existing sources, pinned requirements, the stable ABI."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest
import torch
from conftest import needs_native_cpu
from native.stable_abi import (
    Version,
    imported_symbols,
    needed_libraries,
    newer_than,
    stable_symbols,
    unstable_symbols,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pyxai_fast
from pyxai_fast.native import NATIVE_DIRECTORY, array_module

ROOT = Path(__file__).resolve().parent.parent
NATIVE_SOURCES = {".cpp", ".cu"}
PINNED = ("image", "plot", "diffusion", "metrics", "segments", "audio", "demo", "dev")  # extras

in_source_tree = pytest.mark.skipif(
    not (ROOT / "CMakeLists.txt").exists(), reason="tests the source tree; this is a copy of tests/"
)


def extras() -> set[str]:
    return set(metadata.metadata("pyxai-fast").get_all("Provides-Extra") or [])


def test_the_version_is_the_same_everywhere() -> None:
    held = (resources.files("pyxai_fast") / "version.txt").read_text().strip()
    assert re.fullmatch(r"\d+\.\d+\.\d+", held)
    assert pyxai_fast.__version__ == held
    assert metadata.version("pyxai-fast") == held, "installed from another version: install again"


def test_types_and_weights_are_shipped() -> None:
    package = resources.files("pyxai_fast")
    for name in (
        "py.typed",
        "demo/digits_cnn.safetensors",
        "demo/digits_cnn.json",
        "demo/digits_prior/model_index.json",
        "demo/digits_paths/path_model.json",
    ):
        assert (package / name).is_file(), name


def test_the_command_is_installed() -> None:
    (command,) = metadata.entry_points(group="console_scripts", name="pyxai-fast")
    assert callable(command.load())


def test_every_extra_that_a_message_names_exists() -> None:
    package = Path(pyxai_fast.__file__).parent
    named = set()
    for path in package.rglob("*.py"):
        for extra in re.findall(r"pyxai-fast\[([\w,-]+)\]", path.read_text()):
            named |= set(extra.split(","))
    assert named
    assert named <= extras()


@in_source_tree
def test_cmake_lists_every_native_source_and_no_other() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    listed = {name for name in re.findall(r"csrc/[\w/.]+", cmake) if Path(name).suffix}
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "csrc").rglob("*")
        if path.suffix in NATIVE_SOURCES
    }
    assert listed == there


def pins_of(name: str) -> dict[str, str]:
    pins = {}
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith("#"):
            package, separator, version = line.partition("==")
            assert separator and version, f"not an exact pin: {line}"
            pins[canonicalize_name(package)] = version
    return pins


@in_source_tree
def test_requirements_are_pinned_and_cover_what_the_package_declares() -> None:
    pins = pins_of("requirements.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"]
    declared = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(line for extra in PINNED for line in optional[extra]),
    ]
    for requirement in map(Requirement, declared):
        name = canonicalize_name(requirement.name)
        if name != "pyxai-fast":
            assert name in pins, f"{name} is declared in pyproject.toml, and has no pin"
            assert requirement.specifier.contains(pins[name]), requirement


@in_source_tree
def test_what_builds_the_documentation_is_pinned() -> None:
    pins = pins_of("requirements-docs.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for requirement in map(Requirement, project["project"]["optional-dependencies"]["docs"]):
        assert canonicalize_name(requirement.name) in pins, requirement


reads_elf = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("nm") is None or shutil.which("readelf") is None,
    reason="reads ELF files with nm and readelf",
)
TORCH_INCLUDE = Path(torch.__file__).parent / "include"


def oldest_torch() -> Version:
    """The oldest torch that the package says it works with."""
    requirements = map(Requirement, metadata.requires("pyxai-fast") or [])
    (specifier,) = next(r.specifier for r in requirements if r.name == "torch")
    assert specifier.operator == ">="
    major, minor = map(int, specifier.version.split("."))
    return major, minor


def native_libraries() -> list[Path]:
    libraries = sorted(NATIVE_DIRECTORY.glob("*.so"))
    assert libraries
    return libraries


@needs_native_cpu
@reads_elf
def test_native_libraries_keep_to_the_stable_abi() -> None:
    for library in native_libraries():
        assert unstable_symbols(library) == []


@needs_native_cpu
@reads_elf
def test_native_libraries_need_no_newer_torch_than_the_package() -> None:
    newer = newer_than(oldest_torch(), TORCH_INCLUDE)
    assert newer_than((2, 9), TORCH_INCLUDE) > newer
    assert "torch_call_dispatcher" in newer_than((2, 9), TORCH_INCLUDE) - newer
    for library in native_libraries():
        if library.stem.startswith("_ops_"):
            assert "torch_call_dispatcher" in stable_symbols(library)
            assert not newer & set(stable_symbols(library))


@in_source_tree
def test_the_build_targets_the_oldest_torch() -> None:
    major, minor = oldest_torch()
    cmake = (ROOT / "CMakeLists.txt").read_text()
    assert re.findall(r"TORCH_TARGET_VERSION=(\w+)", cmake) == [
        f"0x{major:02x}{minor:02x}000000000000"
    ]


@reads_elf
@pytest.mark.skipif(array_module() is None, reason="the NumPy module was not built")
def test_the_numpy_module_knows_no_torch() -> None:
    module = array_module()
    assert module is not None
    assert [name for name in imported_symbols(module) if "torch" in name] == []
    assert [name for name in needed_libraries(module) if "torch" in name or "c10" in name] == []
    assert any("PyObject" in name for name in imported_symbols(module))


@needs_native_cpu
def test_nothing_but_python_s_part_is_installed_with_the_package() -> None:
    files = {path.name for path in NATIVE_DIRECTORY.rglob("*")}
    module = array_module()
    allowed = {"_ops_cpu.so", "_ops_cuda.so", "build_info.json", module.name if module else ""}
    assert files <= allowed

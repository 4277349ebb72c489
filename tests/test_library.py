"""Loading: the native libraries, the fallback, and the instruction set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import needs_native_cpu

import pyxai_fast
from pyxai_fast import ops
from pyxai_fast.ops.registry import schemas

PROBE = """
import json, sys, torch
from pyxai_fast import ops
x, a = torch.linspace(-1, 1, 60).reshape(2, 3, 10), torch.linspace(0, 1, 4)
points = ops.path_points(x, 0.25, a)
print(json.dumps({
    "backends": ops.backends(), "isa": ops.cpu_isa(),
    "attributions": ops.path_accumulate(points.sin(), a, x, 0.25).flatten().tolist(),
}))
"""


def probe(directory: Path | None = None, **environment: str) -> tuple[dict, str]:
    """What a fresh interpreter finds, and its standard error."""
    # Whatever this run was started with: the probe says what it wants.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYXAI_FAST_")} | environment
    if directory is not None:  # before anything installed
        env["PYTHONPATH"] = str(directory)
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=env,
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout), done.stderr


def copy_package(target: Path, native: bytes | None) -> Path:
    """The package without its native libraries, or with these bytes in place of one."""
    source = Path(pyxai_fast.__file__).parent
    for path in source.rglob("*.py"):
        copied = target / "pyxai_fast" / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    (target / "pyxai_fast" / "version.txt").write_bytes((source / "version.txt").read_bytes())
    if native is not None:
        (target / "pyxai_fast" / "_native").mkdir()
        (target / "pyxai_fast" / "_native" / "_ops_cpu.so").write_bytes(native)
    return target


def test_without_native_libraries_the_reference_gives_the_same_numbers(tmp_path: Path) -> None:
    here, _ = probe()
    bare, errors = probe(copy_package(tmp_path, None))
    assert bare["backends"]["cpu"] == "not built"
    assert bare["isa"] is None
    assert bare["attributions"] == here["attributions"]
    assert "Warning" not in errors


def test_a_library_that_cannot_be_loaded_warns_once_and_falls_back(tmp_path: Path) -> None:
    here, _ = probe()
    broken, errors = probe(copy_package(tmp_path, b"not a library"), PYXAI_FAST_NATIVE="on")
    assert broken["backends"]["cpu"].startswith("could not be loaded")
    assert broken["attributions"] == here["attributions"]
    assert errors.count("RuntimeWarning") == 1
    assert "Rebuild with" in errors


def test_native_kernels_are_switched_off_by_the_environment() -> None:
    off, _ = probe(PYXAI_FAST_NATIVE="off")
    assert off["backends"]["cpu"] == "switched off by PYXAI_FAST_NATIVE=off"


@needs_native_cpu
@pytest.mark.parametrize("isa", ops.available_cpu_isas())
def test_the_environment_chooses_the_instruction_set(isa: str) -> None:
    chosen, errors = probe(PYXAI_FAST_CPU_ISA=isa)
    assert chosen["isa"] == isa
    assert "pyxai_fast" not in errors


@needs_native_cpu
def test_an_unknown_instruction_set_is_named_and_the_best_is_used() -> None:
    chosen, errors = probe(PYXAI_FAST_CPU_ISA="sse9")
    assert chosen["isa"] == ops.available_cpu_isas()[-1]
    assert "must be baseline, avx2 or avx512" in errors
    with pytest.raises(ValueError, match=r"name must be one of .* got 'sse9'"):
        ops.set_cpu_isa("sse9")


@needs_native_cpu
def test_native_kernels_off_runs_the_reference_and_on_again_the_kernel() -> None:
    def kernel() -> str:
        table = torch._C._dispatch_dump("pyxai_fast::path_points")
        return next(line for line in table.splitlines() if line.startswith("CPU:"))

    native = kernel()
    assert "ops_cpu.cpp" in native
    with ops.native_kernels(False):
        assert "ops_cpu.cpp" not in kernel()
    assert kernel() == native


def test_every_op_has_a_reference_a_shape_rule_and_a_docstring() -> None:
    names = {schema.partition(".")[0] for schema in schemas()}
    assert names >= {"path_points", "path_accumulate", "mask_segments", "mask_blend", "rank_mask"}
    for name in names:
        assert getattr(ops, name).__doc__
        table = torch._C._dispatch_dump(f"pyxai_fast::{name}")
        assert "CompositeExplicitAutograd" in table
        assert "Meta" in table

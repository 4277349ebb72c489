"""`import pyxai_fast` is quick and complete: names are imported when they are first used."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyxai_fast


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    found = run(
        "import sys, pyxai_fast; pyxai_fast.__version__; dir(pyxai_fast)\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    assert found.strip() == "[]"


def test_importing_the_ops_registers_them() -> None:
    code = "import torch, pyxai_fast.ops; print(torch.ops.pyxai_fast.path_points.default)"
    assert run(code).strip() == "pyxai_fast.path_points.default"


def test_every_name_is_there_and_listed() -> None:
    for name in (*pyxai_fast.__all__, *pyxai_fast._MODULES):
        assert name in dir(pyxai_fast)
        if name != "arrays":  # needs what may not have been built
            assert getattr(pyxai_fast, name) is getattr(pyxai_fast, name)
    assert callable(pyxai_fast.explain)
    assert callable(pyxai_fast.info)
    run("from pyxai_fast import *; explain, IntegratedGradients, ops")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pyxai_fast' has no attribute 'explian'"):
        _ = pyxai_fast.explian
    with pytest.raises(ImportError, match="cannot import name 'explian'"):
        from pyxai_fast import explian  # noqa: F401


def test_no_module_has_the_name_of_what_it_holds() -> None:
    modules = {module.name for module in pkgutil.iter_modules(pyxai_fast.__path__)}
    assert not modules & set(pyxai_fast._DEFINED_IN)
    assert set(pyxai_fast._MODULES) <= modules


def test_type_checkers_see_what_is_there() -> None:
    tree = ast.parse(Path(pyxai_fast.__file__).read_text())
    (checking,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.name: statement.module
        for statement in checking.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen.pop("ops") is None
    assert seen == pyxai_fast._DEFINED_IN
    assert set(pyxai_fast.__all__) == {*seen, "ops", "__version__"}

"""Doors to other packages open when somebody goes through: no package is needed before."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest
import torch
from nets import mlp

import pyxai_fast
from pyxai_fast import doors

PACKAGES = ("captum", "matplotlib", "quantus", "saliency", "shap", "transformers")


def test_importing_the_doors_imports_no_other_package() -> None:
    names = [f"pyxai_fast.doors.{module.name}" for module in pkgutil.iter_modules(doors.__path__)]
    assert len(names) >= 4
    code = (
        f"import sys, {', '.join(names)}, pyxai_fast.models.spec\n"
        f"print([name for name in {PACKAGES} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_package_that_is_not_there_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)
    explanation = pyxai_fast.explain(mlp(), torch.zeros(1, 6), method="saliency")
    with pytest.raises(ImportError, match="to_shap: shap is needed; run: pip install shap"):
        explanation.to_shap()

"""The Python of README.md runs, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pyxai_fast import native

README = Path(__file__).resolve().parent.parent / "README.md"

pytestmark = pytest.mark.skipif(
    not README.exists(), reason="tests the source tree; this is a copy of tests/"
)


def test_every_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where they save things
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 4
    names: dict = {}
    without_arrays = native.switched_off() or native.array_module() is None
    for block in blocks:
        if not (without_arrays and "import arrays" in block):
            exec(block, names)
            if "ops.path_accumulate" in block:
                by_torch = names["maps"]
    assert by_torch.shape == names["images"].shape
    if not without_arrays:
        assert isinstance(names["maps"], np.ndarray)

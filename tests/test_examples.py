"""What lies in examples/ runs, and gives the numbers that it says."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

pytestmark = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="tests the source tree; this is a copy of tests/"
)


@pytest.fixture(scope="module")
def captum_example() -> dict:
    pytest.importorskip("captum", reason="captum is not installed")
    return runpy.run_path(str(EXAMPLES / "captum_integrated_gradients.py"))


def test_the_captum_example_agrees_with_captum(captum_example: dict) -> None:
    figures = captum_example["main"]()
    largest = figures["largest attribution"]
    assert largest > 1e-4
    assert figures["largest difference from captum's"] < 1e-5 * largest
    assert figures["the same under NoiseTunnel"] < 1e-5 * largest


@pytest.mark.parametrize("steps_per_chunk", [1, 7, 50])
def test_the_captum_example_is_the_left_rule(captum_example: dict, steps_per_chunk: int) -> None:
    # The gradient of sum x^3 / 3 is x^2: the left rule over m steps gives
    # x^3 * (m - 1) (2m - 1) / (6 m^2) from zero.
    method = captum_example["LeftRuleIntegratedGradients"](lambda x: (x**3).sum(1) / 3)
    inputs = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    m = 50
    found = method.attribute(inputs, n_steps=m, steps_per_chunk=steps_per_chunk)
    expected = inputs**3 * ((m - 1) * (2 * m - 1) / (6 * m**2))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_the_captum_example_is_a_script() -> None:
    pytest.importorskip("captum", reason="captum is not installed")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "captum_integrated_gradients.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "largest difference from captum's" in done.stdout

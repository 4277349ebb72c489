"""Quadrature rules: nodes, weights, and how exact they are."""

from __future__ import annotations

import pytest
import torch

from pyxai_fast.paths import QUADRATURES, quadrature

OURS = ("trapezoid", "clenshaw_curtis")
COMPLETE = [name for name in QUADRATURES if name != "riemann_trapezoid"]


@pytest.mark.parametrize("n_steps", [1, 2, 7, 50, 300])
@pytest.mark.parametrize("method", COMPLETE)
def test_weights_add_up_to_one_and_nodes_ascend_within_the_path(method: str, n_steps: int) -> None:
    alphas, weights = quadrature(method, n_steps)
    assert alphas.shape == weights.shape == (n_steps,)
    assert alphas.dtype == weights.dtype == torch.float64
    assert abs(float(weights.sum()) - 1) < 1e-12
    assert bool((alphas.diff() > 0).all())
    assert 0 <= float(alphas.min()) <= float(alphas.max()) <= 1


@pytest.mark.parametrize(
    ("method", "degree"),
    [
        ("riemann_left", 0),
        ("riemann_right", 0),
        ("riemann_middle", 1),
        ("trapezoid", 1),
        ("gausslegendre", 2 * 6 - 1),
        ("clenshaw_curtis", 6 - 1),
    ],
)
def test_a_rule_is_exact_up_to_its_degree_and_no_further(method: str, degree: int) -> None:
    alphas, weights = quadrature(method, 6)

    def error(power: int) -> float:
        return abs(float((weights * alphas**power).sum()) - 1 / (power + 1))

    assert all(error(power) < 1e-12 for power in range(degree + 1))
    assert error(degree + 1) > 1e-9


@pytest.mark.parametrize("n_steps", [2, 3, 50])
@pytest.mark.parametrize("method", [m for m in QUADRATURES if m not in OURS])
def test_captums_rules_have_captums_numbers(method: str, n_steps: int) -> None:
    captum = pytest.importorskip("captum.attr._utils.approximation_methods")
    step_sizes, nodes = captum.approximation_parameters(method)
    alphas, weights = quadrature(method, n_steps)
    torch.testing.assert_close(alphas, torch.tensor(nodes(n_steps)).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        weights, torch.tensor(step_sizes(n_steps)).double(), rtol=1e-6, atol=1e-8
    )

"""Random draws go by the numbers of the inputs, not by their places in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyxai_fast
from pyxai_fast import LikelihoodRatio, explain
from pyxai_fast.priors import GaussianPrior

NUMBERS = [7, 0, 10**6, 3]


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()


def asked(method: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    references = torch.randn(50, 6, generator=generator).double()
    return {
        "smooth_grad": {"method": "smooth_grad", "n_samples": 5},
        "expected_gradients": {
            "method": "expected_gradients", "n_samples": 5, "baselines": references,
        },
        "likelihood_ratio": {
            "method": "integrated_gradients", "n_steps": 3,
            "gradient": LikelihoodRatio(n_samples=20, sigma=0.1),
        },
        "freemcg": {
            "method": "freemcg", "prior": GaussianPrior.fit(references), "n_particles": 8,
        },
        "stick_breaking_ig": {"method": "stick_breaking_ig", "n_paths": 2, "n_steps": 3},
        "rise": {"method": "rise", "n_queries": 40},
        "integrated_gradients": {"method": "integrated_gradients", "n_steps": 5},
    }[method]  # fmt: skip


def maps(net: nn.Module, x: Tensor, method: str, **options: Any) -> Tensor:
    found = explain(net, x, target=1, **asked(method), **options).attributions
    assert isinstance(found, Tensor)
    return found


RANDOM = ["smooth_grad", "expected_gradients", "likelihood_ratio", "freemcg", "stick_breaking_ig"]


@pytest.mark.parametrize("method", [*RANDOM, "rise", "integrated_gradients"])
def test_an_input_has_the_same_map_in_every_batch(net: nn.Module, method: str) -> None:
    x = torch.randn(4, 6).double()
    together = maps(net, x, method, numbers=NUMBERS)
    for i, number in enumerate(NUMBERS):
        alone = maps(net, x[i : i + 1], method, numbers=[number])
        assert torch.allclose(alone[0], together[i], rtol=1e-9, atol=1e-12)
    order = [2, 0, 3, 1]
    moved = maps(net, x[order], method, numbers=[NUMBERS[i] for i in order])
    assert torch.allclose(moved, together[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", RANDOM)
def test_other_numbers_are_other_draws(net: nn.Module, method: str) -> None:
    x = torch.randn(1, 6).double().expand(2, 6)
    same = maps(net, x, method, numbers=[5, 5])
    other = maps(net, x, method, numbers=[5, 6])
    assert torch.allclose(same[0], same[1], rtol=1e-9) and torch.equal(same[0], other[0])
    assert not torch.allclose(other[0], other[1], rtol=1e-3)


@pytest.mark.parametrize("method", RANDOM)
def test_they_count_from_zero_by_default(net: nn.Module, method: str) -> None:
    x = torch.randn(3, 6).double()
    assert torch.equal(maps(net, x, method), maps(net, x, method, numbers=[0, 1, 2]))


@pytest.mark.parametrize("numbers", [[1, 2], [1, 2, -3], [1, 2, 0.5], [1, 2, 2**32], [1, 2, True]])
@pytest.mark.parametrize("method", ["smooth_grad", "rise", "integrated_gradients"])
def test_wrong_numbers_are_named(net: nn.Module, method: str, numbers: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"numbers must be (one for each|integers from 0)"):
        maps(net, torch.randn(3, 6).double(), method, numbers=numbers)


def test_numbers_may_be_arrays(net: nn.Module) -> None:
    x = torch.randn(3, 6).double()
    expected = maps(net, x, "smooth_grad", numbers=[4, 5, 6])
    for numbers in (np.arange(4, 7), torch.arange(4, 7), range(4, 7)):
        assert torch.equal(maps(net, x, "smooth_grad", numbers=numbers), expected)


def test_classes_take_them_as_an_attribute(net: nn.Module) -> None:
    x = torch.randn(3, 6).double()
    method = pyxai_fast.SmoothGrad(net)
    method.numbers = [4, 5, 6]
    assert torch.equal(
        method.attribute(x, target=1, n_samples=5),
        maps(net, x, "smooth_grad", numbers=[4, 5, 6]),
    )

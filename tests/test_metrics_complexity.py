"""How few features a map is about: known entropies and Gini indices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from assertions import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyxai_fast.metrics import complexity, sparseness

METRICS: tuple[Callable[[Tensor], Tensor], ...] = (complexity, sparseness)


def test_one_feature_is_simple_and_equal_ones_are_not() -> None:
    one = torch.zeros(1, 3, 4, 4)
    one[0, 1, 2, 3] = -5
    assert complexity(one).tolist() == [0]
    assert float(sparseness(one)) == pytest.approx(1 - 1 / 48)
    alike = torch.full((1, 3, 4, 4), 0.1)
    alike[0, 0] *= -1
    assert float(complexity(alike)) == pytest.approx(math.log(48))
    assert float(complexity(alike, normalised=True)) == pytest.approx(1)
    assert float(sparseness(alike)) == pytest.approx(0, abs=1e-15)


def test_sizes_of_known_shares() -> None:
    # Shares 1/2, 1/4, 1/4: 1.5 bits; sorted 1, 1, 2: (-2 + 0 + 4) / (3 * 4).
    maps = torch.tensor([[1.0, -2.0, 1.0]])
    assert float(complexity(maps)) == pytest.approx(1.5 * math.log(2))
    assert float(complexity(maps, normalised=True)) == pytest.approx(1.5 / math.log2(3))
    assert float(sparseness(maps)) == pytest.approx(1 / 6)


def test_a_map_of_zeros_is_neither_complex_nor_sparse() -> None:
    zeros = torch.zeros(2, 5)
    assert complexity(zeros).tolist() == sparseness(zeros).tolist() == [0, 0]
    assert complexity(torch.ones(1, 1), normalised=True).tolist() == [0]


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 99))
def test_only_shares_of_sizes_count(batch: int, features: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(batch, features, generator=generator)
    shuffled = -4 * maps[:, torch.randperm(features, generator=generator)]
    for metric in METRICS:
        found = metric(maps)
        assert found.dtype == torch.float64 and found.shape == (batch,)
        torch.testing.assert_close(metric(shuffled), found, rtol=1e-12, atol=1e-12)
        each = [metric(maps[b : b + 1]) for b in range(batch)]
        torch.testing.assert_close(torch.cat(each), found, rtol=1e-14, atol=1e-14)
    entropy = complexity(maps, normalised=True)
    assert bool(((entropy >= 0) & (entropy <= 1 + 1e-12)).all())
    assert bool((sparseness(maps) < 1).all())


def test_the_gini_index_is_the_mean_difference_of_two_over_twice_the_mean() -> None:
    sizes = torch.rand(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    differences = (sizes[:, :, None] - sizes[:, None]).abs().mean((1, 2))
    torch.testing.assert_close(sparseness(sizes), differences / (2 * sizes.mean(1)))


def test_half_precision_is_added_up_in_double(device: torch.device) -> None:
    maps = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).half().to(device)
    for metric in METRICS:
        assert_same_bits(metric(maps), metric(maps.double()))
        assert metric(maps).device.type == device.type


@pytest.mark.parametrize(
    ("attributions", "error", "message"),
    [
        (3, TypeError, "attributions must be a tensor, got int"),
        (torch.ones(4), ValueError, r"attributions must be floating-point \[B, ...\]"),
        (torch.ones(0, 4), ValueError, r"B >= 1, got torch.float32 \[0, 4\]"),
        (torch.ones(1, 4).int(), ValueError, r"got torch.int32 \[1, 4\]"),
        (torch.tensor([[1.0, torch.inf]]), ValueError, "must be finite, got NaN or infinity"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    attributions: Any, error: type[Exception], message: str
) -> None:
    for metric in METRICS:
        with pytest.raises(error, match=f"{metric.__name__}: .*{message}"):
            metric(attributions)

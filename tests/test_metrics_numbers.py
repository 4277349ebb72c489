"""What metrics draw for an input depends on its number, not on its place in a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import Polynomial
from torch import Tensor

from pyxai_fast.metrics import (
    faithfulness_correlation,
    infidelity,
    max_sensitivity,
    performance_information,
    road,
)

SHAPE = (1, 12, 12)


def net() -> Polynomial:
    return Polynomial(144)


def information(inputs: Tensor, maps: Tensor, **options: Any) -> Tensor:
    pytest.importorskip("scipy", reason="pictures are blurred by SciPy")
    found = performance_information(net(), inputs, maps, 0, min_prediction=0.0, **options)
    return found.sic.scores.T


DRAWN: dict[str, Callable[..., Tensor]] = {
    "faithfulness_correlation": lambda x, maps, **options: faithfulness_correlation(
        net(), x, maps, 0, n_runs=5, subset_size=20, **options
    ),
    "infidelity": lambda x, maps, **options: infidelity(net(), x, maps, 0, **options),
    "max_sensitivity": lambda x, maps, **options: max_sensitivity(
        lambda inputs: inputs**3, x, **options
    ),
    "max_sensitivity of a method": lambda x, maps, **options: max_sensitivity(
        "smooth_grad", x, model=net(), target=0, n_samples=3, **options
    ),
    "performance_information": information,
    "road": lambda x, maps, **options: road(net(), x, maps, 0, noise=0.3, **options).most_first
    .scores.T,
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_an_input_has_the_draws_of_its_number_in_any_batch(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, maps = torch.rand(2, 5, *SHAPE, generator=generator)
    whole = DRAWN[name](x, maps)
    part = DRAWN[name](x[2:], maps[2:], numbers=[2, 3, 4])
    torch.testing.assert_close(part, whole[2:], rtol=1e-6, atol=1e-9, equal_nan=True)
    others = DRAWN[name](x[2:], maps[2:])
    assert not torch.allclose(others, whole[2:], rtol=1e-3, equal_nan=True)


def test_numbers_that_make_no_sense_are_named() -> None:
    x = torch.rand(2, *SHAPE)
    with pytest.raises(ValueError, match="road: numbers must be one for each of the 2 inputs"):
        road(net(), x, x, numbers=[1])
    with pytest.raises(ValueError, match="max_sensitivity: numbers must be integers from 0 to"):
        max_sensitivity(lambda inputs: inputs, x, numbers=[1, -1])

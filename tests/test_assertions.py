"""The assertions of this suite fail when they should."""

import pytest
import torch
from assertions import assert_as_accurate_as, assert_same_bits


def test_same_bits_accepts_nan_in_the_same_place() -> None:
    values = torch.tensor([1.0, float("nan"), float("inf")])
    assert_same_bits(values, values.clone())


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([1.0, 2.0000002]),
        torch.tensor([1.0, float("nan")]),
        torch.tensor([1.0, 2.0], dtype=torch.float64),
        torch.tensor([1.0, 2.0, 3.0]),
    ],
    ids=["one_ulp", "nan", "dtype", "shape"],
)
def test_same_bits_refuses_any_difference(other: torch.Tensor) -> None:
    with pytest.raises(AssertionError):
        assert_same_bits(torch.tensor([1.0, 2.0]), other)


def test_accuracy_refuses_an_error_beyond_the_factor() -> None:
    truth = torch.tensor([1.0], dtype=torch.float64)
    plain = torch.tensor([1.0 + 1e-5])
    assert_as_accurate_as(torch.tensor([1.0 - 1e-5]), plain, truth)
    with pytest.raises(AssertionError):
        assert_as_accurate_as(torch.tensor([1.0 + 3e-5]), plain, truth)

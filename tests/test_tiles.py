"""Tiles: which tile each feature belongs to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyxai_fast.segments import tiles


def test_images_are_cut_into_squares_over_all_channels() -> None:
    expected = [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    assert tiles([3, 3, 5], 2).tolist() == [[expected]]


def test_tables_are_cut_into_runs() -> None:
    assert tiles([5], 2).tolist() == [[0, 0, 1, 1, 2]]


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    size=st.integers(1, 10),
)
def test_every_feature_is_in_one_tile_and_no_number_is_left_out(
    shape: list[int], size: int
) -> None:
    numbered = tiles(shape, size)
    assert numbered.dtype == torch.int32
    assert numbered.dim() == len(shape) + 1
    assert torch.equal(numbered.unique(), torch.arange(int(numbered.max()) + 1))
    spatial = shape if len(shape) == 1 else shape[1:]
    assert int(torch.bincount(numbered.flatten()).max()) <= size ** len(spatial)


@pytest.mark.parametrize("size", [0, -1, [2, 2, 2]])
def test_a_size_that_is_none_is_named(size: object) -> None:
    with pytest.raises(ValueError, match="tiles: size must be a number >= 1"):
        tiles([3, 8, 8], size)

"""Whether maps find what matters: their definitions, batches, masks without channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from assertions import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from largest_tensor import LargestTensor
from torch import Tensor

from pyxai_fast.metrics import best_iou, energy_inside, heat, iou, iou_area, pointing_game

METRICS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    best_iou, energy_inside, iou, iou_area, pointing_game,
)  # fmt: skip


def some_maps(batch: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Maps and masks of 7 x 9 places."""
    generator = torch.Generator().manual_seed(seed)
    # Few values, so that many are equal.
    maps = torch.randint(-2, 6, (batch, 7, 9), generator=generator).float()
    return maps, torch.rand(maps.shape, generator=generator) < 0.3


def slow_iou(heat: Tensor, mask: Tensor, threshold: float) -> float:
    hot = {i for i, v in enumerate(heat.flatten().tolist()) if v > threshold}
    inside = {i for i, v in enumerate(mask.flatten().tolist()) if v}
    return len(hot & inside) / len(hot | inside)


def test_heat_is_what_speaks_for_the_class_over_the_most_of_it() -> None:
    found = heat(torch.tensor([[-4.0, 0.0, 1.0, 2.0], [-1.0, -2.0, -3.0, -4.0]]))
    assert found.dtype == torch.float64
    assert found.tolist() == [[0, 0, 0.5, 1], [0, 0, 0, 0]]


def test_overlaps_are_their_definition(device: torch.device) -> None:
    maps, mask = (each.to(device) for each in some_maps())
    hot = heat(maps)
    for b in range(len(maps)):
        one = (hot[b], mask[b])
        assert float(iou(maps, mask)[b]) == slow_iou(*one, 0.2)
        assert float(iou(maps, mask, threshold=0.6)[b]) == slow_iou(*one, 0.6)
        each = [slow_iou(*one, i / 100) for i in range(100)]
        assert float(iou_area(maps, mask)[b]) == pytest.approx(sum(each) / 100, rel=1e-15)
        thresholds = (-1, *hot[b].flatten().tolist())
        assert float(best_iou(maps, mask)[b]) == max(slow_iou(*one, t) for t in thresholds)


def test_the_mask_itself_scores_one_and_its_complement_nothing() -> None:
    _, mask = some_maps()
    for metric in METRICS:
        assert metric(mask.double(), mask).tolist() == [1.0] * 4
        if metric is not best_iou:
            assert metric((~mask).double(), mask).tolist() == [0.0] * 4
    # Its best threshold leaves nothing out.
    torch.testing.assert_close(best_iou((~mask).double(), mask), mask.double().mean((1, 2)))


def test_the_best_overlap_does_not_depend_on_the_scale_of_a_map() -> None:
    maps, mask = some_maps()
    changed = 3 * maps.clamp(min=0) ** 3
    assert_same_bits(best_iou(changed, mask), best_iou(maps, mask))
    assert bool((iou(changed, mask) != iou(maps, mask)).all())


def test_pointing_at_several_places_is_as_good_as_the_share_of_them_inside() -> None:
    maps = torch.tensor([[1.0, 1.0, 0.3, 1.0, 1.0]])
    mask = torch.tensor([[True, False, True, False, False]])
    assert pointing_game(maps, mask).tolist() == [0.25]
    assert float(energy_inside(maps.double(), mask)) == pytest.approx(1.3 / 4.3)


def test_a_map_that_speaks_against_the_class_alone_points_anywhere() -> None:
    _, mask = some_maps()
    assert_same_bits(pointing_game(-mask.float(), mask), mask.flatten(1).double().mean(1))
    assert energy_inside(-mask.float(), mask).tolist() == [0.0] * 4


def test_places_that_are_near_enough_count_as_inside(device: torch.device) -> None:
    # The mask is one place; the maximum is 3 away to the right, and 4 down: 5 in all.
    mask = torch.zeros(1, 30, 20, dtype=torch.bool, device=device)
    mask[0, 10, 8] = True
    maps = torch.zeros(1, 30, 20, device=device)
    maps[0, 14, 11] = 1
    for tolerance, hit in ((0, 0), (4, 0), (4.9, 0), (5, 0), (5.1, 1), (15, 1)):
        assert float(pointing_game(maps, mask, tolerance=tolerance)) == hit, tolerance
        assert float(pointing_game(maps[:, None], mask[:, None], tolerance=tolerance)) == hit
    assert float(pointing_game(mask.float(), mask, tolerance=1)) == 1


def test_tolerance_is_the_distance_to_the_nearest_place_inside() -> None:
    maps, mask = some_maps(6, seed=3)
    mask &= torch.rand(mask.shape, generator=torch.Generator().manual_seed(4)) < 0.1
    mask[:, 0, 0] = True
    hot = heat(maps)
    for tolerance in (0.5, 1, 2, 3.5, 5, 40):
        expected = []
        for b in range(6):
            hottest, inside = (hot[b] == 1).nonzero().double(), mask[b].nonzero().double()
            nearest = (hottest[:, None] - inside).norm(dim=2).amin(1)
            expected.append(float((nearest < tolerance).double().mean()))
        assert pointing_game(maps, mask, tolerance=tolerance).tolist() == expected


@pytest.mark.parametrize("tolerance", [1e5, 1e200])
def test_a_tolerance_larger_than_the_picture_makes_no_larger_tensor(tolerance: float) -> None:
    maps, mask = some_maps()
    with LargestTensor() as largest:
        assert pointing_game(maps, mask, tolerance=tolerance).tolist() == [1.0] * len(maps)
    assert largest.bytes <= 8 * (mask.numel() + 4 * len(mask) * sum(mask.shape[1:]))


@given(st.integers(1, 5), st.integers(0, 3), st.integers(1, 6), st.integers(0, 99))
def test_maps_of_a_batch_are_judged_one_by_one(
    batch: int, channels: int, side: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *([channels] if channels else []), side, side + 1)
    maps = torch.randn(shape, generator=generator)
    mask = torch.rand(batch, side, side + 1, generator=generator) < 0.4
    mask[:, 0, 0] = True
    for metric in METRICS:
        found = metric(maps, mask)
        assert found.dtype == torch.float64 and found.shape == (batch,)
        assert bool(((found >= 0) & (found <= 1)).all())
        one_by_one = [metric(maps[b : b + 1], mask[b : b + 1]) for b in range(batch)]
        assert_same_bits(found, torch.cat(one_by_one))


def test_channels_are_added_up_where_the_mask_has_none() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 4, 7, 9, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 7, 9, generator=generator) < 0.3
    for metric in METRICS:
        expected = metric(maps.sum(1), mask)
        assert_same_bits(metric(maps, mask), expected)
        assert_same_bits(metric(maps, mask[:, None]), expected)
        assert_same_bits(metric(maps.sum(1, keepdim=True), mask), expected)
        assert_same_bits(metric(maps.sum(1), mask[:, None]), expected)
    # A mask of channels tells them apart.
    each = mask[:, None].expand(-1, 4, -1, -1).clone()
    each[:, 1:] = False
    hot = maps.clamp(min=0)
    shares = (hot * each).sum((1, 2, 3)) / hot.sum((1, 2, 3))
    torch.testing.assert_close(energy_inside(maps, each), shares)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"attributions": [[1.0]]}, TypeError, "attributions must be a tensor, got list"),
        ({"attributions": torch.ones(3)}, ValueError, r"floating-point \[B, ...\] .* \[3\]"),
        ({"attributions": torch.ones(2, 3).long()}, ValueError, r"floating-point .* torch.int64"),
        ({"attributions": torch.full((2, 3), torch.nan)}, ValueError, "must be finite"),
        ({"mask": torch.ones(2, 3)}, TypeError, "mask must be a tensor of bool, got torch.float32"),
        ({"mask": None}, TypeError, "mask must be a tensor of bool, got NoneType"),
        (
            {"mask": torch.ones(2, 4, dtype=torch.bool)},
            ValueError,
            r"mask must be shaped as the attributions, \[2, 3\], .* got \[2, 4\]",
        ),
        ({"mask": torch.ones(2, dtype=torch.bool)}, ValueError, r"mask must be shaped .*got \[2\]"),
        (
            {"mask": torch.tensor([[True, False, True], [False] * 3])},
            ValueError,
            r"mask must have something inside, got nothing in \[1\] of 2",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "attributions": torch.ones(2, 3), "mask": torch.ones(2, 3, dtype=torch.bool), **change,
    }  # fmt: skip
    for metric in METRICS:
        with pytest.raises(error, match=f"^{metric.__name__}: .*{message}"):
            metric(**arguments)


def test_options_that_make_no_sense_are_named() -> None:
    maps, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="iou: threshold must be a finite number >= 0, got -1"):
        iou(maps, mask, threshold=-1)
    with pytest.raises(ValueError, match="tolerance must be a finite number >= 0, got 'near'"):
        pointing_game(maps, mask, tolerance="near")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"tolerance must be 0 but for masks .* got 15 and \[2, 3\]"
    ):
        pointing_game(maps, mask, tolerance=15)

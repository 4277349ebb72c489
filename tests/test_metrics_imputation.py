"""Linear imputation against a sparse direct solve: any mask, any shape, any batch."""

from __future__ import annotations

import pytest
import torch
from assertions import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyxai_fast.metrics.imputation import imputed

pytest.importorskip("scipy", reason="the direct solve needs SciPy")
from direct_imputation import WEIGHTS, directly_imputed

# Of pictures in [0, 1]; the direct solve itself is good to 1e-12.
ERROR = {torch.float32: 2e-5, torch.float64: 1e-9}


def pictures(rows: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(rows, *shape, generator=generator, dtype=dtype)


def ramp(height: int, width: int) -> Tensor:
    """A number for each pixel from 0 to 1, larger towards a corner."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = (y + 1.3 * x).flatten().argsort().argsort().view(height, width)
    return places / (height * width)


def disc(height: int, width: int) -> Tensor:
    """A number for each pixel from 0 to 1, larger away from the middle."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    away = (y - height / 2) ** 2 + (x - width / 2) ** 2
    return away.flatten().argsort().argsort().view(height, width) / (height * width)


def masks(height: int, width: int) -> Tensor:
    """bool [R, 1, H, W]: scattered holes, a side, the middle, a frame, all and nothing."""
    scattered = torch.rand(height, width, generator=torch.Generator().manual_seed(1))
    all_but_one = torch.ones(height, width, dtype=torch.bool)
    all_but_one[-1, 0] = False
    found = [
        *(scattered < share for share in (0.0, 0.2, 0.9, 0.99)),
        *(ramp(height, width) < share for share in (0.5, 0.95)),
        *(disc(height, width) < share for share in (0.3, 0.9)),
        *(disc(height, width) > share for share in (0.02, 0.6)),
        all_but_one,
        torch.ones(height, width, dtype=torch.bool),
    ]
    return torch.stack(found)[:, None]


def assert_solved(x: Tensor, removed: Tensor) -> None:
    found = imputed(x, removed)
    assert found.dtype == x.dtype and found.shape == x.shape
    known = ~removed.expand_as(x)
    assert_same_bits(found[known], x[known])
    for one, mask, truth in zip(found.cpu(), removed[:, 0].cpu(), x.cpu(), strict=True):
        expected = directly_imputed(truth, mask)
        assert float((one.double() - expected).abs().max()) <= ERROR[x.dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 40), (33, 1), (2, 2), (2, 31), (17, 8), (28, 28), (50, 64)]
)
def test_it_is_the_direct_solution(
    height: int, width: int, dtype: torch.dtype, device: torch.device
) -> None:
    removed = masks(height, width)
    x = pictures(len(removed), 3, height, width, dtype=dtype)
    assert_solved(x.to(device), removed.to(device))


def test_large_holes_are_filled_as_well() -> None:
    removed = torch.stack((disc(160, 120) < 0.9, ramp(160, 120) < 0.99))[:, None]
    x = torch.nn.functional.interpolate(pictures(2, 3, 7, 6), (160, 120), mode="bicubic")
    assert_solved(x.clamp(0, 1).float(), removed)


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_any_mask_of_any_shape_is_solved(height: int, width: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    removed = torch.rand(4, 1, height, width, generator=generator) < share
    assert_solved(torch.rand(4, 2, height, width, generator=generator).double(), removed)


# --- by hand -------------------------------------------------------------------------------------


def plane(side: int = 9) -> Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack((0.1 * y + 0.02 * x, 1 - 0.05 * x)).double()[None]


def test_what_is_linear_is_kept() -> None:
    # The weights are symmetric, so inside of the picture a plane is its own neighbours' mean.
    x, removed = plane(), torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    removed[..., 2:7, 3:6] = True
    torch.testing.assert_close(imputed(x.masked_fill(removed, 7.0), removed), x)


def test_one_missing_pixel_is_the_weighted_mean_of_eight() -> None:
    x, removed = torch.zeros(1, 1, 5, 5).double(), torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    removed[..., 2, 2] = True
    x[..., 1, 2], x[..., 3, 3], x[..., 2, 2] = 1.0, 1.0, 9.0
    assert float(imputed(x, removed)[0, 0, 2, 2]) == pytest.approx(1 / 6 + 1 / 12)
    # In the corner there are three: two direct ones and one across.
    corner = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    corner[..., 0, 0] = True
    x = torch.zeros(1, 1, 5, 5).double()
    x[..., 0, 1] = 1.0
    assert float(imputed(x, corner)[0, 0, 0, 0]) == pytest.approx(2 / 5)


def test_every_imputed_pixel_is_the_mean_of_its_neighbours() -> None:
    x = pictures(1, 2, 7, 6)
    removed = torch.rand(1, 1, 7, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    found = imputed(x, removed)[0]
    for y, x_ in removed[0, 0].nonzero().tolist():
        total, weight = torch.zeros(2).double(), 0.0
        for (dy, dx), w in WEIGHTS.items():
            if 0 <= y + dy < 7 and 0 <= x_ + dx < 6:
                total, weight = total + w * found[:, y + dy, x_ + dx], weight + w
        torch.testing.assert_close(found[:, y, x_], total / weight)


def test_what_removed_pixels_were_does_not_matter_but_where_all_are() -> None:
    removed = masks(12, 10)
    x = pictures(len(removed), 3, 12, 10)
    some = removed & ~removed.all(3, keepdim=True).all(2, keepdim=True)
    other = torch.where(some, 1 - x, x)
    assert_same_bits(imputed(other, removed), imputed(x, removed))
    assert_same_bits(imputed(x.masked_fill(some, torch.nan), removed), imputed(x, removed))
    mean = x[-1].mean((1, 2), keepdim=True).expand_as(x[-1])
    torch.testing.assert_close(imputed(x, removed)[-1], mean)


def test_pictures_of_one_colour_stay_so() -> None:
    removed = masks(12, 10)
    x = torch.full((len(removed), 1, 12, 10), 0.7)
    torch.testing.assert_close(imputed(x, removed), x, rtol=1e-6, atol=0)


def test_units_do_not_matter() -> None:
    removed = masks(20, 20)
    x = pictures(len(removed), 3, 20, 20)
    scaled = imputed(1000 * x - 300, removed)
    torch.testing.assert_close((scaled + 300) / 1000, imputed(x, removed), rtol=0, atol=1e-9)


def test_a_picture_has_the_same_bits_in_any_batch() -> None:
    removed = masks(24, 30)
    x = pictures(len(removed), 3, 24, 30, dtype=torch.float32)
    whole = imputed(x, removed)
    for part in (slice(0, 1), slice(3, 8), slice(7, 9), slice(11, 12)):
        assert_same_bits(imputed(x[part], removed[part]), whole[part])
    backwards = imputed(x.flip(0), removed.flip(0)).flip(0)
    assert_same_bits(backwards, whole)


def test_threads_change_no_bit() -> None:
    removed = masks(60, 60)
    x = pictures(len(removed), 3, 60, 60, dtype=torch.float32)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(imputed(x, removed))
    torch.set_num_threads(before)
    assert_same_bits(*found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    removed = masks(20, 20)
    x = pictures(len(removed), 3, 20, 20).to(dtype)
    found = imputed(x, removed)
    assert found.dtype == dtype
    assert_same_bits(found, imputed(x.float(), removed).to(dtype))

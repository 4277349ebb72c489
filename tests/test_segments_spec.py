"""Segments by name: what a text, a map or nothing at all means for inputs of each shape."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from assertions import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyxai_fast.ops import mask_segments, pack_coalitions
from pyxai_fast.segments import n_segments, segments_for, superpixels, tiles

needs_skimage = pytest.mark.skipif(
    importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed"
)


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def picture(side: int = 24) -> Tensor:
    return torch.nn.functional.interpolate(random(2, 3, 4, 4), (side, side), mode="bilinear")


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("shape", "spec", "size"),
    [
        ((2, 3, 20, 30), "tiles:8", 8),
        ((2, 3, 20, 30), "grid:8", 8),
        ((2, 3, 20, 30), "tiles:4x16", (4, 16)),
        ((2, 2, 7, 9), "tiles:1", 1),
        ((2, 1, 50), "tiles:7", 7),
        ((2, 5, 4, 6, 8), "tiles:2x3x4", (2, 3, 4)),
        ((2, 9), "tiles:4", 4),
        ((2, 9), "features", 1),
    ],
)
def test_tiles_and_features_are_numbered(
    shape: tuple[int, ...], spec: str, size: int | tuple[int, ...]
) -> None:
    assert_same_bits(segments_for(torch.zeros(shape), spec), tiles(shape[1:], size))


@needs_skimage
@pytest.mark.parametrize(
    ("spec", "algorithm", "options"),
    [
        ("quickshift", "quickshift", {}),
        (
            "quickshift:kernel_size=2,max_dist=10.5",
            "quickshift",
            dict(kernel_size=2, max_dist=10.5),
        ),
        ("slic", "slic", {}),
        ("slic:n_segments=12, sigma=0", "slic", dict(n_segments=12, sigma=0)),
        ("felzenszwalb:min_size=9", "felzenszwalb", dict(min_size=9)),
    ],
)
def test_superpixels_are_asked_for_by_name(
    spec: str, algorithm: str, options: dict[str, Any]
) -> None:
    expected = superpixels(picture(), algorithm, cache=None, **options)
    assert_same_bits(segments_for(picture(), spec, cache=None), expected)


@needs_skimage
@pytest.mark.parametrize("scale", [255.0, -4.0])
def test_pictures_in_other_units_are_stretched_one_by_one(scale: float) -> None:
    inputs = picture()
    inputs[1] = (inputs[1] - 0.5) * scale
    low, high = inputs[1].min(), inputs[1].max()
    shown = torch.stack([inputs[0], (inputs[1] - low) / (high - low)])
    found = segments_for(inputs, "slic", cache=None)
    assert_same_bits(found, superpixels(shown, "slic", cache=None))


@needs_skimage
def test_a_picture_of_one_colour_has_segments() -> None:
    assert n_segments(segments_for(torch.full((1, 3, 16, 16), 7.0), "slic", cache=None)) >= 1


# ---------------------------------------------------------------- nothing


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((2, 7), "features"),
        ((2, 1, 28, 28), "tiles:4"),
        ((2, 3, 32, 32), "tiles:4"),
        ((2, 3, 95, 300), "tiles:12x38"),
        ((2, 3, 5, 5), "tiles:1"),
        ((2, 2, 257, 300), "tiles:33x38"),
        ((2, 1, 16000), "tiles:250"),
        ((2, 1, 20, 20, 20), "tiles:5"),
    ],
)
def test_inputs_choose_their_segments(shape: tuple[int, ...], spec: str) -> None:
    inputs = torch.zeros(shape)
    assert_same_bits(segments_for(inputs), segments_for(inputs, spec))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 4))
def test_no_more_than_64_tiles_are_chosen(extents: list[int], channels: int) -> None:
    assert n_segments(segments_for(torch.zeros(1, channels, *extents))) <= 64


@needs_skimage
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_choose_quickshift(channels: int) -> None:
    inputs = picture(96)[:1, :channels]
    assert_same_bits(segments_for(inputs, cache=None), superpixels(inputs, cache=None))


# ---------------------------------------------------------------- maps


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (1, 1, 4, 5)])
def test_a_map_is_what_it_is(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given_map = torch.arange(torch.Size(shape).numel()).view(shape).to(dtype)
    assert_same_bits(segments_for(random(2, 3, 4, 5), given_map), given_map)


def test_a_map_may_leave_out_what_is_the_same_for_all() -> None:
    given_map = torch.arange(20).reshape(4, 5)
    for shape in ((4, 5), (1, 4, 5)):
        found = segments_for(random(2, 3, 4, 5), given_map.reshape(shape))
        assert_same_bits(found, given_map[None, None])


@pytest.mark.parametrize("shape", [(5, 4), (3, 1, 4, 5), (1, 1, 4, 1), (2, 2, 4, 5)])
def test_a_map_of_another_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"segments must have shape \[1 or 2, 1 or 3, 4, 5\], got"):
        segments_for(random(2, 3, 4, 5), torch.zeros(shape, dtype=torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bool])
def test_a_map_of_another_type_is_named(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="segments must be int32 or int64, got"):
        segments_for(random(2, 4), torch.zeros(1, 4, dtype=dtype))


# ---------------------------------------------------------------- use


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((2, 3, 24, 24), None),
        ((2, 3, 24, 24), "tiles:5"),
        pytest.param((2, 3, 24, 24), "slic:n_segments=9", marks=needs_skimage),
        ((2, 6), None),
        ((2, 1, 70), None),
    ],
)
def test_coalitions_of_segments_choose_inputs(shape: tuple[int, ...], spec: str | None) -> None:
    inputs = random(*shape)
    segments = segments_for(inputs, spec)
    count = n_segments(segments)
    kept = torch.cat([torch.ones(1, count), torch.zeros(1, count), torch.eye(count)]).bool()
    whole, nothing, *single = mask_segments(
        inputs, segments, pack_coalitions(kept), -1.0
    ).unflatten(0, (-1, 2))
    assert_same_bits(whole, inputs)
    assert bool((nothing == -1).all())
    # Each feature is in one segment.
    assert bool((sum((one != -1).int() for one in single) == 1).all())


@pytest.mark.parametrize(
    "spec",
    [None, "tiles:5", torch.zeros(1, 1, 8, 8, dtype=torch.int32)],
    ids=["none", "text", "map"],
)
def test_segments_are_where_the_inputs_are(device: torch.device, spec: Any) -> None:
    assert segments_for(random(2, 3, 8, 8).to(device), spec).device.type == device.type


def test_segments_are_counted() -> None:
    assert n_segments(torch.tensor([[0, 1, 1], [0, 4, 0]])) == 5
    assert n_segments(torch.zeros(1, 1, 3, 3, dtype=torch.int32)) == 1
    with pytest.raises(ValueError, match=r"n_segments: segments must not be empty, got \[0, 3\]"):
        n_segments(torch.zeros(0, 3, dtype=torch.int32))
    with pytest.raises(TypeError, match="n_segments: segments must be int32 or int64"):
        n_segments(torch.zeros(3))


@pytest.mark.parametrize(
    ("shape", "spec", "message"),
    [
        ((2, 3, 8, 8), "quikshift", "must be like one of .*got 'quikshift'; did you mean quicksh"),
        ((2, 3, 8, 8), "tile:8", "must be like one of .*got 'tile:8'; did you mean tiles"),
        ((2, 3, 8, 8), "", "must be like one of .*got ''"),
        ((2, 3, 8, 8), "tiles", "tiles must have one size, as in tiles:16, .* got 'tiles'"),
        ((2, 3, 8, 8), "tiles:0", "tiles must have one size, .* got 'tiles:0'"),
        ((2, 3, 8, 8), "tiles:-2", "tiles must have one size, .* got 'tiles:-2'"),
        ((2, 3, 8, 8), "tiles:2x2x2", "tiles must have one size, .* got 'tiles:2x2x2'"),
        ((2, 8), "tiles:2x2", "tiles must have one size, .* got 'tiles:2x2'"),
        ((2, 3, 8, 8), "features", "inputs must be tables .*tiles:1 makes segments of single pix"),
        ((2, 8), "features:2", "must be like one of .*got 'features:2'"),
        ((2, 8), "slic", r"inputs must be pictures .* for 'slic', got shape \[2, 8\]"),
        ((2, 2, 8, 8), "slic", r"inputs must be pictures .*got shape \[2, 2, 8, 8\]"),
        ((2, 3, 8, 8), "slic:60", "options must be name=number, got '60' in 'slic:60'"),
        ((2, 3, 8, 8), "slic:n_segments=x", "options must be name=number, got 'n_segments=x'"),
        ((8,), None, r"inputs must be a tensor \[B, ...\], got \[8\]"),
    ],
)
def test_what_is_no_spec_is_named(shape: tuple[int, ...], spec: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"segments: {message}"):
        segments_for(torch.zeros(shape), spec)


def test_options_of_superpixels_are_checked_by_name() -> None:
    with pytest.raises(ValueError, match=r"options of slic .*; did you mean n_segments\?"):
        segments_for(picture(), "slic:n_segmets=60")


def test_a_spec_of_another_type_is_named() -> None:
    with pytest.raises(TypeError, match=r"segments: must be an int32 or int64 tensor, .* got int"):
        segments_for(picture(), 8)

"""Superpixels: numbered without gaps, the same every time, and found only once."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assertions import assert_same_bits
from torch import Tensor

from pyxai_fast.models.errors import MissingDependency
from pyxai_fast.segments import LabelCache, superpixels

ALGORITHMS = ("quickshift", "slic", "felzenszwalb")
needs_skimage = pytest.mark.skipif(
    importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed"
)


def blobs(channels: int = 3, height: int = 24, width: int = 31, seed: int = 0) -> Tensor:
    """A smooth picture [C, H, W] in [0, 1]."""
    coarse = torch.rand(1, channels, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The algorithms that were asked of scikit-image."""
    segmentation = pytest.importorskip("skimage.segmentation", reason="needs scikit-image")
    asked: list[str] = []

    def count(name: str) -> None:
        real = getattr(segmentation, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            asked.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(segmentation, name, counted)

    for name in ALGORITHMS:
        count(name)
    return asked


# ---------------------------------------------------------------- segments


@needs_skimage
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_picture_is_numbered_from_0_without_gaps(algorithm: str, channels: int) -> None:
    batch = torch.stack([blobs(channels, seed=seed) for seed in range(3)])
    found = superpixels(batch, algorithm, cache=None)
    assert found.dtype == torch.int32 and found.shape == (3, 1, 24, 31)
    for one in found:
        assert torch.equal(one.unique(), torch.arange(int(one.max()) + 1, dtype=torch.int32))


@needs_skimage
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_segments_keep_to_one_side_of_an_edge(algorithm: str) -> None:
    picture = torch.zeros(3, 24, 32)
    picture[:, :, 16:] = 1.0
    found = superpixels(picture, algorithm, cache=None)[0, 0]
    assert not set(found[:, :14].unique().tolist()) & set(found[:, 18:].unique().tolist())


@needs_skimage
def test_quickshift_is_what_lime_asks_scikit_image_for() -> None:
    from skimage.segmentation import quickshift

    picture = blobs()
    expected = quickshift(
        picture.permute(1, 2, 0).numpy(), kernel_size=4, max_dist=200, ratio=0.2, rng=0
    )
    assert np.array_equal(superpixels(picture, cache=None)[0, 0].numpy(), expected)


@needs_skimage
def test_grey_is_three_equal_channels() -> None:
    grey = blobs(1)
    one = superpixels(grey, cache=None)
    assert_same_bits(one, superpixels(grey.expand(3, -1, -1), cache=None))


@needs_skimage
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_picture_s_segments_do_not_depend_on_its_batch(algorithm: str) -> None:
    batch = torch.stack([blobs(seed=seed) for seed in range(3)])
    one_by_one = torch.cat([superpixels(image, algorithm, cache=None) for image in batch])
    assert_same_bits(superpixels(batch, algorithm, cache=None), one_by_one)


@needs_skimage
def test_slic_makes_about_as_many_as_asked() -> None:
    counts = [
        int(superpixels(blobs(3, 64, 64), "slic", n_segments=n, cache=None).max()) + 1
        for n in (9, 36)
    ]
    assert 5 <= counts[0] <= 13 and 26 <= counts[1] <= 46


@needs_skimage
def test_superpixels_are_where_the_picture_is(device: torch.device) -> None:
    assert superpixels(blobs().to(device), "slic").device.type == device.type


@needs_skimage
def test_pixels_just_beyond_the_range_are_in_it() -> None:
    picture = blobs()
    picture[0, 0, 0], picture[0, 1, 1] = -1e-7, 1 + 1e-7
    assert_same_bits(superpixels(picture, cache=None), superpixels(picture.clamp(0, 1), cache=None))


# ---------------------------------------------------------------- labels are kept


def test_nothing_is_segmented_twice(calls: list[str]) -> None:
    cache = LabelCache()
    first = superpixels(blobs(), cache=cache)
    assert calls == ["quickshift"]
    again = superpixels(blobs(), cache=cache, kernel_size=4)
    assert_same_bits(again, first)
    again.zero_()  # is the caller's own
    assert_same_bits(superpixels(blobs(), cache=cache), first)
    assert calls == ["quickshift"]


def test_pictures_that_come_twice_in_a_batch_are_segmented_once(calls: list[str]) -> None:
    a, b = blobs(seed=1), blobs(seed=2)
    found = superpixels(torch.stack([a, b, a]), "slic", cache=None)
    assert calls == ["slic"] * 2
    assert_same_bits(found[0], found[2])


def test_other_pixels_options_and_algorithms_are_other_segments(calls: list[str]) -> None:
    cache = LabelCache()
    picture = blobs()
    superpixels(picture, "slic", cache=cache)
    superpixels(picture, "slic", cache=cache, n_segments=20)
    superpixels(picture, "felzenszwalb", cache=cache)
    picture[0, 3, 3] += 1e-3
    superpixels(picture.clamp(0, 1), "slic", cache=cache)
    # The same bytes in another shape.
    superpixels(torch.zeros(1, 8, 16), "slic", cache=cache)
    superpixels(torch.zeros(1, 16, 8), "slic", cache=cache)
    assert len(calls) == len(cache) == 6


def test_the_process_keeps_labels_unless_told_not_to(calls: list[str]) -> None:
    picture = blobs(seed=99)
    for cache in (True, True, None, False):
        superpixels(picture, "slic", cache=cache)
    assert len(calls) == 3


def test_a_folder_outlives_the_process(calls: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    first = superpixels(blobs(), cache=folder)
    assert_same_bits(superpixels(blobs(), cache=str(folder)), first)
    assert calls == ["quickshift"]
    (file,) = folder.iterdir()  # and nothing unfinished beside it
    assert np.array_equal(np.load(file), first[0, 0].numpy())


@pytest.mark.parametrize("content", [b"", b"no labels", "text", "float"])
def test_a_damaged_file_is_made_again(calls: list[str], tmp_path: Path, content: Any) -> None:
    first = superpixels(blobs(), "slic", cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if content == "text":
        content = whole[:-100]
    if content == "float":
        np.save(file, np.zeros((24, 31)))
    else:
        file.write_bytes(content)
    assert_same_bits(superpixels(blobs(), "slic", cache=tmp_path), first)
    assert len(calls) == 2 and file.read_bytes() == whole


def test_known_labels_need_no_scikit_image(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = LabelCache()
    first = superpixels(blobs(), "slic", cache=cache)
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert_same_bits(superpixels(blobs(), "slic", cache=cache), first)


def labels(value: int) -> Any:
    return np.full((10, 10), value, np.int32)  # 400 bytes


def test_the_labels_that_were_not_used_for_longest_are_dropped() -> None:
    cache = LabelCache(max_bytes=1200)
    for key in ("a", "b", "c"):
        cache.keep(key, labels(1))
    assert cache.find("a") is not None
    cache.keep("d", labels(4))
    assert cache.find("b") is None and len(cache) == 3
    cache.keep("d", labels(5))  # in its place
    assert len(cache) == 3 and int(cache.find("d")[0, 0]) == 5  # type: ignore[index]
    assert all(cache.find(key) is not None for key in ("a", "c", "d"))


def test_labels_beyond_the_limit_are_kept_in_the_folder_alone(tmp_path: Path) -> None:
    cache = LabelCache(tmp_path, max_bytes=399)
    cache.keep("a", labels(1))
    assert len(cache) == 0
    found = cache.find("a")
    assert found is not None and np.array_equal(found, labels(1))
    assert LabelCache(max_bytes=0).find("a") is None


def test_caches_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LabelCache: max_bytes must be at least 0, got -1"):
        LabelCache(max_bytes=-1)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="LabelCache: folder must be a folder, got the file"):
        superpixels(blobs(), cache=tmp_path / "file")
    with pytest.raises(TypeError, match=r"superpixels: cache must be True, None, .* got int"):
        superpixels(blobs(), cache=3)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("quikshift", {}, "algorithm must be one of quickshift, .*did you mean quickshift"),
        ("slic", {"n_segment": 5}, "options of slic must be among .*did you mean n_segments"),
        ("quickshift", {"n_segments": 5}, "options of quickshift must be among kernel_size"),
        ("slic", {"n_segments": 2.5}, "n_segments must be a whole number, got 2.5"),
        ("slic", {"n_segments": float("nan")}, "n_segments must be a whole number, got nan"),
        ("slic", {"n_segments": True}, "n_segments must be a whole number, got True"),
        ("slic", {"n_segments": 0}, "n_segments must be at least 1, got 0"),
        ("slic", {"sigma": -1}, "sigma must be at least 0, got -1"),
        ("quickshift", {"kernel_size": 0.5}, "kernel_size must be at least 1, got 0.5"),
        ("quickshift", {"ratio": 0}, "ratio must be above 0, got 0"),
        ("felzenszwalb", {"scale": float("inf")}, "scale must be a number, got inf"),
    ],
)
def test_algorithms_and_options_that_are_none_are_named(
    algorithm: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"superpixels: {message}"):
        superpixels(blobs(), algorithm, **options)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(2, 8, 8), ValueError, r"image must have shape \[1 or 3, H, W\] .* \[2, 8, 8"),
        (torch.zeros(8, 8), ValueError, r"image must have shape .*got \[8, 8\]"),
        (torch.zeros(0, 3, 8, 8), ValueError, r"image must have shape .*got \[0, 3, 8, 8\]"),
        (torch.full((3, 8, 8), 255.0), ValueError, r"pixels in \[0, 1\].* from 255 to 255"),
        (torch.full((3, 8, 8), torch.nan), ValueError, r"pixels in \[0, 1\].* from nan to nan"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), TypeError, "floating-point tensor, got .*uint8"),
        (np.zeros((3, 8, 8)), TypeError, "floating-point tensor, got ndarray"),
    ],
)
def test_what_is_no_picture_is_named(image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"superpixels: .*{message}"):
        superpixels(image)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingDependency, match=r"pip install pyxai-fast\[segments\], or use tile"):
        superpixels(blobs(seed=5), cache=None)

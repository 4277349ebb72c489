"""Image files become pixels in [0, 1], and preprocessing can be undone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pyxai_fast.images import FORMATS, ImageError, gaussian_blur, read_image, read_images
from pyxai_fast.jobs.sources import SUFFIXES
from pyxai_fast.models.errors import MissingDependency
from pyxai_fast.models.preprocessing import Preprocessing

Image = pytest.importorskip("PIL.Image")


def save(path: Path, array: np.ndarray, **options: object) -> str:
    Image.fromarray(array).save(path, **options)
    return str(path)


def stripes(height: int, width: int) -> np.ndarray:
    """Red left half, blue right half."""
    array = np.zeros((height, width, 3), np.uint8)
    array[:, : width // 2, 0] = 255
    array[:, width // 2 :, 2] = 255
    return array


# ---------------------------------------------------------------- reading


def test_pixels_are_exactly_the_file_divided_by_255_and_never_normalised(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", array)
    pixels = read_image(path, Preprocessing(mean=(0.5,), std=(0.1,)))
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, torch.from_numpy(array).permute(2, 0, 1).float() / 255)


def test_exif_orientation_turns_the_picture_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held a quarter turn to the left
    path = save(tmp_path / "turned.png", stripes(4, 8), exif=exif)
    pixels = read_image(path)
    assert pixels.shape == (3, 8, 4)
    assert pixels[0, 0].min() == 1 and pixels[2, -1].min() == 1  # red on top, blue at the bottom


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_the_channels_the_model_takes(
    tmp_path: Path, mode: str, channels: int
) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    image = Image.fromarray(np.full((4, 4, 3), 255, np.uint8)).convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    pixels = read_image(tmp_path / f"a.{suffix}", Preprocessing(channels=channels))
    assert pixels.shape == (channels, 4, 4)
    assert pixels.min() == 1.0


def test_sixteen_bit_files_are_scaled_not_clipped(tmp_path: Path) -> None:
    array = np.array([[0, 257 * 100, 65535]], np.uint16)
    path = save(tmp_path / "deep.png", array)
    pixels = read_image(path, Preprocessing(channels=1))
    assert torch.equal(pixels, torch.tensor([[[0.0, 100 / 255, 1.0]]]))


def test_resize_scales_the_shorter_side_and_the_crop_takes_the_centre(tmp_path: Path) -> None:
    array = np.zeros((20, 60, 3), np.uint8)
    array[:, 20:40] = 255  # only the middle third is white
    path = save(tmp_path / "wide.png", array)
    pixels = read_image(path, Preprocessing(size=(10, 8), resize=10, interpolation="nearest"))
    assert pixels.shape == (3, 10, 8)
    assert pixels.min() == 1.0


def test_without_resize_the_whole_picture_is_squeezed_into_size(tmp_path: Path) -> None:
    path = save(tmp_path / "wide.png", stripes(20, 60))
    pixels = read_image(path, Preprocessing(size=(10, 10)))
    assert pixels.shape == (3, 10, 10)
    assert pixels[0, :, 0].min() == 1 and pixels[2, :, -1].min() == 1


def test_a_crop_larger_than_the_picture_is_padded_with_black(tmp_path: Path) -> None:
    path = save(tmp_path / "small.png", np.full((4, 4, 3), 255, np.uint8))
    pixels = read_image(path, Preprocessing(size=(8, 8), resize=4))
    assert pixels.sum() == 3 * 16
    assert pixels[:, 2:6, 2:6].min() == 1


def test_files_that_cannot_be_read_are_named_and_the_others_are_returned(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", stripes(8, 8))
    also_good = save(tmp_path / "also.png", 255 - stripes(8, 8))
    text = tmp_path / "text.png"
    text.write_text("not an image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    truncated = tmp_path / "truncated.jpg"
    Image.fromarray(noise).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:600])
    missing = tmp_path / "missing.png"

    paths = [text, good, truncated, missing, tmp_path, also_good]
    images, kept, failures = read_images(paths, Preprocessing(size=(8, 8)))

    assert kept == [good, also_good]
    assert images.shape == (2, 3, 8, 8)
    assert torch.equal(images[0] + images[1], torch.ones(3, 8, 8))
    reasons = dict(failures)
    assert list(reasons) == [str(text), str(truncated), str(missing), str(tmp_path)]
    assert reasons[str(missing)] == "no such file"
    assert "truncated" in reasons[str(truncated)].lower()
    assert "directory" in reasons[str(tmp_path)]
    assert not any("\n" in reason for reason in reasons.values())


def test_no_file_makes_its_decoder_run_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eps_module = pytest.importorskip(
        "PIL.EpsImagePlugin", reason="this Pillow has no decoder of EPS that could be started"
    )
    picture = tmp_path / "picture.png"
    Image.fromarray(stripes(8, 8)).save(picture, "EPS")
    ghostscript, ran = tmp_path / "gs", tmp_path / "ran"
    ghostscript.write_text(f"#!/bin/sh\ntouch {ran}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setattr(eps_module, "gs_binary", str(ghostscript))
    with pytest.raises(ImageError, match=r"picture\.png: not an image file that can be read"):
        read_image(picture)
    with picture.open("rb") as file, pytest.raises(ImageError, match="not an image file"):
        read_image(file)
    assert not ran.exists()
    # Pillow itself would have.
    with pytest.raises(OSError), Image.open(picture) as opened:
        opened.load()
    assert ran.exists()


def test_what_is_taken_for_a_picture_by_its_name_is_what_is_decoded() -> None:
    Image.init()
    by_name = {Image.EXTENSION[suffix] for suffix in SUFFIXES if suffix in Image.EXTENSION}
    assert by_name == set(FORMATS) & set(Image.OPEN)
    assert SUFFIXES - set(Image.EXTENSION) <= {".avif"}  # of older Pillows


@pytest.mark.parametrize("kind", FORMATS)
def test_files_of_every_format_are_read_whatever_their_names(tmp_path: Path, kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    white = Image.fromarray(np.full((8, 8, 3), 255, np.uint8))
    white.save(tmp_path / "picture", kind)
    assert read_image(tmp_path / "picture").min() > 0.99


@pytest.mark.parametrize("limit", [40, 70])  # an error beyond twice the limit, a warning below
def test_possible_decompression_bombs_are_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = save(tmp_path / "bomb.png", np.zeros((10, 10, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    images, kept, failures = read_images([path], Preprocessing(size=(4, 4)))
    assert images.shape == (0, 3, 4, 4) and kept == []
    assert "decompression bomb" in failures[0][1]


def test_pictures_of_different_sizes_need_a_preprocessing_with_a_size(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.png", stripes(4, 4)), save(tmp_path / "b.png", stripes(4, 6))]
    images, kept, failures = read_images(paths)
    assert images.shape == (1, 3, 4, 4) and kept == paths[:1]
    assert "4x6" in failures[0][1] and "size" in failures[0][1]


def test_read_image_raises_one_line_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.png: no such file$"):
        read_image(tmp_path / "nowhere.png")


def test_without_pillow_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingDependency, match=r"pip install pyxai-fast\[image\]"):
        read_images([tmp_path / "a.png"])


# ---------------------------------------------------------------- preprocessing


@pytest.mark.parametrize("channels", [1, 3])
def test_to_pixels_undoes_normalise(channels: int) -> None:
    pre = Preprocessing(
        mean=(0.485, 0.456, 0.406)[:channels],
        std=(0.229, 0.224, 0.225)[:channels],
        channels=channels,
    )
    pixels = torch.rand(2, channels, 5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(pre.to_pixels(pre.normalise(pixels)), pixels, atol=1e-6)
    exact = pixels.double()
    assert torch.allclose(pre.to_pixels(pre.normalise(exact)), exact, atol=1e-15, rtol=0)


def test_scale_and_shift_are_normalise_as_one_multiply_and_add() -> None:
    pre = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    fused = pixels * pre.scale.view(-1, 1, 1) + pre.shift.view(-1, 1, 1)
    assert pre.scale.dtype == torch.float64 and pre.scale.shape == (3,)
    assert torch.allclose(fused, pre.normalise(pixels), atol=1e-6)


def test_one_statistic_stands_for_all_channels() -> None:
    assert Preprocessing(mean=(0.5,), std=(0.25,)).mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"std": (0.0,)}, "std must be positive"),
        ({"mean": (0.1, 0.2)}, "mean must have 1 or 3 values"),
        ({"mean": (float("nan"),)}, "mean must be finite"),
        ({"channels": 4}, "channels must be 1 or 3"),
        ({"size": (0, 4)}, "size must be"),
        ({"resize": 0}, "resize must be positive"),
        ({"interpolation": "magic"}, "interpolation must be one of nearest"),
    ],
)
def test_preprocessing_refuses_what_makes_no_sense(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**fields)


def test_normalise_refuses_byte_pixels_and_the_wrong_channel_count() -> None:
    with pytest.raises(ValueError, match="divide integer pixels by 255"):
        Preprocessing().normalise(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"got shape \(1, 4, 4\)"):
        Preprocessing().normalise(torch.zeros(1, 4, 4))


# ---------------------------------------------------------------- blur


def test_gaussian_blur_is_the_two_dimensional_gaussian() -> None:
    spike = torch.zeros(1, 2, 21, 21, dtype=torch.float64)
    spike[:, 1, 10, 10] = 1.0
    blurred = gaussian_blur(spike, 1.5)
    y, x = torch.meshgrid(torch.arange(-10, 11), torch.arange(-10, 11), indexing="ij")
    expected = torch.exp(-(x**2 + y**2) / (2 * 1.5**2)).double()
    expected = torch.where((x.abs() <= 5) & (y.abs() <= 5), expected, 0.0)  # radius ceil(3 sigma)
    assert torch.allclose(blurred[0, 1], expected / expected.sum(), atol=1e-12)
    assert blurred[0, 0].abs().max() == 0  # channels do not mix


def test_gaussian_blur_leaves_a_constant_picture_alone_up_to_its_border() -> None:
    flat = torch.full((1, 3, 6, 9), 0.25)
    assert torch.allclose(gaussian_blur(flat, 4.0), flat, atol=1e-6)

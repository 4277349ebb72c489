"""Pictures show what the numbers say: sign, size, and nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyxai_fast import plots

MAPS = {"signed_sum": [[1.0, -1.0]], "abs_sum": [[5.0, 7.0]], "max_abs": [[3.0, 4.0]]}


def random_pixels(channels: int = 3, height: int = 12, width: int = 10) -> torch.Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("how", plots.REDUCTIONS)
def test_reduce_channels_by_hand(how: str) -> None:
    attributions = torch.tensor([[[3.0, -4.0]], [[-2.0, 3.0]]])
    assert plots.reduce_channels(attributions, how).tolist() == MAPS[how]


def test_reduce_channels_refuses_another_name() -> None:
    with pytest.raises(ValueError, match="how must be one of signed_sum"):
        plots.reduce_channels(torch.zeros(3, 2, 2), "mean")


def test_normalised_maps_keep_zero_and_sign_and_survive_an_outlier() -> None:
    values = np.linspace(-1, 1, 1001, dtype=np.float32)
    values[0] = -1e6
    shown = plots.normalise_map(values)
    assert shown.min() == -1 and shown.max() == 1
    assert shown[500] == 0 and (np.sign(shown) == np.sign(values)).all()
    assert shown[750] == pytest.approx(0.5, abs=0.01)  # the outlier does not flatten the rest


@pytest.mark.parametrize("constant", [0.0, 2.5, -1e-42])
def test_constant_maps_do_not_divide_by_zero(constant: float) -> None:
    with np.errstate(all="raise"):
        shown = plots.normalise_map(np.full((4, 4), constant, np.float32))
    assert (shown == np.sign(np.float32(constant))).all()


def test_a_single_attributed_pixel_is_visible() -> None:
    values = np.zeros((100, 100), np.float32)
    values[3, 4] = 1e-3
    assert plots.normalise_map(values)[3, 4] == 1


# ---------------------------------------------------------------- overlays


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay_is_red_for_blue_against_and_grey_elsewhere(channels: int) -> None:
    attributions = torch.zeros(channels, 12, 10)
    attributions[:, 2, 2], attributions[:, 5, 5] = 1.0, -1.0
    picture = plots.overlay(random_pixels(channels), attributions)
    assert picture.shape == (12, 10, 3) and picture.dtype == np.uint8
    red, blue = picture[2, 2].astype(int), picture[5, 5].astype(int)
    assert red[0] > red[2] + 100 and blue[2] > blue[0] + 100
    elsewhere = np.delete(picture.reshape(-1, 3), [2 * 10 + 2, 5 * 10 + 5], axis=0)
    assert (elsewhere == elsewhere[:, :1]).all()


def test_overlay_of_zeros_still_shows_the_picture() -> None:
    pixels = torch.zeros(1, 4, 4)
    pixels[0, 1, 1] = 1.0
    picture = plots.overlay(pixels, torch.zeros(1, 4, 4))
    assert int(picture[1, 1, 0]) - int(picture[0, 0, 0]) > 100


def test_values_that_are_not_finite_are_neutral_and_warned_about() -> None:
    attributions = torch.zeros(3, 12, 10)
    attributions[:, 0, 0], attributions[:, 4, 4] = float("nan"), 1.0
    pixels = torch.full((3, 12, 10), 0.5)
    with pytest.warns(RuntimeWarning, match="1 of 120 attributions are not finite"):
        picture = plots.overlay(pixels, attributions)
    assert (picture[0, 0] == picture[0, 1]).all()
    assert picture[4, 4, 0] > picture[4, 4, 2]


def test_large_overlays_are_smoothed_and_small_ones_are_not() -> None:
    small, large = torch.zeros(1, 32, 32), torch.zeros(1, 224, 224)
    small[0, 16, 16] = large[0, 112, 112] = 1.0
    coloured = [np.ptp(plots.overlay(a.abs(), a, smooth=s), axis=2) for a, s in
                [(small, None), (large, None), (large, 0.0)]]  # fmt: skip
    assert np.count_nonzero(coloured[0]) == 1
    assert np.count_nonzero(coloured[1]) > 20
    assert np.count_nonzero(coloured[2]) == 1


def test_overlay_refuses_a_map_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 4\) and \(12, 10\)"):
        plots.overlay(random_pixels(), torch.zeros(3, 4, 4))


def test_pixels_outside_the_unit_range_are_stretched_into_it() -> None:
    picture = plots.pixel_image(torch.tensor([[[-2.0, 0.0, 2.0]]]))
    assert picture[0, :, 0].tolist() == [0, 128, 255]


def test_saved_images_hold_the_same_bytes(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    picture = plots.overlay(random_pixels(), random_pixels() - 0.5)
    plots.save_image(picture, tmp_path / "a.png")
    assert np.array_equal(np.asarray(image_module.open(tmp_path / "a.png")), picture)


# ---------------------------------------------------------------- figures


def texts(figure: object) -> list[str]:
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]  # type: ignore[attr-defined]


def panels(figure: object) -> list[object]:
    return [axes for axes in figure.axes if axes.images]  # type: ignore[attr-defined]


def test_overlay_figure_has_three_panels_a_colour_bar_and_a_caption(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = plots.overlay_figure(
        random_pixels(), random_pixels() - 0.5, class_name="tabby, tabby cat", probability=0.972
    )
    assert len(panels(figure)) == 4
    assert "tabby  97.2%" in texts(figure)
    plots.save_figure(figure, tmp_path / "a.png")
    size = pytest.importorskip("PIL.Image").open(tmp_path / "a.png").size
    assert size == pytest.approx(figure.get_size_inches() * plots.DPI, abs=1)


def test_gallery_has_a_row_per_input_and_a_column_per_method() -> None:
    pytest.importorskip("matplotlib")
    a = random_pixels() - 0.5
    rows = [
        plots.GalleryRow(random_pixels(), {"saliency": a, "integrated_gradients": a}, "cat", 0.5),
        plots.GalleryRow(random_pixels(1), {"saliency": a}, "dog"),
    ]
    figure = plots.gallery(*rows, title="Two pictures")
    assert len(panels(figure)) == 3 + 2 + 1  # the second row leaves one place empty
    shown = texts(figure)
    for text in ("Two pictures", "input", "saliency", "integrated gradients", "cat  50.0%", "dog"):
        assert text in shown
    sizes = {tuple(np.round(axes.get_position().size, 4)) for axes in panels(figure)[:-1]}
    assert len(sizes) == 1


def test_galleries_refuse_to_be_empty() -> None:
    with pytest.raises(ValueError, match="at least one"):
        plots.gallery()


def bar_widths(figure: object) -> list[float]:
    return [patch.get_width() for patch in figure.axes[0].patches]  # type: ignore[attr-defined]


def test_bars_are_ordered_by_size_and_the_rest_is_summed() -> None:
    pytest.importorskip("matplotlib")
    values = torch.tensor([0.1, -3.0, 2.0, 0.2, -0.5])
    figure = plots.bars(values, feature_names=list("abcde"), top=2)
    assert bar_widths(figure) == pytest.approx([-3.0, 2.0, -0.2])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["b", "c", "3 others, summed"]


def test_bars_of_many_inputs_show_the_mean_size() -> None:
    pytest.importorskip("matplotlib")
    values = torch.tensor([[1.0, -2.0], [-1.0, 4.0]]).repeat(5, 1)
    assert bar_widths(plots.bars(values)) == pytest.approx([3.0, 1.0])


def test_bars_refuse_the_wrong_number_of_names() -> None:
    with pytest.raises(ValueError, match="feature_names must have 3 names, got 2"):
        plots.bars(torch.zeros(3), feature_names=["a", "b"])


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (10, 1, 8, 8), (2, 6)])
def test_every_explanation_gets_the_figure_that_suits_it(shape: tuple[int, ...]) -> None:
    pytest.importorskip("matplotlib")
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    explanation = SimpleNamespace(
        attributions=values,
        inputs=values.sigmoid(),
        target=torch.ones(shape[0], dtype=torch.long),
        outputs=torch.tensor([[0.0, np.log(3.0)]]).repeat(shape[0], 1),
        class_names=["cat", "dog"],
        feature_names=None,
        method="saliency",
        settings={},
    )
    figure = plots.explanation_figure(explanation)  # type: ignore[arg-type]
    shown = texts(figure)
    assert "dog  75.0%" in shown
    assert ("first 8 of 10 inputs" in shown) == (shape[0] == 10)


def test_figures_that_cannot_be_drawn_say_why() -> None:
    explanation = SimpleNamespace(
        attributions=torch.zeros(1, 4, 5, 6, 7),
        inputs=torch.zeros(1, 4, 5, 6, 7),
        target=torch.zeros(1, dtype=torch.long),
        outputs=torch.zeros(1, 2),
        class_names=None,
        settings={},
    )
    with pytest.raises(ValueError, match=r"got shape \(1, 4, 5, 6, 7\)"):
        plots.explanation_figure(explanation)  # type: ignore[arg-type]

"""SIC and AIC: by hand, against the published implementation, and with what is installed."""

from __future__ import annotations

import builtins
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from assertions import assert_same_bits
from nets import Polynomial, conv_net
from torch import Tensor, nn

from pyxai_fast import Preprocessing
from pyxai_fast.metrics import performance_information
from pyxai_fast.metrics.information_curves import InformationCurve, blurred
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.errors import MissingDependency

pytest.importorskip("scipy", reason="pictures are blurred by SciPy")

SIZE = 24
# So far from each other that every picture takes more bytes than the one before.
APART = (0.02, 0.05, 0.21, 0.5)


def pictures(batch: int = 4, channels: int = 3) -> Tensor:
    """Fine detail everywhere, in whole 255ths: whatever is known of it takes bytes."""
    noise = torch.rand(batch, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return (noise * 255).round() / 255


def maps(batch: int = 4) -> Tensor:
    """Important are some pixels of the middle."""
    found = torch.rand(batch, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    found[:, :, 7:17, 7:17] += 1
    return found


class Detail(nn.Module):
    """Sure of the first class where neighbouring pixels of the middle differ."""

    def __init__(self, gain: float = 60.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        middle = x[:, :, 7:17, 7:17]
        rough = (middle[..., 1:] - middle[..., :-1]).abs().mean((1, 2, 3))
        return torch.stack((self.gain * rough - 4, torch.zeros_like(rough)), 1)


# --- by hand -------------------------------------------------------------------------------------


def test_blurring_keeps_what_is_known_and_planes_between_it() -> None:
    y, x = np.mgrid[:12, :16]
    plane = np.stack((10 * y + 3 * x, 200 - 7 * y - 2 * x), 2).astype(np.uint8)
    known = np.zeros((12, 16), bool)
    known[3, 4] = known[8, 11] = True
    assert (blurred(plane, known) == plane).all()
    assert not known[0, 0]
    spoilt = plane.copy()
    spoilt[5, 5] = 255
    assert (blurred(spoilt, known) == plane).all()
    known[5, 5] = True
    found = blurred(spoilt, known)
    assert (found[5, 5] == 255).all() and (found[5, 6] > plane[5, 6]).all()
    assert (blurred(spoilt, np.ones((12, 16), bool)) == spoilt).all()


def test_curves_rise_from_blurred_to_whole_where_the_map_is_right(device: torch.device) -> None:
    x = pictures().to(device)
    net, good = Detail().to(device), maps().to(device)
    found, reverse = (
        performance_information(net, x, each, 0, thresholds=APART) for each in (good, -good)
    )
    for curve, other in ((found.sic, reverse.sic), (found.aic, reverse.aic)):
        assert isinstance(curve, InformationCurve)
        assert curve.fractions.shape == (1001,) and curve.scores.shape == (1001, 4)
        assert bool(curve.used.all())
        assert curve.scores[0].tolist() == [0.0] * 4 and curve.scores[-1].tolist() == [1.0] * 4
        assert bool((curve.scores.diff(dim=0) >= -1e-12).all())
        assert bool((curve.area > other.area).all())
        assert curve.median_area > other.median_area
    # Accuracy is a step; the score is not.
    assert ((found.sic.scores > 0) & (found.sic.scores < 0.99)).sum() > 100


def test_unsure_pictures_and_those_that_gain_by_blurring_are_not_used() -> None:
    x = pictures()
    asked: dict[str, Any] = {"thresholds": (0.1, 0.5), "n_points": 10}
    sure = performance_information(Detail(), x, maps(), 0, **asked)
    # Of the other class it is the less sure, the more detail there is.
    other = performance_information(Detail(), x, maps(), 1, min_prediction=0.0, **asked)
    assert bool(sure.sic.used.all()) and not bool(other.sic.used.any())
    assert not bool(other.aic.used.any())
    assert bool(other.sic.scores.isnan().all()) and math.isnan(other.sic.median_area)
    unsure = performance_information(Detail(15.0), x, maps(), 0, min_prediction=0.999, **asked)
    assert not bool(unsure.sic.used.any())


def test_pictures_of_which_some_answer_is_nan_are_not_used() -> None:
    x = pictures(2)

    class Breaks(Detail):
        """Answers NaN where some of the first picture is back, and not much of it."""

        def forward(self, rows: Tensor) -> Tensor:
            back = (rows == x[:1]).all(1).flatten(1).double().mean(1)
            between = (back > 0.03) & (back < 0.4)
            return super().forward(rows).masked_fill(between[:, None], torch.nan)

    for output in ("prob", "logit"):
        found = performance_information(Breaks(), x, maps(2), 0, thresholds=APART, output=output)
        for curve in (found.sic, found.aic):
            assert curve.used.tolist() == [False, True]
            assert bool(curve.scores[:, 0].isnan().all()) and bool(
                curve.scores[:, 1].isfinite().all()
            )
            assert math.isfinite(curve.median_area)


def test_the_median_is_of_the_pictures_that_are_used() -> None:
    x = torch.linspace(0, 1, 3, dtype=torch.float64)
    scores = torch.tensor(
        [[0.0, 0.0, float("nan")], [0.2, 0.6, float("nan")], [1.0, 1.0, float("nan")]]
    )
    curve = InformationCurve(x, scores.double())
    assert curve.used.tolist() == [True, True, False]
    assert curve.median.tolist() == pytest.approx([0.0, 0.4, 1.0])
    assert curve.median_area == pytest.approx(0.45)
    assert curve.area[:2].tolist() == pytest.approx([0.35, 0.55])


def test_curves_may_fall_where_they_need_not_be_monotone() -> None:
    class Wavering(nn.Module):
        """Surer with detail, but for a while."""

        def forward(self, x: Tensor) -> Tensor:
            rough = Detail(1.0)(x)[:, 0] + 4
            logit = 20 * rough - 3 - 3 * ((rough > 0.15) & (rough < 0.2))
            return torch.stack((logit, torch.zeros_like(logit)), 1)

    asking: dict[str, Any] = {"min_prediction": 0.0, "thresholds": APART}
    x = pictures(1)
    found, free = (
        performance_information(Wavering(), x, maps(1), 0, monotone=m, **asking).sic
        for m in (True, False)
    )
    assert bool(found.used.all()) and bool(free.used.all())
    assert bool((found.scores.diff(dim=0) >= -1e-12).all())
    assert bool((free.scores.diff(dim=0) < -1e-3).any())


# --- the published implementation ----------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("monotone", [True, False])
def test_the_published_implementation_says_the_same(
    channels: int, monotone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pic = pytest.importorskip("saliency.metrics.pic", reason="PAIR's saliency is not installed")
    if not hasattr(np, "trapz"):  # gone in NumPy 2.4
        monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    net, x, attributions = Detail(), pictures(5, channels), maps(5).double()
    start = torch.rand(5, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) < 0.01
    found = performance_information(
        net, x, attributions, 0, start=start, monotone=monotone, min_prediction=0.7
    )
    assert found.compression == "webp"

    def answers(images: np.ndarray, kind: str) -> list[float]:
        rows = torch.from_numpy(images).float() / 255
        rows = rows[:, None] if channels == 1 else rows.movedim(3, 1)
        logits = net(rows).double()
        right = logits.argmax(1) == 0
        return (logits.softmax(1)[:, 0] if kind == "sic" else right.double()).tolist()

    for kind, curve in (("sic", found.sic), ("aic", found.aic)):
        results = []
        for b in range(5):
            image = (x[b] * 255).round().to(torch.uint8).movedim(0, 2).numpy()
            try:
                result = pic.compute_pic_metric(
                    image[..., 0] if channels == 1 else image,
                    attributions[b, 0].numpy(),
                    start[b].numpy(),
                    lambda images, kind=kind: answers(images, kind),
                    [0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75],
                    0.7,
                    monotone,
                )
            except pic.ComputePicMetricError:
                assert not bool(curve.used[b])
                continue
            assert bool(curve.used[b])
            np.testing.assert_allclose(curve.scores[:, b], result.curve_y, rtol=0, atol=1e-12)
            np.testing.assert_allclose(curve.fractions, result.curve_x, rtol=0, atol=1e-15)
            assert float(curve.area[b]) == pytest.approx(float(result.auc), abs=1e-12)
            results.append(result)
        assert len(results) >= 3
        median = pic.aggregate_individual_pic_results(results)
        np.testing.assert_allclose(curve.median, median.curve_y, rtol=0, atol=1e-12)
        assert curve.median_area == pytest.approx(float(median.auc), abs=1e-12)


# --- chunks, units, seeds ------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5])
def test_chunks_change_no_bit(rows: int) -> None:
    net, asking = Polynomial(3 * SIZE * SIZE), {"min_prediction": 0.0, "n_points": 50}
    whole = performance_information(net, pictures(), maps(), **asking)
    parts = performance_information(net, pictures(), maps(), internal_batch_size=rows, **asking)
    assert bool(whole.sic.used.any())
    assert_same_bits(parts.sic.scores, whole.sic.scores)
    assert_same_bits(parts.aic.scores, whole.aic.scores)


def test_preprocessing_inside_is_preprocessing_outside() -> None:
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    net = conv_net()
    asking: dict[str, Any] = {"min_prediction": 0.0, "thresholds": (0.1, 0.4), "n_points": 20}
    inside = performance_information(net, pictures(), maps(), preprocessing=preprocessing, **asking)
    outside = performance_information(
        lambda x: net(preprocessing.normalise(x)), pictures(), maps(), **asking
    )
    torch.testing.assert_close(
        inside.sic.scores, outside.sic.scores, rtol=0, atol=1e-3, equal_nan=True
    )


def test_a_seed_says_which_pixels_are_known_first() -> None:
    def scores(seed: int) -> Tensor:
        asking: dict[str, Any] = {"thresholds": (0.05, 0.2), "n_points": 20, "start": 0.05}
        return performance_information(
            Detail(), pictures(), maps(), 0, seed=seed, **asking
        ).sic.scores

    assert_same_bits(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))


def test_a_black_box_is_asked_for_each_picture_once_at_every_threshold() -> None:
    box = BlackBox(Detail(), budget=4 + 4 * 3)
    found = performance_information(box, pictures(), maps(), 0, thresholds=(0.1, 0.5))
    assert box.remaining == 0
    white = performance_information(Detail(), pictures(), maps(), 0, thresholds=(0.1, 0.5))
    assert_same_bits(found.sic.scores, white.sic.scores)


# --- what is installed, and arguments ------------------------------------------------------------


def test_without_webp_sizes_are_those_of_zlib_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = pytest.importorskip("PIL.features", reason="Pillow is not installed")
    with_webp = performance_information(Detail(), pictures(), maps(), 0)
    monkeypatch.setattr(features, "check", lambda name: False)
    without = performance_information(Detail(), pictures(), maps(), 0)
    assert (with_webp.compression, without.compression) == ("webp", "zlib")
    assert bool(without.sic.used.all())
    # The same order of information, other sizes.
    assert not torch.equal(with_webp.sic.scores, without.sic.scores)
    torch.testing.assert_close(without.sic.area, with_webp.sic.area, rtol=0, atol=0.15)


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("scipy.interpolate")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    box = BlackBox(Detail())
    with pytest.raises(MissingDependency, match=r"SciPy is needed .* pip install pyxai-fast\[metr"):
        performance_information(box, pictures(), maps(), 0)
    assert box.queries == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.rand(4, 2, SIZE, SIZE)}, r"inputs must be pictures \[B, 1 or 3, H, W\]"),
        ({"inputs": 2 * pictures()}, r"inputs must be pixels in \[0, 1\], got 0"),
        ({"thresholds": (0.5, 0.1)}, "thresholds must be .* ascending"),
        ({"start": 1.5}, "start must be a share from 0 to 1, or a mask, got 1.5"),
        ({"start": torch.ones(4, 3, 3).bool()}, r"start must be .* bool \[1 or 4, 24, 24\], got"),
        ({"n_points": 0}, "n_points must be an integer >= 1, got 0"),
    ],
)
def test_arguments_that_make_no_sense_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"inputs": pictures(), "attributions": maps(), **change}
    with pytest.raises(ValueError, match=f"performance_information: {message}"):
        performance_information(
            Detail(), arguments.pop("inputs"), arguments.pop("attributions"), 0, **arguments
        )

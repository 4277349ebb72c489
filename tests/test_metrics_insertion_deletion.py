"""Insertion and deletion: exact curves of linear models, and which ranking is best."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial, conv_net
from torch import Tensor, nn

from pyxai_fast import Preprocessing
from pyxai_fast.images import gaussian_blur
from pyxai_fast.metrics import Curve, deletion, insertion
from pyxai_fast.metrics.ranking import pixel_ranks
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.query_error import BudgetExceeded

FEATURES = 5
BOTH = pytest.mark.parametrize("metric", [insertion, deletion])
Metric = Callable[..., Curve]


def table(batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, FEATURES, generator=torch.Generator().manual_seed(3), dtype=dtype)


def pictures(batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(batch, 3, 8, 6, generator=torch.Generator().manual_seed(3), dtype=dtype)


# --- tables and linear models --------------------------------------------------------------------


def test_curves_of_a_linear_model_are_sums_of_its_contributions(device: torch.device) -> None:
    net, x = Linear(FEATURES).double().to(device), table(4).to(device)
    base = table(8)[4:].to(device)
    parts = (x - base) * net.weight[1].detach()
    asking: dict[str, Any] = {"baselines": base, "n_steps": FEATURES, "output": "logit"}
    gone = deletion(net, x, parts, 1, **asking)
    come = insertion(net, x, parts, 1, **asking)
    ordered = parts.sort(1, descending=True).values
    sums = torch.cat((torch.zeros_like(ordered[:, :1]), ordered.cumsum(1)), 1).T
    whole, bare = (torch.einsum("bd,d->b", each, net.weight[1].detach()) for each in (x, base))
    torch.testing.assert_close(gone.scores, whole - sums)
    torch.testing.assert_close(come.scores, bare + sums)
    torch.testing.assert_close(
        gone.fractions, torch.linspace(0, 1, FEATURES + 1, dtype=torch.float64)
    )
    # What one loses, the other gains.
    torch.testing.assert_close(gone.area + come.area, whole + bare)


@BOTH
def test_no_ranking_of_five_features_is_better_than_that_of_their_contributions(
    metric: Metric,
) -> None:
    net, x = Linear(FEATURES).double(), table(1)
    true = (x * net.weight[0]).detach()
    orders = torch.tensor(list(itertools.permutations(range(FEATURES)))).double()
    rankings = torch.cat((true, orders))
    areas = metric(
        net, x.expand(len(rankings), -1), rankings, 0, baselines=0.0, n_steps=FEATURES,
        output="logit",
    ).area  # fmt: skip
    best = areas.min() if metric is deletion else areas.max()
    assert float(areas[0]) == pytest.approx(float(best), abs=1e-12)
    assert int(((areas - best).abs() < 1e-9).sum()) == 2  # itself, and its own permutation


@BOTH
def test_attributions_rank_with_their_sign(metric: Metric) -> None:
    net, x = Linear(FEATURES).double(), table(2)
    asking: dict[str, Any] = {"baselines": 0.0, "n_steps": FEATURES, "output": "logit"}
    signed = (x * net.weight[0]).detach()
    by_sign, by_size = (metric(net, x, a, 0, **asking) for a in (signed, signed.abs()))
    assert not torch.equal(by_sign.scores, by_size.scores)
    assert torch.equal(by_sign.scores[[0, -1]], by_size.scores[[0, -1]])


# --- pictures ------------------------------------------------------------------------------------


def at(model: Any, pixels: Tensor, target: Tensor, preprocessing: Preprocessing) -> Tensor:
    shares = model(preprocessing.normalise(pixels)).detach().double().softmax(1)
    return shares.gather(1, target[:, None])[:, 0]


def test_curves_go_from_one_picture_to_the_other(device: torch.device) -> None:
    net, x, base = conv_net().to(device), pictures().to(device), pictures(6)[3:].to(device)
    preprocessing = Preprocessing(mean=(0.4,), std=(0.2,))
    target = torch.tensor([0, 1, 4], device=device)
    asking: dict[str, Any] = {"preprocessing": preprocessing, "n_steps": 5}
    maps = torch.randn_like(x)
    for metric, first, last in ((deletion, x, base), (insertion, base, x)):
        found = metric(net, x, maps, target, baselines=base, **asking).scores
        assert found.shape == (6, 3) and found.dtype == torch.float64
        ends = torch.stack(
            (at(net, first, target, preprocessing), at(net, last, target, preprocessing))
        )
        torch.testing.assert_close(found[[0, -1]], ends, rtol=1e-5, atol=1e-6)


def test_pixels_go_with_all_their_channels_by_the_sum_of_these() -> None:
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x.flatten(1)[:, :2]

    x = pictures(1) + 1
    maps = torch.randn_like(x)
    deletion(model, x, maps, 0, n_steps=48, internal_batch_size=1)
    order = maps.sum(1).flatten().argsort(descending=True)
    steps = seen[-49:]
    for count, step in enumerate(steps):
        gone = (step == 0).flatten(2)
        assert bool((gone.all(1) == gone.any(1)).all())
        assert set(gone[0, 0].nonzero().flatten().tolist()) == set(order[:count].tolist())
    one_channel = deletion(model, x, maps.sum(1, keepdim=True), 0, n_steps=48)
    assert_same_bits(one_channel.scores, deletion(model, x, maps, 0, n_steps=48).scores)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 4e4), (torch.bfloat16, 1.0)])
def test_half_precision_ranks_as_its_numbers_do(dtype: torch.dtype, size: float) -> None:
    maps = (size * (1 + pictures(dtype=torch.float64)) / 2).to(dtype)
    assert torch.equal(pixel_ranks(maps), pixel_ranks(maps.double()))


def test_the_usual_bases_are_a_blurred_picture_and_black() -> None:
    net, x = conv_net(), torch.rand(2, 3, 28, 28)
    maps = torch.randn_like(x)
    blurred = gaussian_blur(x, 28 * 5 / 224)
    for metric, base in ((insertion, blurred), (deletion, torch.zeros(1, 3, 28, 28))):
        named = metric(net, x, maps, 0, n_steps=3)
        assert_same_bits(named.scores, metric(net, x, maps, 0, n_steps=3, baselines=base).scores)


# --- RISE, where the metrics come from -----------------------------------------------------------


class Shares(nn.Module):
    """The class has a probability of 0.1, and 0.4, 0.3 and 0.1 more for three of four pixels."""

    def forward(self, x: Tensor) -> Tensor:
        share = 0.1 + x.flatten(1) @ torch.tensor([0.3, 0.0, 0.1, 0.4], dtype=x.dtype)
        return torch.stack((share, 1 - share), 1).log()


@pytest.mark.parametrize(
    ("metric", "scores", "area"),
    [
        (deletion, [0.9, 0.5, 0.2, 0.1, 0.1], 0.325),
        (insertion, [0.1, 0.5, 0.8, 0.9, 0.9], 0.675),
    ],
)
def test_pixel_by_pixel_curves_are_those_that_can_be_read_off(
    metric: Metric, scores: list[float], area: float
) -> None:
    x, ranking = torch.ones(1, 1, 2, 2).double(), torch.tensor([[[[3.0, 1.0], [2.0, 4.0]]]])
    found = metric(Shares(), x, ranking, 0, baselines=0.0, n_steps=4)
    assert found.scores[:, 0].tolist() == pytest.approx(scores, abs=1e-12)
    assert found.area.tolist() == pytest.approx([area], abs=1e-12)
    assert direct(Shares(), x, ranking[:, 0], 0, metric, torch.zeros_like(x), 1) == (
        pytest.approx(scores, abs=1e-12), pytest.approx(area, abs=1e-12),
    )  # fmt: skip


def direct(
    model: Any, picture: Tensor, saliency: Tensor, target: int, metric: Metric, base: Tensor,
    step: int,
) -> tuple[list[float], float]:  # fmt: skip
    """Petsiuk et al. (2018), section 4.2, of one picture [1, C, H, W]: the probabilities as `step`
    pixels more go, or come, the most salient first; and the area, every step being as wide."""
    shown, becomes = (picture, base) if metric is deletion else (base, picture)
    shown = shown.clone()
    width = picture.shape[3]
    order = sorted(range(saliency.numel()), key=lambda place: -float(saliency.flatten()[place]))
    scores = [float(model(shown).detach().double().softmax(1)[0, target])]
    for first in range(0, len(order), step):
        for place in order[first : first + step]:
            row, column = divmod(place, width)
            shown[:, :, row, column] = becomes[:, :, row, column]
        scores.append(float(model(shown).detach().double().softmax(1)[0, target]))
    trapezoids = [(left + right) / 2 for left, right in itertools.pairwise(scores)]
    return scores, sum(trapezoids) / len(trapezoids)


def in_a_small_window(pixels: Tensor) -> Tensor:
    """Weighted by a Gaussian of 5, cut off at 5 pixels to each side, and 0 beyond the border."""
    places = torch.arange(-5, 6, dtype=pixels.dtype)
    line = (-(places**2) / 50).exp()
    window = line[:, None] * line / line.sum() ** 2
    channels = pixels.shape[1]
    kernel = window.expand(channels, 1, 11, 11)
    return nn.functional.conv2d(pixels, kernel, padding=5, groups=channels)


@BOTH
def test_with_the_substrates_of_rise_curves_are_those_of_rise(metric: Metric) -> None:
    """A row of pixels at a time: of normalised tensors, and of pixels with the same inside."""
    net, pixels = conv_net().double(), torch.rand(3, 3, 16, 14).double()
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    x, maps = preprocessing.normalise(pixels), torch.randn(3, 1, 16, 14).double()
    base = torch.zeros_like(x) if metric is deletion else in_a_small_window(x)
    found = metric(net, x, maps, 2, baselines=base, n_steps=16)
    for i in range(3):
        scores, area = direct(net, x[i : i + 1], maps[i], 2, metric, base[i : i + 1], 14)
        assert found.scores[:, i].tolist() == pytest.approx(scores, abs=1e-9)
        assert float(found.area[i]) == pytest.approx(area, abs=1e-9)
    if metric is deletion:  # zeros are the mean picture
        mean = torch.tensor([0.4, 0.5, 0.6]).double()[None, :, None, None]
        same = metric(net, pixels, maps, 2, baselines=mean, n_steps=16, preprocessing=preprocessing)
        torch.testing.assert_close(same.scores, found.scores, rtol=1e-6, atol=1e-7)
    else:  # the blurred picture of the default is another one
        assert not torch.allclose(insertion(net, x, maps, 2, n_steps=16).area, found.area)


@BOTH
def test_preprocessing_inside_is_preprocessing_outside(metric: Metric) -> None:
    net, x = conv_net(), pictures()
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    maps = torch.randn_like(x)
    inside = metric(net, x, maps, baselines=0.3, preprocessing=preprocessing)
    outside = metric(lambda pixels: net(preprocessing.normalise(pixels)), x, maps, baselines=0.3)
    torch.testing.assert_close(inside.scores, outside.scores, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(inside.scores, metric(net, x, maps, baselines=0.3).scores)


@BOTH
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_chunks_change_no_bit(metric: Metric, rows: int) -> None:
    net, x = Polynomial(3 * 8 * 6), pictures()
    maps = torch.randn_like(x)
    whole = metric(net, x, maps).scores
    assert_same_bits(metric(net, x, maps, internal_batch_size=rows).scores, whole)


@BOTH
def test_a_black_box_is_asked_for_the_inputs_and_every_step(metric: Metric) -> None:
    x = pictures(2)
    box = BlackBox(Polynomial(3 * 8 * 6), budget=2 + 2 * 5)
    white = metric(Polynomial(3 * 8 * 6), x, x, n_steps=4)
    assert_same_bits(metric(box, x, x, n_steps=4).scores, white.scores)
    assert box.remaining == 0
    with pytest.raises(BudgetExceeded, match="5 steps of 2 inputs"):
        metric(BlackBox(Polynomial(3 * 8 * 6), budget=11), x, x, n_steps=4)


class Planted(nn.Module):
    """The class is there as far as a planted square of the picture is."""

    def forward(self, x: Tensor) -> Tensor:
        there = 8 * x[:, :, 2:5, 2:5].mean((1, 2, 3))
        return torch.stack((there, torch.full_like(there, 4.0)), 1)


def test_a_perfect_ranking_beats_random_and_its_reverse() -> None:
    x, perfect = torch.ones(20, 3, 8, 8), torch.zeros(20, 3, 8, 8)
    perfect[:, :, 2:5, 2:5] = 1
    random = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for metric, sign in ((deletion, -1), (insertion, 1)):
        best, by_chance, worst = (
            sign * metric(Planted(), x, maps, 0, baselines=0.0, n_steps=16).area
            for maps in (perfect, random, -perfect)
        )
        assert bool((best - by_chance > 0.1).all()) and bool((by_chance - worst > 0.1).all())


# --- curves and arguments ------------------------------------------------------------------------


def test_areas_are_those_of_trapezoids_over_the_span() -> None:
    scores = torch.tensor([[1.0, 2.0], [0.0, 2.0], [0.0, 2.0]], dtype=torch.float64)
    halves = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert Curve(halves, scores).area.tolist() == [0.25, 2.0]
    # A level score is its own mean, whatever the fractions.
    assert Curve(0.1 + halves / 4, scores).area.tolist() == pytest.approx([0.25, 2.0])
    assert Curve(halves[1:2], scores[:1]).area.tolist() == [1.0, 2.0]


@BOTH
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_steps": 0}, ValueError, "n_steps must be an integer >= 1, got 0"),
        ({"n_steps": 2.5}, ValueError, "n_steps must be an integer >= 1, got 2.5"),
        ({"baselines": "grey"}, ValueError, "baselines must be a number, .* got 'grey'"),
        ({"baselines": None}, TypeError, "baselines must be a number, .* got None"),
        ({"baselines": torch.rand(2, 3, 8, 6)}, ValueError, r"baselines .* got \[2, 3, 8, 6\]"),
        ({"attributions": torch.rand(3, 8, 6)}, ValueError, "attributions must be shaped as the"),
        ({"target": 9}, ValueError, "target must be from 0 to 4"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    metric: Metric, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"attributions": pictures(), "target": 0, **change}
    with pytest.raises(error, match=f"{metric.__name__}: {message}"):
        metric(conv_net(), pictures(), arguments.pop("attributions"), **arguments)


def test_tables_have_no_blurred_picture() -> None:
    with pytest.raises(ValueError, match=r"insertion: baselines .* got 'blur' for \[2, 5\]"):
        insertion(Linear(FEATURES).double(), table(2), table(2))

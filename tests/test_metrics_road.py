"""ROAD: perfect rankings and their reverse, and noise that knows nothing of chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial, conv_net
from torch import Tensor, nn

from pyxai_fast import Preprocessing
from pyxai_fast.metrics import Road, road
from pyxai_fast.metrics.imputation import imputed
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.query_error import BudgetExceeded


class Planted(nn.Module):
    """The class is there as far as a bright square is."""

    def forward(self, x: Tensor) -> Tensor:
        there = 20 * x[:, :, 3:6, 3:6].mean((1, 2, 3))
        return torch.stack((there, torch.full_like(there, 10.0)), 1)


def pictures(batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(batch, 3, 9, 7, generator=torch.Generator().manual_seed(0), dtype=dtype)


def maps(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, 9, 7, generator=torch.Generator().manual_seed(1))


def test_it_tells_a_perfect_ranking_from_its_reverse(device: torch.device) -> None:
    x = torch.zeros(3, 1, 9, 9, device=device)
    x[:, :, 3:6, 3:6] = 1
    right, wrong = road(Planted(), x, x, 0), road(Planted(), x, 1 - x, 0)
    assert right.most_first.scores.shape == (9, 3)
    assert right.most_first.fractions.tolist() == pytest.approx([k / 10 for k in range(1, 10)])
    assert float(right.most_first.scores.max()) < 0.1
    assert float(right.least_first.scores[:8].min()) > 0.99
    assert float(wrong.most_first.scores[:8].min()) > 0.99
    # The reverse's last is the ranking's first.
    assert float(wrong.least_first.scores[1:].max()) < 0.1
    assert bool((right.most_first.area < wrong.most_first.area).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_curves_without_noise_are_scores_of_imputed_pictures(dtype: torch.dtype) -> None:
    net, x = conv_net().to(dtype), pictures(dtype=dtype)
    found = road(net, x, maps(), 2, fractions=(0.25, 0.6), noise=0)
    order = maps().sum(1).flatten(1).argsort(1, descending=True)
    for curve, ordered in ((found.most_first, order), (found.least_first, order.flip(1))):
        for step, fraction in enumerate((0.25, 0.6)):
            removed = torch.zeros(3, 63, dtype=torch.bool)
            removed.scatter_(1, ordered[:, : round(63 * fraction)], True)
            with torch.no_grad():
                expected = net(imputed(x, removed.view(3, 1, 9, 7))).double().softmax(1)[:, 2]
            torch.testing.assert_close(curve.scores[step], expected, rtol=1e-5, atol=1e-7)


class Remembers(nn.Module):
    """Answers anything, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(x.clone())
        return x.flatten(1)[:, :2]


def test_noise_is_added_to_what_is_imputed_alone() -> None:
    x = torch.rand(4, 3, 24, 20, generator=torch.Generator().manual_seed(0)).double()

    def shown(noise: float) -> Tensor:
        model = Remembers()
        road(model, x, x, 0, fractions=(0.3, 0.8), noise=noise)
        return model.rows[-1].unflatten(0, (4, 4))

    clean, noisy = shown(0.0), shown(0.5)
    drawn = noisy - clean
    kept = (clean == x).all(2, keepdim=True).expand_as(clean)
    assert kept.double().mean((1, 2, 3, 4)).tolist() == pytest.approx(
        [0.7, 0.2, 0.7, 0.2], abs=0.01
    )
    assert not drawn[kept].any()
    assert float(drawn[~kept].std()) == pytest.approx(0.5, rel=0.03)
    assert float(drawn[~kept].mean()) == pytest.approx(0, abs=0.02)
    # Every step and every picture has noise of its own.
    for one, other in ((drawn[0], drawn[1]), (drawn[:, 0], drawn[:, 1])):
        assert float((one * other).sum().abs() / (one * one).sum()) < 0.05


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_chunks_change_no_bit(rows: int) -> None:
    net = Polynomial(3 * 9 * 7)
    whole = road(net, pictures(), maps())
    parts = road(net, pictures(), maps(), internal_batch_size=rows)
    assert_same_bits(parts.most_first.scores, whole.most_first.scores)
    assert_same_bits(parts.least_first.scores, whole.least_first.scores)


def test_a_seed_repeats_and_another_is_another() -> None:
    def scores(seed: int) -> Tensor:
        return road(Polynomial(3 * 9 * 7), pictures(), maps(), seed=seed).most_first.scores

    assert_same_bits(scores(4), scores(4))
    assert not torch.equal(scores(4), scores(5))


def test_preprocessing_inside_is_preprocessing_outside() -> None:
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    net = conv_net()
    inside = road(net, pictures(), maps(), preprocessing=preprocessing)
    outside = road(lambda x: net(preprocessing.normalise(x)), pictures(), maps())
    for one, other in (
        (inside.most_first, outside.most_first),
        (inside.least_first, outside.least_first),
    ):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-5, atol=1e-6)


def test_targets_and_outputs_are_those_that_are_asked_for() -> None:
    net, x = Linear(3 * 9 * 7).double(), pictures(dtype=torch.float64)
    target = torch.tensor([2, 0, 1])

    def scores(target: Any) -> Tensor:
        asking: dict[str, Any] = {"noise": 0, "output": "logit", "fractions": (0.4, 0.5)}
        return road(net, x, maps(), target, **asking).most_first.scores

    each = torch.stack([scores(c) for c in range(3)])
    torch.testing.assert_close(scores(target), each[target, :, torch.arange(3)].T)


def test_a_black_box_is_asked_for_both_orders() -> None:
    net = Polynomial(3 * 9 * 7)
    box = BlackBox(net, budget=3 + 2 * 3 * 2)
    found: Road = road(box, pictures(), maps(), fractions=(0.2, 0.7))
    white = road(net, pictures(), maps(), fractions=(0.2, 0.7))
    assert_same_bits(found.least_first.scores, white.least_first.scores)
    assert box.remaining == 0
    with pytest.raises(BudgetExceeded, match="road: 4 steps of 3 inputs"):
        road(BlackBox(net, budget=14), pictures(), maps(), fractions=(0.2, 0.7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"inputs": torch.rand(3, 9)},
            r"road: inputs must be pictures \[B, C, H, W\], got \[3, 9\]",
        ),
        ({"fractions": (0.5, 1.0)}, "road: fractions must be one or more numbers between 0 and 1"),
        ({"noise": -1}, "road: noise must be a finite number >= 0, got -1"),
        (
            {"attributions": torch.rand(3, 2, 9, 7)},
            "road: attributions must be shaped as the inputs",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"inputs": pictures(), "attributions": maps(), **change}
    with pytest.raises(ValueError, match=message):
        road(
            Polynomial(3 * 9 * 7),
            arguments.pop("inputs"),
            arguments.pop("attributions"),
            **arguments,
        )

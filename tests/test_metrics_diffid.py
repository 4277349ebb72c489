"""DiffID as it is defined, one ratio and one feature at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial
from torch import Tensor

from pyxai_fast import Preprocessing
from pyxai_fast.metrics import diffid
from pyxai_fast.metrics.diffid import RATIOS
from pyxai_fast.models.black_box import BlackBox


def halves(x: Tensor) -> Tensor:
    """Class 1 where the left half is brighter than the right one by a quarter."""
    left, right = x[..., :3].flatten(1).mean(1), x[..., 3:].flatten(1).mean(1)
    return torch.stack((torch.full_like(left, 0.25), left - right), 1)


def slow_diffid(x: Tensor, attributions: Tensor, target: int) -> float:
    """One ratio and one feature at a time, as the definition reads."""
    order = attributions.abs().flatten().argsort(descending=True, stable=True).tolist()
    total = 0.0
    for ratio in RATIOS:
        count = round(ratio * len(order))
        for sign, gone in ((1, order[len(order) - count :]), (-1, order[:count])):
            values = x.flatten().tolist()
            kept = [v for i, v in enumerate(values) if i not in set(gone)]
            for i in gone:
                values[i] = sum(kept) / len(kept)
            answer = halves(torch.tensor(values).reshape(1, *x.shape))
            total += sign * (int(answer.argmax()) == target)
    return total / len(RATIOS)


def pictures(batch: int = 6) -> Tensor:
    x = torch.rand(batch, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    x[..., :3] += 0.6
    return x


def maps(batch: int = 6) -> Tensor:
    return torch.randn(batch, 2, 4, 6, generator=torch.Generator().manual_seed(1))


def test_it_is_its_definition(device: torch.device) -> None:
    x, attributions = pictures(), maps()
    found = diffid(halves, x.to(device), attributions.to(device), 1)
    expected = [slow_diffid(x[i], attributions[i], 1) for i in range(6)]
    assert found.dtype == torch.float64 and found.tolist() == pytest.approx(expected)
    assert len(set(expected)) > 1
    # The ranking the other way round.
    other = diffid(halves, x.to(device), 1 / attributions.abs().to(device), 1)
    torch.testing.assert_close(other, -found)


def test_a_map_of_what_the_class_needs_is_good_and_its_reverse_is_bad() -> None:
    # The sum of the first three of ten features is what the class is.
    def needs(x: Tensor) -> Tensor:
        return torch.stack((x[:, :3].sum(1), torch.full_like(x[:, 0], 2.0)), 1)

    x = torch.zeros(1, 10)
    x[0, :3] = 1
    attributions = torch.linspace(1, 0.1, 10)[None]
    found = diffid(needs, x, attributions, 0, ratios=(0.3, 0.7))
    assert float(found) == 1.0
    assert float(diffid(needs, x, attributions.flip(1), 0, ratios=(0.3, 0.7))) == -1.0


def test_one_feature_is_kept_at_least() -> None:
    # Nine tenths of four features are all of them: the mean of nothing.
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x[:, :2]

    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    diffid(model, x, torch.tensor([[4.0, 3.0, 2.0, 1.0]]), 0, ratios=(0.9,))
    assert [row.tolist() for row in seen[-1]] == [[4.0] * 4, [1.0] * 4]


def test_answers_that_are_nan_are_neither_right_nor_wrong() -> None:
    """torch takes NaN for the largest: the first class would always come first."""
    x = pictures()

    def model(rows: Tensor) -> Tensor:
        own = (rows[:, None] == x).flatten(2).all(2)
        broken = ~own.any(1) & (rows[..., 0, 0] == x[:1, :, 0, 0]).any(1)
        return halves(rows).masked_fill(broken[:, None], torch.nan)

    found = diffid(model, x, maps(), 0)
    assert found.isnan().tolist() == [True] + [False] * 5
    assert torch.equal(found[1:], diffid(halves, x, maps(), 0)[1:])


@pytest.mark.parametrize("rows", [1, 5])
def test_chunks_change_no_bit(rows: int) -> None:
    whole = diffid(Polynomial(48), pictures(), maps())
    assert_same_bits(diffid(Polynomial(48), pictures(), maps(), internal_batch_size=rows), whole)


def test_preprocessing_inside_is_preprocessing_outside() -> None:
    preprocessing = Preprocessing(mean=(0.9,), std=(0.2,), channels=1)
    x, net = pictures()[:, :1], Linear(24)
    inside = diffid(net, x, maps()[:, :1], preprocessing=preprocessing)
    outside = diffid(lambda p: net(preprocessing.normalise(p)), x, maps()[:, :1])
    assert inside.tolist() == outside.tolist()


def test_one_channel_ranks_for_all() -> None:
    x = pictures()
    one = maps()[:, :1]
    assert_same_bits(diffid(halves, x, one), diffid(halves, x, one.expand_as(x)))


def test_a_black_box_is_asked_for_both_orders_of_every_ratio() -> None:
    box = BlackBox(halves, budget=6 + 2 * 3 * 6)
    diffid(box, pictures(), maps(), ratios=(0.2, 0.5, 0.8))
    assert box.remaining == 0


@pytest.mark.parametrize(
    ("ratios", "error", "message"),
    [
        ((), ValueError, r"diffid: ratios must be one or more .* got \[\]"),
        ((0.0, 0.5), ValueError, "diffid: ratios must be one or more numbers between 0 and 1"),
        ((0.5, 0.2), ValueError, "diffid: ratios must be .* ascending"),
        ("half", TypeError, "diffid: ratios must be numbers, got 'half'"),
    ],
)
def test_ratios_that_make_no_sense_are_named(
    ratios: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        diffid(halves, pictures(), maps(), ratios=ratios)

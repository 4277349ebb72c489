"""Subsets that matter as maps say: known correlations, the law of the subsets, chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from assertions import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from nets import Linear, Polynomial, conv_net
from torch import Tensor, nn

from pyxai_fast import Cost, Preprocessing, ops
from pyxai_fast.metrics import faithfulness_correlation
from pyxai_fast.metrics.random_subsets import random_subsets

FEATURES = 40


def rows(n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, FEATURES, generator=generator, dtype=torch.float64)


def subsets(n_features: int, size: int, batch: int = 3, runs: int = 4, seed: int = 0) -> Tensor:
    key = ops.random_key(seed)
    return random_subsets(n_features, size, torch.arange(batch), torch.arange(runs), key)


# --- subsets -------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.data())
def test_subsets_have_as_many_different_features(n_features: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, n_features))
    found = subsets(n_features, size)
    assert found.shape == (4, 3, size) and found.dtype == torch.int64
    ordered = found.sort(2).values
    assert bool((ordered[..., 1:] > ordered[..., :-1]).all())
    assert int(ordered.min()) >= 0 and int(ordered.max()) < n_features


@pytest.mark.parametrize(("n_features", "size"), [(150_528, 224), (40, 20), (40, 33), (2, 1)])
def test_a_subset_depends_on_its_example_and_run_alone(
    n_features: int, size: int, device: torch.device
) -> None:
    key = ops.random_key(5, device=device)
    numbers = torch.arange(6, device=device)
    whole = random_subsets(n_features, size, numbers, numbers[:5], key)
    part = random_subsets(n_features, size, numbers[2:5], numbers[1:3], key)
    assert torch.equal(part, whole[1:3, 2:5])
    alone = random_subsets(n_features, size, numbers[4:5], numbers[3:4], key)
    assert torch.equal(alone, whole[3:4, 4:5])
    host = random_subsets(n_features, size, numbers.cpu(), numbers[:5].cpu(), key.cpu())
    assert torch.equal(whole.cpu(), host)
    if n_features > 2:
        assert not torch.equal(whole[0, 0].sort().values, whole[1, 0].sort().values)
        assert not torch.equal(whole[0, 0].sort().values, whole[0, 1].sort().values)


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_every_subset_is_as_likely(size: int) -> None:
    found = subsets(5, size, batch=1, runs=20_000).flatten(0, 1).sort(1).values
    _, counts = found.unique(dim=0, return_counts=True)
    possible = {1: 5, 2: 10, 4: 5, 5: 1}[size]
    assert len(counts) == possible
    # Chi squared, of possible - 1 degrees of freedom: 35 is passed once in 10,000 at 9 of them.
    expected = 20_000 / possible
    assert float(((counts - expected) ** 2 / expected).sum()) < 35


# --- correlations --------------------------------------------------------------------------------


def test_shares_of_a_linear_model_foretell_every_fall(device: torch.device) -> None:
    net, x = Linear(FEATURES).double().to(device), rows().to(device)
    base = torch.linspace(-1, 1, FEATURES, dtype=torch.float64, device=device)[None]
    maps = net.weight[1].detach() * (x - base)

    def found(maps: Tensor) -> Tensor:
        return faithfulness_correlation(
            net, x, maps, 1, n_runs=30, subset_size=7, baselines=base, output="logit"
        )

    assert found(maps).dtype == torch.float64
    torch.testing.assert_close(found(maps).cpu(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(found(-2 * maps).cpu(), -torch.ones(3, dtype=torch.float64))
    mean = found(maps.roll(1, 1)).abs().mean()
    assert float(mean) < 0.7


def test_it_is_pearsons_correlation_of_sums_and_falls() -> None:
    net, x = Polynomial(FEATURES).double(), rows()
    maps = torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(1)).double()
    chosen = subsets(FEATURES, 9, batch=3, runs=11)
    found = faithfulness_correlation(net, x, maps, 2, subsets=chosen, baselines=0.5)
    for b in range(3):
        sums, falls = [], []
        for run in range(11):
            changed = x[b].clone()
            changed[chosen[run, b]] = 0.5
            sums.append(float(maps[b, chosen[run, b]].sum()))
            both = net(torch.stack([x[b], changed])).softmax(1)[:, 2]
            falls.append(float(both[0] - both[1]))
        expected = torch.corrcoef(torch.tensor([sums, falls], dtype=torch.float64))[0, 1]
        assert float(found[b]) == pytest.approx(float(expected), rel=1e-10)


def test_one_set_of_subsets_does_for_all_inputs() -> None:
    net, x = Polynomial(FEATURES).double(), rows()
    chosen = subsets(FEATURES, 9, batch=1, runs=11)
    found = faithfulness_correlation(net, x, x, 0, subsets=chosen)
    whole = faithfulness_correlation(net, x, x, 0, subsets=chosen.expand(-1, 3, -1))
    assert_same_bits(found, whole)


def test_random_subsets_are_the_same_in_any_chunks() -> None:
    net, x = Polynomial(FEATURES), rows(5).float()

    def found(**options: Any) -> Tensor:
        return faithfulness_correlation(
            net, x, x, 0, n_runs=12, subset_size=6, seed=4, output="logit", **options
        )

    whole = found()
    for size in (1, 3, 7):
        torch.testing.assert_close(found(internal_batch_size=size), whole, rtol=0, atol=1e-12)
    drawn = random_subsets(
        FEATURES, 6, torch.arange(5), torch.arange(12), ops.random_key(4, 2**15 + 2**13)
    )
    torch.testing.assert_close(found(subsets=drawn), whole, rtol=0, atol=1e-12)


def test_a_feature_of_a_map_with_one_channel_is_a_pixel() -> None:
    images = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []

    class Seeing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.stack([x.flatten(1).sum(1), x.flatten(1).prod(1)], 1)

    maps = images.sum(1, keepdim=True)
    found = faithfulness_correlation(
        Seeing(), images, maps, 0, n_runs=6, subset_size=8, baselines=-1.0, output="logit"
    )
    # What each pixel gives to the sum, up to what is the same for all subsets.
    torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64))
    for changed in seen[1:]:
        hidden = changed == -1
        assert torch.equal(hidden.all(1), hidden.any(1))
        assert bool((hidden[:, 0].flatten(1).sum(1) == 8).all())


def test_pixels_are_replaced_before_they_are_preprocessed() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    net = conv_net().double()

    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return net(preprocessing.normalise(x))

    options: dict[str, Any] = {"n_runs": 10, "subset_size": 20, "baselines": 0.5}
    one = faithfulness_correlation(net, images, images, 1, preprocessing=preprocessing, **options)
    other = faithfulness_correlation(Whole(), images, images, 1, **options)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_nothing_that_changes_has_no_correlation() -> None:
    net, x = Linear(FEATURES).double(), rows()
    options: dict[str, Any] = {"n_runs": 5, "subset_size": 3}
    alike = torch.full_like(x, 0.1)
    assert faithfulness_correlation(net, x, alike, 0, **options).isnan().all()
    still = faithfulness_correlation(net, x, x, 0, baselines=x, **options)
    assert still.isnan().all()


def test_rounding_is_no_correlation() -> None:
    """All subsets lose as much, but for what float32 makes of it."""
    x = torch.rand(3, 8, generator=torch.Generator().manual_seed(1))

    class Counts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kept = (x != 0).sum(1).double()
            return torch.stack([kept + 1e-8 * x.double().sum(1), 0 * kept], 1)

    options: dict[str, Any] = {"subset_size": 3, "output": "logit"}
    assert faithfulness_correlation(Counts(), x, x, 0, **options).isnan().all()

    class Flat(nn.Module):
        """Its falls are all that they can be of a number near 5: rounding, and so is their span."""

        def __init__(self, slope: float) -> None:
            super().__init__()
            self.slope = slope

        def forward(self, x: Tensor) -> Tensor:
            scores = 5 + self.slope * x.sum(1)
            return torch.stack([scores, 0 * scores], 1)

    for slope, inputs in ((1e-8, x), (1e-7, x), (1e-8, x.double())):
        found = faithfulness_correlation(Flat(slope), inputs, inputs, 0, **options)
        assert found.isnan().all(), slope
    assert faithfulness_correlation(Flat(1e-4), x, x, 0, **options).isfinite().all()
    alike = 1 + 1e-9 * x.double()
    net = Linear(8).double()
    assert faithfulness_correlation(net, x.double(), alike, 0, **options).isnan().all()
    # What is small, and changes, has one.
    small = 1e-9 * x.double()
    assert faithfulness_correlation(net, x.double(), small, 0, **options).isfinite().all()


def test_what_it_costs_is_counted() -> None:
    cost = Cost()
    net, x = Linear(FEATURES), rows().float()
    faithfulness_correlation(net, x, x, 0, n_runs=5, subset_size=3, cost=cost)
    assert cost.queries == (5 + 1) * 3 and cost.gradients == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_runs": 1}, ValueError, "n_runs must be an integer >= 2, got 1"),
        ({"subset_size": 0}, ValueError, "subset_size must be an integer >= 1, got 0"),
        ({"subset_size": 41}, ValueError, "subset_size must be at most .* 40, got 41"),
        ({"subsets": torch.zeros(3, 3, 2)}, TypeError, "subsets must be an int64 tensor, got torc"),
        ({"subsets": torch.zeros(3, 2, 2).long()}, ValueError, r"subsets must be \[n_runs, 1 or 3"),
        ({"subsets": torch.zeros(1, 3, 2).long()}, ValueError, "n_runs >= 2, got .1, 3, 2"),
        ({"subsets": torch.zeros(2, 3, 2).long()}, ValueError, "different features .* one twice"),
        ({"subsets": torch.full((2, 3, 1), 40)}, ValueError, "from 0 to 39, got 40 to 40"),
        ({"attributions": torch.rand(3, 4)}, ValueError, "attributions must be shaped as the inp"),
        ({"baselines": "blur"}, ValueError, "baselines must be .* got 'blur'"),
        ({"model": 3}, TypeError, "model must be callable, got int"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "model": Linear(FEATURES), "inputs": rows().float(), "attributions": rows().float(),
        "target": 0, "subset_size": 3, **change,
    }  # fmt: skip
    with pytest.raises(error, match=f"^faithfulness_correlation: .*{message}"):
        faithfulness_correlation(**arguments)

"""Maps averaged over models of about the same loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nets import Linear, mlp
from torch import Tensor, nn

from pyxai_fast import Saliency
from pyxai_fast.metrics import geometric_ensemble

FEATURES = 6


def always(model: nn.Module) -> float:
    return 1.0


def test_a_linear_models_ensemble_has_its_weights_as_mean() -> None:
    net = Linear(FEATURES)
    found = geometric_ensemble(
        net, always, torch.rand(2, FEATURES), target=1, n_models=2000, spread=0.2
    )
    weight = net.weight[1].detach()
    assert found.kept_share == 1
    error = found.standard_error
    torch.testing.assert_close(
        error, (0.2 * weight.abs() / 2000**0.5).expand(2, -1), rtol=0.1, atol=0
    )
    assert bool(((found.attributions - weight).abs() < 5 * error).all())


def test_models_of_greater_loss_are_left_out() -> None:
    net = Linear(FEATURES)

    def distance(model: nn.Module) -> Tensor:
        return 1 + (model.weight[0, 0] - net.weight[0, 0]).relu() ** 2 * 1e6

    weights: list[float] = []

    def keep(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        weights.append(model.weight[0, 0].item())
        return Saliency(model).attribute(inputs, target, abs=False)

    found = geometric_ensemble(
        net, distance, torch.rand(1, FEATURES), keep, target=0, n_models=200, rise=0.0
    )
    assert found.loss == 1.0 and 0.4 < found.kept_share < 0.6
    assert len(weights) == int(found.kept.sum()) and max(weights) <= net.weight[0, 0].item()
    assert bool((found.losses[found.kept] <= 1).all() and (found.losses[~found.kept] > 1).all())
    assert float(found.attributions[0, 0]) == pytest.approx(sum(weights) / len(weights), rel=1e-5)


def test_no_spread_is_the_models_own_map() -> None:
    net, x = mlp(FEATURES), torch.rand(2, FEATURES)
    found = geometric_ensemble(net, always, x, "saliency", n_models=3, spread=0.0, abs=False)
    expected = Saliency(net).attribute(x, net(x).argmax(1), abs=False)
    torch.testing.assert_close(found.attributions, expected, rtol=0, atol=0)
    assert not found.standard_error.any()
    assert found.target.tolist() == net(x).argmax(1).tolist()


def test_maps_are_averaged_inside_inference_mode_too() -> None:
    net, x = mlp(FEATURES), torch.rand(2, FEATURES)
    expected = geometric_ensemble(net, always, x, n_models=3)
    with torch.inference_mode():
        found = geometric_ensemble(net, always, x.clone(), n_models=3)
    assert torch.equal(found.attributions, expected.attributions)


def test_negative_losses_may_rise_too() -> None:
    found = geometric_ensemble(mlp(FEATURES), lambda m: -3.0, torch.rand(1, FEATURES), n_models=2)
    assert found.kept_share == 1


def test_one_model_has_no_known_error() -> None:
    found = geometric_ensemble(mlp(FEATURES), always, torch.rand(1, FEATURES), n_models=1)
    assert bool(found.standard_error.isinf().all())


def test_the_model_is_left_as_it_was_and_a_seed_repeats() -> None:
    net, x = mlp(FEATURES), torch.rand(1, FEATURES)
    before = [p.clone() for p in net.parameters()]

    def loss(model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(x), torch.tensor([1]))

    one, again = (geometric_ensemble(net, loss, x, n_models=5, rise=1.0) for _ in range(2))
    assert torch.equal(one.attributions, again.attributions)
    assert torch.equal(one.losses, again.losses) and len(set(one.losses.tolist())) == 5
    other = geometric_ensemble(net, loss, x, n_models=5, rise=1.0, seed=1)
    assert not torch.equal(one.losses, other.losses)

    def fails(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        raise RuntimeError("no map")

    with pytest.raises(RuntimeError, match="no map"):
        geometric_ensemble(net, loss, x, fails)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"loss": 3}, TypeError, "loss must be a function of a model, got int"),
        ({"loss": lambda m: torch.ones(2)}, ValueError, r"loss must return one number, got \[2\]"),
        ({"loss": lambda m: float("nan")}, ValueError, "spread must be small enough .* got 0.1"),
        ({"n_models": 0}, ValueError, "n_models must be an integer >= 1, got 0"),
        ({"spread": -1.0}, ValueError, "spread must be a finite number >= 0, got -1.0"),
        ({"rise": "5 %"}, ValueError, "rise must be a finite number >= 0, got '5 %'"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "model": mlp(FEATURES), "loss": always, "inputs": torch.rand(1, FEATURES), **change
    }  # fmt: skip
    with pytest.raises(error, match=message):
        geometric_ensemble(**arguments)

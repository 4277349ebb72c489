"""Slopes of several targets from one forward pass, side by side or one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyxai_fast import Cost, IntegratedGradients, Saliency, Targets
from pyxai_fast.gradients import several_targets
from pyxai_fast.gradients.several_targets import slopes_of_each


class Watched(torch.autograd.Function):
    """An identity that counts backward passes, and can be batched."""

    passes = 0
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        Watched.passes += 1
        return slope


class Unbatchable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * slope


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double().eval()


def test_small_work_takes_one_backward_pass(net: nn.Module) -> None:
    Watched.passes = 0
    maps = Saliency(lambda x: net(Watched.apply(x))).attribute(
        torch.randn(3, 6).double(), target=Targets(0, 1, 3), abs=False
    )
    assert Watched.passes == 1 and maps.shape == (3, 3, 6)


def test_large_work_on_a_cpu_takes_one_for_each(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several_targets, "BATCHED_ELEMENTS", 0)
    Watched.passes = 0
    Saliency(lambda x: net(Watched.apply(x))).attribute(
        torch.randn(3, 6).double(), target=Targets(0, 1, 3)
    )
    assert Watched.passes == 3


def test_both_ways_give_the_same(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 6).double()
    targets = Targets(2, [0, 1, 2, 3, 0])
    together = IntegratedGradients(net).attribute(x, target=targets, n_steps=9)
    monkeypatch.setattr(several_targets, "BATCHED_ELEMENTS", 0)
    assert torch.allclose(
        together, IntegratedGradients(net).attribute(x, target=targets, n_steps=9), atol=1e-14
    )


def test_the_forward_pass_is_paid_once(net: nn.Module) -> None:
    cost = Cost()
    IntegratedGradients(net).attribute(
        torch.randn(2, 6).double(), target=Targets(0, 1), n_steps=5, cost=cost
    )
    assert cost.gradients == 10


def test_an_operation_that_cannot_be_batched_goes_one_by_one(net: nn.Module) -> None:
    def model(x: Tensor) -> Tensor:
        return net(Unbatchable.apply(x))

    x = torch.randn(3, 6).double()
    maps = Saliency(model).attribute(x, target=Targets(0, 2), abs=False)
    for position, target in enumerate((0, 2)):
        alone = Saliency(model).attribute(x, target=target, abs=False)
        assert torch.allclose(maps[:, position], alone, atol=1e-14)


def test_inputs_without_influence_get_zeros(net: nn.Module) -> None:
    x, unused = torch.randn(3, 6).double(), torch.randn(3, 2).double()
    _, maps = Saliency(lambda a, b: net(a)).attribute((x, unused), target=Targets(0, 1))
    assert maps.shape == (3, 2, 2) and not maps.any()


def test_one_target_is_left_to_a_single_pass() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert slopes_of_each(x.sum(1, keepdim=True), (x,)) is None

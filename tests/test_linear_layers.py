"""Linear layers by oneDNN: the same answers and slopes, to rounding, and only where they may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyxai_fast import IntegratedGradients, Targets, explain
from pyxai_fast.runtime import linear_layers as module
from pyxai_fast.runtime.linear_layers import linear_layers

needs_onednn = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this torch has no linear layers of oneDNN",
)
pytestmark = needs_onednn


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """As if this processor were slow under MKL; the shapes of what oneDNN was asked for."""
    shapes: list[tuple[int, ...]] = []
    product = module._product

    def counted(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shapes.append((*input.shape, *weight.shape))
        return product(input, weight, bias)

    monkeypatch.setattr(module, "_product", counted)
    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    yield shapes


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(300, 400), nn.GELU(), nn.Linear(400, 300, bias=False), nn.Tanh(),
        nn.Linear(300, 3),
    ).eval()  # fmt: skip


def truth(x: Tensor, **options: Any) -> Tensor:
    return IntegratedGradients(net().double()).attribute(x.double(), **options)


def test_attributions_are_as_near_the_truth_as_torch_s(asked: list[Any]) -> None:
    x = torch.randn(4, 300)
    options: dict[str, Any] = {"target": 1, "n_steps": 9}
    found = IntegratedGradients(net()).attribute(x, **options)
    assert asked, "oneDNN was not asked"
    exact = truth(x, **options)
    assert float((found - exact).norm() / exact.norm()) < 2e-6


def test_small_layers_are_left_to_torch(asked: list[Any]) -> None:
    IntegratedGradients(net()).attribute(torch.randn(2, 300), target=1, n_steps=3)
    assert {shape[-2:] for shape in asked} == {(400, 300), (300, 400)}


def test_several_targets(asked: list[Any]) -> None:
    x = torch.randn(2, 300)
    options: dict[str, Any] = {"target": Targets(0, 2), "n_steps": 3}
    exact = truth(x, **options)
    found = IntegratedGradients(net()).attribute(x, **options)
    assert float((found - exact).norm() / exact.norm()) < 2e-6


def test_tokens_keep_their_shape(asked: list[Any]) -> None:
    layer, x = nn.Linear(300, 400), torch.randn(2, 7, 300, requires_grad=True)
    with linear_layers(layer, x):
        answer = layer(x)
    assert answer.shape == (2, 7, 400)
    (slope,) = torch.autograd.grad(answer.square().sum(), x)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-4)


def test_models_that_only_answer_go_the_same_way(asked: list[Any]) -> None:
    explain(net(), torch.randn(1, 300), method="rise", target=1, n_queries=20)
    assert asked


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_alone(asked: list[Any], dtype: torch.dtype) -> None:
    x = torch.randn(2, 300, dtype=dtype)
    explain(net().to(dtype), x, target=1, n_steps=3)
    assert not asked


def test_attributions_that_are_differentiated_reach_the_weights(asked: list[Any]) -> None:
    model = net()
    maps = IntegratedGradients(model).attribute(
        torch.randn(2, 300), target=1, n_steps=3, create_graph=True
    )
    maps.square().sum().backward()
    first = model[0]  # type: ignore[index]
    assert isinstance(first, nn.Linear) and first.weight.grad is not None
    assert first.weight.grad.any()


def test_models_without_large_layers_are_not_watched(asked: list[Any]) -> None:
    small, x = nn.Linear(30, 40), torch.randn(2, 30)
    assert isinstance(linear_layers(small, x), nullcontext)
    assert isinstance(linear_layers(None, x), nullcontext)
    assert not isinstance(linear_layers(net(), x), nullcontext)


def test_outside_nothing_is_changed(asked: list[Any]) -> None:
    layer, x = nn.Linear(300, 400), torch.randn(2, 300)
    with linear_layers(layer, x):
        pass
    layer(x)
    assert not asked


def test_only_some_processors_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor, faster in (("AuthenticAMD", True), ("GenuineIntel", False), ("", False)):
        monkeypatch.setattr(module, "_vendor", lambda vendor=vendor: vendor)
        module.onednn_is_faster.cache_clear()
        assert module.onednn_is_faster() is (faster and torch.backends.mkl.is_available())
    module.onednn_is_faster.cache_clear()

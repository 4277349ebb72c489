"""Linear layers by oneDNN: the same answers and slopes, to rounding, and only where they may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
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
    model, x = net(), torch.randn(2, 300)
    maps = IntegratedGradients(model).attribute(x, target=1, n_steps=3, create_graph=True)
    maps.square().sum().backward()
    first = model[0]  # type: ignore[index]
    assert isinstance(first, nn.Linear) and first.weight.grad is not None
    found = first.weight.grad.clone()
    model.double().zero_grad()
    maps = IntegratedGradients(model).attribute(x.double(), target=1, n_steps=3, create_graph=True)
    maps.square().sum().backward()
    assert float((found - first.weight.grad).norm() / first.weight.grad.norm()) < 1e-5


# --- what a model may do besides a plain forward pass: the maps are torch's own -------------------


class Vmapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(self.net)(x)


class EnergyModel(Vmapped):
    """Its answer is itself a slope."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            energy = self.net(x).square().sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return force[:, :3]


class HyperNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maker = nn.Linear(10, 300 * 400)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.maker(x[:, :10].mean(0)).view(400, 300)
        return nn.functional.linear(x, weight)[:, :3].tanh()


class Checkpointed(Vmapped):
    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=False)


class Forward(Vmapped):
    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        return torch.func.jvp(self.net, (x,), (torch.ones_like(x),))[1]


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        nets = [net(), net()]
        self.base = net()
        params, _ = torch.func.stack_module_state(nets)
        self.stacked = {name: value.detach() for name, value in params.items()}
        self.large = nn.Linear(300, 400)  # a large layer that is there to be watched

    def forward(self, x: Tensor) -> Tensor:
        def one(params: dict[str, Tensor]) -> Tensor:
            answer: Tensor = torch.func.functional_call(self.base, params, (x,))
            return answer

        return torch.vmap(one)(self.stacked).mean(0)


class Mixed(Vmapped):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.net[0](x)  # type: ignore[index]
            signs = torch.ones(400, 3, dtype=torch.bfloat16).tril()
            return (hidden @ signs).float() / 400


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(300, 4, 400, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x[:, None].expand(-1, 3, -1)).mean(1)[:, :3]


@pytest.mark.parametrize(
    "model", [Vmapped, EnergyModel, HyperNet, Checkpointed, Forward, Ensemble, Mixed, Attends]
)
@pytest.mark.parametrize("method", ["integrated_gradients", "rise"])
def test_what_models_do_besides_is_left_to_torch(
    model: type[nn.Module], method: str, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    explained, x = model().eval(), torch.randn(2, 300)
    steps: dict[str, Any] = {"n_queries": 20} if method == "rise" else {"n_steps": 4}
    found = explain(explained, x, method=method, target=1, **steps).attributions
    monkeypatch.setattr(module, "onednn_is_faster", lambda: False)
    expected = explain(explained, x, method=method, target=1, **steps).attributions
    assert isinstance(found, Tensor) and isinstance(expected, Tensor)
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


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

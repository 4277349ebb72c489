"""Whether attributions add up: maps that do, by how much others do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nets import Linear, Polynomial, conv_net, mlp
from torch import Tensor

from pyxai_fast import IntegratedGradients, Preprocessing, explain
from pyxai_fast.metrics import completeness_gap

FEATURES = 12


def rows(n: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(n, FEATURES, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_shares_of_a_linear_model_add_up(device: torch.device) -> None:
    net, x = Linear(FEATURES).double().to(device), rows().to(device)
    base = torch.full_like(x[:1], 0.25)
    maps = net.weight[1].detach() * (x - base)
    gap = completeness_gap(net, x, maps, 1, baselines=base)
    assert gap.dtype == torch.float64 and gap.shape == (3,)
    assert bool((gap < 1e-12).all())
    assert bool((completeness_gap(net, x, maps, 1, baselines=0.0) > 1e-3).all())


def test_the_gap_is_what_is_missing() -> None:
    net, x = Polynomial(FEATURES).double(), rows()
    rise = net(x)[:, 2] - net(torch.zeros_like(x))[:, 2]
    maps = torch.zeros_like(x)
    maps[:, 0] = 1.25 * rise
    torch.testing.assert_close(completeness_gap(net, x, maps, 2), torch.full_like(rise, 0.25))
    absolute = completeness_gap(net, x, maps, 2, relative=False)
    torch.testing.assert_close(absolute, 0.25 * rise.abs())


def test_more_steps_close_the_gap_of_integrated_gradients() -> None:
    net, x = mlp(FEATURES), rows(dtype=torch.float32)

    def gap(steps: int) -> float:
        maps = IntegratedGradients(net).attribute(x, target=0, n_steps=steps, method="riemann_left")
        return float(completeness_gap(net, x, maps, 0).max())

    assert gap(4) > 4 * gap(32) > 16 * gap(256) > 0


@pytest.mark.parametrize("output", ["logit", "prob", "logprob"])
def test_what_is_explained_is_what_has_to_add_up(output: str) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    net = conv_net()
    found = explain(net, images, output=output, preprocessing=preprocessing, n_steps=64)
    asking: dict[str, Any] = {"output": output, "preprocessing": preprocessing}
    gap = completeness_gap(net, images, found.attributions, found.target, **asking)
    assert bool((gap < 1e-3).all())
    absolute = completeness_gap(
        net, images, found.attributions, found.target, relative=False, **asking
    )
    torch.testing.assert_close(absolute, found.delta.abs().double(), rtol=0, atol=1e-6)
    summed = found.attributions.sum(1, keepdim=True)
    again = completeness_gap(net, images, summed, found.target, **asking)
    torch.testing.assert_close(again, gap, rtol=0, atol=1e-5)
    other = {"logit": "prob", "prob": "logit", "logprob": "logit"}[output]
    asking["output"] = other
    assert bool((completeness_gap(net, images, found.attributions, **asking) > 0.05).all())


def test_a_score_that_does_not_rise_has_no_relative_gap() -> None:
    net, x = Linear(FEATURES).double(), rows()
    assert completeness_gap(net, x, x, 0, baselines=x).isinf().all()
    assert completeness_gap(net, x, 0 * x, 0, baselines=x).isnan().all()
    assert completeness_gap(net, x, 0 * x, 0, baselines=x, relative=False).tolist() == [0] * 3


def test_chunks_change_nothing() -> None:
    net, x = Polynomial(FEATURES), rows(7, torch.float32)
    whole = completeness_gap(net, x, x)
    for size in (1, 3):
        assert torch.equal(completeness_gap(net, x, x, internal_batch_size=size), whole)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": torch.rand(0, FEATURES)}, ValueError, "inputs must be floating-point"),
        ({"attributions": torch.rand(3, 4)}, ValueError, "attributions must be shaped as the inp"),
        ({"attributions": torch.rand(3, 12).int()}, TypeError, "attributions must be floating-po"),
        ({"baselines": torch.rand(2, 12)}, ValueError, r"baselines must be .* got \[2, 12\]"),
        (
            {"baselines": object()},
            TypeError,
            "baselines must be a number, a tensor, .* got <object",
        ),
        ({"target": "a"}, TypeError, r"target must be a class, or \[3\] classes, got 'a'"),
        ({"target": 7}, ValueError, "target must be from 0 to 2"),
        ({"output": "odds"}, ValueError, "output must be one of .* got 'odds'"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    x = torch.rand(3, FEATURES)
    arguments: dict[str, Any] = {
        "model": Linear(FEATURES), "inputs": x, "attributions": x, **change,
    }  # fmt: skip
    with pytest.raises(error, match=f"^completeness_gap: {message}"):
        completeness_gap(**arguments)

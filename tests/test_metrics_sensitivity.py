"""By how much maps change as inputs hardly do: known changes, methods by name, given noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nets import Linear, conv_net, mlp
from torch import Tensor

from pyxai_fast import Saliency
from pyxai_fast.metrics import max_sensitivity

FEATURES = 12


def rows(n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, FEATURES, generator=generator, dtype=torch.float64)


def test_slopes_of_a_linear_model_never_change(device: torch.device) -> None:
    net, x = Linear(FEATURES).double().to(device), rows().to(device)
    found = max_sensitivity("saliency", x, model=net)
    assert found.dtype == torch.float64 and found.tolist() == [0] * 3
    assert found.device.type == device.type


def test_the_largest_change_counts_relative_to_the_map() -> None:
    x = rows()
    noise = 0.1 * torch.randn(4, 3, FEATURES, generator=torch.Generator().manual_seed(1)).double()
    for norm in (1, 2, torch.inf):
        found = max_sensitivity(lambda inputs: 3 * inputs, x, noise=noise, norm=norm)
        sizes = torch.linalg.vector_norm(noise, norm, dim=2).amax(0)
        torch.testing.assert_close(found, sizes / torch.linalg.vector_norm(x, norm, dim=1))
    shared = max_sensitivity(lambda inputs: inputs, x, noise=noise[:, :1])
    whole = max_sensitivity(lambda inputs: inputs, x, noise=noise[:, :1].expand(-1, 3, -1))
    assert torch.equal(shared, whole)


def test_noise_is_uniform_in_a_cube() -> None:
    seen: list[Tensor] = []

    def keep(inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return inputs

    x = torch.zeros(2, 3, 40, 40)
    max_sensitivity(keep, x, radius=0.25, n_samples=5)
    assert len(seen) == 6 and torch.equal(seen[0], x)
    drawn = torch.stack(seen[1:]).flatten() / 0.25
    assert -1 <= float(drawn.min()) < -0.99 and 0.99 < float(drawn.max()) <= 1
    # Kolmogorov and Smirnov: 48,000 uniform numbers part from their law by 0.01 once in 10,000.
    law = torch.linspace(-1, 1, len(drawn))
    assert float((drawn.sort().values - law).abs().max()) < 2 * 0.01
    again: list[Tensor] = list(seen)
    seen.clear()
    max_sensitivity(keep, x, radius=0.25, n_samples=5)
    assert all(torch.equal(a, b) for a, b in zip(again, seen, strict=True))
    seen.clear()
    max_sensitivity(keep, x, radius=0.25, n_samples=5, seed=1)
    assert not torch.equal(again[1], seen[1]) and not torch.equal(seen[1], seen[2])


def test_a_larger_cube_and_more_samples_find_larger_changes() -> None:
    net, x = mlp(FEATURES).double(), rows()

    def found(**options: Any) -> Tensor:
        return max_sensitivity("saliency", x, model=net, abs=False, **options)

    assert bool((found(radius=0.1) > 3 * found(radius=0.01)).all())
    assert bool((found(n_samples=30) >= found(n_samples=3)).all())
    assert found(radius=0.0).tolist() == [0] * 3


def test_the_class_that_is_explained_stays() -> None:
    net, x = conv_net(), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    own = net(x).argmax(1)

    def gradient(inputs: Tensor) -> Any:
        # As numbers of an array, with the class named.
        return Saliency(net).attribute(inputs, own).numpy()

    called = max_sensitivity(gradient, x, radius=2.0)
    named = max_sensitivity("saliency", x, radius=2.0, model=net)
    torch.testing.assert_close(called, named, rtol=1e-6, atol=0)
    other = max_sensitivity("saliency", x, radius=2.0, model=net, target=(own + 1) % 5)
    assert bool((other != named).all())


def test_methods_that_draw_draw_the_same() -> None:
    net, x = Linear(FEATURES).double(), rows()
    found = max_sensitivity(
        "smooth_grad", x, model=net, gradient="likelihood_ratio", radius=0.0, n_samples=2
    )
    assert found.tolist() == [0] * 3


def test_a_map_of_zeros_has_length_one() -> None:
    def far(inputs: Tensor) -> Tensor:
        return inputs.clamp(min=0)

    x = torch.full((1, FEATURES), -0.5)
    noise = torch.zeros(1, 1, FEATURES)
    noise[..., 0] = 2.5
    assert max_sensitivity(far, x, noise=noise).tolist() == [2.0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": torch.rand(0, 12)}, ValueError, r"inputs must be .* B >= 1"),
        ({"radius": -0.1}, ValueError, "radius must be a finite number >= 0, got -0.1"),
        ({"n_samples": 0}, ValueError, "n_samples must be an integer >= 1, got 0"),
        ({"norm": 0.5}, ValueError, "norm must be a number >= 1, got 0.5"),
        ({"norm": "fro"}, ValueError, "norm must be a number >= 1, got 'fro'"),
        ({"noise": 0.1}, TypeError, "noise must be a tensor, got float"),
        ({"noise": torch.rand(2, 2, 12)}, ValueError, r"noise must be \[n_samples, 1 or B, ...\]"),
        ({"explain": 3}, TypeError, "explain must be callable or a method's name, got int"),
        ({"explain": "saliency"}, TypeError, "model must be given with a method's name"),
        ({"target": 1}, TypeError, "target must be given to explain itself"),
        ({"n_steps": 4}, TypeError, "n_steps must be given to explain itself"),
        ({"explain": lambda x: x[:1]}, ValueError, r"explain must return \[3, ...\].* \[1, 12\]"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"explain": lambda x: x, "inputs": rows(), **change}
    with pytest.raises(error, match=f"^max_sensitivity: .*{message}"):
        max_sensitivity(**arguments)

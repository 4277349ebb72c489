"""Whether attributions tell what changes do: known errors, given and drawn perturbations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial, conv_net
from torch import Tensor, nn

from pyxai_fast import Preprocessing, explain
from pyxai_fast.metrics import infidelity

FEATURES = 12


def rows(n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, FEATURES, generator=generator, dtype=torch.float64)


def normals(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_slopes_of_a_linear_model_foretell_everything(device: torch.device) -> None:
    net, x = Linear(FEATURES).double().to(device), rows().to(device)
    slopes = net.weight[1].detach().expand(3, -1)
    found = infidelity(net, x, slopes, 1)
    assert found.dtype == torch.float64 and found.shape == (3,)
    assert bool((found < 1e-25).all())


def test_what_slopes_miss_has_a_known_size() -> None:
    # Slopes that are wrong by d are wrong by d . I: on average |d|^2 sigma^2.
    net, x = Linear(FEATURES).double(), rows()
    wrong = torch.linspace(0, 1, FEATURES, dtype=torch.float64)
    slopes = net.weight[1].detach() + wrong
    found = infidelity(net, x, slopes.expand(3, -1), 1, perturbations=0.3, n_samples=20_000)
    expected = float(wrong.square().sum()) * 0.3**2
    # The mean of 20,000 squares of normals: its standard error is sqrt(2 / 20,000) of it, 1 %.
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0.05, atol=0)


def test_given_perturbations_are_its_definition() -> None:
    net, x, maps = Polynomial(FEATURES).double(), rows(), normals(3, FEATURES)
    given = 0.2 * normals(5, 3, FEATURES)
    found = infidelity(net, x, maps, 2, perturbations=given, output="prob")
    expected = torch.zeros(3, dtype=torch.float64)
    for noise in given:
        fall = net(x).softmax(1)[:, 2] - net(x - noise).softmax(1)[:, 2]
        expected += ((noise * maps).sum(1) - fall) ** 2 / 5
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    shared = infidelity(net, x, maps, 2, perturbations=given[:, :1])
    whole = infidelity(net, x, maps, 2, perturbations=given[:, :1].expand(-1, 3, -1))
    assert_same_bits(shared, whole)


def test_a_function_says_what_is_changed_and_what_counts() -> None:
    net, x = Linear(FEATURES).double(), rows()
    shares = net.weight[0].detach() * x
    drawn: list[int] = []

    def hide(rows: Tensor) -> tuple[Tensor, Tensor]:
        drawn.append(len(rows))
        hidden = (torch.rand(rows.shape, generator=generator) < 0.5).double()
        return hidden, rows * (1 - hidden)

    generator = torch.Generator().manual_seed(0)
    assert bool((infidelity(net, x, shares, 0, perturbations=hide, n_samples=8) < 1e-25).all())
    assert sum(drawn) >= 24
    assert bool((infidelity(net, x, 2 * shares, 0, perturbations=hide) > 1e-3).all())


def test_the_scale_of_a_map_can_be_left_out() -> None:
    net, x, maps = Polynomial(FEATURES).double(), rows(), normals(3, FEATURES)

    def found(maps: Tensor, normalise: bool = True) -> Tensor:
        return infidelity(net, x, maps, 0, perturbations=0.2, n_samples=40, normalise=normalise)

    torch.testing.assert_close(found(maps), found(-7 * maps))
    # No other scale is better.
    assert all(
        bool((found(maps) <= found(scale * maps, False) * (1 + 1e-12)).all())
        for scale in torch.linspace(-2, 2, 9)
    )
    falls = found(0 * maps, False)
    torch.testing.assert_close(found(0 * maps), falls)


def test_noise_is_the_same_in_any_chunks() -> None:
    net, x = Polynomial(FEATURES), rows(5).float()

    def found(**options: Any) -> Tensor:
        return infidelity(net, x, x, 0, n_samples=9, **{"seed": 3, **options})

    whole = found()
    for size in (1, 2, 7):
        torch.testing.assert_close(found(internal_batch_size=size), whole, rtol=1e-12, atol=0)
    assert bool((found(seed=4) != whole).all())


def test_perturbations_are_in_the_units_of_the_inputs() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    net = conv_net().double()

    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return net(preprocessing.normalise(x))

    one = infidelity(net, images, images, 1, preprocessing=preprocessing)
    other = infidelity(Whole(), images, images, 1)
    torch.testing.assert_close(one, other, rtol=1e-8, atol=0)
    slopes = explain(
        net, images, method="saliency", target=1, preprocessing=preprocessing, abs=False
    ).attributions
    small = infidelity(
        net, images, slopes, 1, preprocessing=preprocessing, perturbations=1e-3, n_samples=50
    )
    nothing = infidelity(
        net, images, 0 * slopes, 1, preprocessing=preprocessing, perturbations=1e-3, n_samples=50
    )
    assert bool((small < 1e-3 * nothing).all())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, "n_samples must be an integer >= 1, got 0"),
        ({"perturbations": -1}, ValueError, "perturbations must be a finite number >= 0, got -1"),
        ({"perturbations": "noise"}, ValueError, "perturbations must be a finite number"),
        ({"perturbations": torch.rand(4, 2, 12)}, ValueError, r"\[n_samples, 1 or B, ...\]"),
        ({"perturbations": torch.rand(0, 3, 12)}, ValueError, r"got \[0, 3, 12\]"),
        ({"perturbations": lambda x: x}, ValueError, "must return two tensors .* got Tensor"),
        ({"perturbations": lambda x: (x, 3)}, ValueError, "got Tensor and int"),
        ({"perturbations": lambda x: (x, x[:1])}, ValueError, r"got \[\[.*12\], \[1, 12\]\]"),
        ({"attributions": torch.rand(3, 4)}, ValueError, "attributions must be shaped as the inp"),
        ({"target": 3}, ValueError, "target must be from 0 to 2"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "model": Linear(FEATURES), "inputs": rows().float(), "attributions": rows().float(),
        **change,
    }  # fmt: skip
    with pytest.raises(error, match=f"^infidelity: .*{message}"):
        infidelity(**arguments)


def test_a_map_of_pixels_has_no_slopes_of_channels() -> None:
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"attributions must be shaped as the inputs, \[2, 3, 8"):
        infidelity(conv_net(), images, images[:, :1])

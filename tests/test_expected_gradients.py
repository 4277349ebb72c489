"""Expected gradients: their mean, their spread, and what does not change them."""

from __future__ import annotations

import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial, conv_net, mlp
from torch import Tensor

from pyxai_fast import (
    BlackBox,
    Cost,
    ExpectedGradients,
    IntegratedGradients,
    LikelihoodRatio,
    Preprocessing,
    Targets,
    explain,
)

FEATURES = 6


def data(count: int, seed: int = 3) -> Tensor:
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))


def integrated(model, x: Tensor, references: Tensor, target: int) -> Tensor:
    """The expectation itself: Integrated Gradients from every reference, averaged."""
    method = IntegratedGradients(model)
    each = [method.attribute(x, r[None], target=target, n_steps=40) for r in references]
    return torch.stack(each).mean(0)


@pytest.mark.parametrize("stratified", [False, True])
def test_it_estimates_integrated_gradients_averaged_over_the_references(stratified: bool) -> None:
    model, x, references = mlp(FEATURES).double(), data(3).double(), data(10, 4).double()
    found, errors = ExpectedGradients(model).attribute(
        x, references, target=1, n_samples=4000, stratified=stratified, return_standard_error=True
    )
    away = (found - integrated(model, x, references, 1)) / errors
    assert float(away.abs().max()) < 4 and float(away.square().mean()) < 2


def test_standard_errors_are_the_spread_over_seeds() -> None:
    model, x, references = mlp(FEATURES).double(), data(1).double(), data(10, 4).double()
    copies = x.repeat(400, 1)  # examples draw for themselves
    found, errors = ExpectedGradients(model).attribute(
        copies, references, target=1, n_samples=30, return_standard_error=True
    )
    ratio = errors.square().mean(0).sqrt() / found.std(0)
    assert bool(((ratio > 0.85) & (ratio < 1.15)).all())


def test_a_single_reference_is_remarked() -> None:
    with pytest.warns(UserWarning, match="there is a single reference"):
        ExpectedGradients(mlp(6)).attribute(torch.randn(2, 6), target=0, n_samples=3)


def test_strata_vary_less() -> None:
    x = data(1).double().repeat(200, 1)
    method = ExpectedGradients(Polynomial(FEATURES))
    spread = [
        method.attribute(x, 0.1, target=0, n_samples=20, stratified=stratified).std(0)
        for stratified in (False, True)
    ]
    assert bool((spread[1] < 0.3 * spread[0]).all())


def test_a_linear_score_with_one_reference_has_no_spread() -> None:
    model, x = Linear(FEATURES).double(), data(2).double()
    found, delta, errors = ExpectedGradients(model).attribute(
        x, 0.5, 1, n_samples=7, return_convergence_delta=True, return_standard_error=True
    )
    torch.testing.assert_close(found, model.weight[1].detach() * (x - 0.5))
    torch.testing.assert_close(delta, torch.zeros_like(delta), rtol=0, atol=1e-12)
    assert float(errors.max()) < 1e-7


def test_the_gap_is_to_the_mean_score_of_the_references() -> None:
    model, x, references = mlp(FEATURES), data(3), data(8, 4)
    targets = [0, 2, 1]
    found, delta = ExpectedGradients(model).attribute(
        x, references, targets, n_samples=5, return_convergence_delta=True
    )
    start = model(references).mean(0)[targets]
    end = model(x)[range(3), targets]
    torch.testing.assert_close(delta, found.sum(1) - (end - start).detach())


def test_the_gap_with_further_arguments_asks_for_every_pair() -> None:
    def model(x: Tensor, factor: Tensor) -> Tensor:
        return factor * x.sum(1)

    x, references, factor = data(3), data(4, 4), torch.tensor([1.0, -2.0, 3.0])
    found, delta = ExpectedGradients(model).attribute(
        x, references, None, factor, n_samples=5, return_convergence_delta=True
    )
    way = factor * (x.sum(1) - references.sum(1).mean())
    torch.testing.assert_close(delta, found.sum(1) - way)


def test_chunks_and_batches_change_no_bit() -> None:
    x, references, method = data(3), data(5, 4), ExpectedGradients(Polynomial(FEATURES))
    options = {"n_samples": 11, "seed": 2, "return_standard_error": True}
    whole, errors = method.attribute(x, references, [0, 1, 2], **options)
    for rows in (1, 4, 7):
        cost = Cost()
        part, same = method.attribute(
            x, references, [0, 1, 2], internal_batch_size=rows, cost=cost, **options
        )
        assert_same_bits(part, whole)
        assert_same_bits(same, errors)
        assert cost.rows_per_chunk <= rows and cost.gradients == 33
    assert_same_bits(method.attribute(x[:1], references, 0, **options)[0], whole[:1])
    other = method.attribute(x, references, [0, 1, 2], n_samples=11, seed=3)
    assert not torch.equal(other, whole)


def test_every_reference_is_drawn_as_often() -> None:
    # The score's slope is 1, so that an attribution is the mean way, and shows the references.
    references = torch.eye(FEATURES)
    found = ExpectedGradients(lambda x: x.sum(1)).attribute(
        torch.zeros(4, FEATURES), references, n_samples=6000
    )
    assert bool(((found + 1 / FEATURES).abs() < 5 * (5 / 36 / 6000) ** 0.5).all())


def test_rows_of_a_tuple_of_references_belong_together() -> None:
    references = data(5, 4)
    method = ExpectedGradients(lambda a, b: (a - b).square().sum(1))
    x = data(2)
    first, second = method.attribute((x, x), (references, references), n_samples=9)
    torch.testing.assert_close(first, torch.zeros_like(first))
    torch.testing.assert_close(second, torch.zeros_like(second))


def test_pixels_with_preprocessing_obey_the_chain_rule() -> None:
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    model, x = conv_net().double(), torch.rand(2, 3, 8, 8).double()
    references = torch.rand(4, 3, 8, 8).double()
    options = {"target": 1, "n_samples": 7, "return_convergence_delta": True}
    inside = ExpectedGradients(model, preprocessing=preprocessing).attribute(
        x, references, **options
    )
    outside = ExpectedGradients(lambda x: model(preprocessing.normalise(x))).attribute(
        x, references, **options
    )
    torch.testing.assert_close(inside, outside)


def test_several_targets_share_their_samples() -> None:
    model, x, references = mlp(FEATURES).double(), data(3).double(), data(5, 4).double()
    method = ExpectedGradients(model)
    options = {"n_samples": 6, "return_convergence_delta": True, "return_standard_error": True}
    both = method.attribute(x, references, Targets(2, 3), **options)
    alone = method.attribute(x, references, 3, **options)
    for of_both, of_one in zip(both, alone, strict=True):
        torch.testing.assert_close(of_both[:, 1], of_one)


def test_attributions_can_be_trained_on() -> None:
    references = data(4).double()
    x = data(1, 7).double().requires_grad_()
    method = ExpectedGradients(mlp(FEATURES).double())
    assert torch.autograd.gradcheck(
        lambda x: method.attribute(x, references, 1, n_samples=3, create_graph=True), x
    )


def test_captum_estimates_the_same() -> None:
    captum_attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, x, references = mlp(FEATURES).double(), data(2).double(), data(10, 4).double()
    torch.manual_seed(0)
    theirs = captum_attr.GradientShap(model).attribute(x, references, n_samples=4000, target=1)
    ours, errors = ExpectedGradients(model).attribute(
        x, references, 1, n_samples=4000, return_standard_error=True
    )
    assert float(((ours - theirs) / errors).abs().max()) < 6


def test_explain_gives_errors_and_gaps_with_black_boxes_too() -> None:
    x, references, model = data(2), data(5, 4), Linear(FEATURES)
    plain = explain(model, x, method="expected_gradients", baselines=references, target=1)
    assert plain.standard_error is not None and plain.delta is not None
    box = BlackBox(lambda x: model(x).detach())
    asked = explain(
        box, x, method="expected_gradients", baselines=references, target=1,
        gradient=LikelihoodRatio(16, 0.1),
    )  # fmt: skip
    exact = model.weight[1].detach() * (x - references.mean(0))
    for found in (plain, asked):
        assert float(((found.attributions - exact) / found.standard_error).abs().max()) < 4
    assert bool((asked.standard_error > plain.standard_error).all())


@pytest.mark.parametrize(
    ("baselines", "options", "message"),
    [
        (torch.zeros(3, 5), {}, r"baselines must be references \[R, 6\], R >= 1, got \[3, 5\]"),
        (torch.zeros(0, 6), {}, r"baselines must be references"),
        ((0.0, 0.0), {}, "baselines must be given for each of the 1 inputs, got 2"),
        (None, {"n_samples": 0}, "n_samples must be an integer >= 1, got 0"),
    ],
)
def test_calls_that_make_no_sense_are_named(baselines, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExpectedGradients(Linear(FEATURES)).attribute(data(2), baselines, 0, **options)
    with pytest.raises(ValueError, match=message):
        explain(
            Linear(FEATURES), data(2), method="expected_gradients", baselines=baselines, **options
        )

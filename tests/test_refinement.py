"""tolerance=: each input's own quadrature, by nested rules, until it is complete enough."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from assertions import assert_same_bits
from nets import Polynomial, conv_net, mlp
from torch import Tensor

from pyxai_fast import (
    BlurPath,
    Cost,
    IntegratedGradients,
    LikelihoodRatio,
    Preprocessing,
    SmoothGrad,
    StickBreaking,
    StraightLine,
    Targets,
    explain,
)
from pyxai_fast.paths import quadrature
from pyxai_fast.paths.refining_paths import NODES_OF_A_STEP, fejer

PATHS = [StraightLine(), StickBreaking(alpha=2.0, n_paths=3, seed=1)]


def steps_for(path: object) -> int:
    return 129 if isinstance(path, StraightLine) else 6


def bent(x: Tensor, bend: Tensor) -> Tensor:
    """Linear where bend is 0, and the steeper the harder to integrate."""
    return torch.stack((x.sum(1) + torch.sin(bend * x.sum(1)), torch.cos(bend * x.sum(1))), 1)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_gaps_come_under_the_tolerance(x: Tensor, path, tolerance: float) -> None:
    model = mlp(6).double()
    method = IntegratedGradients(model, path=path)
    maps, delta = method.attribute(
        x, target=1, n_steps=steps_for(path), tolerance=tolerance, return_convergence_delta=True
    )
    way = maps.sum(1) - delta
    assert bool((delta.abs() <= tolerance * way.abs()).all())
    fine = method.attribute(x, target=1, n_steps=400)
    if isinstance(path, StraightLine):
        assert float((maps - fine).abs().max()) < 30 * tolerance * float(fine.abs().max())


def test_a_tolerance_out_of_reach_gives_the_finest_rule(x: Tensor) -> None:
    model = mlp(6).double()
    with pytest.warns(UserWarning, match="of 5 inputs have a completeness gap above"):
        maps = IntegratedGradients(model).attribute(x, target=1, n_steps=40, tolerance=1e-30)
    same = IntegratedGradients(model).attribute(x, target=1, n_steps=33, method="clenshaw_curtis")
    torch.testing.assert_close(maps, same)


def test_random_paths_start_with_their_own_midpoints(x: Tensor) -> None:
    path = StickBreaking(n_paths=3)
    method = IntegratedGradients(mlp(6).double(), path=path)
    maps = method.attribute(x, target=1, n_steps=7, tolerance=1e9)
    torch.testing.assert_close(maps, method.attribute(x, target=1, n_steps=7))


def test_each_input_takes_what_it_needs_and_pays_for_each_node_once() -> None:
    x = torch.full((4, 3), 0.7, dtype=torch.float64)
    bend = torch.tensor([0.0, 3.0, 20.0, 60.0], dtype=torch.float64)
    asked: list[Tensor] = []

    def model(x: Tensor, bend: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            asked.append(torch.stack((bend, x.sum(1)), 1).detach())
        return bent(x, bend)

    cost = Cost()
    IntegratedGradients(model).attribute(
        x, target=0, additional_forward_args=bend, n_steps=300, tolerance=1e-6, cost=cost
    )
    rows = torch.cat(asked)
    taken = [int((rows[:, 0] == each).sum()) for each in bend]
    # 2^k + 1 nodes, more for those that bend more, none twice.
    assert taken[0] == 9 and taken == sorted(taken)
    assert set(taken) <= {9, 17, 33, 65, 129, 257} and len(set(taken)) == 4
    assert rows.unique(dim=0).shape == rows.shape
    assert cost.gradients == sum(taken) < 4 * max(taken)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_inputs_are_refined_as_they_would_be_alone(path) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
    bend = torch.tensor([0.0, 3.0, 1.0, 9.0], dtype=torch.float64)
    targets = torch.tensor([0, 1, 1, 0])

    def maps(rows: slice) -> Tensor:
        # Random paths go by the inputs' numbers.
        alone = path
        if isinstance(path, StickBreaking):
            alone = StickBreaking(2.0, n_paths=3, seed=1, numbers=range(4)[rows])
        method = IntegratedGradients(bent, path=alone)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return method.attribute(
                x[rows],
                target=targets[rows],
                additional_forward_args=bend[rows],
                n_steps=steps_for(path),
                tolerance=1e-5,
            )

    whole = maps(slice(None))
    for i in range(4):
        torch.testing.assert_close(maps(slice(i, i + 1)), whole[i : i + 1])


def test_random_paths_pay_for_each_node_once() -> None:
    """1, 3, 7 or 15 nodes in each step, by the input; never more than the rule that the worst of
    them ends with."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
    bend, counts = torch.tensor([0.0, 3.0, 1.0, 9.0], dtype=torch.float64), torch.zeros(4)

    def model(x: Tensor, bend: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            for i, each in enumerate((0.0, 3.0, 1.0, 9.0)):
                counts[i] += int((bend == each).sum())
        return bent(x, bend)

    cost, path = Cost(), StickBreaking(alpha=2.0, n_paths=3, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        IntegratedGradients(model, path=path).attribute(
            x, target=0, additional_forward_args=bend, n_steps=6, tolerance=1e-5, cost=cost
        )
    of_a_step = (counts / (3 * 6)).tolist()
    assert set(of_a_step) <= {1.0, 3.0, 7.0, 15.0} and of_a_step[0] == 1 < max(of_a_step)
    assert cost.gradients == counts.sum() < 4 * counts.max()


def test_arguments_for_all_inputs_stay_whole_when_some_inputs_are_done() -> None:
    """One of three numbers that are no examples', once three inputs are left."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    bend = torch.tensor([0.0, 9.0, 0.0, 7.0, 8.0], dtype=torch.float64)
    gains = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def model(x: Tensor, bend: Tensor, gains: Tensor) -> Tensor:
        assert gains.shape == (3,)
        return bent(x * gains, bend)

    def maps(rows: slice) -> Tensor:
        return IntegratedGradients(model).attribute(
            x[rows], target=0, additional_forward_args=(bend[rows], gains), tolerance=1e-6,
            n_steps=300,
        )  # fmt: skip

    torch.testing.assert_close(maps(slice(None)), torch.cat([maps(slice(0, 4)), maps(slice(4, 5))]))


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_chunks_do_not_change_a_bit(path) -> None:
    model, x = Polynomial(12), torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    method = IntegratedGradients(model, path=path)
    options = {"target": 1, "n_steps": 9, "tolerance": 1e-3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = method.attribute(x, **options)
        for rows in (1, 4, 7):
            assert_same_bits(method.attribute(x, internal_batch_size=rows, **options), whole)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_several_targets_are_all_complete(x: Tensor, path) -> None:
    model = mlp(6).double()
    method = IntegratedGradients(model, path=path)
    maps, delta = method.attribute(
        x, target=Targets(0, 2), n_steps=steps_for(path), tolerance=1e-4,
        return_convergence_delta=True,
    )  # fmt: skip
    assert maps.shape == (5, 2, 6)
    way = model(x)[:, [0, 2]] - model(torch.zeros_like(x))[:, [0, 2]]
    assert bool((delta.abs() <= 1e-4 * way.abs()).all())


def test_a_tuple_of_inputs_is_complete_together(x: Tensor) -> None:
    model = mlp(6).double()

    def forward(a: Tensor, b: Tensor) -> Tensor:
        return model(torch.cat((a, b), 1))

    apart = IntegratedGradients(forward).attribute(
        (x[:, :2], x[:, 2:]), (0.1, x[:, 2:] * 0), target=1, n_steps=129, tolerance=1e-7
    )
    start = torch.cat((torch.full((5, 2), 0.1), torch.zeros(5, 4)), 1).double()
    whole = IntegratedGradients(model).attribute(x, start, target=1, n_steps=129, tolerance=1e-7)
    torch.testing.assert_close(torch.cat(apart, 1), whole)


@pytest.mark.parametrize("path", [*PATHS, BlurPath(4.0)], ids=repr)
def test_pictures_in_pixels(path) -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    method = IntegratedGradients(conv_net(), path=path, preprocessing=preprocessing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none is left above the tolerance
        maps, delta = method.attribute(
            x, target=2, n_steps=steps_for(path), tolerance=1e-2, return_convergence_delta=True
        )
    assert bool((delta.abs() <= 1e-2 * (maps.flatten(1).sum(1) - delta).abs()).all())
    assert maps.dtype == torch.float32


def test_explain_takes_a_tolerance(x: Tensor) -> None:
    model = mlp(6).double()
    loose, tight = (
        explain(model, x, n_steps=129, tolerance=tolerance) for tolerance in (0.5, 1e-9)
    )
    assert loose.cost.gradients == 5 * 9 < tight.cost.gradients < 5 * 129
    assert float(tight.delta.abs().max()) < 1e-8
    assert tight.settings["tolerance"] == 1e-9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tolerance": 0}, "tolerance must be None or a number > 0, got 0"),
        ({"tolerance": "1%"}, "tolerance must be None or a number > 0, got '1%'"),
        ({"tolerance": 0.1, "n_steps": 8}, "n_steps must be at least 9 with a tolerance, got 8"),
        ({"tolerance": 0.1, "method": "trapezoid"}, "method must be left alone with a tolerance"),
        ({"tolerance": 0.1, "create_graph": True}, "tolerance must be None with create_graph"),
    ],
)
def test_what_cannot_be_refined_is_refused(x: Tensor, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IntegratedGradients(mlp(6).double()).attribute(x, target=0, **options)


def test_methods_without_completeness_are_not_refined(x: Tensor) -> None:
    model = mlp(6).double()
    for method in (
        IntegratedGradients(model, gradient=LikelihoodRatio(8, 0.1)),
        IntegratedGradients(model, False),
        IntegratedGradients(model, path=StickBreaking(aggregate="median")),
    ):
        with pytest.raises(ValueError, match="tolerance must be None with"):
            method.attribute(x, target=0, tolerance=0.1)
    with pytest.raises(TypeError, match="tolerance"):
        SmoothGrad(model).attribute(x, target=0, tolerance=0.1)


# --- rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", NODES_OF_A_STEP)
def test_fejer_rules_integrate_polynomials(n: int) -> None:
    nodes, weights = fejer(n)
    for degree in range(n + 1):  # one more than promised, because rules are symmetric
        assert float((weights * nodes**degree).sum()) == pytest.approx(1 / (degree + 1), rel=1e-13)
    assert float((weights * nodes ** (n + 1)).sum()) != pytest.approx(1 / (n + 2), rel=1e-13)


def test_rules_are_nested() -> None:
    for coarse, fine in itertools.pairwise(NODES_OF_A_STEP):
        torch.testing.assert_close(fejer(fine)[0][1::2], fejer(coarse)[0], rtol=1e-15, atol=0)
    for n in (9, 17, 33):
        assert_same_bits(
            quadrature("clenshaw_curtis", 2 * n - 1)[0][::2], quadrature("clenshaw_curtis", n)[0]
        )

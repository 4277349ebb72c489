"""Shapley values from few, enough and all coalitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyxai_fast.queries import shapley_coalitions
from pyxai_fast.queries.coalitions import Coalitions
from pyxai_fast.queries.shapley_regression import PENALTIES, ridge, shapley_values
from pyxai_fast.reference.mask import unpack_coalitions

Game = Callable[[Tensor], Tensor]


def asked(n_queries: int, n_segments: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    drawn: Coalitions = shapley_coalitions(n_queries, [n_segments], seed)
    return unpack_coalitions(drawn.words[:, 0], n_segments), drawn.weights[:, 0]


def pairs(n_segments: int, seed: int = 0) -> tuple[Game, Tensor]:
    """A game of single segments and pairs of them, and its Shapley values: a pair's are halves."""
    generator = torch.Generator().manual_seed(seed)
    single = torch.randn(n_segments, generator=generator).double()
    both = torch.randn(n_segments, n_segments, generator=generator).double().triu(1)
    return lambda z: z.double() @ single + ((z.double() @ both) * z.double()).sum(-1), (
        single + both.sum(0) / 2 + both.sum(1) / 2
    )


def squashed(n_segments: int, seed: int) -> Game:
    game, _ = pairs(n_segments, seed)
    middle = game(torch.ones(n_segments)) / 2
    return lambda z: ((game(z) - middle) / 3).sigmoid()


def found(game: Game, n_queries: int, n_segments: int, seed: int = 0) -> Tensor:
    kept, weights = asked(n_queries, n_segments, seed)
    return shapley_values(kept, weights, game(kept)[None, :, None])[0, 0]


def by_definition(game: Game, count: int) -> Tensor:
    values = torch.zeros(count).double()
    for size in range(count):
        weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
        for one in range(count):
            others = [other for other in range(count) if other != one]
            for some in itertools.combinations(others, size):
                without = torch.zeros(count).double()
                without[list(some)] = 1
                with_it = without.clone()
                with_it[one] = 1
                values[one] += weight * (game(with_it) - game(without))
    return values


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_all_coalitions_give_the_values_of_the_definition(count: int) -> None:
    game = squashed(count, 3)
    torch.testing.assert_close(found(game, 2**count, count), by_definition(game, count))


@pytest.mark.parametrize("count", [8, 20])
def test_pairs_of_segments_are_told_exactly_by_more_pairs_of_queries_than_segments(
    count: int,
) -> None:
    game, expected = pairs(count)
    kept, _ = asked(4 * count, count)
    assert len(kept) < 2**count
    torch.testing.assert_close(found(game, 4 * count, count), expected)


@pytest.mark.parametrize("n_queries", [6, 30, 46, 50, 60, 100, 1000])
def test_values_add_up_however_few_queries_there_are(n_queries: int) -> None:
    game = squashed(24, 0)
    rise = game(torch.ones(24)) - game(torch.zeros(24))
    torch.testing.assert_close(found(game, n_queries, 24).sum(), rise)


def test_as_many_equations_as_unknowns_do_not_fit_whatever_was_answered() -> None:
    count, errors, plain_errors = 24, [], []
    for seed in range(6):
        game = squashed(count, seed)
        truth = found(game, 20_000, count)
        kept, weights = asked(2 * count, count, seed)  # 23 pairs of queries for 23 unknowns
        scores = game(kept)
        errors.append(float((found(game, 2 * count, count, seed) - truth).norm() / truth.norm()))
        plain = least_squares(kept, weights, scores)
        plain_errors.append(float((plain - truth).norm() / truth.norm()))
    assert max(errors) < 1.5
    assert sorted(plain_errors)[3] > 2 * sorted(errors)[3]


def test_many_queries_leave_little_of_the_penalty() -> None:
    game = squashed(16, 1)
    kept, weights = asked(3000, 16)
    plain = least_squares(kept, weights, game(kept))
    assert float((found(game, 3000, 16) - plain).norm() / plain.norm()) < 0.02


def test_a_score_that_never_changes_has_no_values() -> None:
    assert not bool(found(lambda z: torch.full(z.shape[:-1], 0.25).double(), 40, 12).any())


def test_inputs_and_targets_have_penalties_of_their_own() -> None:
    kept, weights = asked(40, 16)
    games = [squashed(16, 0), pairs(16)[0], squashed(16, 1)]
    scores = torch.stack([game(kept) for game in games])
    alone = torch.stack([shapley_values(kept, weights, s[None, :, None])[0, 0] for s in scores])
    torch.testing.assert_close(shapley_values(kept, weights, scores[..., None])[:, 0], alone)
    torch.testing.assert_close(shapley_values(kept, weights, scores.T[None])[0], alone)


class Elsewhere(Tensor):
    """Of another device: it can be brought to the CPU, and nothing is computed there."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func in (Tensor.cpu, Tensor.device.__get__), f"{func} was called elsewhere"
        with torch._C.DisableTorchFunctionSubclass():
            held = func(*args, **(kwargs or {}))
        return held.as_subclass(Tensor) if isinstance(held, Tensor) else held


def test_the_regression_runs_on_the_cpu_wherever_the_answers_are() -> None:
    kept, weights = asked(40, 16)
    scores = squashed(16, 0)(kept)[None, :, None]
    here = shapley_values(kept, weights, scores)
    there = [each.as_subclass(Elsewhere) for each in (kept, weights, scores)]
    assert torch.equal(shapley_values(*there), here)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_values_on_a_gpu_are_those_of_the_cpu_to_the_bit() -> None:
    kept, weights = asked(400, 16)
    scores = squashed(16, 0)(kept)[None, :, None]
    found = shapley_values(kept.cuda(), weights.cuda(), scores.cuda())
    assert found.is_cuda and torch.equal(found.cpu(), shapley_values(kept, weights, scores))


@pytest.mark.parametrize("count", [5, 12, 13, 40])
def test_the_penalty_is_the_one_that_tells_what_is_left_out_best(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    rows = torch.randn(count, 12, generator=generator).double()
    answers = (rows @ torch.randn(12, 1, generator=generator).double()).tanh()
    largest = float(torch.linalg.svdvals(rows)[0]) ** 2
    solutions = {}
    for penalty in ([0.0] if count > 12 else []) + [largest * each for each in PENALTIES]:
        error = sum(
            float((answers[out] - rows[out] @ ridge_of(rows, answers, penalty, out)).square().sum())
            for out in range(count)
        )
        solutions[error] = ridge_of(rows, answers, penalty)
    torch.testing.assert_close(ridge(rows, answers), solutions[min(solutions)])


def ridge_of(rows: Tensor, answers: Tensor, penalty: float, out: int | None = None) -> Tensor:
    others = [row for row in range(len(rows)) if row != out]
    rows, answers = rows[others], answers[others]
    gram = rows.T @ rows + penalty * torch.eye(rows.shape[1]).double()
    return torch.linalg.solve(gram, rows.T @ answers)


def least_squares(kept: Tensor, weights: Tensor, scores: Tensor) -> Tensor:
    """Under the constraint that values add up, with no penalty."""
    count = kept.shape[1]
    share = (scores[0] - scores[1]) / count
    apart = torch.eye(count).double() - 1 / count
    root = weights.sqrt()
    rows = root[:, None] * (kept.double() @ apart)
    right = root * (scores - scores[1] - kept.sum(1) * share)
    return share + apart @ (torch.linalg.pinv(rows, rtol=1e-10) @ right)

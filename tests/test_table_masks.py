"""DAX on tables: masks of features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyxai_fast.distillation import OF_SEGMENTS, DistillationRecipe, distil, recipe_for
from pyxai_fast.errors import ArgumentError
from pyxai_fast.methods import DAX, StudentGradient
from pyxai_fast.queries import Queries

FEATURES, CAUSE = 8, 3


def one_feature(slope: float = 4.0) -> object:
    def model(rows: Tensor) -> Tensor:
        return torch.stack([slope * rows[:, CAUSE], -slope * rows[:, CAUSE]], 1)

    return model


def rows(batch: int = 2) -> Tensor:
    table = torch.randn(batch, FEATURES, generator=torch.Generator().manual_seed(0))
    table[:, CAUSE] = 1.0
    return table


def asked(slope: float = 4.0, batch: int = 2, n_queries: int = 300) -> Queries:
    return DAX(one_feature(slope)).queries(rows(batch), target=0, n_queries=n_queries)


def others(masks: Tensor) -> Tensor:
    return masks[..., [i for i in range(FEATURES) if i != CAUSE]]


@pytest.mark.parametrize("slope", [0.02, 4.0])
def test_the_feature_that_decides_is_found_however_little_it_decides(slope: float) -> None:
    masks = DAX(one_feature(slope)).read(asked(slope))
    assert masks[:, CAUSE].min() > 0.9 and others(masks).max() < 0.1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("causes", [1, 2, 3, 6])
def test_equal_causes_count_alike_and_features_that_decide_nothing_do_not(
    causes: int, seed: int
) -> None:
    def model(table: Tensor) -> Tensor:
        # In both directions.
        signs = torch.tensor([(-1.0) ** i for i in range(causes)])
        score = 2 * (table[:, :causes] * signs).sum(1)
        return torch.stack([score, -score], 1)

    for features in (causes, 8, 20):
        if features >= causes:
            table = torch.ones(1, features)
            masks = DAX(model).attribute(table, target=0, n_queries=500, seed=seed)
            assert masks[0, :causes].min() > 0.9
            assert features == causes or masks[0, causes:].max() < 0.05


def test_a_cause_counts_by_what_it_explains() -> None:
    def model(table: Tensor) -> Tensor:
        score = 0.1 + table @ torch.tensor([0.4, 0.3, 0.15, 0.02, 0.0, 0.0])
        return torch.stack([score, 1 - score], 1)

    for seed in range(3):
        dax = DAX(model, output="logit")
        mask = dax.attribute(torch.ones(1, 6), 0.0, target=0, n_queries=500, seed=seed)[0]
        assert mask[:4].argsort(descending=True).tolist() == [0, 1, 2, 3]
        assert mask[0] > 0.9 and mask[2] > 0.4 and mask[3:].max() < 0.2


def test_answers_far_from_the_rest_hide_no_cause() -> None:
    """A cause of all but the largest answers: what is in order is learnt, whatever the scale."""

    def model(table: Tensor) -> Tensor:
        score = 1e-4 * (1 + table[:, 0]) + 0.9 * table[:, 1:5].prod(1)
        return torch.stack([score, 1 - score], 1)

    options = dict(n_queries=500, target=0)
    order = DAX(model, output="logit", answers="order").attribute(torch.ones(1, 8), 0.0, **options)
    stretched = DAX(model, output="logit", answers="stretched").attribute(
        torch.ones(1, 8), 0.0, **options
    )
    assert order[0, 0] > 0.9 > 0.5 > stretched[0, 0]


def test_the_students_slope_is_in_the_units_of_the_answers() -> None:
    """What hiding the feature changes, of a score that is linear over so small a difference."""
    for slope in (0.1, 0.2):
        method = StudentGradient(one_feature(slope), answers="stretched")
        maps = method.read(asked(slope))
        change = float(torch.tensor(2 * slope).sigmoid()) - 0.5
        assert 0.3 * change < maps[0, CAUSE] < 3 * change
        assert others(maps).abs().max() < 0.5 * maps[:, CAUSE].min()


def test_rows_trained_together_are_as_trained_alone() -> None:
    queries = asked(batch=3)
    recipe = recipe_for("segments")
    together = distil(queries, recipe).masks
    for which in range(3):
        alone = distil(queries.of_example(which), recipe).masks[0]
        torch.testing.assert_close(alone, together[which], rtol=0, atol=1e-3)


@pytest.mark.parametrize("loss", [None, "release"])
def test_the_student_is_not_trained_on_complements(loss: str | None) -> None:
    """Its held-out error is that of a student: one rewarded for errors has one above 1."""
    found = distil(asked(), recipe_for("segments", loss=loss))
    assert found.held_out_error[-1].max() < 0.1
    assert not found.networks[0].student.training


def test_recipes_take_what_is_given() -> None:
    assert recipe_for("pixels") == DistillationRecipe()
    assert recipe_for("segments") == DistillationRecipe(**OF_SEGMENTS)
    assert recipe_for("segments", width=7, dropout=None).width == 7
    assert recipe_for("pixels", n_epochs=4).mask_epochs == (0, 4)
    assert recipe_for("pixels", n_epochs=20).mask_epochs == (0, 5)
    # The last quarter of about 600 steps, or of the epochs that are given.
    assert recipe_for("segments").epochs(50) == (12, 9, 12)
    assert recipe_for("segments", n_epochs=5).epochs(50) == (5, 4, 5)
    with pytest.raises(ArgumentError, match=r"mask_epochs must be .* <= 9, got \(0, 16\)"):
        recipe_for("pixels", mask_epochs=(0, 16))
    # What is wrong for any inputs is refused before there are any.
    with pytest.raises(ArgumentError, match="DAX: width must be an integer >= 1, got 0"):
        DAX(one_feature(), width=0)

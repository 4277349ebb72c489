"""DAX on tables: masks of features, learnt by a recipe of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyxai_fast.distillation import OF_TABLES, DistillationRecipe, distil, recipe_for
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
    assert (masks[:, CAUSE] == 1).all() and others(masks).max() < 0.5


def test_features_that_decide_nothing_are_left_out() -> None:
    def model(table: Tensor) -> Tensor:
        score = 2 * table[:, 0] - 2 * table[:, 1]
        return torch.stack([score, -score], 1)

    for seed in range(3):
        masks = DAX(model).attribute(torch.ones(1, FEATURES), target=0, n_queries=500, seed=seed)
        assert masks[0, 0] > 0.5 and masks[0, 2:].max() < 0.1


def test_the_students_slope_is_in_the_units_of_the_answers() -> None:
    """What hiding the feature changes, of a score that is linear over so small a difference."""
    for slope in (0.1, 0.2):
        maps = StudentGradient(one_feature(slope), dropout=0.0).read(asked(slope))
        change = float(torch.tensor(2 * slope).sigmoid()) - 0.5
        assert 0.3 * change < maps[0, CAUSE] < 3 * change
        assert others(maps).abs().max() < 0.5 * maps[:, CAUSE].min()


def test_rows_trained_together_are_as_trained_alone() -> None:
    queries = asked(batch=3)
    recipe = recipe_for(True, dropout=0.0)
    together = distil(queries, recipe).masks
    for which in range(3):
        alone = distil(queries.of_example(which), recipe).masks[0]
        torch.testing.assert_close(alone, together[which], rtol=0, atol=1e-3)


def test_the_student_is_not_trained_on_complements() -> None:
    """Its held-out error is that of a student: one rewarded for errors has one above 1."""
    found = distil(asked(), recipe_for(True))
    assert found.held_out_error[-1].max() < 0.1
    assert not found.student.training


def test_recipes_of_tables_take_what_is_given() -> None:
    assert recipe_for(False) == DistillationRecipe()
    assert recipe_for(True) == DistillationRecipe(**OF_TABLES)
    assert recipe_for(True, width=7, dropout=None).width == 7
    assert recipe_for(True, n_epochs=4).mask_epochs == (4, 4)
    assert recipe_for(False, n_epochs=20).mask_epochs == (0, 5)
    with pytest.raises(ArgumentError, match=r"mask_epochs must be .* <= 15, got \(0, 16\)"):
        recipe_for(True, mask_epochs=(0, 16))
    # Epochs that only tables have are no error before it is known what is explained.
    dax = DAX(one_feature(), mask_epochs=(10, 15))
    assert dax.attribute(rows(), target=0, n_queries=60).shape == (2, FEATURES)
    with pytest.raises(ArgumentError, match=r"mask_epochs must be .* <= 9, got \(10, 15\)"):
        dax.attribute(torch.rand(1, 1, 8, 8), target=0)

"""What errors and results say of themselves."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from nets import Linear, Polynomial
from torch import Tensor

from pyxai_fast import Counterfactual, LikelihoodRatio, Saliency, explain
from pyxai_fast.errors import near
from pyxai_fast.priors import GaussianPrior

FEATURES = 6


def test_a_word_that_is_nearly_known_is_named() -> None:
    assert near("integrated_gradient", ["saliency", "integrated_gradients"]) == (
        "; did you mean integrated_gradients?"
    )
    assert near("xyz", ["saliency"]) == ""
    x = torch.rand(1, FEATURES)
    with pytest.raises(ValueError, match=r"did you mean saliency\?"):
        explain(Linear(FEATURES), x, method="salience")
    with pytest.raises(TypeError, match=r"did you mean n_steps\?"):
        explain(Linear(FEATURES), x, n_step=5)


def test_arrays_are_pointed_to_tensors() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, got ndarray; torch\.from_numpy"):
        explain(Linear(FEATURES), np.zeros((2, FEATURES), np.float32))


def test_results_are_shown_in_a_line() -> None:
    x = torch.rand(2, FEATURES)
    shown = repr(explain(Polynomial(FEATURES), x, target=1, n_steps=5))
    assert shown.startswith("Explanation(integrated_gradients, attributions [2, 6], target [1, 1]")
    assert "completeness gap" in shown and "10 gradients" in shown and "\n" not in shown
    prior = GaussianPrior(torch.zeros(FEATURES), torch.eye(FEATURES))
    found = Counterfactual(Polynomial(FEATURES), prior, n_particles=10, n_steps=4).generate(x, 1)
    assert repr(found).startswith("Counterfactuals([2, 6], ")
    assert "of 2 taken for the target, 84 queries" in repr(found)


def test_a_model_that_no_copy_moves_is_warned_about() -> None:
    def steps(x: Tensor) -> Tensor:
        return torch.stack(((x[:, 0] > 10).float(), x[:, 1]), 1)

    saliency = Saliency(steps, gradient=LikelihoodRatio(20, 0.1))
    x = torch.rand(3, FEATURES)
    with pytest.warns(UserWarning, match="no difference to the answers for inputs 0, 1, 2, so"):
        saliency.attribute(x, target=0, abs=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saliency.attribute(x, target=1, abs=False)

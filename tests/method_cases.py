"""A short call of every method and combination, shared by tests that go through all of them."""

from __future__ import annotations

from typing import Any

import torch
from path_model_cases import path_model

from pyxai_fast import METHODS
from pyxai_fast.combinations import COMBINATIONS
from pyxai_fast.priors import GaussianPrior

NAMES = (*METHODS, *COMBINATIONS)


def options_of(name: str, shape: tuple[int, ...] = (1, 8, 8)) -> dict[str, Any]:
    """Options of `explain` that make a call of a method short, for inputs [B, *shape]."""
    if name == "diffusion_ig":
        return {"n_steps": 4, "n_paths": 1, "path_model": path_model(shape=shape)}
    if name == "freemcg":
        size = torch.Size(shape).numel()
        prior = GaussianPrior(torch.zeros(shape), torch.eye(size))
        return {"prior": prior, "n_particles": 8, "levels": (10,)}
    return dict(_SHORT.get(name, {}))


_ASKED = {"n_queries": 20}
_SHORT: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 4},
    "smooth_grad": {"n_samples": 4},
    "guided_ig": {"n_steps": 3},
    "expected_gradients": {"n_samples": 4},
    "geometrically_guided_ig": {"n_steps": 2, "n_ascent": 2},
    "lime": _ASKED,
    "kernel_shap": _ASKED,
    "rise": _ASKED,
    "dax": {**_ASKED, "n_epochs": 2},
    "student_gradient": {**_ASKED, "n_epochs": 2},
    "stick_breaking_ig": {"n_steps": 3, "n_paths": 2},
    "blur_ig": {"n_steps": 3, "max_sigma": 2.0},
}

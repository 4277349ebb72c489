"""Paths that a diffusion model draws, led by guides to faithful or to simple attributions."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.input_numbers import numbers_of
from ..models.preprocessing import Affine
from ..path_models.path_model import PathModel
from ..path_models.sampling import check_guides, sample_paths
from .aggregation import check_aggregate
from .paced import PacedTrace, check_paced
from .quadrature import DEFAULT_RULE
from .refining_paths import NODES_OF_A_STEP, RefiningPaths

DEFAULT_GUIDES = {"faithful": 10.0, "sparse": 5.0}
# Paths that go through the networks at once, at most.
MOST_ROWS = 4096


class DiffusionPaths:
    """DiffIG: paths of a diffusion model that was trained on stick-breaking paths, with guidance.

    Kim, Lee and Choi, DiffIG (arXiv 2606.22314, 2026). All paths of all inputs go through the
    reverse diffusion together; two guides shift each step of it, by weights that are chosen here
    and not in training. Points are decoded where gradients are taken, the ends of each path being
    the baseline and the input themselves, so that attributions of the mean add up to the difference
    of their scores.

    The path model knows the classifier that its guides were trained for. Another one can be
    explained along its paths too, and is explained completely, but they were not chosen for it.

    Args:
        model: a PathModel, the folder of one, or "demo".
        n_paths: for each input; each has n_steps points, at least as many as the model's steps.
        guides: weights by name: "faithful" raises what insertion and deletion tell, "sparse" lowers
            the entropy of attributions, and negative weights do the opposite. Scores are in
            standard deviations over the stick-breaking paths of one input. None stands for
            {"faithful": 10, "sparse": 5}, {} for no guidance.
        aggregate: of the paths' attributions, as for StickBreaking: "mean", "median", "variance",
            "probability".
        omega: multiplies all weights.
        seed: of the noise. A path depends on it, on the input's number and on the path's.
        numbers: of the inputs: those with the same number have the same noise in every batch. 0, 1,
            ... by default.
        max_rows: paths that go through the networks at once, at most.
    """

    has_mean_slope = False

    def __init__(
        self,
        model: PathModel | str | os.PathLike[str],
        n_paths: int = 10,
        guides: Mapping[str, float] | None = None,
        aggregate: str = "mean",
        omega: float = 1.0,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        max_rows: int = MOST_ROWS,
    ) -> None:
        if not isinstance(model, (PathModel, str, os.PathLike)):
            raise TypeError(
                "DiffusionPaths: model must be a PathModel or the name of one, got "
                f"{type(model).__name__}"
            )
        if not isinstance(model, PathModel):
            from ..path_models.spec import load_path_model

            model = load_path_model(model)
        for name, value in (("n_paths", n_paths), ("max_rows", max_rows)):
            if not _is_count(value):
                raise ArgumentError(
                    f"DiffusionPaths: {name} must be an integer >= 1, got {value!r}"
                )
        number = isinstance(omega, (int, float)) and not isinstance(omega, bool)
        if not number or not math.isfinite(omega):
            raise ArgumentError(f"DiffusionPaths: omega must be a number, got {omega!r}")
        check_aggregate("DiffusionPaths", aggregate)
        self.guides = check_guides("DiffusionPaths", DEFAULT_GUIDES if guides is None else guides)
        self.model, self.n_paths, self.aggregate = model, operator.index(n_paths), aggregate
        self.omega, self.seed, self.numbers, self.max_rows = omega, seed, numbers, max_rows
        self.complete = aggregate == "mean"
        self._refined: Tensor = torch.empty(0)

    def __repr__(self) -> str:
        return (
            f"DiffusionPaths({self.model!r}, n_paths={self.n_paths}, guides={self.guides}, "
            f"aggregate={self.aggregate!r}, seed={self.seed})"
        )

    def start(self, inputs: Tensor, baselines: Tensor) -> Tensor:
        return baselines

    def trace(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        method: str,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> PacedTrace:
        config, codec = self.model.config, self.model.codec
        check_paced("DiffusionPaths", config, inputs, n_steps, method, stream)
        trace = PacedTrace(
            inputs, baselines, n_steps, self.n_paths, config, codec, self.aggregate, affine
        )
        trace.tokens = self.draw(trace.codes, trace.first_codes).to(inputs.device)
        return trace

    def rules(self, n_steps: int) -> list[int]:
        return [self.n_paths * n_steps * nodes for nodes in NODES_OF_A_STEP]

    def refining(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        level: int,
        examples: Tensor,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> RefiningPaths:
        if level == 0:
            trace = self.trace(inputs, baselines, n_steps, DEFAULT_RULE, affine, stream)
            # The first rule has all inputs. Those that go on keep the paths that were drawn then.
            self._refined = trace.tokens
        else:
            trace = PacedTrace(
                inputs,
                baselines,
                n_steps,
                self.n_paths,
                self.model.config,
                self.model.codec,
                self.aggregate,
                affine,
            )
            trace.tokens = self._refined[:, examples]
        return RefiningPaths(trace, level)

    def draw(self, codes: Tensor, first_codes: Tensor) -> Tensor:
        """Tokens [N, B, T, P] of paths from codes [1 or B, *shape] to codes [B, *shape]."""
        return sample_paths(
            self.model,
            self.model.ends(codes, first_codes),
            self.n_paths,
            self.guides,
            omega=self.omega,
            seed=self.seed,
            numbers=numbers_of("DiffusionPaths", self.numbers, len(codes)),
            max_rows=self.max_rows,
        )


def _is_count(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and operator.index(value) >= 1
    except TypeError:
        return False

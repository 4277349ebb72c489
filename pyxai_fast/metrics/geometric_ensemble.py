"""Geometric Ensemble Gradients: maps averaged over models nearby that are as good.

This is no member of the gradient axis, though it gives slopes: a gradient answers for the one model
that a method asks, at points that the method chooses, while here whole explanations are made of
many models, each chosen by a loss that no point knows. So it takes any method, and stands beside
the other question that perturbed models answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from ..methods import Saliency
from ..runtime.inference import outside_inference_mode
from .asked import check_count, check_size
from .perturbed_model import Explain, Explained, PerturbedModel


@dataclass(frozen=True)
class GeometricEnsemble:
    """Maps of an ensemble of models.

    Attributes:
        attributions: [B, ...], the mean over the models that were kept.
        standard_error: of these means, the same shape; infinite where one model was kept.
        target: int64 [B], the classes explained.
        loss: of the model itself.
        losses: [n_models], float64, of the models that were drawn.
        kept: [n_models], bool, whether each was kept.
    """

    attributions: Tensor
    standard_error: Tensor
    target: Tensor
    loss: float
    losses: Tensor
    kept: Tensor

    @property
    def kept_share(self) -> float:
        return float(self.kept.double().mean())


@outside_inference_mode
def geometric_ensemble(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor | float],
    inputs: Tensor,
    explain: Explain | str | None = None,
    *,
    target: Any = None,
    n_models: int = 50,
    spread: float = 0.1,
    rise: float = 0.05,
    seed: int = 0,
    select_output: Callable[[Any], Tensor] | None = None,
    **options: Any,
) -> GeometricEnsemble:
    """Maps averaged over "proximal iso-loss" models: near the model, at about its loss.

    Models are drawn as ``w * (1 + spread * N(0, 1))``, weight by weight, and kept where ``loss <=
    own + rise * |own|``. Their maps are averaged: what depends on the accidents of one training
    cancels, and the standard error says how far the models disagree.

    Geometric Ensemble Gradients come with "Geometrically Guided Integrated Gradients" (2022), of
    which only the idea is public. Left open are how models are drawn (here as in NoiseGrad,
    Bykov et al. 2022, where spreads of 0.05 to 0.2 are usual), what "about the same loss" is (here
    5 %), on which data, and whether gradients or their sizes are averaged (here gradients).

    Args:
        model: a torch module, in eval mode, which copy.deepcopy copies; returns [B, n]. It is not
            touched: the models are a copy of it, with other weights.
        loss: a number for a model, such as its mean cross-entropy on some held-out data; called
            without autograd.
        inputs: [B, ...], with at least one input.
        explain: as in `model_perturbation`; None takes the gradient of the score, with its sign.
        target: a class, or [B] of them; None explains what the model itself predicts.
        n_models: that are drawn; maps are made only of those that are kept.
        spread: of the weights, relative to each.
        rise: of the loss that is accepted, relative to that of the model. A loss that falls always
            is.
        seed: of the draws: counter-based, the same on every device.
        select_output: picks the output tensor from what the model returns.
        options: of the method that `explain` names.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is; also where no
            model keeps the loss.
    """
    op = "geometric_ensemble"
    if not callable(loss):
        raise TypeError(f"{op}: loss must be a function of a model, got {type(loss).__name__}")
    check_count(op, "n_models", n_models)
    check_size(op, "spread", spread)
    check_size(op, "rise", rise)
    if explain is None:
        explain = _gradient(select_output)
    drawn = PerturbedModel(op, model, seed)
    explained = Explained(op, drawn.model, explain, inputs, target, select_output, options)
    own = _loss(op, loss, drawn.model)
    losses = torch.empty(n_models, dtype=torch.float64)
    kept = torch.zeros(n_models, dtype=torch.bool)
    moments: _Moments | None = None
    for number in range(n_models):
        drawn.draw(number, spread, proportional=True)
        losses[number] = found = _loss(op, loss, drawn.model)
        if found <= own + rise * abs(own):
            kept[number] = True
            maps = explained.maps(drawn.model)
            moments = _Moments(maps) if moments is None else moments
            moments.add(maps)
    if moments is None:
        raise ArgumentError(
            f"{op}: spread must be small enough for some models to keep the loss, {own:.4g}, got "
            f"{spread}: the lowest of {n_models} is {float(losses.min()):.4g}"
        )
    return GeometricEnsemble(
        attributions=moments.mean.to(moments.dtype),
        standard_error=moments.standard_error().to(moments.dtype),
        target=explained.target,
        loss=own,
        losses=losses,
        kept=kept,
    )


def _gradient(select_output: Callable[[Any], Tensor] | None) -> Explain:
    def gradient(model: nn.Module, inputs: Tensor, target: Tensor) -> Any:
        return Saliency(model, select_output=select_output).attribute(inputs, target, abs=False)

    return gradient


def _loss(op: str, loss: Callable[[nn.Module], Tensor | float], model: nn.Module) -> float:
    with torch.no_grad():
        found = loss(model)
    if isinstance(found, Tensor) and found.numel() != 1:
        raise ArgumentError(f"{op}: loss must return one number, got {list(found.shape)}")
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{op}: loss must return a number, got {type(found).__name__}") from error


class _Moments:
    """Mean and squared deviations of maps, one map at a time, in float64 (Welford 1962)."""

    def __init__(self, like: Tensor) -> None:
        self.dtype = like.dtype
        self.count = 0
        self.mean = torch.zeros_like(like, dtype=torch.float64)
        self.squares = torch.zeros_like(self.mean)

    def add(self, maps: Tensor) -> None:
        self.count += 1
        away = maps.double() - self.mean
        self.mean += away / self.count
        self.squares += away * (maps.double() - self.mean)

    def standard_error(self) -> Tensor:
        if self.count == 1:
            return torch.full_like(self.mean, torch.inf)
        return (self.squares / (self.count - 1) / self.count).sqrt()

"""Do maps follow the model? Its weights are perturbed more and more, and its maps compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..errors import ArgumentError
from ..runtime.inference import outside_inference_mode
from .asked import check_count, check_size, comes_first
from .perturbed_model import Explain, Explained, PerturbedModel
from .similarity import SIMILARITIES, Compared, FloatArray, check_similarities

LEVELS = tuple(round(0.01 + 0.1 * k, 2) for k in range(9))


@dataclass(frozen=True)
class ModelPerturbation:
    """Curves over L levels, of each of B inputs; means over the draws. All float64.

    Attributes:
        levels: [L].
        spearman: [L, B], rank correlation of the sizes of attributions with those of the model
            itself; None where it was not asked for. NaN where one of two unequal maps is constant.
        ssim, hog: [L, B], as functions of `similarity`, of the sizes added over channels; None also
            for what is no picture of at least 8x8 pixels.
        logit_change: [L, B], by how much the explained output changed, up or down.
        unchanged: [L, B], the share of draws that left the predicted class as it was; NaN where
            the model, or one of these, answered NaN.
    """

    levels: FloatArray
    spearman: FloatArray | None
    ssim: FloatArray | None
    hog: FloatArray | None
    logit_change: FloatArray
    unchanged: FloatArray

    @property
    def curves(self) -> dict[str, FloatArray]:
        """Means over the inputs, [L] each, of all that there is."""
        names = (*SIMILARITIES, "logit_change", "unchanged")
        found = {name: getattr(self, name) for name in names}
        return {name: values.mean(1) for name, values in found.items() if values is not None}

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws similarities and the share of unchanged predictions over the levels."""
        from ..plots import curves_figure, save_figure

        lines = {name: line for name, line in self.curves.items() if name != "logit_change"}
        lines["same prediction"] = lines.pop("unchanged")
        figure = curves_figure(self.levels, lines, "noise, in standard deviations of the weights")
        save_figure(figure, path)


@outside_inference_mode
def model_perturbation(
    model: nn.Module,
    explain: Explain | str,
    inputs: Tensor,
    levels: Sequence[float] = LEVELS,
    n_draws: int = 1,
    seed: int = 0,
    *,
    target: Any = None,
    similarities: str | Sequence[str] = SIMILARITIES,
    select_output: Callable[[Any], Tensor] | None = None,
    **options: Any,
) -> ModelPerturbation:
    """How maps change as the model does: a map that stays while the model changes ignores it.

    Every weight tensor becomes ``w + level * std(w) * N(0, 1)``, biases and the weights of
    normalisations too; a tensor of equal weights has no spread, and stays. Buffers, such as the
    running statistics of BatchNorm, are not perturbed. A draw has the same directions at every
    level, so that curves are smooth; they are drawn from the package's counter-based random
    numbers, the same on every device. A copy of the model is perturbed, never the model.

    The check of "Geometrically Guided Integrated Gradients" (2022), whose formula for the
    perturbation is not public: this one is ours, at levels that are used with it. Compare the
    fall of similarity with the model's own, which is measured beside it. Similarities are those of
    Adebayo et al., "Sanity Checks for Saliency Maps" (2018).

    Args:
        model: a torch module, in eval mode, which copy.deepcopy copies; returns [B, n].
        explain: called as explain(model, inputs, target) with the target int64 [B], it returns
            attributions [B, ...] as a tensor or an array, drawing no numbers that differ from call
            to call; or the name of a method of `pyxai_fast.explain`, which gets the options.
        inputs: [B, ...], with at least one input.
        levels: finite numbers >= 0.
        n_draws: directions that are averaged.
        seed: of the directions.
        target: a class, or [B] of them; None explains what the unperturbed model predicts, at
            every level.
        similarities: one or some of "spearman", "ssim" and "hog"; the last two need scikit-image.
        select_output: picks the output tensor from what the model returns.
        options: of the method that `explain` names.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
        ImportError: scikit-image is needed, and is not installed.

    Example:
        >>> import torch
        >>> from pyxai_fast.metrics import model_perturbation
        >>> net = torch.nn.Linear(12, 3).eval()
        >>> found = model_perturbation(net, "saliency", torch.rand(2, 12), (0.0, 0.5))
        >>> found.spearman.shape, found.curves["spearman"][0]
        ((2, 2), np.float64(1.0))
    """
    op = "model_perturbation"
    try:
        levels = tuple(levels)
    except TypeError as error:
        raise TypeError(f"{op}: levels must be numbers, got {levels!r}") from error
    if not levels:
        raise ArgumentError(f"{op}: levels must have at least one level, got {levels!r}")
    for level in levels:
        check_size(op, "levels", level)
    check_count(op, "n_draws", n_draws)
    similarities = check_similarities(op, similarities)
    perturbed = PerturbedModel(op, model, seed)
    explained = Explained(op, perturbed.model, explain, inputs, target, select_output, options)
    own = Compared(explained.maps(perturbed.model), similarities)
    outputs = explained.outputs(perturbed.model)
    found = {
        name: np.zeros((len(levels), len(inputs)))
        for name in (*own.names, "logit_change", "unchanged")
    }
    for draw in range(n_draws):
        for i, level in enumerate(levels):
            perturbed.draw(draw, level, proportional=False)
            now = own.with_maps(explained.maps(perturbed.model))
            now |= _drift(outputs, explained.outputs(perturbed.model), explained.target)
            for name, values in found.items():
                values[i] += now[name] / n_draws
    return ModelPerturbation(
        levels=np.array(levels, dtype=np.float64),
        logit_change=found.pop("logit_change"),
        unchanged=found.pop("unchanged"),
        **{name: found.get(name) for name in SIMILARITIES},
    )


def _drift(outputs: Tensor, answers: Tensor, target: Tensor) -> dict[str, FloatArray]:
    same = comes_first(answers, outputs.argmax(1)) * comes_first(outputs, outputs.argmax(1))
    change = (answers.double() - outputs.double()).gather(1, target[:, None])[:, 0]
    return {
        "logit_change": change.abs().cpu().numpy(),
        "unchanged": same.cpu().numpy(),
    }
